//! Requests of earlier connections that go on here.

use super::{
    Connection, Priority, RequestHead,
    stream::{Receiving, Sending},
};
use crate::link::Welcome;

impl Connection {
    /// Server: makes request `seq`, which an earlier connection carried and HELLO.waiting names, able to
    /// be answered on this one.
    pub fn attach(&mut self, seq: u64, priority: Priority) {
        if !self.streams.contains_key(&seq) {
            self.open(seq, priority).receiving = Receiving::Ended;
        }
    }

    /// Server: the answer to request `seq` is of another priority than was thought. It counts where the request is open
    /// and nothing of the answer waits to be sent.
    pub fn prioritize(&mut self, seq: u64, priority: Priority) {
        if let Some(stream) = self.streams.get_mut(&seq).filter(|stream| !stream.is_scheduled) {
            stream.urgency = priority.urgency();
        }
    }

    /// Server: the same for a request of WELCOME.partial, whose client goes on with its half. The bytes of
    /// `window_used` are to be given back by [`Connection::credit`] before all that arrives here.
    pub fn attach_open(&mut self, seq: u64, priority: Priority, window_used: u32) {
        if self.streams.contains_key(&seq) {
            return;
        }
        let stream = self.open(seq, priority);
        stream.receiving = Receiving::Body;
        stream.receive_window -= i64::from(window_used);
        stream.carried = window_used as usize;
    }

    /// Client: what is still to be sent of request `seq`, which WELCOME.partial names, belongs to this head.
    /// To be called before any of it is.
    pub fn go_on(&mut self, seq: u64, head: &RequestHead) {
        if let Some(stream) = self.streams.get_mut(&seq).filter(|stream| stream.queue.is_empty()) {
            stream.urgency = head.priority.urgency();
            stream.writer.belongs_to(&head.fields);
        }
    }

    /// Client: what HELLO waited for is open for its answer, and some of it for the rest of the request.
    pub(super) fn resume_waiting(&mut self, welcome: &Welcome) {
        let waiting = std::mem::take(&mut self.waiting);
        for &seq in &waiting {
            if !welcome.resumed || welcome.unknown.contains(&seq) {
                self.remove(seq);
            }
        }
        for partial in welcome.partial.iter().filter(|partial| waiting.contains(&partial.seq)) {
            if let Some(stream) = self.streams.get_mut(&partial.seq)
                && stream.sending == Sending::Ended
            {
                stream.sending = Sending::Open;
                stream.send_window -= i64::from(partial.window_used);
            }
        }
    }
}
