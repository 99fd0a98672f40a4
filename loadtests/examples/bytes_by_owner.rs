//! Who owns the bytes of an idle connection: opens connections to a gateway in this process and lists, after
//! a while, what the gateway's threads allocated for them and did not give back, by the code that asked.
//!
//! ```sh
//! cargo run --release -p towline-loadtests --example bytes_by_owner -- mqtt 500 8s
//! ```
//!
//! Arguments: what is opened (as of `towline-load idle --kind`), how many, how long to wait. The bytes are
//! those that were asked for; the allocator adds its own, which `towline-load idle` sees in the process's RSS.

#![allow(unsafe_code, reason = "a global allocator that counts is unsafe by its trait")]
#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends with the reason")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    collections::{BTreeMap, HashMap},
    env,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use clap::ValueEnum as _;
use towline_gateway::{
    cli::development_certificates,
    gateway::Gateway,
    run,
    settings::{CertificateFiles, Listener, Settings, TlsMode},
};
use towline_loadtests::{
    cli::Kind,
    plan::{Pace, Plan, Protocol, Target, Transport, Work},
    tally::Recorder,
    wire::{Client, Dialer},
};

/// What stands in a frame's name, and who owns what that code allocates. The innermost frame that is known
/// decides.
const OWNERS: &[(&str, &str)] = &[
    ("rustls", "TLS state"),
    ("aws_lc", "TLS state"),
    ("transport::tls", "TLS state"),
    ("transport::stream", "socket record"),
    ("tokio::runtime::io", "socket record"),
    ("tokio::net", "socket record"),
    ("tokio::runtime::task", "task"),
    ("tokio::task", "task"),
    ("tokio::time", "task"),
    ("quinn", "QUIC"),
    ("towline_gateway::parking", "parking lot"),
    ("towline_gateway::hub", "session: hub"),
    ("towline_gateway::session", "session: link"),
    ("towline_gateway::mqtt", "session: MQTT"),
    ("towline_protocols::mqtt", "session: MQTT"),
    ("towline_gateway::store", "store"),
    ("towline_gateway::link", "link driver"),
    ("towline_protocols::link", "link machine"),
    ("towline_gateway::listener", "task"),
];

#[global_allocator]
static COUNTING: Counting = Counting;

/// Set while connections are opened and held.
static RECORDING: AtomicBool = AtomicBool::new(false);
static LIVE: Mutex<Option<HashMap<usize, Allocation>>> = Mutex::new(None);

thread_local! {
    /// Whether this thread's allocations are the gateway's.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

struct Allocation {
    bytes: usize,
    stack: Backtrace,
}

// SAFETY: every call is passed on to the system's allocator as it is; beside it only a table is kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the trait's contract, which is the system allocator's too.
        let pointer = unsafe { System.alloc(layout) };
        if RECORDING.load(Relaxed) && IS_COUNTED.try_with(Cell::get) == Ok(true) {
            uncounted(|| {
                let allocation = Allocation { bytes: layout.size(), stack: Backtrace::force_capture() };
                if let Some(live) = &mut *LIVE.lock().expect("no panic inside") {
                    live.insert(pointer.addr(), allocation);
                }
            });
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if RECORDING.load(Relaxed) {
            uncounted(|| {
                let mut live = LIVE.lock().expect("no panic inside");
                let gone = live.as_mut().and_then(|live| live.remove(&pointer.addr()));
                // Dropped outside the table's lock, since that comes here again.
                drop(live);
                drop(gone);
            });
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work` without counting what it allocates, and not within itself.
fn uncounted(work: impl FnOnce()) {
    thread_local! {
        static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    if IS_INSIDE.try_with(|inside| inside.replace(true)) == Ok(false) {
        work();
        IS_INSIDE.with(|inside| inside.set(false));
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize, default: &str| arguments.get(index).cloned().unwrap_or(default.to_owned());
    let kind = Kind::from_str(&argument(0, "mqtt"), true).expect("a kind as of `towline-load idle`");
    let count: usize = argument(1, "500").parse().expect("a count");
    let hold: u64 = argument(2, "8s").trim_end_matches('s').parse().expect("seconds");

    let folder = tempfile::tempdir().expect("a folder");
    let (address, ca) = serve(folder.path());
    *LIVE.lock().expect("no panic inside") = Some(HashMap::new());
    let (opened, wait) = mpsc::channel();
    std::thread::spawn(move || open(kind, address, ca, count, &opened));
    wait.recv().expect("opened");
    std::thread::sleep(Duration::from_secs(hold));
    RECORDING.store(false, Relaxed);
    let live = LIVE.lock().expect("no panic inside").take().expect("recorded");
    print!("{}", table(kind, count, live.into_values().collect()));
}

/// A gateway with a listener for every kind, on threads whose allocations count.
fn serve(folder: &std::path::Path) -> (SocketAddr, PathBuf) {
    let files = development_certificates(folder).expect("certificates");
    let mut listener = Listener::plain("edge", ([127, 0, 0, 1], 0).into());
    listener.quic = true;
    listener.tls = TlsMode::Optional;
    listener.certificates = vec![CertificateFiles::pem(files.chain, files.key)];
    let settings = Settings { listeners: vec![listener], ..Settings::side_by_side() };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| IS_COUNTED.set(true))
        .build()
        .expect("a runtime");
    let serving = runtime.block_on(async {
        run::serve(Gateway::build(settings).expect("settings in order")).await.expect("ports are free")
    });
    let address = serving.address("edge").expect("bound");
    std::mem::forget((runtime, serving));
    (address, files.ca)
}

/// Opens one connection, which pays for what all share, and then those that count.
fn open(kind: Kind, address: SocketAddr, ca: PathBuf, count: usize, opened: &mpsc::Sender<()>) {
    let (transport, protocol) = kind.parts();
    let target = target(address, transport, protocol, ca);
    let plan = Rc::new(Plan {
        targets: vec![target.clone()],
        connections: count + 1,
        opening_max: 1,
        connect_timeout: Duration::from_secs(20),
        work: Work::Hold,
        pace: Pace::Closed { in_flight: 1 },
        timeout: Duration::from_secs(20),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let dialer = Dialer::new(plan, target, Vec::new(), Rc::new(Recorder::default())).expect("a dialer");
        let dialer = Rc::new(dialer);
        let mut clients: Vec<Client> = Vec::new();
        for index in 0..=count {
            RECORDING.store(index > 0, Relaxed);
            let client = Box::pin(dialer.open(index, Duration::from_secs(20))).await;
            clients.push(client.expect("a connection"));
        }
        opened.send(()).expect("awaited");
        std::future::pending::<()>().await;
    });
}

fn target(address: SocketAddr, transport: Transport, protocol: Protocol, ca: PathBuf) -> Target {
    let ca = (transport != Transport::Plain).then_some(ca);
    Target { name: "gateway".into(), address, host: "localhost".into(), transport, protocol, ca }
}

/// Bytes and allocations by the place that made them.
type Places = BTreeMap<String, (f64, f64)>;

/// Bytes and allocations per connection, by owner and by the function that allocated.
fn table(kind: Kind, count: usize, live: Vec<Allocation>) -> String {
    let mut owners: BTreeMap<&str, (f64, Places)> = BTreeMap::new();
    let each = 1.0 / count as f64;
    for Allocation { bytes, stack } in live {
        let (owner, place) = owner(&stack.to_string());
        let bytes = bytes as f64 * each;
        let (sum, places) = owners.entry(owner).or_default();
        *sum += bytes;
        let place = places.entry(place).or_default();
        (place.0, place.1) = (place.0 + bytes, place.1 + each);
    }
    let total: f64 = owners.values().map(|(sum, _)| sum).sum();
    let mut text = format!("{kind:?}, {count} idle connections: {total:.0} bytes each\n");
    for (owner, (sum, places)) in owners {
        text += &format!("{sum:8.0}  {owner}\n");
        for (place, (bytes, allocations)) in places.into_iter().filter(|(_, (bytes, _))| *bytes >= 1.0) {
            text += &format!("{bytes:16.0} in {allocations:.2}  {place}\n");
        }
    }
    text
}

/// Who owns an allocation, and the function that made it.
fn owner(stack: &str) -> (&'static str, String) {
    // "   7: tokio::runtime::task::core::Cell<T,S>::new", with a line "at file" below each.
    let frames = stack.lines().filter_map(|line| {
        let (number, name) = line.trim_start().split_once(": ")?;
        number.parse::<u32>().ok().map(|_| name)
    });
    for frame in frames {
        // What is generic over another's type is not that one's code.
        let code = frame.split_once(" as ").map_or(frame, |(code, _)| code);
        let code = code.split_once("::<").map_or(code, |(code, _)| code);
        let is_std = ["core::", "alloc::", "std::", "<alloc::", "<core::", "bytes_by_owner", "__r"]
            .iter()
            .any(|own| code.starts_with(own));
        if is_std {
            continue;
        }
        if let Some((_, owner)) = OWNERS.iter().find(|(part, _)| code.contains(part)) {
            return (owner, frame.chars().take(90).collect());
        }
    }
    ("other", stack.lines().filter(|line| line.contains("towline")).take(2).collect())
}
