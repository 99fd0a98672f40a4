//! One request of a session and its answer, which is recorded so that a client can take it again over
//! another connection.
//!
//! ```text
//!  Producer (the task that asks the backend)            Consumers (the connections that are attached)
//!     head, message, message, ... end  --> recorded --> each from its message number N, in order
//!                                          |
//!      waits while every consumer is a     |  over the session's bound it is recorded no longer: the
//!      window behind                       |  foremost consumer stays, and what it has taken is forgotten;
//!                                          |  without a consumer the exchange ends with OutcomeExpired
//! ```
//!
//! Consumers come and go; the producer goes on meanwhile, so that an answer is there when the client is back.
//! A client may take one answer over its link and over a short connection at the same time: a connection that
//! hangs holds the other one up no more than it holds the record up.

mod attachments;
mod consumer;
mod part;
mod producer;
mod uploading;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use towline_protocols::{
    hpack::HeaderField,
    link::{Execution, Place, Priority, RpcError, RpcErrorKind},
};

pub(super) use self::uploading::Lost;
use self::{
    attachments::{Attachments, Cut},
    consumer::Attached,
    part::{End, outcome_expired, taken_elsewhere},
};
pub use self::{
    consumer::{Consumer, Next},
    part::ExchangePart,
    producer::{Ended, Producer, Settling},
};
use super::{held::Held, signal::Signal, upload::Upload};

/// What the first message of an answer makes room for.
const MESSAGES_FEW: usize = 4;

/// A request of a session, running or finished.
pub struct Exchange {
    seq: u64,
    /// How far the foremost consumer may be behind before the producer waits, bytes.
    window: usize,
    held: Arc<Held>,
    /// Of the request's priority: what it is answered by on later connections too.
    urgency: AtomicU8,
    state: Mutex<State>,
    /// Wakes the consumers.
    parts: Notify,
    /// Wakes the producer: there is room, or nobody wants the answer any more.
    room: Notify,
}

struct State {
    head: Option<Arc<[HeaderField]>>,
    messages: VecDeque<Bytes>,
    /// Number of the first message that is still held.
    messages_from: u64,
    /// Bytes in `head`, `messages` and trailers.
    bytes: usize,
    end: Option<End>,
    /// Whether what a consumer has taken is kept for others.
    recorded: bool,
    /// Nothing is handed out before all of it is durable.
    withheld: bool,
    request: RequestProgress,
    attached: Attachments,
    /// The request's body, until it has arrived.
    upload: Option<Arc<Upload>>,
}

/// How far the request itself has come; decides what its connection's death means.
#[derive(Default)]
struct RequestProgress {
    /// The connection that the rest of it has to come from; none once it has arrived whole.
    awaited_from: Option<Weak<Signal>>,
    forwarded: bool,
}

impl Exchange {
    /// A request that begins on the connection of `signal`.
    pub(super) fn new(seq: u64, window: usize, held: Arc<Held>, signal: &Arc<Signal>) -> Arc<Self> {
        let request = RequestProgress { awaited_from: Some(Arc::downgrade(signal)), forwarded: false };
        Self::with(seq, window, held, request)
    }

    fn with(seq: u64, window: usize, held: Arc<Held>, request: RequestProgress) -> Arc<Self> {
        let state = State {
            head: None,
            messages: VecDeque::new(),
            messages_from: 0,
            bytes: 0,
            end: None,
            recorded: true,
            withheld: false,
            request,
            attached: Attachments::default(),
            upload: None,
        };
        let (parts, room) = (Notify::new(), Notify::new());
        let urgency = AtomicU8::new(Priority::NORMAL.urgency());
        Arc::new(Self { seq, window, held, urgency, state: Mutex::new(state), parts, room })
    }

    /// A finished exchange of an earlier process.
    pub(super) fn restored(seq: u64, window: usize, held: Arc<Held>, parts: Vec<ExchangePart>) -> Arc<Self> {
        let request = RequestProgress { awaited_from: None, forwarded: true };
        let exchange = Self::with(seq, window, held, request);
        let mut state = exchange.state.lock();
        let mut bytes = 0;
        for part in parts {
            bytes += part.bytes();
            match part {
                ExchangePart::Head(fields) => state.head = Some(fields),
                ExchangePart::Message(message) => state.messages.push_back(message),
                ExchangePart::Trailers(fields) => state.end = Some(End::Trailers(fields)),
                ExchangePart::End => state.end = Some(End::Plain),
                ExchangePart::Error(error) => state.end = Some(End::Error(error)),
            }
        }
        // A record that was cut has no end; what is missing may have run.
        state.end.get_or_insert_with(|| End::Error(outcome_expired(Execution::MayHaveRun)));
        exchange.grown(&mut state, bytes);
        drop(state);
        exchange
    }

    /// The request's number in its session.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The request's priority; [`Priority::NORMAL`] where an earlier process had it.
    pub fn priority(&self) -> Priority {
        Priority::new(self.urgency.load(Ordering::Relaxed))
    }

    /// Notes the request's priority.
    pub fn set_priority(&self, priority: Priority) {
        self.urgency.store(priority.urgency(), Ordering::Relaxed);
    }

    /// Notes that the whole request has arrived: the death of its connection no longer aborts it.
    pub fn request_complete(&self) {
        self.state.lock().request_complete();
    }

    /// Whether the answer has ended, well or not.
    pub fn is_finished(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Hands the exchange to a connection, behind what that has `received`, beside others that take it. Says too
    /// whether one of them had to give way for it.
    pub(super) fn attach(
        self: &Arc<Self>,
        received: Place,
        signal: &Arc<Signal>,
    ) -> Result<(Consumer, bool), RpcError> {
        let mut state = self.state.lock();
        if received.messages < state.messages_from {
            return Err(outcome_expired(state.execution()));
        }
        // Whoever claims to have what does not exist yet would hold the producer up, and never take it.
        let message = received.messages.min(state.messages_from + state.messages.len() as u64);
        let name = Arc::downgrade(signal);
        if !state.recorded && state.attached.iter().any(|held| !held.signal.ptr_eq(&name)) {
            return Err(taken_elsewhere());
        }
        let has_parts = !state.withheld && (state.head.is_some() || state.end.is_some());
        let taken = usize::try_from(message - state.messages_from).unwrap_or(usize::MAX);
        let skip = state.messages.get(taken).map_or(0, |message| message.len().min(received.bytes as usize));
        let behind = state.messages.iter().skip(taken).map(Bytes::len).sum::<usize>() - skip;
        let (attachment, cut) = state.attached.add(Attached {
            attachment: 0,
            head_taken: false,
            message,
            skip,
            behind,
            end_taken: false,
            signal: name,
            signalled: has_parts,
        });
        drop(state);
        self.tell_cut(&cut);
        self.parts.notify_waiters();
        self.room.notify_waiters();
        if has_parts {
            signal.ready(self.seq);
        }
        Ok((Consumer { exchange: self.clone(), attachment }, cut.is_some()))
    }

    /// The connection of `signal` is gone for the session. What is recorded, or taken by another connection, goes
    /// on, and where the rest of its request was to come from there, waits for another one, if it `may_wait`.
    /// Anything else ends.
    pub(super) fn connection_lost(&self, signal: &Arc<Signal>, now: Instant, may_wait: bool) -> Lost {
        let name = Arc::downgrade(signal);
        let mut state = self.state.lock();
        state.attached.leave(&name);
        let waits = state.awaits(&name) && state.park(now) && may_wait && state.recorded;
        let is_cut = state.awaits(&name);
        let goes_on = state.recorded || !state.attached.is_empty();
        drop(state);
        self.parts.notify_waiters();
        self.room.notify_waiters();
        if waits {
            return Lost::Parked;
        }
        let ended = if is_cut {
            self.cancel("the connection ended before the request had arrived whole")
        } else if goes_on {
            None
        } else {
            self.discard();
            let expired = End::Error(outcome_expired(Execution::MayHaveRun));
            self.finish(expired).map(|_| Execution::MayHaveRun)
        };
        ended.map_or(Lost::Kept, Lost::Ended)
    }

    /// Ends the exchange; `Some` says whether it had run, `None` that it had ended before.
    pub(super) fn cancel(&self, why: &str) -> Option<Execution> {
        let mut state = self.running().ok()?;
        // In one step with the end: nothing may be forwarded between the two.
        let error = state.request.cancelled(why);
        let execution = error.execution;
        state.withheld = false;
        if let Some(upload) = state.upload.take() {
            upload.break_off();
        }
        self.finish_locked(state, End::Error(error)).map(|_| execution)
    }

    /// Notes that the request goes to a backend, unless it has ended. With `durable` nothing of its answer is
    /// handed out before [`Exchange::show`].
    fn forward(&self, durable: bool) -> Result<(), Ended> {
        let mut state = self.running()?;
        state.request.forwarded = true;
        state.withheld = durable;
        Ok(())
    }

    /// All of an answer that is held back; `None` when it is not, or not any more.
    pub(super) fn held_back(&self) -> Option<Vec<ExchangePart>> {
        let state = self.state.lock();
        let whole = state.withheld && state.recorded && state.messages_from == 0;
        let end = state.end.clone().filter(|_| whole)?;
        let head = state.head.iter().cloned().map(ExchangePart::Head);
        let messages = state.messages.iter().cloned().map(ExchangePart::Message);
        Some(head.chain(messages).chain([end.into()]).collect())
    }

    /// Hands out what was held back.
    fn show(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.withheld) {
            self.tell(&mut state);
        }
    }

    fn push(&self, message: Bytes) -> Result<(), Ended> {
        let mut state = self.running()?;
        let added = message.len();
        state.messages.push_back(message);
        state.attached.iter_mut().for_each(|attached| attached.behind += added);
        self.grown(&mut state, added);
        Ok(())
    }

    fn is_recorded(&self) -> bool {
        self.state.lock().recorded
    }

    /// The session has no room for the record: from now on only what lies in one consumer's window is held, and
    /// without a consumer nothing.
    fn stop_recording(&self) -> Result<(), Ended> {
        let mut state = self.state.lock();
        state.recorded = false;
        state.withheld = false;
        let cut = state.attached.keep_foremost();
        state.forget_taken(self);
        if !state.attached.is_empty() {
            self.tell(&mut state);
            drop(state);
            self.tell_cut(&cut);
            return Ok(());
        }
        drop(state);
        self.discard();
        self.finish(End::Error(outcome_expired(Execution::MayHaveRun)));
        Err(Ended)
    }

    fn running(&self) -> Result<MutexGuard<'_, State>, Ended> {
        let state = self.state.lock();
        if state.end.is_some() { Err(Ended) } else { Ok(state) }
    }

    /// Ends the answer; the bytes that its end takes, or `None` when it had ended before.
    fn finish(&self, end: End) -> Option<usize> {
        self.finish_locked(self.state.lock(), end)
    }

    fn finish_locked(&self, mut state: MutexGuard<'_, State>, end: End) -> Option<usize> {
        if state.end.is_some() {
            return None;
        }
        let added = end.bytes();
        state.end = Some(end);
        // An ordinary answer is one message, and moving it to a smaller block costs more than that saves.
        if state.messages.capacity() > MESSAGES_FEW {
            state.messages.shrink_to_fit();
        }
        state.upload = None;
        self.grown(&mut state, added);
        drop(state);
        self.room.notify_waiters();
        Some(added)
    }

    /// Forgets the answer.
    fn discard(&self) {
        let mut state = self.state.lock();
        state.messages_from += state.messages.len() as u64;
        state.messages = VecDeque::new();
        state.head = None;
        let bytes = state.bytes;
        self.shrunk(&mut state, bytes);
    }

    fn grown(&self, state: &mut State, added: usize) {
        state.bytes += added;
        self.held.add(added);
        self.tell(state);
    }

    /// Tells the consumers that there is something for them.
    fn tell(&self, state: &mut State) {
        if state.withheld {
            return;
        }
        for attached in state.attached.iter_mut() {
            if !std::mem::replace(&mut attached.signalled, true)
                && let Some(signal) = attached.signal.upgrade()
            {
                signal.ready(self.seq);
            }
        }
        self.parts.notify_waiters();
    }

    /// Tells consumers that they had to give way.
    fn tell_cut<'a>(&self, cut: impl IntoIterator<Item = &'a Cut>) {
        for signal in cut.into_iter().filter_map(Weak::upgrade) {
            signal.ready(self.seq);
        }
        self.parts.notify_waiters();
    }

    fn shrunk(&self, state: &mut State, removed: usize) {
        state.bytes -= removed;
        self.held.sub(removed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.held.sub(self.state.get_mut().bytes);
    }
}

impl State {
    fn is_behind(&self, window: usize) -> bool {
        // What is held back is bounded by the record, not by who cannot take it yet.
        !self.withheld
            && !self.attached.is_empty()
            && self.attached.iter().all(|attached| attached.behind >= window)
    }

    /// Makes the record begin at what the one consumer takes next.
    fn forget_taken(&mut self, exchange: &Exchange) {
        let Some(upto) = self.attached.iter().map(|attached| attached.message).min() else { return };
        while self.messages_from < upto {
            let Some(message) = self.messages.pop_front() else { return };
            self.messages_from += 1;
            exchange.shrunk(self, message.len());
        }
    }

    fn execution(&self) -> Execution {
        match &self.end {
            None => Execution::MayHaveRun,
            Some(End::Error(error)) => error.execution,
            Some(End::Plain | End::Trailers(_)) => Execution::Ran,
        }
    }
}

impl RequestProgress {
    fn cancelled(&self, why: &str) -> RpcError {
        let execution = if self.forwarded { Execution::MayHaveRun } else { Execution::NotRun };
        RpcError::new(RpcErrorKind::Cancelled, execution, why)
    }
}
