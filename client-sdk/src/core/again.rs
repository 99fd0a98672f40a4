//! Calls that are tried again behind a pause, and calls that go by the link and by POST at once.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use towline_protocols::{
    link::{Execution, RpcError, RpcErrorKind},
    policy::{Failure, Hedge, Retry, Strategies},
};

use super::{
    Call, Core, Key,
    call::Place,
    refusal::Refusal,
    short::{Errand, Next, now},
};

/// What all calls of the client share of it.
pub(super) struct Again {
    strategies: watch::Receiver<Strategies>,
    retry: Retry,
    hedge: Hedge,
    /// Calls that pause, and until when; each is a call, so it is bounded by `calls_max`.
    pauses: Vec<(Instant, Key)>,
    /// What most answers came within lately; `None` where too few are known.
    answered: Option<Duration>,
}

impl Again {
    pub(super) fn new(strategies: watch::Receiver<Strategies>, seed: u64) -> Self {
        let (retry, hedge) = {
            let strategies = strategies.borrow();
            (Retry::new(strategies.retry.clone(), seed), Hedge::new(strategies.hedge.clone()))
        };
        Self { strategies, retry, hedge, pauses: Vec::new(), answered: None }
    }

    /// The app makes a call.
    pub(super) fn called(&mut self) {
        self.follow();
        self.retry.called();
        self.hedge.called();
    }

    fn follow(&mut self) {
        if self.strategies.has_changed().unwrap_or(false) {
            let strategies = self.strategies.borrow_and_update();
            self.retry.set_policy(strategies.retry.clone());
            self.hedge.set_policy(strategies.hedge.clone());
        }
    }
}

impl Core {
    /// A call ended with an error of the gateway's. Whether it is tried again, under another number.
    pub(super) fn tries_again(&mut self, seq: u64, error: &RpcError) -> bool {
        let now = now();
        let Some(&key) = self.by_seq.get(&seq) else { return false };
        // A durable call has retries of its own, which outlive the app.
        let Some(call) = self.calls.get(&key).filter(|call| call.permit.is_none() && !call.is_over()) else {
            return false;
        };
        let idempotent = call.asked().idempotent && error.execution != Execution::Ran;
        let failure = Failure {
            may_run_again: error.execution == Execution::NotRun || idempotent,
            is_passing: is_passing(error),
            is_answer: false,
            retry_after: error.retry_after,
            attempts: call.tries + 1,
            left: call.deadline().saturating_duration_since(now),
        };
        self.again.follow();
        let Some(pause) = self.again.retry.failed(now, &failure) else { return false };
        let Some(again) = self.session.retry(seq, error) else { return false };
        tracing::debug!(seq, again, ?pause, "the call is tried again: {error}");
        if let Some(call) = self.calls.get_mut(&key) {
            call.reopened(again, error.execution == Execution::NotRun);
        }
        self.begin_pause(key, seq, now + pause);
        true
    }

    /// A call has its answer, of which the app has seen nothing. Whether the backend asks in it for the call to come
    /// later, and it does, under another number: for this one the gateway has the answer.
    pub(super) fn comes_later(&mut self, seq: u64) -> bool {
        let now = now();
        let Some(&key) = self.by_seq.get(&seq) else { return false };
        // A durable call's answer is kept for the app's next run: it is the app's to judge.
        let may_again =
            |call: &&Call| call.permit.is_none() && call.asked().idempotent && call.is_kept_whole();
        let Some(call) = self.calls.get(&key).filter(may_again) else { return false };
        let is_answer = matches!(call.incoming.end, Some(Ok(())));
        let refusal = is_answer.then(|| Refusal::of(&call.incoming, SystemTime::now())).flatten();
        let Some(Refusal { wait }) = refusal else { return false };
        let failure = Failure {
            may_run_again: true,
            is_passing: true,
            is_answer,
            retry_after: wait,
            attempts: call.tries + 1,
            left: call.deadline().saturating_duration_since(now),
        };
        let (is_on_line, has_sent_all) = (call.is_on_line(), call.has_sent_all());
        self.again.follow();
        let Some(pause) = self.again.retry.failed(now, &failure) else { return false };
        let Some(again) = self.session.repeat(seq) else { return false };
        tracing::debug!(seq, again, ?pause, "the backend asks for the call to come later");
        self.is_answered(seq, is_on_line, has_sent_all);
        if let Some(call) = self.calls.get_mut(&key) {
            call.reopened(again, false);
        }
        self.begin_pause(key, seq, now + pause);
        true
    }

    /// The call goes out behind `ends`, under the number that it has now in place of `seq`.
    fn begin_pause(&mut self, key: Key, seq: u64, ends: Instant) {
        self.by_seq.remove(&seq);
        if let Some(call) = self.calls.get_mut(&key) {
            self.by_seq.insert(call.seq, key);
            call.tries += 1;
            call.is_paused = true;
            self.again.pauses.push((ends, key));
        }
        self.wake_line = true;
        self.link.wake = true;
    }

    /// When the next pause is over.
    pub(crate) fn pause_ends(&self) -> Option<Instant> {
        self.again.pauses.iter().map(|(at, _)| *at).min()
    }

    /// Calls whose pause is over go out.
    pub(crate) fn end_pauses(&mut self, now: Instant) {
        let over: Vec<(Instant, Key)> = self.again.pauses.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, key) in over {
            if let Some(call) = self.calls.get_mut(&key) {
                call.is_paused = false;
                self.link.wake |= self.may_concern_short();
                self.touch(key);
            }
        }
    }

    /// What most answers came within lately, as far as it is known.
    pub(crate) fn answers_come_within(&mut self, answered: Option<Duration>) {
        self.again.answered = answered;
    }

    /// Whether the call may be hedged: then short connections are to look after it.
    pub(super) fn may_hedge(&self, call: &Call) -> bool {
        let bytes = call.message().map_or(usize::MAX, bytes::Bytes::len);
        // How long others took says nothing of a call that began on another connection.
        let is_fit = call.may_post() && call.attempts <= 1 && call.permit.is_none();
        let is_fit = is_fit && !call.is_over() && !call.hedged;
        is_fit && self.again.hedge.is_for(call.urgency(), bytes)
    }

    /// What waits for longer than answers take goes the other way too.
    pub(super) fn next_hedge(&mut self) -> Next {
        let now = now();
        loop {
            let Some((due, key)) = self.first_to_hedge() else { return Next::Nothing };
            if due > now {
                return Next::At(due);
            }
            let has_budget = self.again.hedge.take(now);
            let Some(call) = self.calls.get_mut(&key) else { return Next::Nothing };
            call.hedged = true;
            if !has_budget {
                continue;
            }
            if call.posting {
                tracing::debug!(seq = call.seq, "the call goes by the link beside its POST");
                self.touch(key);
                continue;
            }
            tracing::debug!(seq = call.seq, "the call goes by POST beside the link");
            (call.posting, call.posting_since) = (true, now);
            return Next::Begin(Errand::Carry(key));
        }
    }

    /// Whether one is to be hedged now.
    pub(super) fn wants_hedge(&self) -> bool {
        self.first_to_hedge().is_some_and(|(due, _)| due <= now())
    }

    fn first_to_hedge(&self) -> Option<(Instant, Key)> {
        let after = self.again.hedge.after(self.again.answered.filter(|_| self.link.is_up())?);
        let waiting = self.calls.iter().filter(|(_, call)| self.may_hedge(call));
        let dues = waiting.filter_map(|(key, call)| {
            let other_is_free = match call.posting {
                false => call.is_on_line() && self.session.may_go_short(call.seq),
                true => call.place == Place::Off && self.session.is_on_short(call.seq),
            };
            let given = call.marks.waits_for_message_since().filter(|_| other_is_free)?;
            Some((given + after, *key))
        });
        dues.min()
    }
}

/// Whether the error may be over soon. What a call asks too much of, or has no right to, stays so.
fn is_passing(error: &RpcError) -> bool {
    use RpcErrorKind::{BackendFailed, BackendUnavailable, Internal, LimitExceeded};
    match error.kind {
        BackendUnavailable | BackendFailed | Internal => true,
        LimitExceeded => error.retry_after.is_some(),
        _ => false,
    }
}
