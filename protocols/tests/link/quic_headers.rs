//! Header compression on QUIC: streams in any order, instructions on the control stream.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::BytesMut;
use towline_protocols::{
    hpack::HeaderField,
    link::{
        CloseCode, Config, Control, Event, Limits, Priority, RequestHead, RpcErrorKind, StreamCodec, Welcome,
        frame::{Frame, encode},
    },
};

use crate::pair::{field, head, hello, origin, status_200};

/// Both control streams of a connection.
struct Controls {
    client: Control,
    server: Control,
    /// Streams that go on: dropped, they would be cancelled.
    open: Vec<StreamCodec>,
}

impl Controls {
    fn introduced(client: Limits, server: Limits) -> Self {
        let config = |limits| Arc::new(Config { limits, ..Config::default() });
        let mut controls = Self {
            client: Control::client(config(client), hello(), origin()),
            server: Control::server(config(server), origin()),
            open: Vec::new(),
        };
        controls.carry_up();
        controls.server.welcome(Welcome::default());
        controls.carry_down();
        controls.carry_up();
        controls
    }

    fn carry_up(&mut self) -> usize {
        carry(&mut self.client, &mut self.server)
    }

    fn carry_down(&mut self) -> usize {
        carry(&mut self.server, &mut self.client)
    }

    fn streams(&self, number: u64) -> (StreamCodec, StreamCodec) {
        let client = StreamCodec::client(self.client.stream_settings(), number, number);
        (client, StreamCodec::server(self.server.stream_settings(), number))
    }

    /// A request that arrives at once; how long it was on the wire.
    fn request(&mut self, number: u64) -> usize {
        let (mut client, mut server) = self.streams(number);
        let mut wire = BytesMut::new();
        client.send_request(&tenant(), true, &mut wire).unwrap();
        let bytes = wire.len();
        assert_eq!(fields(&mut server, &mut wire), tenant().fields);
        self.open.extend([client, server]);
        bytes
    }
}

fn carry(from: &mut Control, to: &mut Control) -> usize {
    let mut wire = BytesMut::new();
    from.poll_transmit(origin(), &mut wire, usize::MAX);
    let bytes = wire.len();
    to.handle_bytes(origin(), &mut wire).unwrap();
    while to.poll_event().is_some() {}
    bytes
}

fn tenant() -> RequestHead {
    let mut head = head(Priority::NORMAL);
    head.fields.extend([field("x-tenant", "the-north-western-railway"), field("x-region", "carlisle-depot")]);
    head
}

fn fields(codec: &mut StreamCodec, wire: &mut BytesMut) -> Vec<HeaderField> {
    codec.handle_bytes(wire).unwrap();
    let request = codec.poll_event().unwrap().and_then(|event| match event {
        Event::Request { head, .. } => Some(head.fields),
        _ => None,
    });
    request.unwrap()
}

#[test]
fn requests_shrink_once_the_server_has_acknowledged_their_fields() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    let first = controls.request(1);
    assert_eq!(controls.request(2), first, "nothing is referred to that may not have arrived");
    assert!(controls.carry_up() > 0);
    assert_eq!(controls.request(3), first, "nor that is not known to have arrived");
    assert!(controls.carry_down() > 0);
    assert!(controls.request(4) + 30 < first);
}

#[test]
fn streams_overtake_each_other_and_the_control_stream() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    for number in 1..3 {
        controls.request(number);
    }
    controls.carry_up();
    controls.carry_down();
    let mut under_way: Vec<_> = (3..40)
        .map(|number| {
            let (mut client, server) = controls.streams(number);
            let mut wire = BytesMut::new();
            client.send_request(&tenant(), true, &mut wire).unwrap();
            (server, wire)
        })
        .collect();
    fastrand::Rng::with_seed(7).shuffle(&mut under_way);
    for (mut server, mut wire) in under_way {
        assert_eq!(fields(&mut server, &mut wire), tenant().fields);
    }
    controls.carry_down();
}

#[test]
fn answers_and_trailers_use_the_servers_table() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    let mut sizes = Vec::new();
    for number in 1..5 {
        let (mut client, mut server) = controls.streams(number);
        let mut wire = BytesMut::new();
        client.send_request(&tenant(), true, &mut wire).unwrap();
        fields(&mut server, &mut wire);
        let mut list = status_200();
        list.push(field("x-served-by", "edge-17.north.example"));
        server.send_response(&list, false, &mut wire).unwrap();
        server.send_trailers(&[field("x-cost", "17.5 units of something")], &mut wire).unwrap();
        sizes.push(wire.len());
        client.handle_bytes(&mut wire).unwrap();
        assert_eq!(
            client.poll_event().unwrap(),
            Some(Event::Response { seq: number, fields: list, end: false })
        );
        assert!(matches!(client.poll_event(), Ok(Some(Event::Trailers { .. }))));
        controls.carry_down();
        controls.carry_up();
    }
    assert!(sizes[3] + 20 < sizes[0], "{sizes:?}");
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn where_the_server_lets_streams_wait_one_waits_for_its_insertions() {
    let limits = Limits { qpack_blocked_streams: 1, ..Limits::default() };
    let mut controls = Controls::introduced(Limits::default(), limits);
    let (mut client, mut server) = controls.streams(1);
    let mut wire = BytesMut::new();
    client.send_request(&tenant(), false, &mut wire).unwrap();
    assert!(wire.len() < 40, "{} bytes", wire.len());
    client.send_end(&mut wire).unwrap();
    server.handle_bytes(&mut wire).unwrap();
    assert!(server.is_blocked() && server.poll_event() == Ok(None) && !wire.is_empty());

    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert_eq!(server.poll_unblocked(&mut cx), Poll::Pending);
    controls.carry_up();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(server.poll_unblocked(&mut cx), Poll::Ready(()));
    assert_eq!(fields(&mut server, &mut wire), tenant().fields);
    assert_eq!(server.poll_event(), Ok(Some(Event::End { seq: 1 })));
}

#[test]
fn the_driver_is_woken_once_for_what_streams_leave_to_the_control_stream() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert_eq!(controls.client.poll_instructions(&mut cx), Poll::Pending);
    // A field is worth an insertion when it is seen again.
    controls.request(1);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    controls.request(2);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(controls.client.poll_instructions(&mut cx), Poll::Ready(()));
    assert_eq!(controls.client.poll_instructions(&mut cx), Poll::Pending, "it knows");
    controls.carry_up();
}

#[test]
fn a_stream_that_is_not_read_to_its_end_is_cancelled() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    for number in 1..4 {
        controls.request(number);
        controls.carry_up();
        controls.carry_down();
    }
    let (mut client, server) = controls.streams(9);
    client.send_request(&tenant(), true, &mut BytesMut::new()).unwrap();
    assert_eq!(controls.carry_down(), 0, "nothing is to be said");
    drop(server);
    // QPACK_DECODER with Stream Cancellation 9.
    let mut wire = BytesMut::new();
    controls.server.poll_transmit(origin(), &mut wire, usize::MAX);
    assert_eq!(&wire[..], [24, 1, 0x49]);
}

#[test]
fn instructions_that_break_a_rule_close_the_connection() {
    for frame in [Frame::QpackEncoder(vec![0xff, 0xff].into()), Frame::QpackDecoder(vec![0].into())] {
        let mut controls = Controls::introduced(Limits::default(), Limits::default());
        let mut wire = BytesMut::new();
        encode(&frame, &mut wire);
        let error = controls.server.handle_bytes(origin(), &mut wire).unwrap_err();
        assert_eq!(error.code, CloseCode::HeaderCompression);
    }
}

#[test]
fn a_section_that_may_not_wait_fails_its_request_alone() {
    let mut controls = Controls::introduced(Limits::default(), Limits::default());
    let (_, mut server) = controls.streams(1);
    // REQUEST 1 whose header block needs one insertion.
    let mut wire = BytesMut::from(&[0x83, 6, 1, 3, 3, 2, 0, 0x80][..]);
    let error = server.handle_bytes(&mut wire).unwrap_err();
    assert_eq!(error.kind, RpcErrorKind::LimitExceeded, "{}", error.message);
    assert!(error.message.contains("qpack_blocked_streams"));
    controls.request(2);
}
