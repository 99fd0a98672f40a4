//! What of a call goes to the line, as far as the line takes it.

use std::time::Instant;

use bytes::Bytes;
use towline_protocols::link::{RequestHead, RpcError};

use super::{
    super::{Core, Key, now as clock, outbox::Room},
    Call, Place,
};

/// What a line does for requests; the machine of a TCP connection, or the codec of a QUIC stream.
pub(crate) trait RequestSink {
    fn request(&mut self, seq: u64, head: RequestHead, end: bool) -> Result<(), RpcError>;
    /// Says how many bytes carry the message.
    fn message(&mut self, seq: u64, message: Bytes, end: bool) -> Result<usize, RpcError>;
    fn end(&mut self, seq: u64) -> Result<(), RpcError>;
    /// Bytes of messages that may be queued now.
    fn capacity(&mut self, seq: u64) -> usize;
    fn credit(&mut self, seq: u64, bytes: usize);
}

impl Core {
    /// Gives the line what call `key` has for it. False when it waits for a place on the line.
    pub(crate) fn pump(
        &mut self,
        key: Key,
        sink: &mut impl RequestSink,
        may_open: bool,
        now: Instant,
    ) -> bool {
        let Some(call) = self.calls.get(&key) else { return true };
        if call.is_over() || call.is_paused || call.place == Place::Unknown {
            return true;
        }
        let opened = call.place == Place::On;
        if !opened && (self.is_left_to_short(call) || !self.session.may_send(call.seq)) {
            return true;
        }
        let seq = call.seq;
        if !opened && !self.is_permitted(key, self.session.link_session()) {
            return true;
        }
        if !opened && (!may_open || self.is_line_over) {
            return false;
        }
        let mut acknowledges = false;
        if !opened {
            self.reserve(seq);
            self.session.on_request_sent(seq);
            acknowledges = self.session.acknowledge_with(seq);
        }
        self.link.wake |= !opened && self.calls.get(&key).is_some_and(|call| self.may_hedge(call));
        let Some(call) = self.calls.get_mut(&key) else { return true };
        if call.place == Place::Off {
            call.marks.given(now, call.started, self.transport, self.made);
        }
        if let Err(error) = call.pump(sink, acknowledges, now) {
            // The error is of this attempt alone.
            call.may_have_run |= call.short_failed;
            call.fail(error);
        }
        if call.end_sent && !std::mem::replace(&mut call.is_leaving, true) {
            self.leaving.push(call.seq);
        }
        let (was_whole, room) = (call.outbox.is_whole(), Room::of(&self.limits));
        // Where the gateway may refuse the line, all is sent again.
        if !self.is_refusable {
            call.outbox.trim(room);
        }
        if was_whole && !call.outbox.is_whole() {
            self.session.partly_kept(call.seq);
        }
        true
    }
}

impl Call {
    /// `acknowledges`: what REQUEST tells of those before it.
    fn pump(
        &mut self,
        sink: &mut impl RequestSink,
        acknowledges: bool,
        now: Instant,
    ) -> Result<(), RpcError> {
        if self.place == Place::Off {
            (self.place, self.asked_at) = (Place::On, clock());
            self.attempts += 1;
            self.end_sent = self.out.bodiless;
            let head = RequestHead { acknowledges, ..self.head(now) };
            sink.request(self.seq, head, self.end_sent)?;
        }
        if let (Some(message), false) = (&self.out.message, self.end_sent) {
            self.end_sent = true;
            match self.message_arrived {
                true => sink.end(self.seq)?,
                false => {
                    let rest = message.slice(std::mem::take(&mut self.message_begun)..);
                    let plain = rest.len();
                    let wire = sink.message(self.seq, rest, true)?;
                    self.marks.request.add(plain, wire);
                }
            }
        }
        self.pump_outbox(sink)?;
        let credit = std::mem::take(&mut self.incoming.credit_due);
        if credit > 0 {
            sink.credit(self.seq, credit);
        }
        Ok(())
    }

    fn pump_outbox(&mut self, sink: &mut impl RequestSink) -> Result<(), RpcError> {
        while !self.end_sent && sink.capacity(self.seq) > 0 {
            match self.outbox.next() {
                Some(message) => {
                    self.end_sent = self.finished && !self.outbox.has_waiting();
                    let rest = message.slice(std::mem::take(&mut self.message_begun)..);
                    let plain = rest.len();
                    let wire = sink.message(self.seq, rest, self.end_sent)?;
                    self.marks.request.add(plain, wire);
                    self.wakers.writable.notify_one();
                }
                None if self.finished => {
                    self.end_sent = true;
                    sink.end(self.seq)?;
                }
                None => break,
            }
        }
        Ok(())
    }
}
