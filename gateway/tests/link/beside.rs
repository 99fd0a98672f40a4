//! Second connections, made while the line's own still works: at a gateway that goes, and on a network that has joined.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use towline_client::{
    Client, ClientConfig, ConnectionState, Network, NetworkKind, ShortCalls, Transport, Transports,
};

use crate::bed::{BOTH, Bed, answer, call, online, state};

/// Longer than a test runs.
const HOUR: Duration = Duration::from_secs(3600);

/// A client whose turn to go comes in the first 4 % of a spread, and which no pause of the machine irritates.
fn config(bed: &Bed, transports: Transports) -> ClientConfig {
    let mut config = bed.config(transports);
    (config.seed, config.short_calls) = (Some(29), ShortCalls::Off);
    config.strategies.liveness.enabled = false;
    config
}

/// Follows the line until it is dropped, and fails where the app is told that there is none.
async fn stays_online(client: Client) {
    let mut states = client.states();
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        assert!(!matches!(state, ConnectionState::Offline { .. }), "{state}");
    }
}

/// Two gateways with one certificate, so that either is whom the client is sent to.
async fn two(spread: Duration) -> (Bed, Bed) {
    let next = Bed::start().await;
    (next.twin(spread, next.address("edge")).await, next)
}

#[tokio::test]
async fn no_call_waits_for_a_connection_while_a_gateway_goes() {
    for (transports, enabled) in BOTH.into_iter().flat_map(|it| [(it, true), (it, false)]) {
        let (first, next) = two(Duration::from_secs(10)).await;
        let mut config = config(&first, transports);
        config.strategies.handover.enabled = enabled;
        let client = Client::start(config).unwrap();
        answer(&client, "Echo", "before").await;
        let watching = tokio::spawn(stays_online(client.clone()));
        first.gateway().drain.begin(tokio::time::Instant::now() + HOUR);
        let (mut calls, mut after, mut waited) = (1, 0, 0);
        while after < 20 {
            let response = client.call(call("Echo", "x")).await.unwrap();
            waited += u32::from(response.timeline.connect.is_some());
            calls += 1;
            after += u32::from(next.backend.counts("Echo").started > 0);
        }
        assert_eq!(waited, u32::from(!enabled), "{transports:?}: switched off, one waits");
        let ran = first.backend.counts("Echo").started + next.backend.counts("Echo").started;
        assert_eq!(ran, calls, "{transports:?}: each once");
        assert!(!enabled || !watching.is_finished());
        watching.abort();
    }
}

#[tokio::test]
async fn what_runs_ends_where_it_runs_before_the_line_moves() {
    for transports in BOTH {
        let (first, next) = two(Duration::from_millis(200)).await;
        let client = Client::start(config(&first, transports)).unwrap();
        answer(&client, "Echo", "before").await;
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
        first.backend.wait("Hold", |counts| counts.started == 1).await;
        let watching = tokio::spawn(stays_online(client.clone()));
        first.gateway().drain.begin(tokio::time::Instant::now() + HOUR);
        // The gateway takes no more, and the call that it has keeps the line there.
        let is_over = || first.gateway().drain.lasts(Duration::from_millis(300));
        let handshakes = next.gateway().metrics.handshakes.with_label_values(&["edge", "ok"]);
        while !is_over() || handshakes.get() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let caller = client.clone();
        let waiting = tokio::spawn(async move { caller.call(call("Echo", "x")).await });
        first.backend.release();
        assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay", "{transports:?}");
        let waited = waiting.await.unwrap().unwrap();
        assert_eq!(waited.timeline.connect, None, "{transports:?}: the connection was there");
        assert_eq!((first.backend.counts("Hold").started, next.backend.counts("Echo").started), (1, 1));
        assert!(!watching.is_finished());
        watching.abort();
    }
}

#[tokio::test]
async fn a_line_moves_to_a_network_that_has_joined_with_all_that_runs() {
    for transports in BOTH {
        let bed = Bed::start().await;
        let mut config = config(&bed, transports);
        config.strategies.handover.check_gap = Duration::from_millis(100);
        let client = Client::start(config).unwrap();
        online(&client).await;
        answer(&client, "Echo", "before").await;
        let watching = tokio::spawn(stays_online(client.clone()));
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
        bed.backend.wait("Hold", |counts| counts.started == 1).await;
        let wifi = Network::new(NetworkKind::Wifi, "home");
        client.network_joined(wifi.clone());
        let mut calls = 1;
        while client.network() != wifi {
            let response = client.call(call("Echo", "x")).await.unwrap();
            assert_eq!(response.timeline.connect, None, "{transports:?}: call {calls} waited");
            calls += 1;
        }
        online(&client).await;
        answer(&client, "Echo", "after").await;
        bed.backend.release();
        let paid = running.await.unwrap().unwrap();
        assert_eq!(paid.timeline.attempts, 2, "{transports:?}: two connections had it");
        assert_eq!(paid.into_grpc().unwrap(), "pay");
        assert_eq!(bed.backend.counts("Hold").started, 1);
        assert_eq!(bed.backend.counts("Echo").started, calls + 1);
        assert!(!watching.is_finished());
        watching.abort();
    }
}

async fn online_on(client: &Client, wanted: Transport) {
    state(client, |state| matches!(state, ConnectionState::Online { transport, .. } if *transport == wanted))
        .await;
}

/// A NAT forgets UDP after a second and TCP after four, as an earlier run of the app has found.
#[tokio::test]
async fn an_app_in_the_background_is_held_by_what_needs_fewer_beats_and_loses_no_call() {
    let (bed, folder) = (Bed::start().await, tempfile::tempdir().unwrap());
    let office = Network::new(NetworkKind::Wifi, "office");
    let (place, today) = (office.place(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let today = today.as_secs();
    let learnt = format!(
        "towline-beats 1\n{place} quic {today} 1000 1100 2 {today}\n{place} tcp {today} 4000 4100 2 {today}\n"
    );
    fs::write(folder.path().join("identity.beats"), learnt).unwrap();
    let mut config = config(&bed, Transports::QuicAndTcp);
    config.identity_file = Some(folder.path().join("identity"));
    config.strategies.heartbeat.min = Duration::from_secs(1);
    (config.strategies.carrier.after, config.strategies.carrier.back_after) =
        (Duration::ZERO, Duration::ZERO);
    let client = Client::start(config).unwrap();
    client.network_changed(office);
    online_on(&client, Transport::Quic).await;
    answer(&client, "Echo", "before").await;
    let watching = tokio::spawn(stays_online(client.clone()));
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    client.background();
    online_on(&client, Transport::Tcp).await;
    answer(&client, "Echo", "in the background").await;
    client.foreground();
    online_on(&client, Transport::Quic).await;
    bed.backend.release();
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay");
    assert_eq!(bed.backend.counts("Hold").started, 1);
    assert!(!watching.is_finished());
    watching.abort();
}
