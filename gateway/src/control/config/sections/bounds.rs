//! Sections whose keys are bounds: numbers, durations, sizes.

use std::{path::Path, time::Duration};

use towline_dictionaries::{DictionaryFile, SIZE_MIN, headers::CLIENTS_MIN_LEAST};
use towline_protocols::{
    compress::DICTIONARY_BYTES_MAX,
    hpack::{HEADER_DICTIONARY_BYTES_MAX, HEADER_DICTIONARY_FIELDS_MAX, NeverIndexed},
};

use crate::{access::Pattern, control::config::reader::Table, mqtt, settings::*};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Nodes that share keys have clocks that differ.
const TOKEN_LIFE_MIN: Duration = s(60);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn limits(mut t: Table<'_, '_>) -> Limits {
    let d = Limits::default();
    let limits = Limits {
        handshake_timeout: t.duration("handshake_timeout", d.handshake_timeout, ms(100)..=s(120)),
        handshakes_max: t.count("handshakes_max", d.handshakes_max, 1..=100_000),
        first_message_timeout: t.duration("first_message_timeout", d.first_message_timeout, ms(100)..=s(120)),
        connections_max: t.count("connections_max", d.connections_max, 1..=10_000_000),
        // The protocol's least, which clients use before they hear of another.
        frame_bytes_max: t.size("frame_bytes_max", d.frame_bytes_max, d.frame_bytes_max..=MIB),
        quic_payload_max: t.size("quic_payload_max", d.quic_payload_max, 1200..=65_527),
        header_list_bytes_max: t.size("header_list_bytes_max", d.header_list_bytes_max, KIB..=MIB),
        message_bytes_max: t.size("message_bytes_max", d.message_bytes_max, KIB..=GIB),
        streams_max: t.count("streams_max", d.streams_max, 1..=10_000),
        sessions_max: t.count("sessions_max", d.sessions_max, 1..=10_000_000),
        idle_timeout: t.duration("idle_timeout", d.idle_timeout, s(1)..=s(86_400)),
        tcp_user_timeout: t.duration("tcp_user_timeout", d.tcp_user_timeout, s(1)..=s(3600)),
        write_timeout: t.duration("write_timeout", d.write_timeout, s(1)..=s(3600)),
        park_after: t.duration("park_after", d.park_after, s(0)..=s(3600)),
    };
    t.finish();
    limits
}

pub(super) fn session(mut t: Table<'_, '_>) -> Session {
    let d = Session::default();
    // The defaults of the windows are the protocol's least, which clients use before they hear of others.
    let session = Session {
        expiry: t.duration("expiry", d.expiry, s(1)..=s(30 * 86_400)),
        stream_window: t.size("stream_window", d.stream_window as usize, d.stream_window as usize..=GIB)
            as u32,
        connection_window: t.size(
            "connection_window",
            d.connection_window as usize,
            d.connection_window as usize..=GIB,
        ) as u32,
        header_table_bytes: t.size("header_table_bytes", d.header_table_bytes, 0..=64 * KIB),
        qpack_blocked_streams: t.count("qpack_blocked_streams", d.qpack_blocked_streams, 0..=1000),
        never_indexed: names(&mut t, "never_indexed"),
        outcomes_max: t.count("outcomes_max", d.outcomes_max, 1..=100_000),
        outcome_bytes_max: t.size("outcome_bytes_max", d.outcome_bytes_max, KIB..=GIB),
        outcome_age_max: t.duration("outcome_age_max", d.outcome_age_max, s(1)..=s(86_400)),
        upload_wait: t.duration("upload_wait", d.upload_wait, s(0)..=s(3600)),
        durable_bytes_max: t.size("durable_bytes_max", d.durable_bytes_max, MIB..=GIB),
        user_durable_bytes_max: t.size("user_durable_bytes_max", d.user_durable_bytes_max, 64 * KIB..=GIB),
        user_durable_outcomes_max: t.count(
            "user_durable_outcomes_max",
            d.user_durable_outcomes_max,
            1..=10_000_000,
        ),
        held_bytes_max: t.size("held_bytes_max", d.held_bytes_max, MIB..=64 * GIB),
        user_held_bytes_max: t.size("user_held_bytes_max", d.user_held_bytes_max, MIB..=64 * GIB),
        pushes_max: t.count("pushes_max", d.pushes_max, 1..=100_000),
        push_bytes_max: t.size("push_bytes_max", d.push_bytes_max, KIB..=GIB),
        push_age_max: t.duration("push_age_max", d.push_age_max, s(1)..=s(30 * 86_400)),
        subscriptions_max: t.count("subscriptions_max", d.subscriptions_max, 1..=10_000),
        headers_bytes_max: t.size("headers_bytes_max", d.headers_bytes_max, 0..=64 * KIB),
        heartbeat_max: t.duration("heartbeat_max", d.heartbeat_max, s(5)..=s(86_400)),
        token_life: t.duration("token_life", d.token_life, s(0)..=s(30 * 86_400)),
    };
    if !session.token_life.is_zero() && session.token_life < TOKEN_LIFE_MIN {
        t.mistake("token_life", "is shorter than \"1m\", which clocks differ by; write \"0s\" for no tokens");
    }
    if session.stream_window > session.connection_window {
        t.mistake(
            "stream_window",
            "is larger than session.connection_window, which bounds all streams together",
        );
    }
    t.finish();
    session
}

fn names(t: &mut Table<'_, '_>, key: &'static str) -> NeverIndexed {
    let names = NeverIndexed::new(&t.strings(key));
    names.unwrap_or_else(|error| {
        t.mistake(key, error);
        NeverIndexed::default()
    })
}

pub(super) fn short(mut t: Table<'_, '_>, idle_timeout: Duration) -> Short {
    let d = Short::default();
    let short = Short {
        enabled: t.boolean("enabled", d.enabled),
        body_bytes_max: t.size("body_bytes_max", d.body_bytes_max, KIB..=GIB),
        requests_max: t.count("requests_max", d.requests_max, 1..=1000),
        answer_time_max: t.duration("answer_time_max", d.answer_time_max.min(idle_timeout), s(0)..=s(3600)),
        posts_max: t.count("posts_max", d.posts_max, 1..=100),
        pushes_max: t.count("pushes_max", d.pushes_max, 0..=1000),
        push_bytes_max: t.size("push_bytes_max", d.push_bytes_max, KIB..=64 * MIB),
    };
    if short.answer_time_max > idle_timeout {
        t.mistake("answer_time_max", "is longer than limits.idle_timeout, which ends a silent connection");
    }
    t.finish();
    short
}

pub(super) fn push(mut t: Table<'_, '_>) -> Push {
    let d = Push::default();
    let push = Push {
        receipt_queues_max: t.count("receipt_queues_max", d.receipt_queues_max, 1..=10_000),
        receipts_max: t.count("receipts_max", d.receipts_max, 1..=10_000_000),
        receipt_age_max: t.duration("receipt_age_max", d.receipt_age_max, s(1)..=s(30 * 86_400)),
    };
    t.finish();
    push
}

const QUEUE_POLICIES: &[(&str, QueuePolicy)] =
    &[("qos0", QueuePolicy::Qos0), ("oldest", QueuePolicy::Oldest), ("newest", QueuePolicy::Newest)];

const SHARE_STRATEGIES: &[(&str, ShareStrategy)] =
    &[("round_robin", ShareStrategy::RoundRobin), ("sticky", ShareStrategy::Sticky)];

pub(super) fn mqtt(mut t: Table<'_, '_>) -> Mqtt {
    let d = Mqtt::default();
    let receive_maximum = t.integer("receive_maximum", d.receive_maximum.into(), 1..=65_535) as u16;
    let in_flight_max = t.integer("in_flight_max", d.in_flight_max.into(), 1..=65_535) as u16;
    let topic_alias_max = t.integer("topic_alias_max", d.topic_alias_max.into(), 0..=65_535) as u16;
    let response_information = response_information(&mut t);
    let mqtt = Mqtt {
        packet_bytes_max: t.size("packet_bytes_max", d.packet_bytes_max, KIB..=256 * MIB - 1),
        session_expiry_max: t.duration("session_expiry_max", d.session_expiry_max, s(0)..=s(30 * 86_400)),
        keep_alive_max: t.duration("keep_alive_max", d.keep_alive_max, s(0)..=s(65_535)),
        receive_maximum,
        in_flight_max,
        queue_max: t.count("queue_max", d.queue_max, 1..=1_000_000),
        queue_bytes_max: t.size("queue_bytes_max", d.queue_bytes_max, KIB..=GIB),
        held_bytes_max: t.size("held_bytes_max", d.held_bytes_max, MIB..=64 * GIB),
        queue_age_max: t.duration("queue_age_max", d.queue_age_max, s(0)..=s(30 * 86_400)),
        queue_policy: t.word("queue_policy", d.queue_policy, QUEUE_POLICIES),
        subscriptions_max: t.count("subscriptions_max", d.subscriptions_max, 1..=100_000),
        share_strategy: t.word("share_strategy", d.share_strategy, SHARE_STRATEGIES),
        sys_interval: t.duration("sys_interval", d.sys_interval, s(0)..=s(86_400)),
        topic_levels_max: t.count("topic_levels_max", d.topic_levels_max, 1..=1024),
        retained_max: t.count("retained_max", d.retained_max, 0..=10_000_000),
        retained_bytes_max: t.size("retained_bytes_max", d.retained_bytes_max, 0..=64 * GIB),
        topic_alias_max,
        response_information,
        websocket_message_bytes_max: t.size(
            "websocket_message_bytes_max",
            d.websocket_message_bytes_max,
            KIB..=256 * MIB,
        ),
        sessions_max: t.count("sessions_max", d.sessions_max, 1..=10_000_000),
    };
    t.finish();
    mqtt
}

fn response_information(t: &mut Table<'_, '_>) -> Option<Pattern> {
    const KEY: &str = "response_information";
    let text = t.optional_string(KEY)?;
    let pattern = match Pattern::parse(&text) {
        Ok(pattern) => pattern,
        Err(error) => {
            t.mistake(KEY, error);
            return None;
        }
    };
    if pattern.has_wildcard() || mqtt::is_reserved(&text) {
        let what = "begins no topic that clients may publish to: it holds '+' or '#', or is below $SYS";
        t.mistake(KEY, format_args!("\"{text}\" {what}; write for example \"responses/${{clientid}}/\""));
    }
    Some(pattern)
}

pub(super) fn client_policy(mut t: Table<'_, '_>, heartbeat_max: Duration) -> ClientPolicy {
    let d = ClientPolicy::default();
    let policy = ClientPolicy {
        heartbeat: t.duration("heartbeat", d.heartbeat.min(heartbeat_max), s(1)..=s(86_400)),
        fallback_delay: t.duration("fallback_delay", d.fallback_delay, ms(0)..=s(60)),
        connect_timeout: t.duration("connect_timeout", d.connect_timeout, ms(100)..=s(120)),
        backoff_min: t.duration("backoff_min", d.backoff_min, ms(10)..=s(60)),
        backoff_max: t.duration("backoff_max", d.backoff_max, ms(10)..=s(3600)),
    };
    if policy.heartbeat > heartbeat_max {
        t.mistake("heartbeat", "is longer than session.heartbeat_max, which the gateway holds clients to");
    }
    if policy.backoff_min > policy.backoff_max {
        t.mistake("backoff_min", "is longer than client_policy.backoff_max");
    }
    t.finish();
    policy
}

pub(super) fn compression(mut t: Table<'_, '_>) -> Compression {
    let d = Compression::default();
    let compression = Compression {
        enabled: t.boolean("enabled", d.enabled),
        level: t.integer("level", d.level.into(), 1..=19) as i32,
        bytes_min: t.size("bytes_min", d.bytes_min, 0..=MIB),
        dictionaries: t.paths("dictionaries"),
    };
    for path in &compression.dictionaries {
        if let Err(problem) = usable_dictionary(path, compression.level) {
            t.mistake("dictionaries", problem);
        }
    }
    t.finish();
    compression
}

pub(super) fn dictionaries(mut t: Table<'_, '_>) -> Dictionaries {
    let d = Dictionaries::default();
    let percent = |value: i64| u8::try_from(value).unwrap_or(100);
    let dictionaries = Dictionaries {
        retrain: t.duration("retrain", d.retrain, s(0)..=s(30 * 86_400)),
        gain_percent_min: percent(t.integer("gain_percent_min", d.gain_percent_min.into(), 0..=90)),
        rollout_percent: percent(t.integer("rollout_percent", d.rollout_percent.into(), 0..=100)),
        size: t.size("size", d.size, SIZE_MIN..=DICTIONARY_BYTES_MAX),
        versions_max: t.count("versions_max", d.versions_max, 1..=8),
        samples_bytes_max: t.size("samples_bytes_max", d.samples_bytes_max, 0..=256 * MIB),
        header_bytes_max: t.size("header_bytes_max", d.header_bytes_max, KIB..=HEADER_DICTIONARY_BYTES_MAX),
        header_fields_max: t.count(
            "header_fields_max",
            d.header_fields_max,
            1..=HEADER_DICTIONARY_FIELDS_MAX,
        ),
        header_clients_min: t.count("header_clients_min", d.header_clients_min, CLIENTS_MIN_LEAST..=10_000),
        header_samples_bytes_max: t.size(
            "header_samples_bytes_max",
            d.header_samples_bytes_max,
            0..=64 * MIB,
        ),
        header_names_left_out: names(&mut t, "header_names_left_out"),
        withdrawn: t.strings("withdrawn"),
    };
    let is_hash =
        |text: &String| (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !dictionaries.withdrawn.iter().all(is_hash) {
        t.mistake("withdrawn", "holds something else than the first 8 to 64 hexadecimal digits of a hash");
    }
    t.finish();
    dictionaries
}

fn usable_dictionary(path: &Path, level: i32) -> Result<(), String> {
    let file = DictionaryFile::load(path).map_err(|error| error.to_string())?;
    file.prepare(level).map(drop).map_err(|error| format!("{}: {error}", path.display()))
}
