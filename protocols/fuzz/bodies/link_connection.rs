//! A connection that is open between two honest machines, and then one side gets bytes of anybody's. The
//! other side's bounds hold, whatever comes.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    hpack::HeaderField,
    link::{Config, Connection, Event, Hello, RequestHead, Welcome},
};

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(Arc::default);
#[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn run(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    let (client, server) = introduced();
    let mut victim = if selector & 1 == 0 { server } else { client };
    let mut now = *ORIGIN;
    let mut input = BytesMut::new();
    // In small pieces, as a network would, and time goes on.
    for piece in data.chunks(1 + usize::from(selector >> 1)) {
        input.extend_from_slice(piece);
        now += Duration::from_millis(20);
        let is_due = victim.poll_timeout().is_some_and(|due| due <= now);
        let ended =
            victim.handle_bytes(now, &mut input).is_err() || (is_due && victim.handle_timeout(now).is_err());
        answer(&mut victim);
        let mut output = BytesMut::new();
        victim.poll_transmit(now, &mut output, 64 * 1024);
        assert!(victim.streams_open() <= CONFIG.limits.streams_max as usize);
        if ended {
            assert!(victim.control().is_closed());
            return;
        }
    }
}

/// Both sides after HELLO and WELCOME, the client with a request that waits for its answer.
fn introduced() -> (Connection, Connection) {
    let now = *ORIGIN;
    let hello =
        Hello { client_id: "fuzz".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let mut client = Connection::client(CONFIG.clone(), hello, now);
    let mut server = Connection::server(CONFIG.clone(), now);
    client.send_request(1, request(), false).expect("a request of our own");
    let mut bytes = BytesMut::new();
    client.poll_transmit(now, &mut bytes, usize::MAX);
    server.handle_bytes(now, &mut bytes).expect("an honest client");
    while server.poll_event().is_some() {}
    server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    server.poll_transmit(now, &mut bytes, usize::MAX);
    client.handle_bytes(now, &mut bytes).expect("an honest server");
    while client.poll_event().is_some() {}
    (client, server)
}

fn request() -> RequestHead {
    let fields = vec![HeaderField::from_static(":method", "POST"), HeaderField::from_static(":path", "/a")];
    RequestHead { fields, ..RequestHead::default() }
}

/// Does what a driver would do with each event.
fn answer(victim: &mut Connection) {
    while let Some(event) = victim.poll_event() {
        match event {
            Event::Request { seq, .. } => {
                let fields = vec![HeaderField::from_static(":status", "200")];
                // Refused when the request is over already, which is the peer's affair.
                let _ = victim.send_response(seq, fields, false);
                let _ = victim.send_message(seq, Bytes::from_static(&[b'x'; 200]), true);
            }
            Event::MessagePart { seq, bytes, .. } => victim.credit(seq, bytes.len()),
            Event::Reset { seq, .. } => victim.forget(seq),
            _ => {}
        }
    }
}
