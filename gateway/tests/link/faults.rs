//! Connections that break, hang, and are fought over.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use towline_client::{Client, ConnectionState, ShortCalls, Transports};

use crate::{
    backend::noise,
    bed::{BOTH, Bed, answer, call, closed, online, state},
    chaos::{Chaos, Weather},
};

#[tokio::test]
async fn a_call_survives_its_connection_and_is_run_once() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let mut config = bed.plain(network.address());
    // A POST that goes out as well, where a busy machine is slow to connect, would be counted.
    config.short_calls = ShortCalls::Off;
    let client = Client::start(config).unwrap();
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    network.cut();
    state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
    online(&client).await;
    bed.backend.release();
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.timeline.attempts, 2);
    assert_eq!(response.into_grpc().unwrap(), "pay");
    let counts = bed.backend.counts("Hold");
    assert_eq!((counts.started, counts.finished), (1, 1));
    assert_eq!(network.accepted(), 2);
}

#[tokio::test]
async fn an_answer_that_came_while_the_client_was_away_is_delivered() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let client = Client::start(bed.plain(network.address())).unwrap();
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    network.set(Weather::Deaf);
    bed.backend.release();
    bed.backend.wait("Hold", |counts| counts.finished == 1).await;
    network.cut();
    network.set(Weather::Clear);
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay");
    assert_eq!(bed.backend.counts("Hold").started, 1);
}

#[tokio::test]
async fn an_answer_that_was_cut_goes_on_where_it_broke() {
    const COUNT: usize = 300;
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let client = Client::start(bed.plain(network.address())).unwrap();
    let number = |value: usize| HeaderValue::from_str(&value.to_string()).unwrap();
    let request = call("Flood", "")
        .header(HeaderName::from_static("x-count"), number(COUNT))
        .header(HeaderName::from_static("x-bytes"), number(2000));
    let (mut sender, mut receiver) = client.stream(request);
    sender.finish().await.unwrap();
    let mut received = 0;
    while let Some(message) = receiver.message().await.unwrap() {
        assert_eq!(message, noise(2000));
        received += 1;
        if received % 100 == 50 {
            network.cut();
        }
    }
    assert_eq!(received, COUNT, "none is missing, none came twice");
    assert_eq!(bed.backend.counts("Flood").started, 1);
}

#[tokio::test]
async fn a_connection_that_fell_silent_is_replaced() {
    let bed = Bed::with(|settings| settings.client_policy.heartbeat = Duration::from_secs(1)).await;
    let network = Chaos::start(bed.address("plain")).await;
    let mut config = bed.plain(network.address());
    config.limits.pong_timeout = Duration::from_millis(200);
    // The policy's beat, and no other.
    config.strategies.heartbeat.enabled = false;
    let client = Client::start(config).unwrap();
    answer(&client, "Echo", "x").await;
    network.set(Weather::Tunnel);
    state(&client, |state| matches!(state, ConnectionState::Offline { .. } | ConnectionState::Connecting))
        .await;
    network.set(Weather::Clear);
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    assert!(network.accepted() >= 2);
}

#[tokio::test]
async fn a_changed_network_moves_running_requests_to_a_new_connection() {
    let bed = Bed::start().await;
    for (round, transports) in BOTH.into_iter().enumerate() {
        bed.backend.hold();
        let client = bed.client(transports);
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
        bed.backend.wait("Hold", |counts| counts.started == round + 1).await;
        let mut states = client.states();
        states.mark_unchanged();
        client.reconnect();
        states.wait_for(|state| !matches!(state, ConnectionState::Online { .. })).await.unwrap();
        online(&client).await;
        bed.backend.release();
        assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay", "{transports:?}");
        assert_eq!(bed.backend.counts("Hold").started, round + 1);
    }
}

#[tokio::test]
async fn the_newer_of_two_connections_of_a_client_owns_the_session() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let start = || {
            let mut config = bed.config(transports);
            config.identity_file = Some(bed.folder.path().join(format!("{transports:?}")));
            Client::start(config).unwrap()
        };
        let older = start();
        answer(&older, "Echo", "x").await;
        let newer = start();
        assert_eq!(answer(&newer, "Echo", "y").await, "y");
        assert!(closed(&older).await.contains("TakenOver"));
        assert_eq!(answer(&newer, "Echo", "z").await, "z");
    }
}

#[tokio::test]
async fn a_session_opens_to_its_secret_only() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let start = || {
            let mut config = bed.config(transports);
            config.client_id = Some(format!("{transports:?}"));
            Client::start(config).unwrap()
        };
        let owner = start();
        answer(&owner, "Echo", "x").await;
        let thief = start();
        assert!(closed(&thief).await.contains("session secret"));
        assert_eq!(answer(&owner, "Echo", "x").await, "x", "the owner is not disturbed");
    }
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let bed = Bed::start().await;
    let client = bed.client(Transports::Tcp);
    answer(&client, "Echo", "x").await;
    let preface = [0xf4, b'T', b'W', b'L'];
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..50 {
        let mut stream = TcpStream::connect(bed.address("plain")).await.unwrap();
        let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(round * 40).collect();
        stream.write_all(&preface).await.unwrap();
        // The gateway may have closed before all of it was written.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert_eq!(answer(&client, "Echo", "x").await, "x");
}

#[tokio::test]
async fn a_client_that_is_closed_says_so_to_everybody() {
    let bed = Bed::start().await;
    let client = bed.client(Transports::Tcp);
    answer(&client, "Echo", "x").await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "x")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    client.close().await;
    assert!(running.await.unwrap().is_err());
    assert!(client.call(call("Echo", "x")).await.unwrap_err().message.contains("closed by the app"));
    assert!(client.pushes().next().await.is_none());
}
