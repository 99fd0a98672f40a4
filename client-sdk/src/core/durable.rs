//! Durable calls. What a crash leaves on disk must say to whom a call may have been given, so none is given to a
//! session before the disk says so.
//!
//! ```text
//!  held --stored--> may go to what is noted          the session is another one, or the number:
//!                        ^                             |
//!                        +---- noted (on disk) <-- asked
//! ```

use std::time::Instant;

use towline_protocols::link::{
    Execution, RpcError, RpcErrorKind,
    client::{CallOptions, Earlier},
};

use super::{Call, Core, Key, Outgoing};
use crate::{call::CallResponse, error::FailedCall};

/// To whom a call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Under that number.
    pub(crate) seq: u64,
    /// The session's id.
    pub(crate) session: u64,
}

/// What the disk says of a durable call.
#[derive(Debug, Default)]
pub(super) struct Permit {
    /// Nothing yet.
    held: bool,
    noted: Option<Given>,
    asked: Option<Given>,
    /// An earlier run of the app gave it to somebody.
    was_given: bool,
}

impl Permit {
    pub(super) fn held() -> Self {
        Self { held: true, ..Self::default() }
    }

    /// What an error says to who knows no more of the call than what is on disk. Which outcome an earlier run has
    /// acknowledged is not known here: it may have been that an attempt had not run, and the next one not noted yet.
    pub(super) fn told(&self, error: RpcError) -> RpcError {
        let is_of_earlier_run = self.was_given && error.kind == RpcErrorKind::OutcomeExpired;
        match error.execution {
            Execution::Ran if is_of_earlier_run => RpcError { execution: Execution::MayHaveRun, ..error },
            _ => error,
        }
    }
}

/// What whoever keeps a durable call is to do.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing before then.
    Wait(Instant),
    /// To write down to whom it goes. `doubtful`: it may have gone elsewhere.
    Note(Given, bool),
    /// To write down how it ended.
    Over(Box<Result<CallResponse, FailedCall>>),
    /// Nothing: the client is closed, and its next run goes on with it.
    Closed,
}

impl Core {
    /// Takes a new durable call in. It goes to nobody before [`Core::stored`]. To whom it will go as things are.
    pub(crate) fn open_durable(
        &mut self,
        outgoing: Outgoing,
        now: Instant,
    ) -> Result<(Key, u64, Option<Given>), RpcError> {
        let key = self.open_with(outgoing, Some(Permit::held()), now)?;
        let seq = self.calls.get(&key).map_or(0, |call| call.seq);
        self.reserve(seq);
        let session = self.session.link_session();
        Ok((key, seq, (session != 0).then_some(Given { seq, session })))
    }

    /// The call is on disk, which says to whom it may go.
    pub(crate) fn stored(&mut self, key: Key, noted: Option<Given>) {
        if let Some(permit) = self.calls.get_mut(&key).and_then(|call| call.permit.as_mut()) {
            *permit = Permit { noted, was_given: permit.was_given, ..Permit::default() };
        }
        self.link.wake = true;
        self.touch(key);
    }

    /// Takes a call of an earlier run up, which began at `started`.
    pub(crate) fn restore(
        &mut self,
        seq: u64,
        outgoing: Outgoing,
        earlier: Earlier,
        started: Instant,
    ) -> Key {
        let idempotent = outgoing.head.idempotent;
        let options = CallOptions { idempotent, replayable: true, continues: true, sees_whole: true };
        self.session.restore(seq, options, earlier);
        let noted = earlier.given_to.map(|session| Given { seq, session });
        let permit = Permit { noted, was_given: noted.is_some(), ..Permit::default() };
        let key = self.insert(seq, outgoing, Some(permit), started);
        if let Some(call) = self.calls.get_mut(&key) {
            call.attempts = u32::from(noted.is_some());
            call.may_have_run = earlier.doubtful;
        }
        key
    }

    /// What is to be done for a durable call.
    pub(crate) fn durable_step(&mut self, key: Key, now: Instant) -> Step {
        if self.closing.is_some() {
            return Step::Closed;
        }
        if self.calls.get(&key).is_some_and(|call| !call.is_over() && call.deadline() <= now) {
            self.expire(key);
        }
        let Some(call) = self.calls.get_mut(&key) else { return Step::Closed };
        if let Some(outcome) = call.outcome(now) {
            return Step::Over(Box::new(outcome));
        }
        let (deadline, doubtful) = (call.deadline(), call.may_have_run);
        let Some(permit) = call.permit.as_mut() else { return Step::Wait(deadline) };
        let Some(given) = permit.asked.take() else { return Step::Wait(deadline) };
        let elsewhere = permit.noted.is_some_and(|noted| noted != given);
        self.reserve(given.seq);
        Step::Note(given, doubtful || elsewhere)
    }

    /// Whether a call may go to that session. If not yet, the disk is asked.
    pub(super) fn is_permitted(&mut self, key: Key, session: u64) -> bool {
        let Some(call) = self.calls.get_mut(&key) else { return true };
        let (seq, Some(permit)) = (call.seq, call.permit.as_mut()) else { return true };
        let given = Given { seq, session };
        let is_permitted = !permit.held && permit.noted == Some(given);
        if !is_permitted && !permit.held && session != 0 {
            permit.asked = Some(given);
            call.wakers.readable.notify_one();
        }
        is_permitted
    }

    /// A WELCOME may have said that what was sent is another session's than the disk says.
    pub(super) fn note_sessions(&mut self) {
        let durable = self.calls.iter().filter(|(_, call)| call.permit.is_some() && !call.is_over());
        let given = durable.filter_map(|(key, call)| Some((*key, self.session.given_to(call.seq)?)));
        let given: Vec<_> = given.collect();
        given.into_iter().for_each(|(key, session)| _ = self.is_permitted(key, session));
    }

    /// No later run of the app may give the number to another request.
    pub(super) fn reserve(&mut self, seq: u64) {
        if let Err(error) = self.identity.used_sequence(seq) {
            tracing::warn!("the identity file cannot be written: {error}");
        }
    }
}

impl Call {
    /// How it ended, if it did.
    fn outcome(&self, now: Instant) -> Option<Result<CallResponse, FailedCall>> {
        let (incoming, timeline) = (&self.incoming, self.timeline(now));
        let end = incoming.end.clone()?;
        let end = end.map_err(|error| FailedCall { error, timeline: Box::new(timeline) });
        Some(end.map(|()| CallResponse {
            status: incoming.status,
            headers: incoming.headers.clone().unwrap_or_default(),
            messages: incoming.messages.iter().cloned().collect(),
            trailers: incoming.trailers.clone(),
            timeline,
        }))
    }
}
