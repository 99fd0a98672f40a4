//! Which calls go out over short connections, and when.
//!
//! ```text
//!  link down ---- ShortWaits::absent ----> due: what waits goes by POST, what comes goes at once
//!     ^  |                                        |
//!     |  +--- up for a moment, again and again ---+   (a network that cuts long connections)
//!     +------ lost <--- up
//!               |        +--- nothing heard for ShortWaits::silent ---> due: what was sent before
//!               |        +--- no answer moves for ShortWaits::stalled -> due: those that have begun
//!               +--- ShortWaits::cut ---> due: what was under way
//!
//!  the waits behind a lost link begin when that is made again, if that is within them
//! ```

mod link;

use std::time::{Duration, Instant};

use towline_protocols::{
    link::{Hello, RpcError, Welcome, client::Fate},
    policy::ShortWaits,
};

pub(super) use self::link::LinkState;
use super::{Call, Core, Key, RequestSink};
use crate::{
    config::{Endpoint, ShortCalls},
    state::Transport,
    timeline::Made,
};

/// What a short connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Ask which session there is: no call may go before it has a name.
    Name,
    /// Carry this call.
    Carry(Key),
    /// Say which calls the app has given up.
    GiveUp,
}

/// What short connections are doing already, and need only one to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    naming: bool,
    giving_up: bool,
}

impl Busy {
    /// Notes whether one does that errand.
    pub(crate) fn set(&mut self, errand: Errand, is_busy: bool) {
        match errand {
            Errand::Name => self.naming = is_busy,
            Errand::GiveUp => self.giving_up = is_busy,
            Errand::Carry(_) => {}
        }
    }
}

/// Of the requests that the app gave up, what one short connection tells: half of what a gateway takes by default.
const GIVEN_UP_TOLD_MAX: usize = 16;

/// What is to be done about short connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Begin(Errand),
    /// Nothing before then.
    At(Instant),
    Nothing,
}

impl Next {
    /// Whichever comes first.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Begin(errand), _) | (_, Self::Begin(errand)) => Self::Begin(errand),
            (Self::At(one), Self::At(other)) => Self::At(one.min(other)),
            (Self::Nothing, next) | (next, Self::Nothing) => next,
        }
    }
}

/// A short connection that begins: its number, and what it says.
pub(crate) struct Begun {
    pub(crate) number: u64,
    pub(crate) hello: Hello,
    pub(crate) seq: Option<u64>,
    /// Requests that it gives up.
    pub(crate) given_up: Vec<u64>,
}

impl Core {
    /// WELCOME came on the link's connection to `gateway`.
    pub(crate) fn link_up(&mut self, gateway: &Endpoint) {
        self.link.is_made(gateway, now());
        self.calls.values_mut().for_each(|call| call.cut_at = None);
    }

    /// The link's connection brought something.
    pub(crate) fn link_heard(&mut self) {
        self.link.heard = now();
    }

    /// The link's connection is gone, or could not be made; `died`: nobody wanted that. For how long it was up.
    pub(crate) fn link_down(&mut self, reason: String, died: bool) -> Option<Duration> {
        let now = now();
        self.offline = Some(reason);
        if died && self.link.is_up() {
            let cut = self.calls.values_mut().filter(|call| call.is_on_line());
            cut.for_each(|call| call.cut_at = Some(now));
        }
        let was_up = self.link.is_lost(now);
        self.session.on_link_lost();
        let fates = self.session.forsaken();
        self.follow_fates(fates);
        was_up
    }

    /// Whether the link is to leave a call to short connections.
    pub(super) fn is_left_to_short(&self, call: &Call) -> bool {
        let link = &self.link;
        let always = link.mode == ShortCalls::Always && !link.are_shorts_lost;
        let first = always && call.may_post() && !call.short_failed;
        !call.hedged && (first || call.posting && self.session.is_on_short(call.seq))
    }

    /// Whether a new call concerns short connections.
    pub(super) fn may_concern_short(&self) -> bool {
        match self.link.mode {
            ShortCalls::Off => false,
            ShortCalls::Always => true,
            // The next look at all of them is early enough for one more.
            ShortCalls::Fallback => !self.link.is_up() || !self.link.is_watched,
        }
    }

    /// What is to be done next about short connections; what is to begin counts as begun.
    pub(crate) fn next_short(&mut self, busy: Busy, waits: &ShortWaits) -> Next {
        self.link.is_watched = false;
        if !busy.giving_up && self.link.has_given_up() {
            return Next::Begin(Errand::GiveUp);
        }
        self.end_pauses(now());
        let next = match self.next_waiting(busy, waits) {
            Next::Begin(errand) => return Next::Begin(errand),
            // Where calls wait for the link, they do so however long it takes.
            next if waits.absent.is_none() => next,
            next => next.or(self.next_hedge()),
        };
        match self.pause_ends() {
            Some(ends) => next.or(Next::At(ends)),
            None => next,
        }
    }

    fn next_waiting(&mut self, busy: Busy, waits: &ShortWaits) -> Next {
        let is_known = self.session.is_known();
        let now = now();
        let (mut ready, mut next) = (Vec::new(), None);
        for (key, call, due) in self.short_calls(waits) {
            match due <= now {
                true => ready.push((call.urgency(), key)),
                false => next = Some(due).into_iter().chain(next).min(),
            }
        }
        if is_known {
            // Of durable calls the disk is to say first that they go to this session. One that may run in another goes
            // nowhere else, and the disk goes on saying where it went.
            let session = self.session.short_session();
            ready.retain(|(_, key)| self.is_permitted(*key, session));
        }
        let Some((_, key)) = ready.into_iter().min() else {
            self.link.is_watched = next.is_some();
            return next.map_or(Next::Nothing, Next::At);
        };
        if !is_known {
            return if busy.naming { Next::Nothing } else { Next::Begin(Errand::Name) };
        }
        if let Some(call) = self.calls.get_mut(&key) {
            (call.posting, call.posting_since) = (true, now);
            call.is_stalled = self.link.is_stalled(call, waits, now);
            if call.is_stalled {
                tracing::debug!(
                    seq = call.seq,
                    "the answer stands still on the link, and is asked for by POST"
                );
                self.sights.stalled();
            }
        }
        Next::Begin(Errand::Carry(key))
    }

    /// What the calls that an errand is for have left until their deadline, the least of them.
    pub(crate) fn left_for(&self, errand: Errand) -> Option<Duration> {
        let now = now();
        let left = |call: &Call| call.deadline().saturating_duration_since(now);
        match errand {
            Errand::Carry(key) => self.calls.get(&key).map(left),
            Errand::Name => self.calls.values().filter(|call| call.wants_post()).map(left).min(),
            Errand::GiveUp => None,
        }
    }

    /// Whether a message of the answer has begun, and its end has not come.
    pub(crate) fn is_arriving(&self, errand: Errand) -> bool {
        let Errand::Carry(key) = errand else { return false };
        self.calls.get(&key).is_some_and(|call| !call.incoming.partial.is_empty())
    }

    /// The calls that wait for a short connection, and when each is due.
    fn short_calls(&self, waits: &ShortWaits) -> impl Iterator<Item = (Key, &Call, Instant)> {
        let is_known = self.session.is_known();
        let waiting = self.calls.iter().filter(|(_, call)| call.wants_post());
        let waiting = waiting.filter(move |(_, call)| !is_known || self.session.may_go_short(call.seq));
        let waits = *waits;
        waiting.filter_map(move |(key, call)| Some((*key, call, self.link.due(call, &waits)?)))
    }

    /// Whether anything waits for a short connection.
    pub(crate) fn wants_short(&mut self, busy: Busy, waits: &ShortWaits) -> bool {
        if !busy.giving_up && self.link.has_given_up() {
            return true;
        }
        if self.wants_hedge() || self.pause_ends().is_some() {
            return true;
        }
        let (is_known, now) = (self.session.is_known(), now());
        (is_known || !busy.naming) && self.short_calls(waits).any(|(_, _, due)| due <= now)
    }

    /// A connection is there for an errand. `None`: it is not wanted any more, or need not be.
    pub(crate) fn begin_short(&mut self, errand: Errand, base: Hello) -> std::io::Result<Option<Begun>> {
        let seq = match errand {
            Errand::Name if self.session.is_known() => return Ok(None),
            Errand::Name | Errand::GiveUp => None,
            Errand::Carry(key) => {
                let Some(call) = self.calls.get(&key).filter(|call| !call.is_over()) else { return Ok(None) };
                let seq = call.seq;
                // The link has come, or was heard, while the short connection was made: it would be asked twice.
                if !call.hedged && self.link.has_come_since(call) {
                    return Ok(None);
                }
                let session = self.session.short_session();
                if !self.session.may_go_short(seq) || !self.is_permitted(key, session) {
                    return Ok(None);
                }
                Some(seq)
            }
        };
        self.identity.next_epoch()?;
        if let Some(seq) = seq {
            self.identity.used_sequence(seq)?;
        }
        let (number, hello) = self.session.short_hello(base);
        let told = if errand == Errand::GiveUp { GIVEN_UP_TOLD_MAX } else { 0 };
        let given_up = self.link.given_up.iter().take(told).map(|(seq, _)| *seq).collect();
        Ok(Some(Begun { number, hello, seq, given_up }))
    }

    /// Writes the call that a short connection carries; from now on the gateway may have it. False: it is none for
    /// short connections, and nothing is to be sent.
    /// `made`: how the short connection was made, unless it was there.
    pub(crate) fn post(&mut self, begun: &Begun, sink: &mut impl RequestSink, made: Option<Made>) -> bool {
        let Some(seq) = begun.seq else { return true };
        let Some(call) = self.call_of(seq) else { return false };
        if let Err(error) = call.post(sink, made) {
            call.leave_to_link(error.message.into());
            return false;
        }
        self.session.on_short_sent(begun.number, seq);
        true
    }

    /// The gateway has read which requests the app gave up.
    pub(crate) fn told(&mut self, begun: &Begun) {
        self.link.given_up.retain(|(seq, _)| !begun.given_up.contains(seq));
    }

    /// The gateway takes no body as large as this call's.
    pub(crate) fn short_too_large(&mut self, errand: Errand) {
        let Errand::Carry(key) = errand else { return };
        if let Some(call) = self.calls.get_mut(&key) {
            call.leave_to_link("the gateway takes no POST of that size (HTTP 413)".into());
        }
    }

    /// The WELCOME of a short connection to `gateway`.
    pub(crate) fn short_welcomed(&mut self, gateway: &Endpoint, hello: &Hello, welcome: &Welcome) {
        self.tokens.learn(gateway, hello, welcome, Instant::now());
        let fates = self.session.on_short_welcome(hello, welcome, self.link.is_up());
        if !self.link.is_up() {
            self.link.home = Some(gateway.clone());
        }
        self.link.wake = true;
        self.follow_fates(fates);
        self.note_sessions();
    }

    /// A short connection is over; `reached` says whether it came to a gateway, if that is known. A call that it did
    /// not bring to its end goes to the link, or to the next one.
    pub(crate) fn short_over(&mut self, errand: Errand, number: Option<u64>, reached: Option<bool>) {
        if let Some(number) = number {
            self.session.on_short_over(number);
            self.inbox.short_over(number);
        }
        if let Some(reached) = reached {
            self.shorts_reach(reached);
        }
        let fates = self.session.forsaken();
        self.follow_fates(fates);
        let Errand::Carry(key) = errand else { return };
        let (is_up, seq) = (self.link.is_up(), self.calls.get(&key).map(|call| call.seq));
        let on_link = seq.is_some_and(|seq| self.session.is_on_link(seq));
        if let Some(call) = self.calls.get_mut(&key) {
            call.short_over(number.is_some(), on_link, is_up);
            self.link.wake = true;
            self.touch(key);
        }
    }

    /// Where no short connection comes to a gateway, the link need not wait for one to break.
    fn shorts_reach(&mut self, reached: bool) {
        let were_lost = std::mem::replace(&mut self.link.are_shorts_lost, !reached);
        if !reached && !were_lost {
            let waiting =
                self.calls.iter().filter(|(_, call)| call.may_begin()).map(|(key, _)| *key).collect();
            self.put_back(waiting);
            self.touch_control();
        }
    }

    fn follow_fates(&mut self, fates: Vec<(u64, Fate)>) {
        for (seq, fate) in fates {
            let Some(&key) = self.by_seq.get(&seq) else { continue };
            let Some(call) = self.calls.get_mut(&key) else { continue };
            match fate {
                Fate::Send => call.forsaken(),
                Fate::Fail(error) => call.fail(error),
                Fate::Anew => self.begin_anew(key, seq),
                Fate::Keep { .. } | Fate::Ask => {}
            }
            self.touch(key);
        }
    }
}

impl Call {
    /// Whether short connections may carry it at all.
    pub(crate) fn may_post(&self) -> bool {
        self.is_unary() && self.link_only.is_none()
    }

    fn wants_post(&self) -> bool {
        self.may_post() && !self.posting && !self.is_paused && !self.is_over()
    }

    /// No short connection is to carry it, for a reason that its deadline tells.
    fn leave_to_link(&mut self, reason: Box<str>) {
        self.link_only = Some(reason);
    }

    fn post(&mut self, sink: &mut impl RequestSink, made: Option<Made>) -> Result<(), RpcError> {
        let message = self.message().cloned().filter(|_| !self.is_bodiless());
        let seq = self.seq;
        let now = now();
        sink.request(seq, self.head(now), message.is_none())?;
        if let Some(message) = message {
            let plain = message.len();
            let wire = sink.message(seq, message, true)?;
            self.marks.request.add(plain, wire);
        }
        self.attempts += 1;
        self.marks.given(now, self.started, Transport::Post, made);
        self.marks.sent(now);
        Ok(())
    }

    /// `sent`: the gateway may have it. `on_link`: the link is to bring its answer as well.
    fn short_over(&mut self, sent: bool, on_link: bool, link_is_up: bool) {
        self.post_over();
        self.short_failed |= sent && !self.is_over();
        // What the link's WELCOME has not told of, the link may open; before WELCOME, that has still to come.
        if !on_link && (self.is_on_line() || link_is_up) {
            self.leave_link();
        }
    }

    /// The session that it was sent in is lost, and it may be sent again.
    fn forsaken(&mut self) {
        self.may_have_run = true;
        self.leave_link();
    }

    /// Its next REQUEST is whole, whatever the gateway of an earlier one has.
    fn leave_link(&mut self) {
        self.begin_again();
    }
}

#[cfg(test)]
mod tests;

/// Tokio's clock, so that tests can move it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
