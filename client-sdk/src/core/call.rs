//! One call between the app's handles and the line.

mod pump;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use towline_protocols::link::{self, Execution, RequestHead, RpcError, RpcErrorKind};

pub(crate) use self::pump::RequestSink;
use super::{
    SharedWakers,
    durable::Permit,
    outbox::{Outbox, Total},
};
use crate::{
    reports::Reports,
    timeline::{Marks, Timeline},
};

/// What a new call is made of.
pub(crate) struct Outgoing {
    pub(crate) head: RequestHead,
    pub(crate) deadline: Instant,
    /// The one message of a unary call, kept so that it can be sent again; `None` is a stream.
    pub(crate) message: Option<Bytes>,
    /// A body of no message at all, rather than one empty message.
    pub(crate) bodiless: bool,
}

/// The state of a call.
pub(crate) struct Call {
    pub(crate) seq: u64,
    pub(crate) wakers: SharedWakers,
    pub(crate) dirty: bool,
    pub(crate) started: Instant,
    pub(crate) attempts: u32,
    pub(crate) marks: Marks,
    /// An attempt before the one under way may have run: no later error may say that the call did not.
    pub(super) may_have_run: bool,
    /// A short connection is being made for it, or carries it.
    pub(super) posting: bool,
    /// Since when the last one is, or was.
    pub(super) posting_since: Instant,
    /// A short connection that had it did not bring its end.
    pub(super) short_failed: bool,
    /// When it was given to the link's connection, or opened.
    pub(super) asked_at: Instant,
    /// When the link died under it.
    pub(super) cut_at: Option<Instant>,
    /// When the link brought some of a message of the answer last.
    part_at: Option<Instant>,
    /// The longest that the message which is arriving stood still.
    gap: Option<Duration>,
    /// The short connection that is made for it, or carries it, is there because the answer stands still on the link.
    pub(super) is_stalled: bool,
    /// Why no short connection is to carry it.
    pub(super) link_only: Option<Box<str>>,
    /// How often it was tried again after an error.
    pub(super) tries: u32,
    /// It is tried again, and not yet.
    pub(super) is_paused: bool,
    /// It was looked at whether it goes by the link and by POST at once.
    pub(super) hedged: bool,
    /// Its end came over a short connection.
    pub(crate) ended_by_short: bool,
    /// How often its answer needed a dictionary that is not held.
    pub(crate) unreadable: u8,
    /// How often a connection that was to bring its answer gave way to one of nobody here.
    pub(crate) gave_way: u8,
    /// Of a durable call.
    pub(super) permit: Option<Permit>,
    out: Outgoing,
    pub(super) place: Place,
    /// Messages of a stream.
    outbox: Outbox,
    /// The gateway has the one message of a unary call, and lacks the end.
    message_arrived: bool,
    /// Bytes of the message that is given to the line next which the gateway has.
    message_begun: usize,
    /// The app's half has ended.
    finished: bool,
    /// The end of the app's half was given to the line.
    end_sent: bool,
    /// And is looked for among what leaves.
    is_leaving: bool,
    /// The live connection had it, and led to another run than the one whose answer is taken.
    pub(super) is_let_go: bool,
    /// The same of the POST that it has.
    is_post_let_go: bool,
    pub(crate) incoming: Incoming,
}

/// Where a call stands towards the live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not on it.
    Off,
    /// An earlier connection carried it; WELCOME will tell what becomes of it.
    Unknown,
    /// On it.
    On,
}

/// What arrived of the answer.
#[derive(Default)]
pub(crate) struct Incoming {
    pub(crate) status: u16,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) messages: VecDeque<Bytes>,
    pub(crate) trailers: HeaderMap,
    pub(crate) end: Option<Result<(), RpcError>>,
    /// Parts of the message that is arriving.
    pub(super) partial: BytesMut,
    /// Bytes of `messages` and `partial`.
    pub(super) bytes: usize,
    /// Bytes that the app has not taken; they hold credit back.
    pub(super) uncredited: usize,
    /// Bytes to give back to the gateway as credit.
    pub(super) credit_due: usize,
    /// Messages that the app took.
    pub(crate) taken: u64,
}

/// Bytes of messages that a stream may queue beyond the line's own window; one message may exceed it.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

impl Call {
    pub(super) fn new(seq: u64, out: Outgoing, kept: Total, now: Instant) -> Self {
        Self {
            seq,
            wakers: Arc::default(),
            dirty: false,
            started: now,
            attempts: 0,
            marks: Marks::default(),
            may_have_run: false,
            posting: false,
            posting_since: super::now(),
            short_failed: false,
            asked_at: super::now(),
            cut_at: None,
            part_at: None,
            gap: None,
            is_stalled: false,
            link_only: None,
            tries: 0,
            is_paused: false,
            hedged: false,
            ended_by_short: false,
            unreadable: 0,
            gave_way: 0,
            permit: None,
            finished: out.message.is_some(),
            out,
            place: Place::Off,
            outbox: Outbox::new(kept),
            message_arrived: false,
            message_begun: 0,
            end_sent: false,
            is_leaving: false,
            is_let_go: false,
            is_post_let_go: false,
            incoming: Incoming::default(),
        }
    }

    /// How it went until `now`.
    pub(crate) fn timeline(&self, now: Instant) -> Timeline {
        self.marks.timeline(self.started, now, self.attempts)
    }

    pub(crate) fn urgency(&self) -> u8 {
        self.out.head.priority.urgency()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.out.deadline
    }

    pub(crate) fn is_unary(&self) -> bool {
        self.out.message.is_some()
    }

    /// The message of a unary call.
    pub(super) fn message(&self) -> Option<&Bytes> {
        self.out.message.as_ref()
    }

    pub(super) fn is_bodiless(&self) -> bool {
        self.out.bodiless
    }

    /// What it asks, as of `now`.
    pub(super) fn head(&self, now: Instant) -> RequestHead {
        let deadline = Some(self.out.deadline.saturating_duration_since(now));
        RequestHead { deadline, ..self.out.head.clone() }
    }

    /// Whether it could be sent again from its beginning.
    pub(super) fn is_kept_whole(&self) -> bool {
        self.is_unary() || self.outbox.is_whole()
    }

    pub(super) fn unary_bytes(&self) -> usize {
        self.out.message.as_ref().map_or(0, Bytes::len)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.incoming.end.is_some()
    }

    pub(crate) fn is_on_line(&self) -> bool {
        self.place == Place::On
    }

    /// Whether the live connection may open it as a new request.
    pub(crate) fn may_begin(&self) -> bool {
        self.place == Place::Off && !self.is_paused
    }

    /// When the answer moved last, or was asked for over the live connection, if the link has brought some of it and is to
    /// bring the rest.
    pub(super) fn answer_moved(&self) -> Option<Instant> {
        self.part_at.filter(|_| self.is_on_line()).map(|at| at.max(self.asked_at))
    }

    /// The link brought some of a message of the answer. The longest that the message stood still, behind its end.
    pub(super) fn moved(&mut self, now: Instant, end_of_message: bool) -> Option<Duration> {
        // Behind another connection's part it was not a gap that passed.
        let before = self.part_at.filter(|at| *at >= self.asked_at);
        self.gap = self.gap.max(before.map(|at| now.saturating_duration_since(at)));
        self.part_at = Some(now);
        if end_of_message { self.gap.take() } else { None }
    }

    pub(super) fn has_sent_all(&self) -> bool {
        self.end_sent
    }

    pub(super) fn was_sent(&self) -> bool {
        self.attempts > 0
    }

    /// Whether a stream may queue another message.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.waiting_bytes() < OUTBOX_BYTES_MAX
    }

    pub(crate) fn push_message(&mut self, message: Bytes) {
        self.outbox.push(message);
    }

    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether the app can still send.
    pub(crate) fn is_sendable(&self) -> bool {
        !self.finished && !self.is_over() && !self.end_sent
    }

    /// The app took a message: what it held back may be sent.
    pub(crate) fn take_message(&mut self) -> Option<Bytes> {
        let message = self.incoming.messages.pop_front()?;
        self.incoming.bytes -= message.len();
        self.incoming.taken += 1;
        if self.incoming.messages.is_empty() {
            self.incoming.credit_due += std::mem::take(&mut self.incoming.uncredited);
        }
        Some(message)
    }

    /// Whether the line may bring more: QUIC stops reading where it may not.
    #[cfg(feature = "quic")]
    pub(crate) fn wants_more(&self) -> bool {
        self.is_unary() || self.incoming.messages.is_empty()
    }

    /// The live connection has nothing to do with it any more.
    pub(super) fn let_go(&mut self) {
        self.is_let_go = true;
        self.begin_again();
        self.incoming.credit_due = 0;
        self.wakers.stream.notify_one();
    }

    /// Its POST has nothing to do with it any more.
    pub(super) fn post_let_go(&mut self) {
        self.is_post_let_go = true;
        self.wakers.short.notify_one();
    }

    /// Whether nothing more is wanted of its POST. Its end by that very connection is no reason to cut that: the next call
    /// takes it.
    pub(crate) fn is_post_unwanted(&self) -> bool {
        self.is_post_let_go || self.is_over() && !self.ended_by_short
    }

    /// Its POST is over.
    pub(super) fn post_over(&mut self) {
        (self.posting, self.is_post_let_go) = (false, false);
    }

    /// The connection is gone; `waiting` says that its successor's HELLO asks for this call.
    pub(super) fn line_lost(&mut self, waiting: bool) {
        self.is_let_go = false;
        match waiting {
            true => self.place = Place::Unknown,
            // If any line takes it, then from its beginning.
            false => self.begin_again(),
        }
        self.incoming.credit_due = 0;
        self.wakers.stream.notify_waiters();
    }

    /// The gateway has refused the line, on which the request was sent first.
    pub(super) fn never_sent(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
        self.begin_again();
    }

    /// What the request asks, apart from its messages.
    pub(crate) fn asked(&self) -> &RequestHead {
        &self.out.head
    }

    /// The gateway has the request: its answer comes over the live connection, on which the request goes on behind
    /// what is `sent` of it. `None`: the gateway wants no more of it.
    pub(super) fn kept(&mut self, sent: Option<link::Place>) -> Result<(), RpcError> {
        (self.place, self.asked_at) = (Place::On, super::now());
        self.attempts += 1;
        self.message_begun = 0;
        self.end_sent = sent.is_none();
        let Some(sent) = sent else {
            // What is here whole and harmless may have to begin again, where the gateway holds no outcome of it.
            let may_begin_again = self.asked().idempotent && self.finished && self.outbox.is_whole();
            if !may_begin_again {
                self.outbox.close();
            }
            self.wakers.writable.notify_one();
            return Ok(());
        };
        self.message_arrived = self.is_unary() && sent == link::Place::behind(1);
        self.message_begun = usize::try_from(sent.bytes).unwrap_or(usize::MAX);
        if self.message_arrived || self.outbox.rewind(sent.messages) && self.has_begun_message() {
            return Ok(());
        }
        let text = "the connection was lost, and what the gateway lacks of the request is not kept \
                    (limits.upload_buffer_bytes)";
        Err(RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text))
    }

    /// Whether the message that is given to the line next has the bytes of it that the gateway says it has.
    fn has_begun_message(&self) -> bool {
        let next = self.out.message.as_ref().or_else(|| self.outbox.peek());
        self.message_begun <= next.map_or(0, Bytes::len)
    }

    /// The gateway does not have the request; `has_not_run`: and it never had it.
    pub(super) fn send_again(&mut self, has_not_run: bool) {
        if self.place == Place::Unknown {
            self.begin_again();
            self.may_have_run |= !has_not_run;
        }
    }

    /// It is tried again under another number. What has come of an answer the app does not see.
    pub(super) fn reopened(&mut self, seq: u64, has_not_run: bool) {
        self.incoming = Incoming::default();
        (self.part_at, self.gap) = (None, None);
        self.ended_by_short = false;
        self.marks.unanswered();
        self.may_have_run |= !has_not_run;
        (self.seq, self.is_let_go) = (seq, false);
        self.begin_again();
    }

    /// Whether the app may have seen something of the answer.
    pub(super) fn is_seen(&self) -> bool {
        !self.is_unary() && self.incoming.headers.is_some()
    }

    /// The session lets only a call begin again that was kept whole.
    pub(super) fn begin_again(&mut self) {
        self.place = Place::Off;
        (self.end_sent, self.message_arrived, self.is_leaving) = (false, false, false);
        self.message_begun = 0;
        self.outbox.rewind(0);
    }

    /// Counts how it ended.
    pub(super) fn report(&self, reports: &mut Reports) {
        match &self.incoming.end {
            // How long a stream lasts is for the app to say.
            Some(end) => reports.ended(end, self.is_unary().then(|| self.started.elapsed())),
            None => reports.given_up(),
        }
    }

    pub(crate) fn fail(&mut self, error: RpcError) {
        let mut error = match &self.permit {
            Some(permit) => permit.told(error),
            None => error,
        };
        if self.may_have_run && error.execution == Execution::NotRun {
            error.execution = Execution::MayHaveRun;
        }
        self.incoming.end.get_or_insert(Err(error));
        self.wake_all();
    }

    /// Its answer is whole.
    pub(super) fn ended(&mut self, by_short: bool) {
        self.ended_by_short = by_short;
        self.wake_all();
    }

    pub(crate) fn wake_all(&self) {
        self.wakers.readable.notify_one();
        self.wakers.writable.notify_one();
        self.wakers.stream.notify_one();
        self.wakers.short.notify_one();
    }
}
