//! What a client says and hears on one connection: HTTP/1.1, HTTP/2 and the link, the same request each time.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use towline_protocols::{
    hpack::HeaderField,
    link::{Ack, Connection, Event, RequestHead},
};

use super::http2::Http2;
use crate::wire::link;

/// The path that is asked for.
pub(super) const PATH: &str = "/items/1024";

/// A protocol's state on one connection.
pub(super) enum Client {
    Http1(Http1),
    Http2(Http2),
    Link(Box<Link>),
}

impl Client {
    /// What is sent before anything else.
    pub(super) fn greet(&mut self, out: &mut BytesMut) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(client) => client.greet(out),
            Self::Link(client) => client.transmit(out),
        }
    }

    /// Sends a request that was due at `due`.
    pub(super) fn request(&mut self, due: u64, out: &mut BytesMut) {
        match self {
            Self::Http1(client) => client.request(due, out),
            Self::Http2(client) => client.request(due, out),
            Self::Link(client) => client.request(due, out),
        }
    }

    /// Takes what arrived; when the requests were due that are now answered.
    pub(super) fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Vec<u64>, String> {
        match self {
            Self::Http1(client) => client.take(input),
            Self::Http2(client) => client.take(input, out),
            Self::Link(client) => client.take(input, out),
        }
    }

    /// Requests without an answer.
    pub(super) fn open(&self) -> usize {
        match self {
            Self::Http1(client) => client.due.len(),
            Self::Http2(client) => client.open(),
            Self::Link(client) => client.due.len(),
        }
    }
}

/// HTTP/1.1, pipelined: only straight to the backend, which answers in order.
#[derive(Default)]
pub(super) struct Http1 {
    due: std::collections::VecDeque<u64>,
}

impl Http1 {
    fn request(&mut self, due: u64, out: &mut BytesMut) {
        self.due.push_back(due);
        let head = format!("GET {PATH} HTTP/1.1\r\nhost: localhost\r\nuser-agent: towline-load\r\n\r\n");
        out.extend_from_slice(head.as_bytes());
    }

    fn take(&mut self, input: &mut BytesMut) -> Result<Vec<u64>, String> {
        let mut answered = Vec::new();
        while let Some(head) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&input[..head]).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200") {
                return Err(format!("the backend answered {}", text.lines().next().unwrap_or_default()));
            }
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let whole = head + 4 + length.unwrap_or(0_usize);
            if input.len() < whole {
                break;
            }
            input.advance(whole);
            answered.extend(self.due.pop_front());
        }
        Ok(answered)
    }
}

/// The link's own machine.
pub(super) struct Link {
    machine: Connection,
    head: RequestHead,
    message: Option<Bytes>,
    seq: u64,
    /// Unanswered requests.
    due: Vec<(u64, u64)>,
    /// Answered since the last ACK.
    taken: Vec<u64>,
}

impl Link {
    /// `message` makes it a unary gRPC call.
    pub(super) fn new(client_id: String, message: Option<Bytes>) -> Self {
        let machine = Connection::client(link::config(), link::hello(client_id), Instant::now());
        let method = if message.is_some() { "POST" } else { "GET" };
        let mut fields = vec![
            HeaderField::from_static(":method", method),
            HeaderField::from_static(":scheme", "https"),
            HeaderField::from_static(":authority", "localhost"),
            HeaderField::from_static(":path", PATH),
            HeaderField::from_static("user-agent", "towline-load"),
        ];
        if message.is_some() {
            fields.push(HeaderField::from_static("content-type", "application/grpc"));
            fields.push(HeaderField::from_static("te", "trailers"));
        }
        let head = RequestHead { fields, ..RequestHead::default() };
        Self { machine, head, message, seq: 0, due: Vec::new(), taken: Vec::new() }
    }

    fn request(&mut self, due: u64, out: &mut BytesMut) {
        self.seq += 1;
        let sent = self.machine.send_request(self.seq, self.head.clone(), self.message.is_none());
        let sent = match &self.message {
            Some(message) => {
                sent.and_then(|()| self.machine.send_message(self.seq, message.clone(), true).map(drop))
            }
            None => sent,
        };
        // A refusal leaves the request unanswered, which the run reports.
        self.due.push((self.seq, due));
        if sent.is_ok() {
            self.transmit(out);
        }
    }

    fn transmit(&mut self, out: &mut BytesMut) {
        while self.machine.poll_transmit(Instant::now(), out, usize::MAX) > 0 {}
    }

    fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Vec<u64>, String> {
        let mut answered = Vec::new();
        let handled = self.machine.handle_bytes(Instant::now(), input);
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Response { fields, .. } if fields.first().is_some_and(|f| *f.value == *b"200") => {}
                Event::Response { fields, .. } => return Err(format!("the gateway answered {fields:?}")),
                Event::MessagePart { seq, bytes, end, .. } => {
                    self.machine.credit(seq, bytes.len());
                    if end {
                        answered.extend(self.done(seq));
                    }
                }
                Event::End { seq } | Event::Trailers { seq, .. } => answered.extend(self.done(seq)),
                Event::Reset { error, .. } => return Err(format!("reset: {error}")),
                Event::Close { code, text } => return Err(format!("closed: {code:?} {text}")),
                _ => {}
            }
        }
        handled.map_err(|error| error.to_string())?;
        if !self.taken.is_empty() {
            let floor = self.due.iter().map(|(seq, _)| *seq).min().map_or(self.seq, |oldest| oldest - 1);
            let mut seqs = std::mem::take(&mut self.taken);
            seqs.retain(|seq| *seq > floor);
            seqs.sort_unstable();
            self.machine.control().ack(Ack { floor, seqs });
        }
        self.transmit(out);
        Ok(answered)
    }

    fn done(&mut self, seq: u64) -> Option<u64> {
        let place = self.due.iter().position(|(open, _)| *open == seq)?;
        self.taken.push(seq);
        Some(self.due.swap_remove(place).1)
    }
}
