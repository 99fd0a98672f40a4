//! What has arrived and waits for the application.
//!
//! Credit counts bytes on the wire, so the windows bound compressed messages only as long as they stay
//! compressed. They wait in their stream's inbox as they came, with all that came behind them, and are
//! decompressed one at a time, as the application consumes what it has.
//!
//! ```text
//!  parts --> arriving --whole--> inbox --poll_event--> delivered --credit--> consumed
//!            credit is lent      as it came            decompressed          credit is given back
//! ```
//!
//! On one connection this holds, beside what is delivered uncompressed:
//! - in inboxes: what the windows allow, and messages larger than a window within [`room`];
//! - arriving: one message a stream; beyond a stream's window within [`room`];
//! - decompressed, with what the application consumed and keeps: [`room`] and one message; of a stream its window and one
//!   message.

use super::{
    Connection,
    stream::{Inbound, Stream},
};
use crate::link::{Event, Execution, Limits, Role, RpcError, RpcErrorKind, message, message::Arrival};

/// Connection windows that decompressed messages of one connection may take beside `message_bytes_max`:
/// usual traffic compresses to a quarter. The same again is for messages that are larger than their
/// stream's window and have to arrive whole.
const ROOM_WINDOWS: usize = 4;

impl Connection {
    /// Takes up what a part amounts to.
    pub(super) fn deliver(&mut self, seq: u64, arrival: Arrival, part_bytes: usize, end: bool) {
        match arrival {
            Arrival::Nothing => return self.on_arriving(seq, part_bytes),
            Arrival::Compressed { frame, content_bytes } => {
                let Some(stream) = self.streams.get_mut(&seq) else { return };
                // What was lent is owed again until the message is consumed.
                let before = std::mem::take(&mut stream.arriving);
                let unlent = std::mem::take(&mut stream.unlent);
                self.credit_pending -= before as i64;
                stream.credit_pending -= (before - unlent) as i64;
                let (wire, reserved) = (before + part_bytes, std::mem::take(&mut stream.reserved));
                self.put_inbound(seq, Inbound::Compressed { frame, content_bytes, wire, reserved, end });
            }
            Arrival::Part { message_bytes, bytes, end_of_message } => {
                // Lengths are never handed on.
                self.grant(seq, part_bytes - bytes.len());
                let Some(stream) = self.streams.get_mut(&seq) else { return };
                let end = end && end_of_message;
                let is_empty = bytes.is_empty() && message_bytes.is_some() && end_of_message && !end;
                match (stream.inbox.is_empty(), is_empty) {
                    (true, _) => {
                        stream.plain_held += bytes.len();
                        self.control.emit(plain_part(seq, message_bytes, bytes, end_of_message, end));
                    }
                    (false, true) => self.put_inbound(seq, Inbound::Empty(1)),
                    (false, false) => {
                        // Not to hold all the input that it came in.
                        let bytes = bytes::Bytes::copy_from_slice(&bytes);
                        self.put_inbound(seq, Inbound::Part { message_bytes, bytes, end_of_message, end });
                    }
                }
            }
        }
        if end {
            self.end_receiving(seq);
        }
    }

    /// Hands the end of the peer's half on, behind what waits.
    pub(super) fn tell_last(&mut self, seq: u64, last: Event) {
        match self.streams.get(&seq) {
            Some(stream) if !stream.inbox.is_empty() => self.put_inbound(seq, Inbound::Last(Box::new(last))),
            _ => self.control.emit(last),
        }
        self.end_receiving(seq);
    }

    /// The next event out of an inbox, from each stream in turn.
    pub(super) fn next_inbound(&mut self) -> Option<Event> {
        for _ in 0..self.backlog.tended.len() {
            if self.backlog.tended.is_empty() {
                break;
            }
            // As many as there are slow streams, so few that moving them costs nothing.
            let seq = self.backlog.tended.remove(0);
            if let Some(stream) = self.streams.get_mut(&seq) {
                stream.is_tended = false;
            }
            let event = self.tend(seq);
            self.tend_later(seq);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn put_inbound(&mut self, seq: u64, inbound: Inbound) {
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        match (stream.inbox.back_mut(), inbound) {
            (Some(Inbound::Empty(count)), Inbound::Empty(more)) => *count += more,
            (_, inbound) => stream.inbox.push_back(inbound),
        }
        self.tend_later(seq);
    }

    fn tend_later(&mut self, seq: u64) {
        if let Some(stream) = self.streams.get_mut(&seq)
            && (!stream.inbox.is_empty() || stream.unlent > 0)
            && !std::mem::replace(&mut stream.is_tended, true)
        {
            self.backlog.tended.push(seq);
        }
    }

    /// A compressed message goes on arriving. To the connection its bytes are lent, or half messages could
    /// take up all its window and none be made whole.
    fn on_arriving(&mut self, seq: u64, part_bytes: usize) {
        self.grant_connection(part_bytes);
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        stream.arriving += part_bytes;
        stream.unlent += part_bytes;
        self.lend(seq);
        self.tend_later(seq);
    }

    /// Lends a stream the credit that makes its message whole, once the application is ready for it and
    /// there is room for all of it.
    fn lend(&mut self, seq: u64) {
        let limits = self.control.config().limits.clamped();
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        if stream.reserved == 0 {
            let reserved = stream.reader.arriving_bytes();
            if !is_ready(stream, limits) || self.backlog.reserved + reserved > room(limits) {
                return;
            }
            stream.reserved = reserved;
            self.backlog.reserved += reserved;
        }
        let unlent = std::mem::take(&mut stream.unlent);
        self.grant_stream(seq, unlent);
    }

    /// Takes the next event out of a stream's inbox, if the application is ready for it.
    fn tend(&mut self, seq: u64) -> Option<Event> {
        let limits = self.control.config().limits.clamped();
        let stream = self.streams.get_mut(&seq)?;
        let is_full = stream.delivered() >= limits.stream_window as usize
            || self.backlog.inflated + self.backlog.kept >= room(limits);
        match stream.inbox.front_mut() {
            None => {
                self.lend(seq);
                None
            }
            Some(Inbound::Compressed { .. }) if is_full => self.drop_unwanted(seq),
            Some(Inbound::Empty(count)) if *count > 1 => {
                *count -= 1;
                Some(empty_message(seq))
            }
            Some(_) => self.take_inbound(seq),
        }
    }

    fn take_inbound(&mut self, seq: u64) -> Option<Event> {
        let stream = self.streams.get_mut(&seq)?;
        let inbound = stream.inbox.pop_front()?;
        if stream.inbox.is_empty() {
            stream.inbox = std::collections::VecDeque::new();
        }
        let event = match inbound {
            Inbound::Compressed { frame, content_bytes, wire, reserved, end } => {
                self.backlog.reserved -= reserved;
                self.inflate(seq, &frame, content_bytes, wire, end)?
            }
            Inbound::Part { message_bytes, bytes, end_of_message, end } => {
                stream.plain_held += bytes.len();
                plain_part(seq, message_bytes, bytes, end_of_message, end)
            }
            Inbound::Empty(_) => empty_message(seq),
            Inbound::Last(event) => *event,
        };
        if matches!(event, Event::Reset { .. }) {
            self.remove(seq);
        }
        self.remove_if_over(seq);
        Some(event)
    }

    fn inflate(
        &mut self,
        seq: u64,
        frame: &[u8],
        content_bytes: u64,
        wire: usize,
        end: bool,
    ) -> Option<Event> {
        let config = self.control.config();
        let message_bytes_max = config.limits.clamped().message_bytes_max;
        match message::inflate(frame, content_bytes, &config.dictionaries.load(), message_bytes_max) {
            Ok(bytes) if bytes.is_empty() => {
                self.grant(seq, wire);
                let (message_bytes, wire_bytes) = (Some(0), frame.len());
                Some(Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message: true, end })
            }
            Ok(bytes) => {
                let stream = self.streams.get_mut(&seq)?;
                stream.inflated_held += bytes.len();
                stream.inflated_wire += wire;
                self.backlog.inflated += bytes.len();
                let (message_bytes, wire_bytes) = (Some(content_bytes), frame.len());
                Some(Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message: true, end })
            }
            Err(error) => {
                self.grant_connection(wire);
                Some(self.refuse(seq, error))
            }
        }
    }

    /// The server keeps nothing of a request it has answered: what nobody was ready for is dropped.
    fn drop_unwanted(&mut self, seq: u64) -> Option<Event> {
        if self.control.role() != Role::Server || !self.streams.get(&seq)?.is_over() {
            return None;
        }
        self.remove(seq);
        let text = "the request was answered before all its messages were taken";
        let error = RpcError::new(RpcErrorKind::Cancelled, Execution::Ran, text);
        Some(Event::Reset { seq, error })
    }
}

/// How much a connection decompresses beside one message, and how much it reserves for arriving ones.
fn room(limits: Limits) -> usize {
    limits.message_bytes_max as usize + ROOM_WINDOWS * limits.connection_window as usize
}

/// Whether the application takes the stream's messages: one is always let through.
fn is_ready(stream: &Stream, limits: Limits) -> bool {
    stream.inbox.is_empty() && stream.delivered() < limits.stream_window as usize
}

fn empty_message(seq: u64) -> Event {
    plain_part(seq, Some(0), bytes::Bytes::new(), true, false)
}

/// A part that travelled as it is.
fn plain_part(
    seq: u64,
    message_bytes: Option<u64>,
    bytes: bytes::Bytes,
    end_of_message: bool,
    end: bool,
) -> Event {
    Event::MessagePart { seq, message_bytes, wire_bytes: bytes.len(), bytes, end_of_message, end }
}
