//! The life of a header dictionary: published, offered, fetched, named by HELLO, used by both sides, rolled back; and a
//! gateway that does not hold it any more.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use towline_client::{CallRequest, Client, ClientConfig, ConnectionState, Transports};
use towline_protocols::link::{
    DictionaryKind,
    frame::{Frame, PREFACE, decode},
};

use crate::{
    bed::{BOTH, Bed, call, online, state},
    session_headers::{gateways_file, hello, remembered},
    tape::Tape,
    waits::fetched,
};

const VERSION: &str = "7.12.3 (build 4711; release)";

fn text() -> Bytes {
    format!("towline headers 1\n:path: /test/Echo\n:authority: localhost\nx-app-version: {VERSION}\n").into()
}

fn publish(bed: &Bed) -> u64 {
    bed.gateway().dictionaries.publish(DictionaryKind::Headers, text(), 100, None).unwrap()
}

fn request(message: &'static str) -> CallRequest {
    let value = http::HeaderValue::from_static(VERSION);
    call("Echo", message).header(http::HeaderName::from_static("x-app-version"), value)
}

async fn echo(client: &Client, message: &'static str) {
    assert_eq!(client.call(request(message)).await.unwrap().into_grpc().unwrap(), message);
}

fn counted(bed: &Bed, outcome: &str) -> u64 {
    let references = &bed.gateway().metrics.hello_references;
    references.with_label_values(&["header_dictionary", outcome]).get()
}

/// Connections that stand behind the newest dictionary.
fn connections(bed: &Bed) -> u64 {
    let edition = bed.gateway().dictionaries.edition();
    edition.entries[0].headers.as_ref().unwrap().connections()
}

async fn connect_again(client: &Client) {
    let mut states = client.states();
    states.mark_unchanged();
    client.reconnect();
    // It may be back before anybody has looked.
    states.changed().await.unwrap();
    online(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_dictionary_is_offered_fetched_named_and_rolled_back() {
    for transports in BOTH {
        let bed = Bed::start().await;
        let identity = bed.folder.path().join("a.identity");
        let config = ClientConfig { identity_file: Some(identity.clone()), ..bed.config(transports) };
        let client = Client::start(config).unwrap();
        echo(&client, "first").await;
        let version = publish(&bed);
        // The next call wakes the connection, which tells of it; the client fetches when it is idle.
        echo(&client, "second").await;
        fetched(&identity, "headers").await;
        assert_eq!(counted(&bed, "known"), 0, "{transports:?}: the connection goes on as it began");
        connect_again(&client).await;
        echo(&client, "third").await;
        assert_eq!((connections(&bed), counted(&bed, "known")), (1, 1), "{transports:?}");
        assert_eq!(bed.backend.last_headers()["x-app-version"], VERSION, "{transports:?}");

        // Rolled back while it is in use: the connection goes on, the next does not name it.
        bed.gateway().dictionaries.roll_back(DictionaryKind::Headers).unwrap();
        for message in ["fourth", "fifth"] {
            echo(&client, message).await;
        }
        tokio::time::timeout(Duration::from_secs(20), async {
            while std::fs::read_to_string(gateways_file(&identity)).unwrap().contains(" dictionary ") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        connect_again(&client).await;
        echo(&client, "sixth").await;
        assert_eq!((counted(&bed, "known"), counted(&bed, "unknown")), (1, 0), "{transports:?}");

        // And out again: what the client still holds it names at once, after WELCOME or OFFER has said so.
        bed.gateway().dictionaries.roll_out(version, 100).unwrap();
        connect_again(&client).await;
        // OFFER may have come before that.
        let known = counted(&bed, "known");
        connect_again(&client).await;
        echo(&client, "seventh").await;
        assert_eq!((counted(&bed, "known"), counted(&bed, "unknown")), (known + 1, 0), "{transports:?}");
        assert_eq!(bed.backend.counts("Echo").started, 7);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_of_a_connection_is_a_few_bytes() {
    let bed = Bed::start().await;
    publish(&bed);
    let tape = Tape::start(bed.address("plain")).await;
    let identity = bed.folder.path().join("a.identity");
    let config = bed.plain(tape.address());
    let client = Client::start(ClientConfig { identity_file: Some(identity.clone()), ..config }).unwrap();
    echo(&client, "x").await;
    fetched(&identity, "headers").await;
    let before = first_block(&tape.flight(0).await).unwrap();
    let mut with = None;
    for _ in 0..20 {
        tape.cut();
        state(&client, |state| matches!(state, ConnectionState::Offline { .. })).await;
        // It waits for the connection, and goes right behind HELLO, unless the connection was there first.
        echo(&client, "y").await;
        let flight = tape.flight(tape.connections() - 1).await;
        assert_ne!(hello(&flight).0.header_dictionary, 0);
        with = first_block(&flight);
        if with.is_some() {
            break;
        }
    }
    let with = with.unwrap();
    assert!(with <= 12 && before > 30, "{before} bytes without it, {with} with it");
}

/// Length of the first request's header block, where there is one.
fn first_block(flight: &[u8]) -> Option<usize> {
    let mut input = BytesMut::from(flight.strip_prefix(&PREFACE).unwrap());
    while let Some(frame) = decode(&mut input, usize::MAX).unwrap() {
        if let Frame::Request(request) = frame {
            return Some(request.header_block.len());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_hold_it_any_more_is_told_everything_and_the_app_notices_nothing() {
    for transports in BOTH {
        let (before, after) = (Bed::start().await, Bed::start().await);
        publish(&before);
        let identity = before.folder.path().join("a.identity");
        let config =
            |bed: &Bed| ClientConfig { identity_file: Some(identity.clone()), ..bed.config(transports) };
        let first = Client::start(config(&before)).unwrap();
        echo(&first, "x").await;
        fetched(&identity, "headers").await;
        first.close().await;
        let text = remembered(&identity, " dictionary ").await;
        let [old, new] = [&before, &after].map(|bed| bed.address("edge").to_string());
        std::fs::write(gateways_file(&identity), text.replace(&old, &new)).unwrap();

        let client = Client::start(config(&after)).unwrap();
        let paid = client.call(request("pay")).await.unwrap();
        assert_eq!(paid.timeline.attempts, 1, "{transports:?}: the refused connection does not count");
        assert_eq!(paid.into_grpc().unwrap(), "pay");
        assert_eq!((counted(&after, "known"), counted(&after, "unknown")), (0, 1), "{transports:?}");
        assert_eq!(after.backend.counts("Echo").started, 1, "{transports:?}");
        echo(&client, "more").await;
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_it_is_not_for_is_not_told_of_it() {
    let bed = Bed::start().await;
    bed.gateway().dictionaries.publish(DictionaryKind::Headers, text(), 0, None).unwrap();
    let identity = bed.folder.path().join("a.identity");
    let config = ClientConfig { identity_file: Some(identity.clone()), ..bed.config(Transports::Tcp) };
    let client = Client::start(config).unwrap();
    for message in ["x", "y"] {
        echo(&client, message).await;
        connect_again(&client).await;
    }
    assert_eq!((counted(&bed, "known"), connections(&bed)), (0, 0));
    let text = std::fs::read_to_string(gateways_file(&identity)).unwrap_or_default();
    assert!(!text.contains(" dictionary "), "{text}");
}
