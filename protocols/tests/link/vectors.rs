//! The examples of PROTOCOL.md: each is what this implementation writes, and reads back.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    hpack::{Decoder, Encoder, HeaderDictionary, HeaderField, KnownFields, StaticTable},
    link::{
        Ack, Arm, ClientFacts, CloseCode, Config, Connection, DictionaryKind, Event, Execution, Fetch,
        Filter, GoAway, Header, Hello, LearntBeat, LevelReported, Offer, OfferedDictionary, Outcome,
        Parameter, ParameterValue, Partial, Piece, Place, Policy, Priority, QualitySnapshot, Report,
        RequestHead, RpcError, RpcErrorKind, SessionHeaders, Subscribe, Subscribed, Waiting, Welcome,
        frame::{
            DataFrame, Frame, PREFACE, Part, PublishFrame, PushFrame, RequestFrame, ResponseFrame, decode,
            encode,
        },
        proto::{Reason, subscribed},
        report::LatencyHistogram,
    },
    qpack,
};

use crate::pair::{field, origin};

/// Examples by name: the hexadecimal digits of blocks that begin with "```hex NAME".
fn examples() -> BTreeMap<String, Vec<u8>> {
    let text = include_str!("../../PROTOCOL.md");
    let blocks = text.split("```hex ").skip(1).map(|block| block.split("```").next().unwrap());
    blocks
        .map(|block| {
            let (name, lines) = block.split_once('\n').unwrap();
            // What follows a semicolon explains the line.
            let digits: String = lines
                .lines()
                .flat_map(|line| line.split(';').next())
                .flat_map(str::split_whitespace)
                .collect();
            (name.trim().to_owned(), unhex(&digits))
        })
        .collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits = digits.as_bytes();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.chunks(24).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

fn part(bytes: &'static [u8]) -> Part {
    Part { compressed: false, more: false, bytes: Bytes::from_static(bytes) }
}

fn request_fields() -> Vec<HeaderField> {
    vec![
        field(":method", "POST"),
        field(":path", "/orders.Orders/Place"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
}

fn block(fields: &[HeaderField]) -> Bytes {
    let mut block = Vec::new();
    Encoder::new(StaticTable::link(), 4096).encode(fields, &mut block);
    block.into()
}

/// The same as those of `request`, behind the header dictionary of the document.
fn dictionary_block() -> Bytes {
    let known = KnownFields::link(Some(Arc::new(dictionary())));
    let mut block = Vec::new();
    Encoder::new(known, 4096).encode(&request_fields(), &mut block);
    block.into()
}

fn dictionary() -> HeaderDictionary {
    let text = include_str!("../../PROTOCOL.md").split("```header-dictionary\n").nth(1).unwrap();
    HeaderDictionary::parse(text.split("```").next().unwrap().to_owned()).unwrap()
}

fn request_frames() -> Vec<(&'static str, Frame)> {
    let request = RequestFrame {
        seq: 1,
        priority: Priority::CRITICAL,
        idempotent: true,
        acknowledges: false,
        heard: false,
        deadline_ms: Some(5000),
        header_block: block(&request_fields()),
        part: Some(part(b"\x0a\x03tea")),
        end: true,
    };
    let dictionary_request = RequestFrame { header_block: dictionary_block(), ..request.clone() };
    let response = ResponseFrame {
        seq: 1,
        header_block: block(&[field(":status", "200"), field("content-type", "application/grpc")]),
        part: Some(part(b"\x08\x2a")),
        end: false,
    };
    let first = Part { compressed: false, more: true, bytes: Bytes::from_static(b"\x06abcd") };
    let inside = Place { bytes: 1000, ..Place::behind(2) };
    let data = |seq, part, end| Frame::Data(DataFrame { seq, part, end });
    let unavailable = RpcError {
        kind: RpcErrorKind::BackendUnavailable,
        execution: Execution::NotRun,
        retry_after: Some(Duration::from_millis(1500)),
        message: "orders: connection refused".into(),
    };
    vec![
        ("request", Frame::Request(request)),
        ("response", Frame::Response(response)),
        ("data-whole", data(3, part(b"hello"), false)),
        ("data-first", data(3, first, false)),
        ("data-last", data(3, part(b"ef"), true)),
        ("data-end", data(3, part(b""), true)),
        ("answer", Frame::Answer { seq: 1, part: part(b"\x08\x2a") }),
        ("trailers", Frame::Trailers { seq: 1, header_block: block(&[field("grpc-status", "0")]) }),
        ("reset", Frame::Reset { seq: 300, error: unavailable }),
        ("window", Frame::Window { seq: 0, credit: 131_072 }),
        ("ack", Frame::Ack(Ack { floor: 7, seqs: vec![9, 12] })),
        ("attach", Frame::Attach { seq: 5, received: Place::behind(2), continues: false }),
        ("attach-inside", Frame::Attach { seq: 5, received: inside, continues: false }),
        ("attach-continues", Frame::Attach { seq: 5, received: Place::behind(2), continues: true }),
        ("qpack-encoder", Frame::QpackEncoder(Bytes::from_static(b"\x3f\xe1\x1f\xff\x26\x02d7"))),
        ("qpack-request", Frame::Request(qpack_request())),
        ("request-dictionary", Frame::Request(dictionary_request)),
        ("qpack-decoder", Frame::QpackDecoder(Bytes::from_static(b"\x81"))),
        ("extension", Frame::Extension(31)),
    ]
}

fn qpack_request() -> RequestFrame {
    RequestFrame {
        seq: 3,
        priority: Priority::NORMAL,
        idempotent: false,
        acknowledges: false,
        heard: false,
        deadline_ms: None,
        header_block: Bytes::from_static(b"\x02\x00\xc2\x80"),
        part: None,
        end: true,
    }
}

fn connection_frames() -> Vec<(&'static str, Frame)> {
    let hello = Hello {
        client_id: "phone-7".into(),
        session_secret: vec![7; 16].into(),
        epoch: 2,
        waiting: vec![Waiting { seq: 1, ..Waiting::default() }],
        next_beat_s: 60,
        session_id: 77,
        ..Hello::default()
    };
    let headers = SessionHeaders::of(&[Header { name: "x-app-version".into(), value: "7.1".into() }]);
    let standing =
        Hello { header_dictionary: dictionary().id(), epoch: 4, waiting: Vec::new(), ..hello.clone() };
    let named = Hello {
        session_headers_hash: headers.hash().to_vec().into(),
        epoch: 3,
        waiting: Vec::new(),
        ..hello.clone()
    };
    let welcome = Welcome { resumed: true, heartbeat_max_s: 300, session_id: 77, ..Welcome::default() };
    let hello_token = Hello { waiting: Vec::new(), token: "opaque token".into(), epoch: 3, ..hello.clone() };
    let welcome_token = Welcome { token: "opaque token".into(), token_life_s: 43_200, ..welcome.clone() };
    let listed = Hello { waiting: Vec::new(), epoch: 5, endpoint_list: Some(7), ..hello.clone() };
    let going_on = Hello {
        epoch: 3,
        waiting: vec![Waiting { seq: 5, messages_received: 2, continues: true, bytes_received: 0 }],
        ..hello.clone()
    };
    let partial = Partial { seq: 5, messages_received: 3, window_used: 1000, bytes_received: 0 };
    let welcome_partial = Welcome { partial: vec![partial], ..welcome.clone() };
    let push = PushFrame {
        id: 1,
        priority: Priority::NORMAL,
        topic: "news".into(),
        content_type: "text/plain".into(),
        content_bytes: None,
        payload: "hi".into(),
    };
    let publish =
        PublishFrame { id: 4, qos: 1, topic: "t/1".into(), payload: "on".into(), content_bytes: None };
    let goaway = GoAway {
        reason: Reason::Drain.into(),
        endpoints: vec!["b.example:443".into()],
        spread_ms: 10_000,
        text: String::new(),
    };
    let policy = Policy { revision: 3, heartbeat_ms: 45_000, ..Policy::default() };
    let set = |name: &str, value| Parameter { name: name.into(), value: Some(value) };
    let with_parameters = Policy {
        revision: 4,
        parameters: vec![
            set("hedge.enabled", ParameterValue::Switch(true)),
            set("timeouts.margin", ParameterValue::Share(2.5)),
        ],
        arms: vec![Arm { experiment: "hedging".into(), arm: "on".into() }],
        ..Policy::default()
    };
    let filter = Filter { filter: "news/#".into(), qos: 1 };
    let hash = Bytes::from(vec![0xd1; 32]);
    let offered = OfferedDictionary {
        hash: hash.clone(),
        kind: DictionaryKind::Payload.into(),
        id: 40_000,
        bytes: 8195,
        version: 2,
    };
    let offered_list = OfferedDictionary {
        hash: vec![0xe1; 32].into(),
        kind: DictionaryKind::Endpoints.into(),
        bytes: 300,
        version: 8,
        ..OfferedDictionary::default()
    };
    let granted = subscribed::Result { filter: "news/#".into(), qos: 1, error: String::new() };
    vec![
        ("hello", Frame::Hello(Box::new(hello))),
        ("hello-named", Frame::Hello(Box::new(named))),
        ("hello-dictionary", Frame::Hello(Box::new(standing))),
        ("welcome", Frame::Welcome(Box::new(welcome))),
        ("hello-token", Frame::Hello(Box::new(hello_token))),
        ("welcome-token", Frame::Welcome(Box::new(welcome_token))),
        ("close-unknown", Frame::Close { code: CloseCode::UnknownReference, text: String::new() }),
        ("hello-endpoints", Frame::Hello(Box::new(listed))),
        ("hello-continues", Frame::Hello(Box::new(going_on))),
        ("welcome-partial", Frame::Welcome(Box::new(welcome_partial))),
        ("ping", Frame::Ping { id: 9, next_beat_s: 60 }),
        ("pong", Frame::Pong { id: 9 }),
        ("moved", Frame::Moved),
        ("push", Frame::Push(push)),
        ("push-ack", Frame::PushAck { priority: Priority::NORMAL, id: 1 }),
        ("goaway", Frame::GoAway(Box::new(goaway))),
        ("policy", Frame::Policy(policy)),
        ("policy-parameters", Frame::Policy(with_parameters)),
        ("report", Frame::Report(Box::new(report()))),
        ("policy-ack", Frame::PolicyAck { revision: 3, accepted: true, text: String::new() }),
        ("subscribe", Frame::Subscribe(Subscribe { add: vec![filter], remove: vec![] })),
        ("subscribed", Frame::Subscribed(Subscribed { results: vec![granted] })),
        ("close", Frame::Close { code: CloseCode::TakenOver, text: "epoch 3 is here".into() }),
        ("publish", Frame::Publish(publish)),
        ("published", Frame::Published { id: 4, error: String::new() }),
        ("offer", Frame::Offer(Offer { dictionaries: vec![offered] })),
        ("offer-endpoints", Frame::Offer(Offer { dictionaries: vec![offered_list] })),
        ("fetch", Frame::Fetch(Fetch { hash: hash.clone(), offset: 8192, held: false })),
        ("fetch-held", Frame::Fetch(Fetch { hash: hash.clone(), offset: 0, held: true })),
        ("piece", Frame::Piece(Piece { hash, offset: 8192, bytes: "abc".into() })),
    ]
}

fn report() -> Report {
    let facts = ClientFacts {
        app: "shop".into(),
        app_version: "5.2".into(),
        platform: "android".into(),
        network: 7,
        ..ClientFacts::default()
    };
    let quality = QualitySnapshot {
        level: LevelReported::Good.into(),
        round_trip_ms: Some(80),
        loss_permille: Some(0),
        ..QualitySnapshot::default()
    };
    let beat = LearntBeat { interval_s: 270, survived_s: 300, ..LearntBeat::default() };
    let mut latencies = LatencyHistogram::default();
    for ms in [9, 90, 95] {
        latencies.record(Duration::from_millis(ms));
    }
    Report {
        span_s: 600,
        facts: Some(facts),
        quality: Some(quality),
        beats_learnt: vec![beat],
        outcomes: vec![Outcome { kind: 0, count: 3 }, Outcome { kind: 2, count: 1 }],
        latencies: Some(latencies.to_wire()),
        connects: 2,
        bytes_sent: 5000,
        bytes_received: 70_000,
        beats: 2,
        policy_revision: 4,
        arms: vec![Arm { experiment: "hedging".into(), arm: "on".into() }],
        ..Report::default()
    }
}

#[test]
fn frames_are_written_and_read_as_in_the_examples() {
    let mut examples = examples();
    for (name, frame) in request_frames().into_iter().chain(connection_frames()) {
        let mut out = BytesMut::new();
        encode(&frame, &mut out);
        let example = examples.remove(name).unwrap_or_default();
        assert_eq!(hex(&out), hex(&example), "example {name}");
        let mut input = BytesMut::from(&example[..]);
        assert_eq!(decode(&mut input, 16_640).unwrap(), Some(frame), "example {name}");
        assert!(input.is_empty());
    }
    examples.remove("call-client");
    examples.remove("call-server");
    examples.remove("short-client");
    examples.remove("short-server");
    assert!(examples.is_empty(), "examples without a test: {:?}", examples.keys());
}

#[test]
fn the_static_table_is_the_documented_one() {
    let text = include_str!("../../PROTOCOL.md");
    let table = text.split("```static-table\n").nth(1).unwrap().split("```").next().unwrap();
    let written: Vec<String> = (62..=StaticTable::link().len())
        .map(|index| {
            let field = StaticTable::link().get(index).unwrap();
            let line = format!("{index:<4}{}: {}", field.name.escape_ascii(), field.value.escape_ascii());
            line.trim_end().to_owned()
        })
        .collect();
    assert_eq!(table.lines().collect::<Vec<_>>(), written);
}

#[test]
fn header_blocks_of_the_examples_decode_to_their_fields() {
    let Some((_, Frame::Request(request))) = request_frames().into_iter().next() else { panic!() };
    let mut decoder = Decoder::new(StaticTable::link(), 4096, 16_384);
    assert_eq!(decoder.decode(&request.header_block).unwrap(), request_fields());
}

#[test]
fn the_qpack_examples_are_a_conversation() {
    let mut decoder = qpack::Decoder::new(StaticTable::link(), 4096, 0, 16_384);
    for (_, frame) in request_frames() {
        match frame {
            Frame::QpackEncoder(instructions) => decoder.handle_instructions(&instructions).unwrap(),
            Frame::QpackDecoder(told) => assert_eq!(decoder.take_instructions(), told),
            Frame::Request(request) if request.seq == 3 => {
                let fields = vec![field(":method", "POST"), field("x-device-id", "d7")];
                assert_eq!(decoder.decode(1, &request.header_block), Ok(qpack::Decoded::Fields(fields)));
            }
            _ => {}
        }
    }
}

/// A whole conversation, byte by byte: what each side writes is the example, and it reads the other's.
struct Conversation {
    examples: BTreeMap<String, Vec<u8>>,
    config: Arc<Config>,
    now: Instant,
}

impl Conversation {
    fn new() -> Self {
        let config = Arc::new(Config { agent: "example/1".into(), ..Config::default() });
        Self { examples: examples(), config, now: origin() }
    }

    /// What `machine` has to say is the example of that name.
    fn says(&self, machine: &mut Connection, name: &str) -> BytesMut {
        let mut bytes = BytesMut::new();
        machine.poll_transmit(self.now, &mut bytes, usize::MAX);
        assert_eq!(hex(&bytes), hex(&self.examples[name]), "{name}");
        bytes
    }

    fn asks(&self, client: &mut Connection, name: &str) -> BytesMut {
        let head = RequestHead { fields: request_fields(), ..RequestHead::default() };
        client.send_request(1, head, false).unwrap();
        client.send_message(1, Bytes::from_static(b"\x0a\x03tea"), true).unwrap();
        self.says(client, name)
    }

    fn answers(&self, server: &mut Connection, welcome: Welcome, name: &str) -> BytesMut {
        assert!(matches!(server.poll_event(), Some(Event::Hello(_))));
        server.control().welcome(welcome);
        assert!(matches!(server.poll_event(), Some(Event::Request { seq: 1, end: false, .. })));
        assert!(matches!(server.poll_event(), Some(Event::MessagePart { seq: 1, end: true, .. })));
        let fields = vec![field(":status", "200"), field("content-type", "application/grpc")];
        server.send_response(1, fields, false).unwrap();
        server.send_message(1, Bytes::from_static(b"\x08\x2a"), false).unwrap();
        server.send_trailers(1, vec![field("grpc-status", "0")]).unwrap();
        self.says(server, name)
    }

    fn hears(&self, client: &mut Connection, down: &mut BytesMut) {
        client.handle_bytes(self.now, down).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| client.poll_event()).collect();
        assert!(matches!(
            events[..],
            [Event::Welcome(_), Event::Response { .. }, Event::MessagePart { .. }, Event::Trailers { .. }]
        ));
    }
}

fn hello_of(epoch: u64) -> Hello {
    let session_secret = vec![7; 16].into();
    Hello { client_id: "phone-7".into(), session_secret, epoch, ..Hello::default() }
}

#[test]
fn a_whole_call_goes_as_in_the_example() {
    let it = Conversation::new();
    let hello = Hello { next_beat_s: 60, ..hello_of(1) };
    let mut client = Connection::client(it.config.clone(), hello, it.now);
    let mut up = it.asks(&mut client, "call-client");
    assert!(up.starts_with(&PREFACE));
    let mut server = Connection::server(it.config.clone(), it.now);
    server.handle_bytes(it.now, &mut up).unwrap();
    let welcome = Welcome { session_id: 77, ..Welcome::default() };
    let mut down = it.answers(&mut server, welcome, "call-server");
    it.hears(&mut client, &mut down);
}

/// The same of a POST.
#[test]
fn a_post_goes_as_in_the_example() {
    let it = Conversation::new();
    let hello = Hello { session_id: 77, ..hello_of(2) };
    let mut client = Connection::short_client(it.config.clone(), hello, it.now);
    let mut up = it.asks(&mut client, "short-client");
    let mut server = Connection::short_server(it.config.clone(), it.now);
    server.handle_bytes(it.now, &mut up).unwrap();
    assert_eq!(server.handle_end(&up), Ok(vec![]));
    let welcome = Welcome { resumed: true, session_id: 77, ..Welcome::default() };
    let mut down = it.answers(&mut server, welcome, "short-server");
    it.hears(&mut client, &mut down);
    assert_eq!(client.handle_end(&down), Ok(vec![]));
}
