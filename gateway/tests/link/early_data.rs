//! Requests in the first flight of a TLS connection (0-RTT), and those who send such a flight again.

use std::time::Duration;

use towline_client::{CallResponse, Client, ClientConfig, ConnectionState, FailedCall, Transports};

use crate::{
    bed::{Bed, answer, call, endpoint, online, state},
    tape::{Passage, Tape, replay},
};

/// A client with a ticket and a session, without a connection, and the proxy that lets it have one again.
struct Scene {
    bed: Bed,
    tape: Tape,
    client: Client,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ClientConfig)) -> Self {
        let bed = Bed::start().await;
        let tape = Tape::start(bed.address("edge")).await;
        let mut config = bed.config(Transports::Tcp);
        config.endpoints = vec![endpoint(tape.address())];
        config.policy.backoff_min = Duration::from_millis(10);
        config.policy.backoff_max = Duration::from_millis(20);
        change(&mut config);
        let client = Client::start(config).unwrap();
        assert_eq!(answer(&client, "Echo", "first").await, "first");
        tape.set(Passage::Shut);
        tape.cut();
        state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
        Self { bed, tape, client }
    }

    /// Makes a call that goes with the first flight of connection 1.
    async fn call_early(
        &self,
        method: &str,
        passage: Passage,
    ) -> tokio::task::JoinHandle<Result<CallResponse, FailedCall>> {
        let (client, call) = (self.client.clone(), call(method, "pay"));
        let running = tokio::spawn(async move { client.call(call).await });
        // It is there before the next connection is.
        tokio::task::yield_now().await;
        self.tape.set(passage);
        running
    }

    fn counted(&self, outcome: &str) -> u64 {
        self.bed.gateway().metrics.early_data.with_label_values(&["edge", outcome]).get()
    }

    fn is_early(&self) -> bool {
        matches!(*self.client.states().borrow(), ConnectionState::Online { early_data: true, .. })
    }

    fn started(&self, method: &str) -> usize {
        self.bed.backend.counts(method).started
    }
}

fn body(response: Result<CallResponse, FailedCall>) -> bytes::Bytes {
    response.unwrap().into_grpc().unwrap()
}

#[tokio::test]
async fn a_call_in_the_first_flight_is_answered_in_one_round_trip() {
    let scene = Scene::new().await;
    // Nothing but the first flight reaches the gateway: what comes back came after one round trip.
    let running = scene.call_early("Echo", Passage::FirstFlight).await;
    assert_eq!(body(running.await.unwrap()), "pay");
    assert!(scene.is_early());
    assert_eq!((scene.counted("accepted"), scene.counted("served")), (1, 1));
    scene.tape.set(Passage::Free);
    assert_eq!(answer(&scene.client, "Echo", "more").await, "more");
    assert_eq!((scene.started("Echo"), scene.tape.connections()), (3, 2));
}

#[tokio::test]
async fn a_flight_that_is_sent_again_runs_nothing_and_disturbs_nobody() {
    let scene = Scene::new().await;
    let running = scene.call_early("Echo", Passage::Free).await;
    assert_eq!(body(running.await.unwrap()), "pay");
    let flight = scene.tape.flight(1).await;
    let edge = scene.bed.address("edge");
    replay(edge, &flight).await;
    assert_eq!(answer(&scene.client, "Echo", "more").await, "more");
    assert_eq!((scene.started("Echo"), scene.tape.connections()), (3, 2), "the same connection goes on");
    scene.client.close().await;
    replay(edge, &flight).await;
    assert_eq!((scene.started("Echo"), scene.counted("accepted"), scene.counted("served")), (3, 1, 1));
}

#[tokio::test]
async fn a_flight_that_somebody_else_sends_first_runs_once_and_the_client_has_the_answer() {
    let scene = Scene::new().await;
    let running = scene.call_early("Hold", Passage::Held).await;
    let flight = scene.tape.flight(1).await;
    replay(scene.bed.address("edge"), &flight).await;
    scene.bed.backend.wait("Hold", |counts| counts.started == 1).await;
    // The client's own copy comes late: its early data is rejected, and it says the same again.
    scene.tape.set(Passage::Free);
    online(&scene.client).await;
    assert!(!scene.is_early());
    scene.bed.backend.release();
    assert_eq!(body(running.await.unwrap()), "pay");
    assert_eq!(scene.started("Hold"), 1);
}

#[tokio::test]
async fn without_early_data_the_same_call_takes_another_round_trip() {
    let scene = Scene::with(|config| config.early_data = false).await;
    let running = scene.call_early("Echo", Passage::Free).await;
    assert_eq!(body(running.await.unwrap()), "pay");
    assert!(!scene.is_early());
    assert_eq!((scene.counted("accepted"), scene.counted("served")), (0, 0));
}

#[tokio::test]
async fn a_session_that_the_gateway_does_not_know_waits_for_the_handshake() {
    let scene = Scene::new().await;
    let sessions = &scene.bed.gateway().sessions;
    let much_later = std::time::Instant::now() + Duration::from_secs(1_000_000);
    while !sessions.is_empty() {
        sessions.expire(much_later);
        tokio::task::yield_now().await;
    }
    let running = scene.call_early("Echo", Passage::Free).await;
    assert_eq!(body(running.await.unwrap()), "pay");
    assert_eq!((scene.counted("served"), scene.counted("waited"), scene.started("Echo")), (0, 1, 2));
}
