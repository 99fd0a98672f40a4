//! HELLO names what the server holds, and a server that does not hold it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test support: a failure here is the test's")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    hpack::{HeaderDictionary, HeaderField, HeaderShelf},
    link::{
        CloseCode, Config, Control, Event, Header, Hello, Priority, RequestHead, RpcError, RpcErrorKind,
        SessionHeaders, StreamCodec, Welcome,
        client::{CallOptions, Fate, Session},
        frame::{Frame, RequestFrame, decode},
    },
};

use crate::pair::{Pair, field, head, hello, origin, status_200};

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
    let unary = CallOptions { replayable: true, ..CallOptions::default() };
    let stream = CallOptions::default();
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

/// Section 9: NotNow stands for NotRun where the number was sent on one connection only.
#[test]
fn a_refused_connection_is_none_that_a_request_was_sent_on() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let seq = session.open(CallOptions::default());
    let (mut pair, hello) = connect(&mut session, naming());
    send(&mut session, &mut pair, seq);
    refused(pair);
    session.on_refused(&hello);
    session.on_request_sent(seq);
    let execution = towline_protocols::link::Execution::NotNow;
    let error = RpcError::new(RpcErrorKind::OutcomeExpired, execution, "at most seq_min");
    let Some(Event::Reset { error, .. }) = session.on_event(Event::Reset { seq, error }).event else {
        panic!()
    };
    assert_eq!(error.execution, towline_protocols::link::Execution::NotRun);
}

/// What most requests and answers of an app have.
fn dictionary() -> Arc<HeaderDictionary> {
    let fields = [
        (":path", "/orders.Orders/Place"),
        ("x-app-version", "7.12.3 (build 4711)"),
        (":authority", "api.shop.example"),
        ("server", "orders/2.1"),
    ];
    let fields = fields.map(|(name, value)| HeaderField::from_static(name, value));
    Arc::new(HeaderDictionary::parse(HeaderDictionary::text_of(&fields)).unwrap())
}

fn holding(dictionary: &Arc<HeaderDictionary>) -> Config {
    let header_dictionaries = HeaderShelf::default();
    header_dictionaries.replace(vec![Arc::clone(dictionary)]);
    Config { header_dictionaries, ..Config::default() }
}

fn fields() -> Vec<HeaderField> {
    vec![
        field(":method", "POST"),
        field(":path", "/orders.Orders/Place"),
        field(":authority", "api.shop.example"),
        field("x-app-version", "7.12.3 (build 4711)"),
        // Not in the dictionary: it goes into the dynamic table, behind.
        field("x-shop", "north"),
    ]
}

fn answer() -> Vec<HeaderField> {
    vec![field(":status", "200"), field("server", "orders/2.1"), field("x-shop", "north")]
}

fn request() -> RequestHead {
    RequestHead { fields: fields(), ..RequestHead::default() }
}

fn block_of_request(wire: &BytesMut) -> Bytes {
    let mut input = wire.clone();
    while let Some(frame) = decode(&mut input, usize::MAX).unwrap() {
        if let Frame::Request(RequestFrame { header_block, .. }) = frame {
            return header_block;
        }
    }
    panic!("no REQUEST")
}

/// The client's next flight, which the server has handled.
fn flight(pair: &mut Pair) -> BytesMut {
    let mut wire = BytesMut::new();
    pair.client.poll_transmit(pair.now, &mut wire, usize::MAX);
    let seen = BytesMut::from(wire.strip_prefix(b"\xf4TWL").unwrap_or(&wire));
    pair.to_server.unsplit(wire);
    pair.run().unwrap();
    seen
}

#[test]
fn both_directions_stand_behind_the_dictionary_from_the_first_block_on() {
    let dictionary = dictionary();
    let config = holding(&dictionary);
    let named = Hello { header_dictionary: dictionary.id(), ..hello() };
    let mut pair = Pair::with(config.clone(), config, named);
    for (seq, block_bytes_max) in [(1, 18), (2, 5)] {
        pair.client.send_request(seq, request(), true).unwrap();
        let block = block_of_request(&flight(&mut pair));
        // An octet or two for each known field; `x-shop` is spelled out once.
        assert!(block.len() <= block_bytes_max, "{seq}: {block:02x?}");
        if seq == 1 {
            pair.server.control().welcome(Welcome::default());
        }
        pair.server.send_response(seq, answer(), true).unwrap();
        pair.run().unwrap();
    }
    let requested = |event: &Event| matches!(event, Event::Request { head, .. } if head.fields == fields());
    assert_eq!(pair.server_events.iter().filter(|event| requested(event)).count(), 2);
    let answered = |event: &Event| matches!(event, Event::Response { fields, .. } if *fields == answer());
    assert_eq!(pair.client_events.iter().filter(|event| answered(event)).count(), 2);
    assert_eq!(dictionary.connections(), 1, "the server counts it");
}

#[test]
fn a_connection_keeps_its_dictionary_when_it_is_withdrawn_and_when_it_rests() {
    let dictionary = dictionary();
    let config = holding(&dictionary);
    let shelf = config.header_dictionaries.clone();
    let named = Hello { header_dictionary: dictionary.id(), ..hello() };
    let mut pair = Pair::with(config.clone(), config, named);
    pair.run().unwrap();
    pair.server.control().welcome(Welcome::default());
    pair.run().unwrap();
    shelf.replace(Vec::new());
    // No block was coded yet: what codes it is made behind the rest.
    let resting = std::mem::replace(
        &mut pair.server,
        towline_protocols::link::Connection::server(Arc::default(), pair.now),
    );
    pair.server = resting.rest().unwrap().wake(pair.now);
    pair.client.send_request(1, request(), true).unwrap();
    assert!(block_of_request(&flight(&mut pair)).len() <= 18);
    pair.server.send_response(1, answer(), true).unwrap();
    pair.run().unwrap();
    let answered = |event: &Event| matches!(event, Event::Response { fields, .. } if *fields == answer());
    assert!(pair.client_events.iter().any(answered));
}

#[test]
fn a_server_without_the_dictionary_refuses_before_it_reads_anything() {
    let dictionary = dictionary();
    let named = Hello { header_dictionary: dictionary.id(), ..hello() };
    let mut pair = Pair::with(holding(&dictionary), Config::default(), named.clone());
    pair.client.send_request(1, request(), true).unwrap();
    assert_eq!(pair.run().unwrap_err().code, CloseCode::UnknownReference);
    assert!(pair.server_events.is_empty(), "{:?}", pair.server_events);
    pair.run().unwrap();
    let refused = |event: &Event| matches!(event, Event::Close { code: CloseCode::UnknownReference, .. });
    assert!(matches!(&pair.client_events[..], [only] if refused(only)), "{:?}", pair.client_events);
    // A client names nothing that it does not hold.
    let mut pair = Pair::with(Config::default(), Config::default(), named);
    pair.run().unwrap();
    assert!(matches!(&pair.server_events[..], [Event::Hello(hello)] if hello.header_dictionary == 0));
}

#[test]
fn streams_of_quic_stand_behind_it_too() {
    let (now, dictionary) = (origin(), dictionary());
    let config = Arc::new(holding(&dictionary));
    let named = Hello { header_dictionary: dictionary.id(), ..hello() };
    let mut client = Control::client(config.clone(), named, now);
    let mut server = Control::server(config, now);
    let (mut control, mut wire) = (BytesMut::new(), BytesMut::new());
    // The request goes before WELCOME.
    let mut caller = StreamCodec::client(client.stream_settings(), 1, 1);
    caller.send_request(&request(), true, &mut wire).unwrap();
    let block = block_of_request(&wire);
    assert!(block.len() <= 22, "{block:02x?}");
    client.poll_transmit(now, &mut control, usize::MAX);
    server.handle_bytes(now, &mut control).unwrap();
    let mut callee = StreamCodec::server(server.stream_settings(), 1);
    callee.handle_bytes(&mut wire).unwrap();
    let Some(Event::Request { head, .. }) = callee.poll_event().unwrap() else { panic!("no request") };
    assert_eq!(head.fields, fields());
    server.welcome(Welcome::default());
    server.poll_transmit(now, &mut control, usize::MAX);
    client.handle_bytes(now, &mut control).unwrap();
    callee.send_response(&answer(), true, &mut wire).unwrap();
    caller.handle_bytes(&mut wire).unwrap();
    let Some(Event::Response { fields, .. }) = caller.poll_event().unwrap() else { panic!("no answer") };
    assert_eq!(fields, answer());
    // A server that does not hold it.
    let named = Hello { header_dictionary: dictionary.id(), ..hello() };
    let mut client = Control::client(Arc::new(holding(&dictionary)), named, now);
    client.poll_transmit(now, &mut control, usize::MAX);
    let refused = Control::server(Arc::default(), now).handle_bytes(now, &mut control);
    assert_eq!(refused.unwrap_err().code, CloseCode::UnknownReference);
}
