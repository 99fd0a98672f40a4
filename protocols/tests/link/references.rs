//! HELLO names what the server holds, and a server that does not hold it.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use bytes::Bytes;
use towline_protocols::link::{
    CloseCode, Config, Event, Header, Hello, Priority, RpcError, RpcErrorKind, SessionHeaders, Welcome,
    client::{CallOptions, Fate, Session},
};

use crate::pair::{Pair, head, hello, status_200};

fn session_headers() -> Vec<Header> {
    let field = |name: &'static str, value: String| Header { name: name.into(), value: value.into() };
    vec![field("x-token", "t".repeat(400)), field("x-app-version", "7.1".into())]
}

fn naming() -> Hello {
    let hash = SessionHeaders::of(&session_headers()).hash().to_vec();
    Hello { session_headers_hash: hash.into(), ..Hello::default() }
}

fn spelling() -> Hello {
    Hello { session_headers: session_headers(), ..Hello::default() }
}

/// A connection of the session, its first flight on the way to the server.
fn connect(session: &mut Session, base: Hello) -> (Pair, Hello) {
    let hello = session.hello(base);
    (Pair::with(Config::default(), Config::default(), hello.clone()), hello)
}

fn send(session: &mut Session, pair: &mut Pair, seq: u64) {
    session.on_request_sent(seq);
    pair.client.send_request(seq, head(Priority::NORMAL), true).unwrap();
}

/// The connection up to the server's refusal.
fn refused(mut pair: Pair) -> Vec<Event> {
    pair.run().unwrap();
    pair.server.control().close(CloseCode::UnknownReference, "session headers");
    pair.run().unwrap();
    pair.client_events
}

#[test]
fn a_hello_by_hash_is_small_and_checked() {
    let size = |base: Hello| {
        let mut pair = connect(&mut Session::new("phone-7", [7; 16], 0), base).0;
        pair.client.poll_transmit(pair.now, &mut pair.to_server, usize::MAX)
    };
    let (spelled, named) = (size(spelling()), size(naming()));
    assert!(spelled > 450 && named < 80, "{spelled} and {named} bytes");
    let check = |wrong: Hello, rule: &str| {
        let mut pair = Pair::with(Config::default(), Config::default(), wrong);
        let error = pair.run().unwrap_err();
        assert_eq!(error.code, CloseCode::ProtocolError);
        assert!(error.rule.contains(rule), "{}", error.rule);
    };
    check(Hello { session_headers_hash: Bytes::from_static(&[1; 15]), ..hello() }, "16 bytes");
    let both = Hello { session_headers: session_headers(), ..hello() };
    check(Hello { session_headers_hash: vec![1; 16].into(), ..both }, "in place of");
}

#[test]
fn what_was_sent_on_a_refused_connection_was_never_sent() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let unary = CallOptions { idempotent: false, replayable: true };
    let stream = CallOptions { idempotent: false, replayable: false };
    let [earlier, pay, upload] = [unary, unary, stream].map(|options| session.open(options));
    // A request that an earlier connection took along, of which nobody knows.
    let (mut lost, _) = connect(&mut session, spelling());
    send(&mut session, &mut lost, earlier);
    let (mut pair, hello) = connect(&mut session, naming());
    assert_eq!(hello.waiting.iter().map(|waiting| waiting.seq).collect::<Vec<_>>(), [earlier]);
    send(&mut session, &mut pair, pay);
    send(&mut session, &mut pair, upload);
    let events = refused(pair);
    let is_refusal = |event: &Event| matches!(event, Event::Close { code: CloseCode::UnknownReference, .. });
    assert!(matches!(&events[..], [only] if is_refusal(only)), "{events:?}");
    assert_eq!(session.on_refused(&hello), [pay, upload]);

    let (mut pair, hello) = connect(&mut session, spelling());
    assert_eq!(hello.waiting.iter().map(|waiting| waiting.seq).collect::<Vec<_>>(), [earlier]);
    pair.run().unwrap();
    assert!(matches!(&pair.server_events[..], [Event::Hello(hello)] if hello.session_headers.len() == 2));
    // The server was started again: not resumed.
    let fates = session.on_welcome(&hello, &Welcome { session_id: 9, ..Welcome::default() });
    assert!(matches!(&fates[0], (seq, Fate::Fail(_)) if *seq == earlier), "{fates:?}");
    assert_eq!(fates[1..], [(pay, Fate::Send), (upload, Fate::Send)], "under the same numbers");
    pair.server.control().welcome(Welcome { session_id: 9, ..Welcome::default() });
    for seq in [pay, upload] {
        send(&mut session, &mut pair, seq);
    }
    pair.run().unwrap();
    pair.server.send_response(pay, status_200(), true).unwrap();
    pair.run().unwrap();
    assert!(pair.client_events.iter().any(|event| matches!(event, Event::Response { end: true, .. })));
}

/// Section 9: OutcomeExpired, MayHaveRun stands for NotRun where the number was sent on one connection only.
#[test]
fn a_refused_connection_is_none_that_a_request_was_sent_on() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let seq = session.open(CallOptions::default());
    let (mut pair, hello) = connect(&mut session, naming());
    send(&mut session, &mut pair, seq);
    refused(pair);
    session.on_refused(&hello);
    session.on_request_sent(seq);
    let execution = towline_protocols::link::Execution::MayHaveRun;
    let error = RpcError::new(RpcErrorKind::OutcomeExpired, execution, "at most seq_min");
    let Some(Event::Reset { error, .. }) = session.on_event(Event::Reset { seq, error }).event else {
        panic!()
    };
    assert_eq!(error.execution, towline_protocols::link::Execution::NotRun);
}
