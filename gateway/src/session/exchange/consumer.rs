//! The end of an exchange that sends the answer to the client over one connection.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use towline_protocols::hpack::HeaderField;

use super::{End, Exchange, ExchangePart, taken_elsewhere};
use crate::session::signal::Signal;

/// What a consumer is handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next part. `ends`: nothing follows, so that the frame may carry END; an
    /// [`ExchangePart::End`] is handed out on its own only when the part before went without.
    Part {
        /// The part.
        part: ExchangePart,
        /// Whether it is the last.
        ends: bool,
    },
    /// Nothing yet.
    Pending,
    /// Everything was handed out, or the connection took the exchange up anew, or has lost the session.
    Done,
}

/// The end of the exchange that sends the answer to the client over one connection. Dropping it leaves
/// the exchange to the next connection.
pub struct Consumer {
    pub(super) exchange: Arc<Exchange>,
    pub(super) attachment: u64,
}

pub(super) struct Attached {
    /// Which of the exchange's attachments this is.
    pub(super) attachment: u64,
    pub(super) head_taken: bool,
    /// Number of the next message to hand out.
    pub(super) message: u64,
    /// Bytes of that message that the client has.
    pub(super) skip: usize,
    /// Bytes of the messages from there on.
    pub(super) behind: usize,
    pub(super) end_taken: bool,
    pub(super) signal: Weak<Signal>,
    /// Whether the signal holds this exchange's number already.
    pub(super) signalled: bool,
}

impl Consumer {
    /// The request's number in its session.
    pub fn seq(&self) -> u64 {
        self.exchange.seq
    }

    /// The exchange, to mark the request's progress or to cancel it.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// The next part, if there is one.
    pub fn try_next(&mut self) -> Next {
        let mut guard = self.exchange.state.lock();
        let state = &mut *guard;
        if state.attached.take_cut(self.attachment) {
            return Next::Part { part: ExchangePart::Error(taken_elsewhere()), ends: true };
        }
        let next = match state.attached.get_mut(self.attachment) {
            Some(attached) => {
                attached.signalled = false;
                if state.withheld {
                    return Next::Pending;
                }
                attached.next(state.head.as_ref(), &state.messages, state.messages_from, state.end.as_ref())
            }
            None => Next::Done,
        };
        if matches!(next, Next::Part { part: ExchangePart::Message(_), .. }) {
            if !guard.recorded {
                guard.forget_taken(&self.exchange);
            }
            drop(guard);
            self.exchange.room.notify_waiters();
        }
        next
    }

    /// The next part and whether it is the last; `None` after the last one, or when there will be none. Safe to
    /// cancel.
    pub async fn next(&mut self) -> Option<(ExchangePart, bool)> {
        let exchange = self.exchange.clone();
        loop {
            let notified = exchange.parts.notified();
            match self.try_next() {
                Next::Part { part, ends } => return Some((part, ends)),
                Next::Done => return None,
                Next::Pending => notified.await,
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = self.exchange.state.lock();
        if state.attached.remove(self.attachment) {
            drop(state);
            // A producer that waits for this consumer need not wait any more.
            self.exchange.room.notify_waiters();
        }
    }
}

impl Attached {
    /// How far it is.
    pub(super) fn progress(&self) -> (u64, bool) {
        (self.message, self.head_taken)
    }

    fn next(
        &mut self,
        head: Option<&Arc<[HeaderField]>>,
        messages: &VecDeque<Bytes>,
        messages_from: u64,
        end: Option<&End>,
    ) -> Next {
        if let (false, Some(head)) = (self.head_taken, head) {
            self.head_taken = true;
            let ends = self.take_end(messages_from + messages.len() as u64, end);
            return Next::Part { part: ExchangePart::Head(head.clone()), ends };
        }
        let index = self.message.checked_sub(messages_from).and_then(|index| usize::try_from(index).ok());
        if let Some(message) = index.and_then(|index| messages.get(index)) {
            let rest = message.slice(std::mem::take(&mut self.skip)..);
            self.message += 1;
            self.behind -= rest.len();
            let ends = self.take_end(messages_from + messages.len() as u64, end);
            return Next::Part { part: ExchangePart::Message(rest), ends };
        }
        match end {
            None => Next::Pending,
            Some(_) if self.end_taken => Next::Done,
            Some(end) => {
                self.end_taken = true;
                Next::Part { part: end.clone().into(), ends: true }
            }
        }
    }

    /// Folds a plain end into the part that is handed out, when nothing lies between.
    fn take_end(&mut self, messages: u64, end: Option<&End>) -> bool {
        let ends = self.message >= messages && matches!(end, Some(End::Plain));
        self.end_taken |= ends;
        ends
    }
}
