//! The machine of a TCP connection, either side.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{Config, Control, Event, Hello, LinkError, Priority, RequestHead, RpcError};
use crate::hpack::HeaderField;

/// One TCP connection of the link protocol: bytes in, events out; commands in, bytes out.
///
/// The driver, for as long as the connection lives:
/// 1. gives [`Connection::handle_bytes`] what it read, then asks [`Connection::poll_event`] until `None`;
/// 2. while the socket takes bytes, asks [`Connection::poll_transmit`];
/// 3. calls [`Connection::handle_timeout`] at [`Connection::poll_timeout`].
///
/// After an `Err` it flushes what `poll_transmit` still gives (a CLOSE) and closes the socket.
#[derive(Debug)]
pub struct Connection {
    control: Control,
}

impl Connection {
    /// The client's side. `hello` comes from [`super::client::Session::hello`]; limits and dictionaries
    /// are filled in from the configuration. Requests may be sent at once.
    pub fn client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        Self { control: Control::client(config, hello, now) }
    }

    /// The server's side; expects the preface.
    pub fn server(config: Arc<Config>, now: Instant) -> Self {
        Self { control: Control::server(config, now) }
    }

    /// Takes all whole frames off `input`; what remains is the beginning of one. After an error a CLOSE
    /// is ready to be transmitted and everything else is over.
    pub fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        self.control.handle_bytes(now, input)
    }

    /// The next event. To be asked until `None` after each `handle_*` and `poll_transmit`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.control.poll_event()
    }

    /// Appends what is to be sent next to `out`, about `bytes_max` at the most (a frame is never cut), and
    /// says how much that was. Control frames come first, then the most urgent request, round robin among
    /// equals; asking for little at a time keeps a late urgent request from waiting behind bulk.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) -> usize {
        self.control.poll_transmit(now, out, bytes_max)
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
        _ = (seq, head, end);
        Ok(())
    }

    /// Server: makes request `seq`, which an earlier connection carried and HELLO.waiting names, able to
    /// be answered on this one. To be called before [`Control::welcome`]'s answer can be followed.
    pub fn attach(&mut self, seq: u64, priority: Priority) {
        _ = (seq, priority);
    }

    /// Server: begins the answer.
    pub fn send_response(&mut self, seq: u64, fields: Vec<HeaderField>, end: bool) -> Result<(), RpcError> {
        _ = (seq, fields, end);
        Ok(())
    }

    /// Sends a whole message, compressed where that makes it smaller.
    pub fn send_message(&mut self, seq: u64, message: Bytes, end: bool) -> Result<(), RpcError> {
        _ = (seq, message, end);
        Ok(())
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
        _ = (seq, message_bytes, part, end);
        Ok(())
    }

    /// Ends this side's half without a further message.
    pub fn send_end(&mut self, seq: u64) -> Result<(), RpcError> {
        _ = seq;
        Ok(())
    }

    /// Ends this side's half with trailers.
    pub fn send_trailers(&mut self, seq: u64, fields: Vec<HeaderField>) -> Result<(), RpcError> {
        _ = (seq, fields);
        Ok(())
    }

    /// Ends the request both ways; what is queued for it is dropped.
    pub fn reset(&mut self, seq: u64, error: &RpcError) {
        _ = (seq, error);
    }

    /// The application consumed `bytes` of what [`Event::MessagePart`] brought: the peer may send more.
    pub fn credit(&mut self, seq: u64, bytes: usize) {
        _ = (seq, bytes);
    }

    /// The application will not consume what else has arrived for a request that is over.
    pub fn forget(&mut self, seq: u64) {
        _ = seq;
    }

    /// How many message bytes a stream's queue still takes: one window less what waits in it. Callers
    /// wait at 0; [`Event::Writable`] says when there is room again. More is not refused.
    pub fn send_capacity(&mut self, seq: u64) -> usize {
        _ = seq;
        0
    }

    /// Requests open now.
    pub fn streams_open(&self) -> usize {
        0
    }

    /// Gives back memory that a burst left; for a connection that has become quiet.
    pub fn compact(&mut self) {}
}
