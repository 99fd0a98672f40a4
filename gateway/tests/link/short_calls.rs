//! Calls of the SDK over short connections, where long ones cannot be had.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use towline_client::{
    CallRequest, Client, ClientConfig, ConnectionState, Priority, RpcErrorKind, ShortCalls, Transport,
    Transports,
};

use crate::{
    bed::{Bed, call, endpoint, online, state},
    waits::until,
};

/// A middlebox that reads which protocol a ClientHello offers. HTTPS passes, unless that is barred; the link is reset,
/// at once or while it lasts, as long as it is barred.
struct Middlebox {
    address: SocketAddr,
    barred: watch::Sender<bool>,
    https_barred: Arc<AtomicBool>,
    links: Arc<AtomicUsize>,
    https: Arc<AtomicUsize>,
}

impl Middlebox {
    async fn start(upstream: SocketAddr, barred: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let barred = watch::Sender::new(barred);
        let [links, https] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (seen, counts) = (barred.clone(), [Arc::clone(&links), Arc::clone(&https)]);
        let https_barred = Arc::new(AtomicBool::new(false));
        let bars_https = Arc::clone(&https_barred);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let barred = (seen.subscribe(), Arc::clone(&bars_https));
                tokio::spawn(relay(client, upstream, barred, counts.clone()));
            }
        });
        Self { address, barred, https_barred, links, https }
    }

    fn bar(&self, barred: bool) {
        self.barred.send_replace(barred);
    }
}

async fn relay(
    mut client: TcpStream,
    upstream: SocketAddr,
    (mut barred, https_barred): (watch::Receiver<bool>, Arc<AtomicBool>),
    [links, https]: [Arc<AtomicUsize>; 2],
) -> Option<()> {
    let mut hello = vec![0; 5];
    client.read_exact(&mut hello).await.ok()?;
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    client.read_exact(&mut hello[5..]).await.ok()?;
    let is_link = hello.windows(9).any(|bytes| bytes == b"towline/1");
    let count = if is_link { links } else { https };
    count.fetch_add(1, Ordering::SeqCst);
    if !is_link && https_barred.load(Ordering::SeqCst) {
        return None;
    }
    let mut server = TcpStream::connect(upstream).await.ok()?;
    server.write_all(&hello).await.ok()?;
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = barred.wait_for(|barred| *barred), if is_link => {}
    }
    Some(())
}

fn app(bed: &Bed, middlebox: &Middlebox, change: impl FnOnce(&mut ClientConfig)) -> Client {
    let mut config = bed.config(Transports::QuicAndTcp);
    config.endpoints = vec![endpoint(middlebox.address)];
    config.short_after = Duration::from_millis(50);
    change(&mut config);
    Client::start(config).unwrap()
}

/// The message of the answer, and how it came.
async fn answered(client: &Client, request: CallRequest) -> (Bytes, Transport) {
    let response = client.call(request).await.unwrap();
    let transport = response.timeline.transport.unwrap();
    (response.into_grpc().unwrap(), transport)
}

#[tokio::test]
async fn where_only_https_passes_calls_are_answered_and_each_ran_once() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), true).await;
    let client = app(&bed, &middlebox, |_| {});
    let calls: Vec<_> = (0..30)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { answered(&client, call("Echo", n.to_string())).await })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), (n.to_string().into(), Transport::Post));
    }
    assert_eq!(bed.backend.counts("Echo").started, 30);
    // The link is tried beside them.
    until("the link to be tried", || middlebox.links.load(Ordering::SeqCst) > 0).await;
    // A network that lets the link pass is used as ever.
    middlebox.bar(false);
    client.network_changed(towline_client::Network::default());
    online(&client).await;
    assert_eq!(answered(&client, call("Echo", "link")).await, ("link".into(), Transport::Tcp));
    assert_eq!(bed.backend.counts("Echo").started, 31);
}

#[tokio::test]
async fn the_outcome_of_a_call_whose_link_was_cut_is_fetched_by_post() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), false).await;
    let client = app(&bed, &middlebox, |_| {});
    online(&client).await;
    let caller = client.clone();
    let running = tokio::spawn(async move { answered(&caller, call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    middlebox.bar(true);
    state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
    bed.backend.release();
    assert_eq!(running.await.unwrap(), ("pay".into(), Transport::Post));
    assert_eq!(bed.backend.counts("Hold").started, 1, "run once");
    assert_eq!(answered(&client, call("Echo", "next")).await, ("next".into(), Transport::Post));
}

#[tokio::test]
async fn a_call_that_is_given_up_or_late_ends_at_its_backend() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), true).await;
    let client = app(&bed, &middlebox, |_| {});
    let caller = client.clone();
    let running = tokio::spawn(async move { answered(&caller, call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    running.abort();
    bed.backend.wait("Hold", |counts| counts.cancelled == 1).await;
    let late = client.call(call("Hold", "pay").deadline(Duration::from_secs(2))).await.unwrap_err();
    assert_eq!(late.kind, RpcErrorKind::DeadlineExceeded);
    let counts = bed.backend.wait("Hold", |counts| counts.started == 2 && counts.cancelled == 2).await;
    assert_eq!(counts.finished, 0);
    assert_eq!(answered(&client, call("Echo", "next")).await, ("next".into(), Transport::Post));
}

#[tokio::test]
async fn a_call_that_goes_both_ways_runs_once() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), true).await;
    let client = app(&bed, &middlebox, |_| {});
    let caller = client.clone();
    let running = tokio::spawn(async move { answered(&caller, call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    // The link comes while a POST waits for the answer.
    middlebox.bar(false);
    client.network_changed(towline_client::Network::default());
    online(&client).await;
    bed.backend.release();
    assert_eq!(running.await.unwrap().0, "pay");
    assert_eq!(bed.backend.counts("Hold").started, 1);
}

#[tokio::test]
async fn a_small_urgent_call_that_waits_for_long_goes_by_post_too_and_runs_once() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), false).await;
    let client = app(&bed, &middlebox, |_| {});
    online(&client).await;
    let urgent = |method, message: &'static str| {
        let request = call(method, message);
        CallRequest { priority: Priority::CRITICAL, ..request }
    };
    // How long answers take has to be known first.
    for _ in 0..12 {
        assert_eq!(answered(&client, urgent("Echo", "x")).await, ("x".into(), Transport::Tcp));
    }
    assert_eq!(middlebox.https.load(Ordering::SeqCst), 0);
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(urgent("Hold", "pay")).await.unwrap() });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    until("a POST beside the link", || middlebox.https.load(Ordering::SeqCst) == 1).await;
    bed.backend.release();
    assert_eq!(running.await.unwrap().into_grpc().unwrap(), "pay");
    assert_eq!(answered(&client, urgent("Echo", "next")).await.0, "next");
    assert_eq!(bed.backend.counts("Hold").started, 1);
}

#[tokio::test]
async fn all_calls_go_by_post_when_the_app_wants_it_and_streams_by_the_link() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), false).await;
    let client = app(&bed, &middlebox, |config| config.short_calls = ShortCalls::Always);
    online(&client).await;
    for _ in 0..3 {
        assert_eq!(answered(&client, call("Echo", "x")).await, ("x".into(), Transport::Post));
    }
    let (mut sender, mut receiver) = client.stream(call("Chat", ""));
    sender.send("hi").await.unwrap();
    assert_eq!(receiver.message().await.unwrap(), Some("hi".into()));
    assert_eq!(bed.backend.counts("Echo").started, 3);
}

#[tokio::test]
async fn where_no_post_passes_the_link_has_the_calls() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), false).await;
    middlebox.https_barred.store(true, Ordering::SeqCst);
    let client = app(&bed, &middlebox, |config| config.short_calls = ShortCalls::Always);
    online(&client).await;
    for _ in 0..3 {
        let request = call("Echo", "x").deadline(Duration::from_secs(20));
        assert_eq!(answered(&client, request).await, ("x".into(), Transport::Tcp));
    }
    assert_eq!(bed.backend.counts("Echo").started, 3);
}

#[tokio::test]
async fn plaintext_goes_by_http_1() {
    let bed = Bed::start().await;
    let mut config = bed.plain(bed.address("plain"));
    config.short_calls = ShortCalls::Always;
    let client = Client::start(config).unwrap();
    // A link that comes up ends the POSTs before it.
    online(&client).await;
    assert_eq!(answered(&client, call("Echo", "x")).await, ("x".into(), Transport::Post));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_calls_over_short_connections() {
    let bed = Bed::start().await;
    let middlebox = Middlebox::start(bed.address("edge"), true).await;
    let (address, ca) = (middlebox.address.to_string(), bed.folder.path().join("ca.pem"));
    std::fs::write(&ca, &bed.ca).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_towline"))
            .args(["call", "--short", "--connect", &address, "/test/Echo", "--data", "hi", "--ca"])
            .arg(ca)
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    let (said, how) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.contains("hi") && how.contains("-- post, 1 attempt"),
        "{said}{how}"
    );
}
