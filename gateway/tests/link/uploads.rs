//! Requests whose connection is lost before they have arrived whole.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use towline_client::{
    CallRequest, Client, ClientConfig, Execution, RpcError, RpcErrorKind, StreamReceiver, Transports,
};

use crate::{
    backend::noise,
    bed::{BOTH, Bed, call, online},
    chaos::{Chaos, Weather},
    waits::until,
};

/// More than all windows and buffers between an app and a backend that does not read.
const LARGE_BYTES: usize = 3_000_000;

/// Reconnects hardly wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(20));

fn hasty(mut config: ClientConfig) -> ClientConfig {
    (config.policy.backoff_min, config.policy.backoff_max) = BACKOFF;
    config
}

async fn bed() -> Bed {
    Bed::with(|settings| {
        let policy = &mut settings.client_policy;
        (policy.backoff_min, policy.backoff_max) = BACKOFF;
    })
    .await
}

/// Messages of every size from nothing to more than a window, each different.
fn messages(count: usize, random: &mut Rng) -> Vec<Bytes> {
    let size = |random: &mut Rng| random.choice([0, 1, 100, 5_000, 17_000, 70_000]).unwrap();
    (0..count)
        .map(|number| {
            let mut message = noise(size(random));
            message.extend_from_slice(&(number as u32).to_be_bytes());
            // Some of them compress to nothing.
            let zeros = if random.u8(..4) == 0 { 30_000 } else { 0 };
            message.resize(message.len() + zeros, 0);
            message.into()
        })
        .collect()
}

async fn all(receiver: &mut StreamReceiver) -> Result<Vec<Bytes>, RpcError> {
    let mut received = Vec::new();
    while let Some(message) = receiver.message().await? {
        received.push(message);
    }
    Ok(received)
}

/// Waits until the gateway knows that the client's connection is gone.
async fn left(bed: &Bed, client: &Client) {
    let is_gone = || bed.gateway().hub.is_connected(client.client_id()) != Some(true);
    until("the gateway to see the connection gone", is_gone).await;
}

#[tokio::test]
async fn an_upload_that_is_cut_at_random_places_arrives_once_and_in_order() {
    let bed = bed().await;
    for seed in 0..6 {
        let mut random = Rng::with_seed(seed);
        let network = Chaos::start(bed.address("plain")).await;
        let client = Client::start(hasty(bed.plain(network.address()))).unwrap();
        // A client that has heard no WELCOME does not know of which session its requests were.
        online(&client).await;
        let sent = messages(120, &mut random);
        let (mut sender, mut receiver) = client.stream(call("Echo", ""));
        for message in &sent {
            if random.u8(..12) == 0 {
                network.cut();
            }
            if random.u8(..12) == 0 {
                network.set(Weather::Clear);
            } else if random.u8(..30) == 0 {
                // What is sent from now on is lost with the connection.
                network.set(Weather::Mute);
                tokio::time::sleep(Duration::from_millis(2)).await;
                network.cut();
            }
            if random.u8(..3) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(..5))).await;
            }
            network.set(Weather::Clear);
            if sender.send(message.clone()).await.is_err() {
                panic!("seed {seed}: {}", all(&mut receiver).await.unwrap_err());
            }
        }
        sender.finish().await.unwrap();
        if random.bool() {
            network.cut();
        }
        let received = all(&mut receiver).await.unwrap();
        let lengths = |messages: &[Bytes]| messages.iter().map(Bytes::len).collect::<Vec<_>>();
        assert_eq!(lengths(&received), lengths(&sent), "seed {seed}");
        assert!(received == sent, "seed {seed}");
        assert_eq!(receiver.grpc_status().unwrap().code, 0);
        assert!(network.accepted() > 1, "seed {seed} cut nothing");
        assert_eq!(bed.backend.counts("Echo").started, seed as usize + 1, "run once");
    }
}

/// The backend reads nothing while connections come and go: none of them may bring more than a window.
#[tokio::test]
async fn a_backend_that_does_not_read_holds_one_window_however_often_the_client_comes_back() {
    let bed = bed().await;
    for (round, transports) in BOTH.into_iter().enumerate() {
        bed.backend.hold();
        let client = Client::start(hasty(bed.config(transports))).unwrap();
        online(&client).await;
        let (mut sender, mut receiver) = client.stream(call("Late", ""));
        let sending = tokio::spawn(async move {
            for _ in 0..60 {
                sender.send(noise(50_000)).await.unwrap();
            }
            sender.finish().await.unwrap();
        });
        bed.backend.wait("Late", |counts| counts.started == round + 1).await;
        for _ in 0..10 {
            let mut states = client.states();
            states.mark_unchanged();
            client.reconnect();
            states.changed().await.unwrap();
            online(&client).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bed.backend.release();
        let bytes = (60 * 50_005).to_string();
        assert_eq!(all(&mut receiver).await.unwrap(), [Bytes::from(bytes)], "{transports:?}");
        sending.await.unwrap();
        assert_eq!(bed.backend.counts("Late").started, round + 1, "{transports:?}");
    }
}

#[tokio::test]
async fn one_large_message_that_is_cut_arrives_once() {
    let bed = bed().await;
    let network = Chaos::start(bed.address("plain")).await;
    let client = Client::start(hasty(bed.plain(network.address()))).unwrap();
    online(&client).await;
    let http = |path: &str, body| CallRequest::http(http::Method::POST, path, body);
    let body = noise(LARGE_BYTES);
    for (round, request) in
        [call("Late", body.clone()), http("/test/Late", body.clone())].into_iter().enumerate()
    {
        bed.backend.hold();
        let grpc_prefix = if round == 0 { 5 } else { 0 };
        let caller = client.clone();
        let running = tokio::spawn(async move { caller.call(request).await });
        bed.backend.wait("Late", |counts| counts.started == round + 1).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let accepted = network.accepted();
            network.cut();
            until("another connection", || network.accepted() != accepted).await;
        }
        bed.backend.release();
        let response = running.await.unwrap().unwrap();
        assert!(response.timeline.attempts > 1);
        assert_eq!(response.body(), (LARGE_BYTES + grpc_prefix).to_string());
        assert_eq!(bed.backend.counts("Late").started, round + 1);
    }
}

/// An upload that the backend has begun to read, and whose connection is gone.
struct Cut {
    bed: Bed,
    network: Chaos,
    client: Client,
    receiver: StreamReceiver,
}

impl Cut {
    async fn new(change: impl FnOnce(&mut ClientConfig)) -> Self {
        let bed = bed().await;
        let network = Chaos::start(bed.address("plain")).await;
        let mut config = hasty(bed.plain(network.address()));
        change(&mut config);
        let client = Client::start(config).unwrap();
        online(&client).await;
        let (mut sender, receiver) = client.stream(call("Echo", ""));
        sender.send("first").await.unwrap();
        bed.backend.wait("Echo", |counts| counts.started == 1).await;
        // The second one is under way when the connection goes.
        network.set(Weather::Mute);
        sender.send("second").await.unwrap();
        sender.finish().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        network.set(Weather::Tunnel);
        network.cut();
        left(&bed, &client).await;
        Self { bed, network, client, receiver }
    }

    /// Lets time pass for what waits in the gateway.
    fn later(&self, by: Duration) {
        self.bed.gateway().sessions.expire(Instant::now() + by);
    }

    async fn outcome(mut self) -> Result<Vec<Bytes>, (RpcErrorKind, Execution, String)> {
        self.network.set(Weather::Clear);
        self.network.cut();
        online(&self.client).await;
        let outcome = all(&mut self.receiver).await;
        outcome.map_err(|error| (error.kind, error.execution, error.message))
    }
}

#[tokio::test]
async fn what_was_under_way_when_the_connection_went_is_sent_again() {
    let cut = Cut::new(|_| {}).await;
    cut.later(Duration::from_secs(20));
    assert_eq!(cut.outcome().await.unwrap(), ["first", "second"]);
}

#[tokio::test]
async fn the_rest_is_not_waited_for_for_ever() {
    let cut = Cut::new(|_| {}).await;
    cut.later(Duration::from_secs(31));
    cut.bed.backend.wait("Echo", |counts| counts.cancelled == 1).await;
    let (kind, execution, text) = cut.outcome().await.unwrap_err();
    assert_eq!((kind, execution), (RpcErrorKind::Cancelled, Execution::MayHaveRun));
    assert!(text.contains("session.upload_wait"), "{text}");
}

#[tokio::test]
async fn a_gateway_that_forgot_the_session_says_that_it_may_have_run() {
    let cut = Cut::new(|_| {}).await;
    cut.later(Duration::from_secs(2 * 3600));
    cut.bed.backend.wait("Echo", |counts| counts.cancelled == 1).await;
    let (kind, execution, _) = cut.outcome().await.unwrap_err();
    assert_eq!((kind, execution), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
}

#[tokio::test]
async fn a_client_that_keeps_nothing_cannot_go_on_and_says_why() {
    let cut = Cut::new(|config| config.limits.upload_buffer_bytes_total = 0).await;
    let backend = cut.bed.backend.clone();
    let (kind, execution, text) = cut.outcome().await.unwrap_err();
    assert_eq!((kind, execution), (RpcErrorKind::Cancelled, Execution::MayHaveRun));
    assert!(text.contains("limits.upload_buffer_bytes"), "{text}");
    backend.wait("Echo", |counts| counts.cancelled == 1).await;
}

#[tokio::test]
async fn a_stream_that_was_cut_before_its_request_arrived_is_sent_again() {
    let bed = bed().await;
    let network = Chaos::start(bed.address("plain")).await;
    let client = Client::start(hasty(bed.plain(network.address()))).unwrap();
    online(&client).await;
    network.set(Weather::Mute);
    let (mut sender, mut receiver) = client.stream(call("Echo", "first"));
    sender.send("second").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    network.set(Weather::Clear);
    network.cut();
    sender.finish().await.unwrap();
    assert_eq!(all(&mut receiver).await.unwrap(), ["first", "second"]);
}

/// On QUIC, where each request has a stream of its own.
#[tokio::test]
async fn an_upload_goes_on_over_one_quic_connection_after_the_other() {
    let bed = bed().await;
    let client = Client::start(hasty(bed.config(Transports::Quic))).unwrap();
    online(&client).await;
    let mut random = Rng::with_seed(1);
    let sent = messages(80, &mut random);
    let (mut sender, mut receiver) = client.stream(call("Echo", ""));
    for (number, message) in sent.iter().enumerate() {
        sender.send(message.clone()).await.unwrap();
        if number % 10 == 9 {
            client.reconnect();
            tokio::time::sleep(Duration::from_millis(random.u64(..30))).await;
        }
    }
    sender.finish().await.unwrap();
    assert!(all(&mut receiver).await.unwrap() == sent);
    assert_eq!(bed.backend.counts("Echo").started, 1);
}
