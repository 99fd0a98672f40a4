//! Early data (0-RTT) on QUIC, from the SDK's first flight to a replay of it.

use std::time::Duration;

use prost::Message as _;
use tokio::net::UdpSocket;
use towline_client::{CallRequest, Client};
use towline_gateway::{control::reload, proto::demo::EchoRequest};

use crate::{
    bed::{Bed, client, config, echo},
    nat::Nat,
};

/// Makes a new connection and asks on it before the gateway has answered.
async fn ask_early(client: &Client, text: &str) {
    client.reconnect();
    assert_eq!(echo(client, text, 0).await, text);
}

fn counted(bed: &Bed) -> Counted {
    let metrics = &bed.gateway().metrics;
    let early = |outcome| metrics.early_data.with_label_values(&["edge", outcome]).get();
    Counted {
        accepted: early("accepted"),
        rejected: early("rejected"),
        handshakes: metrics.handshakes.with_label_values(&["edge", "ok"]).get(),
        requests: metrics.requests.with_label_values(&["all", "ok"]).get(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Counted {
    accepted: u64,
    rejected: u64,
    handshakes: u64,
    requests: u64,
}

/// Waits until the counts are so.
async fn until(bed: &Bed, wanted: impl Fn(&Counted) -> bool) {
    let holds = async {
        while !wanted(&counted(bed)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), holds)
        .await
        .unwrap_or_else(|_| panic!("{:?}", counted(bed)));
}

#[tokio::test]
async fn a_first_flight_that_is_sent_again_byte_for_byte_runs_nothing_twice() {
    let bed = Bed::on_loopback(|settings| settings.limits.handshake_timeout = Duration::from_secs(3)).await;
    let nat = Nat::start(bed.address()).await;
    let client = client(nat.address(), bed.ca.clone());
    assert_eq!(echo(&client, "first", 0).await, "first");
    nat.take_sent().await;
    ask_early(&client, "early").await;
    assert_eq!(counted(&bed), Counted { accepted: 1, rejected: 0, handshakes: 2, requests: 2 });

    replayed(&bed, &nat, client, 1).await;
    assert_eq!(counted(&bed), Counted { accepted: 1, rejected: 1, handshakes: 2, requests: 2 });
}

/// Has somebody send the last flight of `client`, which goes, until the gateway has rejected it.
async fn replayed(bed: &Bed, nat: &Nat, client: Client, rejected: u64) {
    let flight = nat.take_sent().await;
    client.close().await;
    while bed.gateway().slots.open() > 0 {
        tokio::task::yield_now().await;
    }
    // The first connection's last packets are among them; they belong to nobody any more. Until the second one has
    // drained (RFC 9000, section 10.2), its packets are taken for its own.
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let replay = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            for datagram in &flight {
                attacker.send_to(datagram, bed.address()).await.unwrap();
            }
        }
    };
    tokio::select! {
        () = until(bed, |counted| counted.rejected == rejected) => {}
        () = replay => {}
    }
    // Its handshake never ends.
    bed.timed_out(rejected).await;
}

#[tokio::test]
async fn the_first_flight_of_an_app_that_was_started_again_runs_once_whoever_sends_it() {
    let bed = Bed::on_loopback(|settings| settings.limits.handshake_timeout = Duration::from_secs(3)).await;
    let (nat, folder) = (Nat::start(bed.address()).await, tempfile::tempdir().unwrap());
    let run = || {
        let mut config = config(nat.address(), bed.ca.clone());
        config.identity_file = Some(folder.path().join("app"));
        Client::start(config).unwrap()
    };
    let client = run();
    assert_eq!(echo(&client, "first", 0).await, "first");
    let is_kept = |name: &str| folder.path().join(name).exists();
    while !is_kept("app.session") || !is_kept("app.tickets") {
        tokio::task::yield_now().await;
    }
    client.close().await;
    nat.take_sent().await;
    let client = run();
    let look = EchoRequest { text: "look".to_owned(), ..EchoRequest::default() };
    let look = CallRequest::grpc("/towline.demo.v1.Echo/Unary", look.encode_to_vec()).idempotent();
    client.call(look).await.unwrap().into_grpc().unwrap();
    assert_eq!(counted(&bed), Counted { accepted: 1, rejected: 0, handshakes: 2, requests: 2 });
    replayed(&bed, &nat, client, 1).await;
    assert_eq!(counted(&bed), Counted { accepted: 1, rejected: 1, handshakes: 2, requests: 2 });
}

#[tokio::test]
async fn early_data_that_is_rejected_is_said_again_on_the_same_connection() {
    let bed = Bed::on_loopback(|_| {}).await;
    let client = client(bed.address(), bed.ca.clone());
    assert_eq!(echo(&client, "first", 0).await, "first");
    let mut settings = bed.gateway().snapshot().settings.clone();
    settings.listeners[0].early_data_bytes_max = 0;
    reload::apply(bed.gateway(), settings).unwrap();
    ask_early(&client, "again").await;
    assert_eq!(counted(&bed), Counted { accepted: 0, rejected: 0, handshakes: 2, requests: 2 });
}

#[tokio::test]
async fn every_connection_of_a_client_may_begin_early() {
    let bed = Bed::on_loopback(|_| {}).await;
    let client = client(bed.address(), bed.ca.clone());
    assert_eq!(echo(&client, "first", 0).await, "first");
    for round in 1..=5 {
        ask_early(&client, "early").await;
        until(&bed, |counted| counted.handshakes == round + 1).await;
    }
    assert_eq!(counted(&bed), Counted { accepted: 5, rejected: 0, handshakes: 6, requests: 6 });
}
