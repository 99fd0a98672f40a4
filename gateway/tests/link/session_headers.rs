//! Session headers are sent once: later connections name them by their hash, and a gateway that does not have them
//! is told again, without the app noticing.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::BytesMut;
use towline_client::{Client, ClientConfig, ConnectionState, Transports};
use towline_protocols::link::{
    Hello,
    frame::{Frame, PREFACE, decode},
};

use crate::{
    bed::{BOTH, Bed, answer, call, online, state},
    tape::Tape,
};

/// A token of common length, and what else an app says of itself.
fn session_headers() -> Vec<(String, String)> {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        field("authorization", &format!("Bearer {}", "eyJhbGciOiJSUzI1NiJ9".repeat(24))),
        field("x-app-version", "7.12.3"),
        field("accept-language", "de-DE,de;q=0.9,en;q=0.8"),
    ]
}

fn with_headers(config: ClientConfig) -> ClientConfig {
    ClientConfig { session_headers: session_headers(), ..config }
}

/// HELLO as it was sent, and its length.
pub fn hello(flight: &[u8]) -> (Box<Hello>, usize) {
    let mut input = BytesMut::from(flight.strip_prefix(&PREFACE).unwrap());
    let before = input.len();
    match decode(&mut input, usize::MAX).unwrap() {
        Some(Frame::Hello(hello)) => (hello, before - input.len()),
        other => panic!("{other:?}"),
    }
}

fn counted(bed: &Bed, outcome: &str) -> u64 {
    let references = &bed.gateway().metrics.hello_references;
    references.with_label_values(&["session_headers", outcome]).get()
}

fn arrived(bed: &Bed) -> bool {
    let headers = bed.backend.last_headers();
    session_headers().iter().all(|(name, value)| headers[name.as_str()] == *value)
}

pub fn gateways_file(identity: &Path) -> PathBuf {
    identity.with_extension("identity.gateways")
}

/// Waits until the client has written down so of its gateway.
pub async fn remembered(identity: &Path, fact: &str) -> String {
    let path = gateways_file(identity);
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.contains(fact) => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_second_connection_names_them_in_a_few_bytes() {
    let bed = Bed::start().await;
    let tape = Tape::start(bed.address("plain")).await;
    let client = Client::start(with_headers(bed.plain(tape.address()))).unwrap();
    answer(&client, "Echo", "x").await;
    tape.cut();
    state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
    answer(&client, "Echo", "x").await;
    assert!(arrived(&bed), "the backend sees them all the same");
    let (first, first_bytes) = hello(&tape.flight(0).await);
    let (second, second_bytes) = hello(&tape.flight(1).await);
    assert_eq!((first.session_headers.len(), first.session_headers_hash.len()), (3, 0));
    assert_eq!((second.session_headers.len(), second.session_headers_hash.len()), (0, 16));
    assert!(first_bytes > 600 && second_bytes < 170, "{first_bytes} and {second_bytes} bytes");
    assert_eq!((counted(&bed, "known"), counted(&bed, "unknown")), (1, 0));
}

#[tokio::test]
async fn an_app_that_starts_again_names_them_on_either_transport() {
    let bed = Bed::start().await;
    let mut known = 0;
    for transports in BOTH {
        let identity = bed.folder.path().join(format!("{transports:?}.identity"));
        let start = || {
            let config = with_headers(bed.config(transports));
            Client::start(ClientConfig { identity_file: Some(identity.clone()), ..config }).unwrap()
        };
        let first = start();
        answer(&first, "Echo", "x").await;
        first.close().await;
        remembered(&identity, " headers ").await;
        let second = start();
        answer(&second, "Echo", "x").await;
        assert!(arrived(&bed));
        known += 1;
        assert_eq!((counted(&bed, "known"), counted(&bed, "unknown")), (known, 0), "{transports:?}");
        // So does the next connection of the same run, where the first flight goes as early data.
        let mut states = second.states();
        states.mark_unchanged();
        second.reconnect();
        states.changed().await.unwrap();
        online(&second).await;
        answer(&second, "Echo", "x").await;
        known += 1;
        assert_eq!((counted(&bed, "known"), counted(&bed, "unknown")), (known, 0), "{transports:?}");
        second.close().await;
    }
}

/// A client that was served by one gateway and comes to another, as after a restart without a store: what it
/// believes is wrong.
async fn believing(before: &Bed, after: &Bed, transports: Transports) -> Client {
    let identity = before.folder.path().join(format!("{transports:?}.identity"));
    let config = |bed: &Bed| ClientConfig {
        identity_file: Some(identity.clone()),
        ..with_headers(bed.config(transports))
    };
    let first = Client::start(config(before)).unwrap();
    answer(&first, "Echo", "x").await;
    first.close().await;
    let text = remembered(&identity, " headers ").await;
    let [old, new] = [before, after].map(|bed| bed.address("edge").to_string());
    std::fs::write(gateways_file(&identity), text.replace(&old, &new)).unwrap();
    Client::start(config(after)).unwrap()
}

#[tokio::test]
async fn a_gateway_that_was_started_again_is_told_everything_and_the_app_notices_nothing() {
    for transports in BOTH {
        let (before, after) = (Bed::start().await, Bed::start().await);
        let client = believing(&before, &after, transports).await;
        let mut states = client.states();
        let offline = tokio::spawn(async move {
            states.wait_for(|state| matches!(state, ConnectionState::Offline { .. })).await.is_ok()
        });
        // Both are sent before the gateway has said a word.
        let (mut sender, mut receiver) = client.stream(call("Chat", "one"));
        sender.send("two").await.unwrap();
        let paid = client.call(call("Echo", "pay")).await.unwrap();
        assert_eq!(paid.timeline.attempts, 1, "{transports:?}: the refused connection does not count");
        assert_eq!(paid.into_grpc().unwrap(), "pay");
        assert_eq!(receiver.message().await.unwrap().unwrap(), "one");
        assert_eq!(receiver.message().await.unwrap().unwrap(), "two");
        sender.finish().await.unwrap();
        assert_eq!(receiver.message().await.unwrap(), None);
        assert_eq!((counted(&after, "known"), counted(&after, "unknown")), (0, 1), "{transports:?}");
        let runs = ["Echo", "Chat"].map(|method| after.backend.counts(method).started);
        assert_eq!(runs, [1, 1], "{transports:?}");
        assert!(arrived(&after), "{transports:?}");
        assert!(!offline.is_finished(), "{transports:?}: the app was not told of it");
        client.close().await;
    }
}

#[tokio::test]
async fn what_the_gateway_does_not_keep_is_sent_each_time() {
    let bed = Bed::with(|settings| settings.session.headers_bytes_max = 100).await;
    let tape = Tape::start(bed.address("plain")).await;
    let client = Client::start(with_headers(bed.plain(tape.address()))).unwrap();
    answer(&client, "Echo", "x").await;
    tape.cut();
    state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
    online(&client).await;
    answer(&client, "Echo", "x").await;
    assert_eq!(hello(&tape.flight(1).await).0.session_headers.len(), 3);
    let hits = bed.gateway().metrics.limit_hits.with_label_values(&["session.headers_bytes_max"]).get();
    assert_eq!(hits, 2);
}
