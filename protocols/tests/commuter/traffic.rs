//! An app in a month: pages of calls, backends that refuse for a while, and a user who then tries again and again. What
//! is sent beside each call's first request is decided by the machines of `policy`, and audited by other means.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use towline_protocols::policy::{Failure, Hedge, Retry, Strategies};

use crate::month::Month;

const DEADLINE: Duration = Duration::from_secs(60);
/// Pages of somebody who uses the app, and of somebody to whom it says no.
const PAGES_APART_S: f64 = 240.0;
const PAGES_APART_REFUSED_S: f64 = 8.0;
const CALLS_OF_A_PAGE_MAX: u64 = 12;
/// A server's work.
const WORK_MS_MAX: u64 = 300;
/// What 95 of 100 answers came within.
const ANSWERED: Duration = Duration::from_millis(400);
/// Refusals in a month, and how long one lasts.
const OUTAGES: u64 = 40;
const OUTAGE_S: Range<u64> = 60..2400;

/// What a month came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spent {
    pub calls: u32,
    pub retries: u32,
    pub hedges: u32,
    /// The most by which those of any span of time were above what its calls and its minutes had earned.
    pub retries_ahead_max: f64,
    pub hedges_ahead_max: f64,
    /// Attempts of one call.
    pub attempts_max: u32,
    /// Requests of an hour beside the first one of each call, less the share that its calls earn.
    pub extra_per_hour_max: f64,
    /// Attempts that were to begin when their call's deadline had passed.
    pub past_deadline: u32,
    /// Attempts that came before the time that was asked for.
    pub too_soon: u32,
}

/// What may be sent beside the first requests: by the promise, not by the parameters in force.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub share: f64,
    pub per_minute: f64,
    pub saved: f64,
}

/// How far ahead of its allowance any span of time until now is.
#[derive(Debug, Default)]
struct Audit {
    ahead: f64,
    counted: Duration,
}

impl Audit {
    fn earned(&mut self, earned: f64) {
        // A span that is behind begins anew: whatever is spent, one that begins later is further ahead.
        self.ahead = (self.ahead - earned).max(0.0);
    }

    fn spent(&mut self, now: Duration, allowance: Allowance) -> f64 {
        let minutes = (now - self.counted).as_secs_f64() / 60.0;
        self.counted = now;
        self.earned(minutes * allowance.per_minute);
        self.ahead += 1.0;
        self.ahead
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Page,
    Answer(usize),
    Attempt(usize),
    Hedge(usize),
}

struct Call {
    began: Duration,
    attempts: u32,
    is_urgent: bool,
    is_idempotent: bool,
    is_over: bool,
    /// Before then it is not wanted again.
    not_before: Duration,
}

pub struct Traffic<'a> {
    month: &'a Month,
    random: fastrand::Rng,
    origin: Instant,
    now: Duration,
    retry: Retry,
    hedge: Hedge,
    outages: Vec<Range<Duration>>,
    calls: Vec<Call>,
    next: BinaryHeap<Reverse<(Duration, Next)>>,
    retries: Audit,
    hedges: Audit,
    /// Of the last hour: what each thing adds to the requests beside the first ones, less what it earns.
    extra: VecDeque<(Duration, f64)>,
    extra_sum: f64,
    spent: Spent,
}

pub const RETRIES: Allowance = Allowance { share: 0.2, per_minute: 6.0, saved: 10.0 };
pub const HEDGES: Allowance = Allowance { share: 0.05, per_minute: 2.0, saved: 4.0 };

impl<'a> Traffic<'a> {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    pub fn new(seed: u64, month: &'a Month, strategies: &Strategies) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x7261_6666);
        let mut outage = || {
            let from = random.u64(0..month.end().as_secs());
            Duration::from_secs(from)..Duration::from_secs(from + random.u64(OUTAGE_S))
        };
        let outages = (0..OUTAGES).map(|_| outage()).collect();
        Self {
            month,
            random,
            origin: Instant::now(),
            now: Duration::ZERO,
            retry: Retry::new(strategies.retry.clone(), seed),
            hedge: Hedge::new(strategies.hedge.clone()),
            outages,
            calls: Vec::new(),
            next: BinaryHeap::from([Reverse((Duration::ZERO, Next::Page))]),
            retries: Audit::default(),
            hedges: Audit::default(),
            extra: VecDeque::new(),
            extra_sum: 0.0,
            spent: Spent::default(),
        }
    }

    /// To the month's end.
    pub fn live(mut self) -> Spent {
        while let Some(Reverse((at, next))) = self.next.pop() {
            if at >= self.month.end() {
                break;
            }
            self.now = at;
            match next {
                Next::Page => self.open_page(),
                Next::Answer(call) => self.answer(call),
                Next::Attempt(call) => self.attempt(call),
                Next::Hedge(call) => self.hedge(call),
            }
        }
        self.spent
    }

    fn is_refusing(&self) -> bool {
        self.outages.iter().any(|outage| outage.contains(&self.now))
    }

    fn plan(&mut self, at: Duration, next: Next) {
        self.next.push(Reverse((at, next)));
    }

    fn open_page(&mut self) {
        let dozes = self.month.at(self.now).place.dozes;
        let apart_s = match self.is_refusing() && !dozes {
            true => PAGES_APART_REFUSED_S,
            false => PAGES_APART_S,
        };
        let next = Duration::from_secs_f64(apart_s * 2.0 * self.random.f64());
        self.plan(self.now + next, Next::Page);
        let calls = if dozes { 1 } else { self.random.u64(1..=CALLS_OF_A_PAGE_MAX) };
        for _ in 0..calls {
            let call = Call {
                began: self.now,
                attempts: 0,
                is_urgent: self.random.bool(),
                is_idempotent: self.random.u8(..4) > 0,
                is_over: false,
                not_before: self.now,
            };
            self.calls.push(call);
            self.spent.calls += 1;
            self.retry.called();
            self.hedge.called();
            self.retries.earned(RETRIES.share);
            self.hedges.earned(HEDGES.share);
            self.count_extra(-RETRIES.share - HEDGES.share);
            self.attempt(self.calls.len() - 1);
        }
    }

    /// One request of the call leaves. The link keeps it until the network lets it pass.
    fn attempt(&mut self, number: usize) {
        let work = Duration::from_millis(self.random.u64(..WORK_MS_MAX));
        let round_trip = self.month.at(self.now).place.round_trip(&mut self.random);
        let answered = self.month.passes_from(self.month.passes_from(self.now) + round_trip + work);
        let call = &mut self.calls[number];
        call.attempts += 1;
        let is_hedged = call.is_urgent && call.attempts == 1 && self.hedge.is_for(1, 200);
        self.spent.attempts_max = self.spent.attempts_max.max(call.attempts);
        self.spent.past_deadline += u32::from(self.now >= call.began + DEADLINE);
        self.spent.too_soon += u32::from(self.now < call.not_before);
        self.plan(answered, Next::Answer(number));
        if is_hedged {
            self.plan(self.now + self.hedge.after(ANSWERED), Next::Hedge(number));
        }
    }

    fn answer(&mut self, number: usize) {
        let call = &self.calls[number];
        let left = (call.began + DEADLINE).saturating_sub(self.now);
        if call.is_over || left.is_zero() || !self.is_refusing() {
            self.calls[number].is_over = true;
            return;
        }
        // The gateway's word that it has not run, or the backend's answer, with a time or without.
        let is_answer = self.random.bool();
        let asked_s = self.random.u64(..8);
        let failure = Failure {
            may_run_again: call.is_idempotent || !is_answer,
            is_passing: true,
            is_answer,
            retry_after: (asked_s < 4).then(|| Duration::from_secs(asked_s)),
            attempts: call.attempts,
            left,
        };
        let pause = self.retry.failed(self.origin + self.now, &failure);
        let Some(pause) = pause else {
            self.calls[number].is_over = true;
            return;
        };
        self.spent.retries += 1;
        let ahead = self.retries.spent(self.now, RETRIES);
        self.spent.retries_ahead_max = self.spent.retries_ahead_max.max(ahead);
        self.count_extra(1.0);
        self.calls[number].not_before = self.now + failure.retry_after.unwrap_or_default();
        self.plan(self.now + pause, Next::Attempt(number));
    }

    fn hedge(&mut self, number: usize) {
        let call = &self.calls[number];
        if call.is_over || call.attempts > 1 || !self.hedge.take(self.origin + self.now) {
            return;
        }
        self.spent.hedges += 1;
        let ahead = self.hedges.spent(self.now, HEDGES);
        self.spent.hedges_ahead_max = self.spent.hedges_ahead_max.max(ahead);
        self.count_extra(1.0);
    }

    fn count_extra(&mut self, more: f64) {
        let hour = Duration::from_secs(3600);
        self.extra.push_back((self.now, more));
        self.extra_sum += more;
        let now = self.now;
        while let Some((_, gone)) = self.extra.pop_front_if(|(at, _)| *at + hour < now) {
            self.extra_sum -= gone;
        }
        self.spent.extra_per_hour_max = self.spent.extra_per_hour_max.max(self.extra_sum);
    }
}
