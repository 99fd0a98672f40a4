//! The app's five services: what is asked and what is answered.

use fastrand::Rng;

use super::{
    device::Device,
    value::{
        Fields,
        Value::{Choice, Decimal, Flag, List, Message, Number, Time},
        text,
    },
    words::{FIRST_NAMES, LAST_NAMES, any, base64, frequent, hex, rank, sentence, uuid},
};

/// What an exchange is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// A page of posts.
    Feed,
    /// A payment.
    Payment,
    /// The app's switches and limits.
    Config,
    /// A message to a conversation.
    Chat,
    /// Events and measurements, which are acknowledged.
    Telemetry,
}

/// All services with their names.
pub const SERVICES: [(Service, &str); 5] = [
    (Service::Feed, "feed"),
    (Service::Payment, "payment"),
    (Service::Config, "config"),
    (Service::Chat, "chat"),
    (Service::Telemetry, "telemetry"),
];

/// One call as its schemas see it.
pub(super) struct Call {
    /// Method and target of the HTTP form; a GET has no body, its request stands in the target.
    pub(super) http: (&'static str, String),
    /// Path of the gRPC method.
    pub(super) grpc: &'static str,
    pub(super) request: Fields,
    pub(super) response: Fields,
}

impl Service {
    /// What the next call is about, in the mix of an app that is being used.
    pub(super) fn draw(random: &mut Rng) -> Self {
        match random.u8(0..20) {
            0..=6 => Self::Feed,
            7..=9 => Self::Payment,
            10..=11 => Self::Config,
            12..=15 => Self::Chat,
            _ => Self::Telemetry,
        }
    }

    pub(super) fn call(self, random: &mut Rng, device: &Device, now_ms: u64) -> Call {
        match self {
            Self::Feed => feed(random, now_ms),
            Self::Payment => payment(random, device, now_ms),
            Self::Config => config(random, device, now_ms),
            Self::Chat => chat(random, device, now_ms),
            Self::Telemetry => telemetry(random, device, now_ms),
        }
    }
}

fn feed(random: &mut Rng, now_ms: u64) -> Call {
    let cursor = base64(random, 22);
    let posts = (0..random.usize(8..=14)).map(|_| Message(post(random, now_ms))).collect();
    Call {
        http: ("GET", format!("/v2/feed/home?limit=14&cursor={cursor}")),
        grpc: "/example.feed.v2.Feed/List",
        request: vec![(1, "feed", text("home")), (2, "limit", Number(14)), (3, "cursor", text(cursor))],
        response: vec![
            (1, "posts", List(posts)),
            (2, "next_cursor", text(base64(random, 22))),
            (3, "has_more", Flag(true)),
            (4, "served_at", Time(now_ms)),
        ],
    }
}

fn post(random: &mut Rng, now_ms: u64) -> Fields {
    let created = now_ms - random.u64(10_000..86_400_000);
    let popular = random.u64(1..4000);
    vec![
        (1, "id", text(snowflake(random, created))),
        (
            2,
            "type",
            if random.u8(..6) == 0 { Choice(2, "POST_TYPE_LINK") } else { Choice(1, "POST_TYPE_STATUS") },
        ),
        (3, "author", Message(author(random))),
        (4, "text", text(sentence(random, 5..=26))),
        (5, "language", text(any(random, &["en", "en", "en", "de", "fr"]))),
        (6, "created_at", Time(created)),
        (7, "media", List((0..random.usize(0..=2)).map(|_| Message(picture(random))).collect())),
        (8, "like_count", Number(popular)),
        (9, "comment_count", Number(popular / random.u64(4..20))),
        (10, "share_count", Number(popular / random.u64(20..60))),
        (11, "viewer_has_liked", Flag(random.u8(..8) == 0)),
        (12, "viewer_has_saved", Flag(random.u8(..20) == 0)),
        (13, "topics", List((0..random.usize(0..=2)).map(|_| text(frequent(random, &TOPICS))).collect())),
        (14, "visibility", Choice(1, "VISIBILITY_PUBLIC")),
    ]
}

/// One of three thousand, who are the same for everybody: a few of them write most of what is read.
fn author(random: &mut Rng) -> Fields {
    let number = rank(random, 3000) as u64;
    let known = &mut Rng::with_seed(number);
    let (first, last) = (any(known, &FIRST_NAMES), any(known, &LAST_NAMES));
    let handle = format!("{}_{}{}", first.to_lowercase(), last.to_lowercase(), known.u16(1..99));
    let avatar = hex(known, 16);
    vec![
        (1, "id", Number(100_000_000 + known.u64(..900_000_000))),
        (2, "handle", text(handle)),
        (3, "display_name", text(format!("{first} {last}"))),
        (4, "avatar_url", text(format!("https://cdn.example.com/avatars/{avatar}/96.webp"))),
        (5, "verified", Flag(number < 100)),
        (6, "viewer_follows", Flag(random.u8(..4) > 0)),
    ]
}

fn picture(random: &mut Rng) -> Fields {
    let (width, height) = [(1080, 1350), (1080, 1080), (1920, 1080), (1080, 1920)][rank(random, 4)];
    let id = hex(random, 20);
    vec![
        (1, "kind", Choice(1, "MEDIA_KIND_IMAGE")),
        (2, "url", text(format!("https://cdn.example.com/media/{id}/large.webp"))),
        (3, "thumbnail_url", text(format!("https://cdn.example.com/media/{id}/small.webp"))),
        (4, "width", Number(width)),
        (5, "height", Number(height)),
        (6, "alt", text(if random.u8(..3) == 0 { sentence(random, 3..=7) } else { String::new() })),
    ]
}

fn payment(random: &mut Rng, device: &Device, now_ms: u64) -> Call {
    let (merchant, name, category) = MERCHANTS[rank(random, MERCHANTS.len())];
    let minor_units = random.u64(199..20_000);
    let currency = frequent(random, &["EUR", "GBP", "USD", "CNY"]);
    let amount = || Message(vec![(1, "currency", text(currency)), (2, "minor_units", Number(minor_units))]);
    let card = format!("card_{}", hex(&mut Rng::with_seed(device.user_id), 16));
    let request = vec![
        (1, "idempotency_key", text(uuid(random))),
        (2, "merchant_id", text(merchant)),
        (3, "amount", amount()),
        (4, "payment_method", text(&card)),
        (5, "description", text(format!("{name} {}", random.u32(10_000..99_999)))),
        (6, "capture", Choice(1, "CAPTURE_AUTOMATIC")),
        (7, "customer_id", text(format!("cus_{}", device.user_id))),
        (8, "device_id", text(&device.id)),
        (9, "confirmed_at", Time(now_ms)),
    ];
    let response = vec![
        (1, "payment_id", text(format!("pay_{}", base64(random, 20)))),
        (2, "status", Choice(2, "PAYMENT_STATUS_SUCCEEDED")),
        (3, "amount", amount()),
        (
            4,
            "merchant",
            Message(vec![
                (1, "id", text(merchant)),
                (2, "name", text(name)),
                (3, "category", text(category)),
            ]),
        ),
        (5, "payment_method", text(card)),
        (6, "created_at", Time(now_ms + random.u64(80..400))),
        (7, "authorization_code", text(hex(random, 6).to_uppercase())),
        (8, "receipt_url", text(format!("https://pay.example.com/receipts/{}", base64(random, 20)))),
        (9, "risk_score", Decimal(f64::from(random.u8(0..40)) / 100.0)),
        (
            10,
            "balance_after",
            Message(vec![
                (1, "currency", text(currency)),
                (2, "minor_units", Number(random.u64(1000..500_000))),
            ]),
        ),
    ];
    Call { http: ("POST", "/v1/payments".into()), grpc: "/example.pay.v1.Payments/Create", request, response }
}

fn config(random: &mut Rng, device: &Device, now_ms: u64) -> Call {
    let revision = 41_000 + now_ms / 3_600_000 % 500;
    let switches = SWITCHES.iter().flat_map(|area| STAGES.iter().map(move |stage| format!("{area}_{stage}")));
    // A switch is on for most people or for few; each person's own are the same all day.
    let own = &mut Rng::with_seed(device.user_id);
    let switches: Vec<_> = switches
        .enumerate()
        .map(|(position, name)| {
            let on = own.usize(..10) < if position % 3 == 0 { 9 } else { 1 };
            Message(vec![
                (1, "name", text(name)),
                (2, "enabled", Flag(on)),
                (
                    3,
                    "variant",
                    text(any(own, &["control", "control", "control", "treatment_a", "treatment_b"])),
                ),
                (4, "rollout", Number([100, 100, 50, 10, 5][position % 5])),
            ])
        })
        .collect();
    Call {
        http: ("GET", format!("/v1/config?revision={}", revision - 1)),
        grpc: "/example.config.v1.Config/Get",
        request: vec![(1, "known_revision", Number(revision - 1))],
        response: vec![
            (1, "revision", Number(revision)),
            (2, "switches", List(switches)),
            (3, "session_id", text(uuid(random))),
            (4, "refresh_after", Time(now_ms + 3_600_000)),
            (5, "upload_bytes_max", Number(26_214_400)),
            (6, "minimum_version", text("8.9.0")),
        ],
    }
}

fn chat(random: &mut Rng, device: &Device, now_ms: u64) -> Call {
    let conversation = hex(&mut Rng::with_seed(device.user_id + rank(random, 12) as u64), 16);
    let message = sentence(random, 2..=18);
    let client_id = uuid(random);
    let reply_to = if random.u8(..5) == 0 { snowflake(random, now_ms - 60_000) } else { String::new() };
    Call {
        http: ("POST", format!("/v1/conversations/{conversation}/messages")),
        grpc: "/example.chat.v1.Chat/Send",
        request: vec![
            (1, "conversation_id", text(&conversation)),
            (2, "client_message_id", text(&client_id)),
            (3, "text", text(message)),
            (4, "sent_at", Time(now_ms)),
            (5, "reply_to", text(reply_to)),
        ],
        response: vec![
            (1, "message_id", text(snowflake(random, now_ms + 40))),
            (2, "client_message_id", text(client_id)),
            (3, "conversation_id", text(conversation)),
            (4, "received_at", Time(now_ms + random.u64(30..200))),
            (5, "state", Choice(1, "MESSAGE_STATE_ACCEPTED")),
            (6, "unread_count", Number(random.u64(0..5))),
        ],
    }
}

fn telemetry(random: &mut Rng, device: &Device, now_ms: u64) -> Call {
    let events: Vec<_> = (0..random.usize(1..=5)).map(|_| Message(event(random, now_ms))).collect();
    let count = events.len() as u64;
    let session = hex(&mut Rng::with_seed(device.user_id), 16);
    Call {
        http: ("POST", "/v1/events".into()),
        grpc: "/example.telemetry.v1.Events/Report",
        request: vec![
            (1, "session", text(session)),
            (2, "events", List(events)),
            (
                3,
                "network",
                if random.u8(..3) > 0 { Choice(1, "NETWORK_WIFI") } else { Choice(2, "NETWORK_CELLULAR") },
            ),
            (4, "battery", Decimal(f64::from(random.u8(5..100)) / 100.0)),
        ],
        response: vec![(1, "accepted", Number(count))],
    }
}

fn event(random: &mut Rng, now_ms: u64) -> Fields {
    vec![
        (1, "name", text(frequent(random, &EVENTS))),
        (2, "screen", text(frequent(random, &SCREENS))),
        (3, "at", Time(now_ms - random.u64(0..30_000))),
        (4, "duration_ms", Number(random.u64(1..4000))),
        (5, "value", Number(rank(random, 400) as u64)),
    ]
}

/// Numbers that begin with a time, as feeds and chats name their messages.
fn snowflake(random: &mut Rng, at_ms: u64) -> String {
    (((at_ms - 1_288_834_974_657) << 22) + random.u64(..1 << 22)).to_string()
}

const TOPICS: [&str; 16] = [
    "news",
    "music",
    "football",
    "travel",
    "food",
    "film",
    "photography",
    "books",
    "games",
    "science",
    "running",
    "art",
    "politics",
    "gardening",
    "bikes",
    "cats",
];

const MERCHANTS: [(&str, &str, &str); 12] = [
    ("mer_7Hq2LkVb0a", "City Transit", "transport"),
    ("mer_Zp81xMw4Tc", "Corner Coffee", "restaurants"),
    ("mer_0sGv6RrYqe", "Fresh Market", "groceries"),
    ("mer_Kd93nBhUjf", "Night Kiosk", "groceries"),
    ("mer_4tWm7XcLpg", "Bike Share", "transport"),
    ("mer_Qa5yJoEz2h", "Streaming Plus", "entertainment"),
    ("mer_9vNf1CbSki", "Parcel Locker", "post"),
    ("mer_Xu6iDgTr8j", "Book Corner", "shopping"),
    ("mer_3eOl0PyHwk", "Pharmacy West", "health"),
    ("mer_Mb7aZqFx5l", "Taxi Central", "transport"),
    ("mer_Rc2sKvUn6m", "Cinema Nova", "entertainment"),
    ("mer_8jEd4GtIon", "Mobile Top-up", "telecom"),
];

const SWITCHES: [&str; 12] = [
    "feed_ranking",
    "feed_autoplay",
    "chat_reactions",
    "chat_voice_notes",
    "payments_split",
    "payments_wallet",
    "media_upload",
    "search_suggestions",
    "profile_badges",
    "onboarding_tour",
    "notifications_digest",
    "dark_theme",
];

const STAGES: [&str; 4] = ["enabled", "experiment", "fallback", "logging"];

const EVENTS: [&str; 10] = [
    "screen_view",
    "scroll",
    "tap",
    "impression",
    "video_play",
    "app_foreground",
    "like",
    "share",
    "search",
    "app_background",
];

const SCREENS: [&str; 8] =
    ["home", "post", "conversation", "profile", "wallet", "search", "settings", "camera"];
