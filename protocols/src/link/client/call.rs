//! One request of a session: who has it, and what has come of its answer.
//!
//! The link and a short connection may bring the same answer, each from a place of its own, and either may be cut.
//! What is handed on is what nobody has brought before:
//!
//! ```text
//!  link    |--- message 0 ---|--- message 1 -- cut            handed on: 0, 1, and of the short connection's
//!  short        |--- message 0 ---|--- message 1 ---|--- 2     only the rest of 1, and 2
//! ```
//!
//! That holds of one run. What is idempotent may run in two sessions, if a server has lost the one or a carrier leads
//! elsewhere; the carriers of the others are let go when an answer begins:
//!
//! ```text
//!  link to session 7    |--- message 0 ...                    handed on: nothing, it came second; the link resets it
//!  short to session 8  |--- message 0 ---|--- message 1 ...   handed on: 0, 1; the rest is that of session 8, or none
//! ```

use super::{CallOptions, Delivery, Earlier, Fate};
use crate::link::{Event, Execution, LimitsMessage, Partial, Place, RpcError, RpcErrorKind, Welcome};

/// What a session knows of a request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) options: CallOptions,
    pub(super) phase: Phase,
    /// The session that its REQUEST was given to, by whichever carrier: no carrier gives it to another one, unless
    /// that was said not to matter, or not to have happened. 0: a session that no WELCOME had named.
    pub(super) tie: Option<u64>,
    /// It was given to a session that is lost, and may have run there.
    doubtful: bool,
    /// Connections that were given its REQUEST or asked for its answer, and may have left it running.
    pub(super) carriers: u32,
    /// Those of them that were asked for its answer, and not given it.
    asks: u32,
    /// Those of them that were short ones.
    posts: u32,
    /// What the link's live connection has of it.
    pub(super) link: Option<Place>,
    /// The link's live connection asked for its answer, and did not give the REQUEST.
    attached: bool,
    /// The link's HELLO asks for its answer, and no WELCOME has come.
    pub(super) asked: bool,
    /// What a short connection has of it.
    pub(super) short: Option<Short>,
    /// A short connection brought some of its answer since the link's HELLO was written.
    answered_since: bool,
    /// The session in which it ran whose answer has begun to come.
    run: Option<u64>,
    /// The link's live connection had it, and led to another run.
    let_go: bool,
    /// A short connection had it, and led to another run.
    short_let_go: bool,
    response_received: bool,
    /// The furthest place that a carrier has reached.
    pub(super) received: Place,
    /// Message bytes of its answer.
    pub(super) bytes_received: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No carrier was given any of it.
    Unsent,
    /// It may have reached the server.
    Waiting,
    /// Its end has arrived.
    Complete,
}

/// A short connection that carries a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    pub(super) number: u64,
    /// The one that its WELCOME has named; before, the one that its HELLO names.
    session_id: u64,
    at: Place,
}

/// Who brings an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Link,
    /// The short connection of this number.
    Short(u64),
}

impl Call {
    pub(super) fn new(options: CallOptions) -> Self {
        Self {
            options,
            phase: Phase::Unsent,
            tie: None,
            doubtful: false,
            carriers: 0,
            asks: 0,
            posts: 0,
            attached: false,
            asked: false,
            link: None,
            short: None,
            answered_since: false,
            run: None,
            let_go: false,
            short_let_go: false,
            response_received: false,
            received: Place::default(),
            bytes_received: 0,
        }
    }

    /// One of an earlier run of the program. Nobody knows how many connections carried it there, or which.
    pub(super) fn restored(options: CallOptions, earlier: Earlier) -> Self {
        let new = Self { doubtful: earlier.doubtful, ..Self::new(options) };
        match earlier.given_to {
            None => new,
            Some(session_id) => {
                Self { phase: Phase::Waiting, tie: Some(session_id), carriers: 1, posts: 1, ..new }
            }
        }
    }

    /// The live connection of the link is given its REQUEST, for a session of that id.
    pub(super) fn given_to_link(&mut self, session_id: u64) {
        if self.link.is_none() && self.phase != Phase::Complete {
            self.given(session_id);
            (self.link, self.attached) = (Some(Place::default()), false);
        }
    }

    /// The same for a short connection.
    pub(super) fn given_to_short(&mut self, number: u64, session_id: u64) {
        if self.phase != Phase::Complete {
            self.given(session_id);
            self.posts += 1;
            self.short = Some(Short { number, session_id, at: Place::default() });
        }
    }

    /// The WELCOME of that short connection has come.
    pub(super) fn short_leads_to(&mut self, number: u64, session_id: u64) {
        if let Some(short) = self.short.as_mut().filter(|short| short.number == number) {
            short.session_id = session_id;
            self.keep_to_run(None);
        }
    }

    /// The session that it was given to is another one than was thought.
    pub(super) fn renamed(&mut self, session_id: u64) {
        self.tie = Some(session_id);
        self.run = self.run.map(|_| session_id);
    }

    /// Lets the carriers go that lead to another run than the one whose answer has begun: theirs is another answer.
    /// `link`: the session that the link has led to, if that is known.
    pub(super) fn keep_to_run(&mut self, link: Option<u64>) {
        let Some(run) = self.run else { return };
        self.short_let_go |= self.short.take_if(|short| short.session_id != run).is_some();
        if link.is_some_and(|link| link != run) {
            self.let_go |= self.link.take().is_some();
        }
    }

    /// Whether the link was let go, and has not been told.
    pub(super) fn take_let_go(&mut self) -> bool {
        std::mem::take(&mut self.let_go)
    }

    /// The same of a short connection.
    pub(super) fn take_short_let_go(&mut self) -> bool {
        std::mem::take(&mut self.short_let_go)
    }

    /// Whether any of an answer has come, which need not be its head: what a server sends first is not in our hands.
    pub(super) fn has_begun(&self) -> bool {
        self.run.is_some()
    }

    fn given(&mut self, session_id: u64) {
        self.phase = Phase::Waiting;
        self.tie = Some(session_id);
        self.carriers += 1;
    }

    /// Whether a short connection was given it, and has not said that it has not run.
    pub(super) fn was_posted(&self) -> bool {
        self.posts > 0
    }

    /// Whether a carrier may give it to the session of that id.
    pub(super) fn may_be_given(&self, session_id: u64) -> bool {
        self.phase != Phase::Complete && self.tie.is_none_or(|tie| tie == session_id)
    }

    /// Whether it may be given to a session of which nobody knows whether the server has it.
    pub(super) fn may_run_anywhere(&self) -> bool {
        self.options.idempotent && self.options.replayable
    }

    pub(super) fn may_run_by_short(&self) -> bool {
        self.posts > 0 && self.phase == Phase::Waiting
    }

    /// Whether nobody has it who may still bring an answer, nor can it be asked for in the session of that id.
    pub(super) fn is_forsaken(&self, session_id: u64) -> bool {
        !self.asked && self.is_nowhere(session_id)
    }

    /// The same, whatever the link's HELLO may bring.
    pub(super) fn is_nowhere(&self, session_id: u64) -> bool {
        let is_carried = self.link.is_some() || self.short.is_some();
        self.phase == Phase::Waiting && !is_carried && !self.may_be_given(session_id)
    }

    /// Whether the session that a HELLO leads to may hold it, so that silence of it would acknowledge its outcome:
    /// whichever session HELLO names, the server may resume another one. What was given to a session that is lost
    /// counts: where a HELLO named that one, the session that the server made in its place has run it, if it is
    /// idempotent, and may be this one.
    pub(super) fn may_be_held(&self) -> bool {
        match self.phase {
            Phase::Unsent => self.doubtful,
            Phase::Waiting => true,
            Phase::Complete => false,
        }
    }

    /// The link's new connection asks for its answer.
    pub(super) fn ask(&mut self) {
        self.phase = Phase::Waiting;
        (self.asked, self.answered_since) = (true, false);
        self.is_asked_of();
    }

    /// A connection asks for its answer.
    pub(super) fn is_asked_of(&mut self) {
        self.carriers += 1;
        self.asks += 1;
    }

    /// A connection that was given it, or asked for its answer, was acted upon in nothing. Whether nobody else has it.
    pub(super) fn was_not_heard(&mut self, asked: bool) -> bool {
        self.carriers = self.carriers.saturating_sub(1);
        self.asks = self.asks.saturating_sub(u32::from(asked));
        if self.carriers == 0 {
            (self.phase, self.tie) = (Phase::Unsent, None);
        }
        self.carriers == 0
    }

    /// What becomes of it when HELLO, which named the session of the id `named`, said that it waits and that so much of
    /// its answer is there. `None`: a short connection is to bring it.
    pub(super) fn fate(&mut self, seq: u64, named: u64, received: Place, welcome: &Welcome) -> Option<Fate> {
        let unknown = welcome.unknown.contains(&seq);
        let is_other_run = self.run.is_some_and(|run| run != welcome.session_id);
        if welcome.resumed && !unknown && is_other_run {
            self.let_go = true;
            return self.short.is_none().then(|| self.again(false));
        }
        if welcome.resumed && !unknown {
            self.tie = Some(welcome.session_id);
            let goes_inside = LimitsMessage::allow_rests(welcome.limits.as_ref());
            let received = if goes_inside { received } else { received.of_message() };
            (self.link, self.attached) = (Some(received), true);
            let partial = welcome.partial.iter().find(|partial| partial.seq == seq);
            let sent = partial.filter(|_| self.options.continues).map(Partial::received);
            return Some(Fate::Keep { received, sent });
        }
        if self.short.is_some() {
            return None;
        }
        if welcome.resumed && self.answered_since && self.tie == Some(welcome.session_id) {
            // The server read HELLO before it read the POST, whose answer broke off: it holds that.
            return Some(Fate::Ask);
        }
        // The server resumed another session than it was given to, and says nothing of that one. Behind a HELLO whose
        // WELCOME was lost the link gave it to whatever session that led to; POSTs know theirs.
        let is_others = |tie: u64| tie != welcome.session_id && (self.was_posted() || tie != named);
        let is_other = self.tie.is_some_and(is_others);
        let has_not_run = welcome.resumed && !is_other;
        if has_not_run {
            // A POST that was given up may still arrive, and the older connection bring it until the handshake is
            // complete: in this session it runs once all the same, so it is given to no other.
            let may_come = self.was_posted() || welcome.visiting;
            self.tie = may_come.then_some(welcome.session_id);
            (self.carriers, self.asks) = (self.posts + u32::from(welcome.visiting), 0);
            // Behind a HELLO that led to another session, what is idempotent is run.
            self.doubtful |= welcome.visiting || self.options.idempotent;
        }
        Some(self.again(has_not_run))
    }

    /// What becomes of it when nobody brings an answer any more; `has_not_run`: the session that it is tied to, or was,
    /// said so of what has arrived there.
    pub(super) fn again(&mut self, has_not_run: bool) -> Fate {
        self.doubtful |= !has_not_run;
        let may = (has_not_run || self.options.idempotent) && self.options.replayable;
        if may && !self.has_begun() {
            self.tie = self.tie.filter(|_| has_not_run);
            self.phase = if self.tie.is_some() { Phase::Waiting } else { Phase::Unsent };
            return Fate::Send;
        }
        if may && self.options.idempotent && self.options.sees_whole {
            return Fate::Anew;
        }
        let may_have_run = self.doubtful || self.tie.is_some() || self.has_begun();
        let execution = if may_have_run { Execution::MayHaveRun } else { Execution::NotRun };
        let text = "the server does not hold this request any more and it cannot be sent again";
        Fate::Fail(RpcError::new(RpcErrorKind::SessionLost, execution, text))
    }

    /// Where the carrier is in the answer; `None` when it has nothing to do with the request, or no longer.
    fn place(&mut self, carrier: Carrier) -> Option<&mut Place> {
        match carrier {
            _ if self.phase == Phase::Complete => None,
            Carrier::Link => self.link.as_mut(),
            Carrier::Short(number) => {
                self.short.as_mut().filter(|short| short.number == number).map(|short| &mut short.at)
            }
        }
    }

    /// Takes an event of its answer. What has come before is left out. `link`: the session that the link leads to.
    pub(super) fn on_event(&mut self, carrier: Carrier, link: u64, event: Event) -> Delivery {
        if self.place(carrier).is_none() {
            return Delivery::dropped(&event);
        }
        let run = match carrier {
            Carrier::Link => link,
            Carrier::Short(_) => self.short.map_or(link, |short| short.session_id),
        };
        if self.run.is_some_and(|begun| begun != run) {
            return Delivery::dropped(&event);
        }
        if !matches!(event, Event::Reset { .. }) {
            // No carrier is to ask for the rest elsewhere.
            (self.run, self.tie) = (Some(run), Some(run));
        }
        match event {
            Event::Response { seq, end, .. } => {
                let is_new = !std::mem::replace(&mut self.response_received, true);
                self.answered_since |= matches!(carrier, Carrier::Short(_));
                self.ends_if(end);
                Delivery::of(if is_new { Some(event) } else { end.then_some(Event::End { seq }) })
            }
            Event::MessagePart { end, .. } => {
                let delivery = self.on_part(carrier, event);
                self.ends_if(end);
                delivery
            }
            Event::Reset { seq, error } => {
                Delivery::of(self.on_reset(carrier, error).map(|error| Event::Reset { seq, error }))
            }
            Event::End { .. } | Event::Trailers { .. } => {
                self.ends_if(true);
                Delivery::of(Some(event))
            }
            _ => Delivery::of(Some(event)),
        }
    }

    fn ends_if(&mut self, end: bool) {
        if end {
            self.phase = Phase::Complete;
        }
    }

    fn on_part(&mut self, carrier: Carrier, mut event: Event) -> Delivery {
        let received = self.received;
        let Event::MessagePart { seq, message_bytes, bytes, end_of_message, end, .. } = &mut event else {
            return Delivery::of(Some(event));
        };
        let Some(at) = self.place(carrier) else { return Delivery::dropped(&event) };
        let is_known = at.messages < received.messages;
        // A carrier is never further than what was received, since that is the furthest of all.
        let known = match is_known {
            true => bytes.len(),
            false => bytes.len().min(received.bytes.saturating_sub(at.bytes) as usize),
        };
        let behind = match *end_of_message {
            true => Place::behind(at.messages + 1),
            false => Place { bytes: at.bytes + bytes.len() as u64, ..*at },
        };
        *at = behind;
        self.received = received.max(behind);
        _ = bytes.split_to(known);
        self.bytes_received += bytes.len();
        if !is_known && received.bytes > 0 {
            // The application heard of the message's length when it began.
            *message_bytes = None;
        }
        let nothing_new = is_known || (bytes.is_empty() && known > 0 && !*end_of_message);
        let event = match (nothing_new, *end) {
            (false, _) => Some(event),
            (true, true) => Some(Event::End { seq: *seq }),
            (true, false) => None,
        };
        Delivery { event, credit: known }
    }

    /// The carrier says that the request is over. `None`: another one may know better.
    fn on_reset(&mut self, carrier: Carrier, mut error: RpcError) -> Option<RpcError> {
        let other = match carrier {
            Carrier::Link => self.short.is_some(),
            Carrier::Short(_) => self.link.is_some(),
        };
        // What refuses a REQUEST before its number is looked up says nothing of those that were given it before.
        let is_attached = carrier == Carrier::Link && self.attached;
        // In place of running it (sections 9 and 21): what is known of it the other one hears, which is told the same
        // where the server was started again.
        let refused = error.execution == Execution::NotNow;
        if refused {
            error.execution = Execution::MayHaveRun;
        }
        let is_in_place_of_running = !is_attached && refused;
        // An answer that is too large to be recorded, or has too many readers, the other one may be bringing.
        let is_elsewhere = matches!(error.kind, RpcErrorKind::OutcomeExpired | RpcErrorKind::TakenElsewhere);
        if other && (is_refusal(&error) || is_elsewhere) {
            let refused = u32::from(error.execution == Execution::NotRun || is_in_place_of_running);
            self.carriers = self.carriers.saturating_sub(refused);
            match carrier {
                Carrier::Link => self.link = None,
                Carrier::Short(_) => {
                    self.short = None;
                    self.posts = self.posts.saturating_sub(refused);
                }
            }
            return None;
        }
        if error.kind == RpcErrorKind::TakenElsewhere {
            error.kind = RpcErrorKind::OutcomeExpired;
        }
        self.phase = Phase::Complete;
        // A server that was started again, and knows no more of a number than that it may have run, refuses it
        // (section 9), and so does one whose session a POST does not name (section 21). Given to nobody else, it has not
        // run, whoever asked for it.
        let others_asked = if is_attached { 0 } else { self.asks };
        let is_only = self.carriers.saturating_sub(others_asked) <= 1;
        if refused && is_only && !self.has_begun() {
            error.execution = Execution::NotRun;
        }
        // And what is idempotent a POST runs in whatever session it finds, of which the one that tells an outcome need
        // not be the only one: each has an outcome of its own.
        let runs_anywhere = self.options.idempotent && self.was_posted();
        let says_little = !is_only && (runs_anywhere || !is_attached && is_refusal(&error));
        // A server that can store nothing does not store its refusal either: started again, it runs a POST that somebody
        // on the way sends once more (section 21).
        let is_unstored = error.kind == RpcErrorKind::Internal && self.was_posted();
        if (self.doubtful || says_little || is_unstored) && error.execution == Execution::NotRun {
            error.execution = Execution::MayHaveRun;
        }
        Some(error)
    }
}

/// Whether an error says no more than that this carrier's REQUEST was not taken in; the outcome of a request that was
/// is the same for all carriers.
fn is_refusal(error: &RpcError) -> bool {
    use RpcErrorKind::{Cancelled, Draining, LimitExceeded, Malformed, SessionLost, UnknownDictionary};
    match error.kind {
        // The session that the carrier led to has it not.
        SessionLost => true,
        LimitExceeded | Draining | Malformed | UnknownDictionary | Cancelled => {
            error.execution == Execution::NotRun
        }
        _ => false,
    }
}

impl Delivery {
    pub(super) fn of(event: Option<Event>) -> Self {
        Self { event, credit: 0 }
    }

    /// Nothing of an event is handed on.
    pub(super) fn dropped(event: &Event) -> Self {
        let credit = match event {
            Event::MessagePart { bytes, .. } => bytes.len(),
            _ => 0,
        };
        Self { event: None, credit }
    }
}
