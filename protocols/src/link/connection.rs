//! The machine of a TCP connection, either side.

mod dormant;
mod inbox;
mod receive;
mod resume;
mod short;
mod stream;
mod transmit;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use super::{
    Config, Control, Event, Execution, Hello, LinkError, Priority, RequestHead, Role, RpcError, RpcErrorKind,
    frame::Frame,
    message::{OutPart, misuse},
};
use crate::hpack::{Decoder, Encoder, HeaderField};
pub use dormant::Dormant;
use stream::{Inbound, Item, Sending, Stream};

/// One TCP connection of the link protocol: bytes in, events out; commands in, bytes out.
///
/// The driver, for as long as the connection lives:
/// 1. gives [`Connection::handle_bytes`] what it read, then asks [`Connection::poll_event`] until `None`,
///    and again after commands;
/// 2. while the socket takes bytes, asks [`Connection::poll_transmit`];
/// 3. calls [`Connection::handle_timeout`] at [`Connection::poll_timeout`].
///
/// After an `Err` it flushes what `poll_transmit` still gives (a CLOSE) and closes the socket.
#[derive(Debug)]
pub struct Connection {
    control: Control,
    streams: BTreeMap<u64, Box<Stream>>,
    /// Streams that can send: urgency, turn, sequence number. The first is the next.
    ready: BTreeSet<(u8, u64, u64)>,
    turn: u64,
    send_window: i64,
    receive_window: i64,
    /// Below 0 when more was lent than is owed.
    credit_pending: i64,
    backlog: Box<Backlog>,
    /// The highest sequence number seen on this connection; what lies below and is not open is over.
    seq_highest: u64,
    /// Client: what HELLO waited for, until WELCOME says which of it the server has.
    waiting: Vec<u64>,
    encoder: Option<Box<Encoder>>,
    decoder: Option<Box<Decoder>>,
    /// Header block of the frame being written.
    block: Vec<u8>,
}

/// What waits in all streams together. Apart, since drivers hold a connection within their tasks.
#[derive(Debug, Default)]
struct Backlog {
    /// Decompressed and not consumed, bytes.
    inflated: usize,
    /// Consumed, and in memory all the same.
    kept: usize,
    /// Room for compressed messages that were lent credit to arrive, bytes.
    reserved: usize,
    /// Streams with something in their inbox, or with a message that arrives without a loan.
    tended: Vec<u64>,
    /// Streams that wait for credit of the connection.
    blocked: Vec<u64>,
}

impl Connection {
    /// The client's side. `hello` comes from [`super::client::Session::hello`]; limits and dictionaries
    /// are filled in from the configuration. Requests may be sent at once; those of `hello.waiting` are
    /// open for their answer.
    pub fn client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        Self::asking(Control::tcp_client(config, hello.clone(), now), &hello)
    }

    fn asking(control: Control, hello: &Hello) -> Self {
        let waiting: Vec<u64> = hello.waiting.iter().map(|waiting| waiting.seq).collect();
        let mut connection = Self::new(control);
        for &seq in &waiting {
            connection.open(seq, Priority::NORMAL).sending = Sending::Ended;
        }
        connection.waiting = waiting;
        connection
    }

    /// The server's side; expects the preface.
    pub fn server(config: Arc<Config>, now: Instant) -> Self {
        Self::new(Control::tcp_server(config, now))
    }

    fn new(control: Control) -> Self {
        let limits = control.config().limits.clamped();
        let (send_window, receive_window) = match control.is_short() {
            true => (short::UNBOUNDED, short::UNBOUNDED),
            false => (control.peer().limits.connection_window.into(), limits.connection_window.into()),
        };
        Self {
            control,
            streams: BTreeMap::new(),
            ready: BTreeSet::new(),
            turn: 0,
            send_window,
            receive_window,
            credit_pending: 0,
            backlog: Box::default(),
            seq_highest: 0,
            waiting: Vec::new(),
            encoder: None,
            decoder: None,
            block: Vec::new(),
        }
    }

    /// Takes all whole frames off `input`; what remains is the beginning of one. After an error a CLOSE
    /// is ready to be transmitted and everything else is over.
    pub fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        self.control.on_received(now, input);
        while let Some(frame) = self.control.next_frame(input)? {
            if let Err(error) = self.handle_frame(now, frame) {
                return Err(self.control.fail(error));
            }
        }
        Ok(())
    }

    /// The next event. To be asked until `None` after each `handle_*`, each `poll_transmit` and after
    /// commands, of which [`Connection::credit`] and those that end a request make room for more; events
    /// may leave frames to be transmitted. Messages are decompressed here, one at a time, and only while
    /// the application consumes them.
    pub fn poll_event(&mut self) -> Option<Event> {
        // What came before a CLOSE still counts.
        if self.control.closes_next()
            && let Some(event) = self.next_inbound()
        {
            return Some(event);
        }
        self.control.poll_event().or_else(|| self.next_inbound())
    }

    /// Appends what is to be sent next to `out`, about `bytes_max` at the most (a frame is never cut), and
    /// says how much that was. Control frames come first, then the most urgent request, round robin among
    /// equals; asking for little at a time keeps a late urgent request from waiting behind bulk.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) -> usize {
        let before = out.len();
        self.control.take_control(out);
        while out.len() - before < bytes_max && self.transmit_next(out) {}
        self.control.on_sent(now, out.len() - before);
        out.len() - before
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.control.poll_timeout()
    }

    /// The time has come: sends a beat, or finds that the peer broke its promise.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        self.control.handle_timeout(now)
    }

    /// Commands that concern the whole connection, and what is known of the peer.
    pub fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Client: opens request `seq`. `end` says that no message follows. An error, with nothing sent, when
    /// a limit of the server is met.
    pub fn send_request(&mut self, seq: u64, head: RequestHead, end: bool) -> Result<(), RpcError> {
        if self.control.is_closed() {
            return Err(RpcError::new(
                RpcErrorKind::SessionLost,
                Execution::NotRun,
                "the connection is closed",
            ));
        }
        if self.control.role() != Role::Client || seq == 0 || self.streams.contains_key(&seq) {
            return Err(misuse("the sequence number is in use, or this is the server"));
        }
        let streams_max = self.control.peer().limits.streams_max as usize;
        if self.streams_open() >= streams_max {
            return Err(limit(format!("{streams_max} requests are open, the server's streams_max")));
        }
        self.check_header_list(&head.fields)?;
        // It waits here, and WELCOME may come meanwhile: whoever gave it did not know what that says.
        let head = RequestHead { heard: self.control.is_welcomed(), ..head };
        let stream = self.open(seq, head.priority);
        stream.sending = if end { Sending::Ending } else { Sending::Open };
        stream.writer.belongs_to(&head.fields);
        stream.queue.push_back(Item::Request(Box::new(head), end));
        self.schedule(seq);
        Ok(())
    }

    /// Server: begins the answer.
    pub fn send_response(
        &mut self,
        seq: u64,
        fields: impl Into<Arc<[HeaderField]>>,
        end: bool,
    ) -> Result<(), RpcError> {
        let fields = fields.into();
        self.check_header_list(&fields)?;
        self.enqueue(seq, Item::Response(fields, end), end)
    }

    /// Sends a whole message, compressed where that makes it smaller. Says how many bytes carry it.
    pub fn send_message(&mut self, seq: u64, message: Bytes, end: bool) -> Result<usize, RpcError> {
        let message_bytes_max = self.control.peer().limits.message_bytes_max;
        let compressor = self.control.peer().compressor.as_ref();
        let stream = self.streams.get_mut(&seq).ok_or_else(over)?;
        let part = stream.writer.message(message, end, compressor, message_bytes_max)?;
        let wire_bytes = part.len();
        self.enqueue(seq, Item::Part(part), end)?;
        Ok(wire_bytes)
    }

    /// Sends a part of a message that is passed on as it comes, uncompressed. `message_bytes` is the
    /// whole message's length, on its first part; the part that completes it may have `end`.
    pub fn send_message_part(
        &mut self,
        seq: u64,
        message_bytes: Option<u64>,
        part: Bytes,
        end: bool,
    ) -> Result<(), RpcError> {
        let message_bytes_max = self.control.peer().limits.message_bytes_max;
        let stream = self.streams.get_mut(&seq).ok_or_else(over)?;
        match stream.writer.part(message_bytes, part, end, message_bytes_max)? {
            Some(part) => {
                let ends = part.ends();
                self.enqueue(seq, Item::Part(part), ends)
            }
            None => Ok(()),
        }
    }

    /// Ends this side's half without a further message.
    pub fn send_end(&mut self, seq: u64) -> Result<(), RpcError> {
        self.streams.get(&seq).ok_or_else(over)?.writer.check_end()?;
        self.enqueue(seq, Item::End, true)
    }

    /// Ends this side's half with trailers.
    pub fn send_trailers(&mut self, seq: u64, fields: impl Into<Arc<[HeaderField]>>) -> Result<(), RpcError> {
        let fields = fields.into();
        self.streams.get(&seq).ok_or_else(over)?.writer.check_end()?;
        self.check_header_list(&fields)?;
        self.enqueue(seq, Item::Trailers(fields), true)
    }

    /// Ends the request both ways; what is queued for it is dropped. Also refuses a request that is not
    /// open here.
    pub fn reset(&mut self, seq: u64, error: &RpcError) {
        let unsent = self
            .streams
            .get(&seq)
            .is_some_and(|stream| matches!(stream.queue.front(), Some(Item::Request(..))));
        self.remove(seq);
        // What never left needs no end.
        if !unsent {
            self.control.send(&Frame::Reset { seq, error: error.clone() });
        }
    }

    /// The application consumed `bytes` of what [`Event::MessagePart`] brought: the peer may send more.
    pub fn credit(&mut self, seq: u64, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        let carried = bytes.min(stream.carried);
        stream.carried -= carried;
        let bytes = bytes - carried;
        let inflated = bytes.min(stream.inflated_held);
        let wire = match inflated == stream.inflated_held {
            true => stream.inflated_wire,
            // In proportion: the last byte brings what is left.
            false => (stream.inflated_wire as u64 * inflated as u64 / stream.inflated_held as u64) as usize,
        };
        stream.inflated_held -= inflated;
        stream.inflated_wire -= wire;
        self.backlog.inflated -= inflated;
        let plain = (bytes - inflated).min(stream.plain_held);
        stream.plain_held -= plain;
        self.grant_stream(seq, carried);
        self.grant(seq, wire + plain);
        self.remove_if_over(seq);
    }

    /// `bytes` for which credit is given back stay in memory: no message is decompressed where there is no room for it
    /// beside them, until [`Connection::let_go`].
    pub fn keep(&mut self, bytes: usize) {
        self.backlog.kept += bytes;
    }

    /// `bytes` that were kept are in memory no more. It may be asked for more events then.
    pub fn let_go(&mut self, bytes: usize) {
        self.backlog.kept = self.backlog.kept.saturating_sub(bytes);
    }

    /// The application will not consume what else has arrived for a request that is over.
    pub fn forget(&mut self, seq: u64) {
        if self.streams.get(&seq).is_some_and(|stream| stream.is_over()) {
            self.remove(seq);
        }
    }

    /// How many message bytes a stream's queue still takes: one window, the smaller of both sides', less what
    /// waits in it. Callers
    /// wait at 0; [`Event::Writable`] says when there is room again. More is not refused. 0 also for a
    /// request that is not open.
    pub fn send_capacity(&mut self, seq: u64) -> usize {
        let window = self.queue_bytes_max();
        let Some(stream) = self.streams.get_mut(&seq) else { return 0 };
        let capacity = window.saturating_sub(stream.queued_bytes);
        stream.is_starved |= capacity == 0;
        capacity
    }

    /// Whether this side's half of a request has been transmitted to its end, or the request is over.
    pub fn has_sent(&self, seq: u64) -> bool {
        self.streams.get(&seq).is_none_or(|stream| stream.queue.is_empty() && stream.sending != Sending::Open)
    }

    /// Requests open now.
    pub fn streams_open(&self) -> usize {
        self.streams.values().filter(|stream| !stream.is_over()).count()
    }

    /// Message bytes kept for the application: those that it has and did not consume, decompressed, and
    /// those that wait or are still arriving, as they came.
    pub fn held_bytes(&self) -> usize {
        let held = |stream: &Stream| {
            let waiting: usize = stream.inbox.iter().map(Inbound::wire_bytes).sum();
            stream.delivered() + waiting + stream.reader.held_bytes()
        };
        self.streams.values().map(|stream| held(stream)).sum()
    }

    /// Gives back memory that a burst left; for a connection that has become quiet.
    pub fn compact(&mut self) {
        self.control.compact();
        // An emptied tree keeps its root.
        if self.streams.is_empty() {
            (self.streams, self.ready) = (BTreeMap::new(), BTreeSet::new());
        }
        self.backlog.blocked.shrink_to_fit();
        self.backlog.tended.shrink_to_fit();
        self.block = Vec::new();
    }

    /// What a stream may send and receive at first.
    fn stream_windows(&self) -> (i64, i64) {
        if self.control.is_short() {
            return (short::UNBOUNDED, short::UNBOUNDED);
        }
        let own = self.control.config().limits.clamped().stream_window;
        (self.control.peer().limits.stream_window.into(), own.into())
    }

    fn open(&mut self, seq: u64, priority: Priority) -> &mut Stream {
        let (send_window, receive_window) = self.stream_windows();
        self.seq_highest = self.seq_highest.max(seq);
        let new = || Box::new(Stream::new(priority, send_window, receive_window));
        self.streams.entry(seq).or_insert_with(new)
    }

    /// Drops a stream with all that is held for it; the connection gets its credit back.
    fn remove(&mut self, seq: u64) -> Option<Box<Stream>> {
        let stream = self.streams.remove(&seq)?;
        if stream.is_scheduled && !self.ready.remove(&(stream.urgency, stream.turn, seq)) {
            self.backlog.blocked.retain(|&blocked| blocked != seq);
        }
        if stream.is_tended {
            self.backlog.tended.retain(|&tended| tended != seq);
        }
        self.backlog.inflated -= stream.inflated_held;
        self.backlog.reserved -= stream.reserved_all();
        self.grant_connection(stream.wire_held());
        Some(stream)
    }

    /// The server keeps nothing of a request it has answered; the client keeps what the application has
    /// not consumed, since it counts against the connection's window.
    fn remove_if_over(&mut self, seq: u64) {
        let Some(stream) = self.streams.get(&seq) else { return };
        let all_consumed = stream.delivered() == 0 || self.control.role() == Role::Server;
        if stream.is_over() && stream.inbox.is_empty() && all_consumed {
            self.remove(seq);
        }
    }

    fn enqueue(&mut self, seq: u64, item: Item, end: bool) -> Result<(), RpcError> {
        let stream = self.streams.get_mut(&seq).ok_or_else(over)?;
        if stream.sending != Sending::Open {
            return Err(over());
        }
        stream.queued_bytes += item.message_bytes();
        stream.queue.push_back(item);
        if end {
            stream.sending = Sending::Ending;
        }
        self.schedule(seq);
        Ok(())
    }

    fn check_header_list(&self, fields: &[HeaderField]) -> Result<(), RpcError> {
        let bytes: usize = fields.iter().map(HeaderField::size).sum();
        let bytes_max = self.control.peer().limits.header_list_bytes_max as usize;
        if bytes <= bytes_max {
            return Ok(());
        }
        Err(limit(format!("header list of {bytes} bytes, the peer's header_list_bytes_max is {bytes_max}")))
    }

    /// One window: what waits beyond the peer's could not be sent without its consent anyway. However
    /// large that is, it does not say how much this side keeps in memory, so its own bounds it too.
    fn queue_bytes_max(&self) -> usize {
        let own = self.control.config().limits.clamped().stream_window;
        own.min(self.control.peer().limits.stream_window) as usize
    }
}

impl Item {
    fn message_bytes(&self) -> usize {
        match self {
            Self::Part(part) => OutPart::len(part),
            _ => 0,
        }
    }
}

fn over() -> RpcError {
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "this half of the request is over")
}

fn limit(text: String) -> RpcError {
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, text)
}
