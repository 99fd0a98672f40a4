//! Whether a call that failed is tried again, and whether one that waits is sent by another way as well.
//!
//! ```text
//!  a call fails --> may run again? may be over soon? attempts, time, budget left? --> again, after a pause
//!                       no: its error is the app's
//!  a backend asks for later --> the same of an idempotent call; else its answer is the app's
//!  a call waits --> small and urgent? longer than 95 of 100 answers took? budget left? --> the other way too
//! ```
//!
//! What is tried again costs a network, or a server, that has enough to do: each call earns a share of another try, so
//! that an outage is met by hardly more requests than an app makes. The session's numbers make all of it safe.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::parameters::{millis, minutes, parameters, seconds};

parameters! {
    /// When calls that failed are tried again. Not durable ones, which have retries of their own.
    pub struct RetryPolicy in "retry" {
        /// Off: a call fails with the first error that the gateway has for it.
        enabled: bool = true, false => true;
        /// Attempts of one call, with the first.
        attempts_max: u32 = 3, 1 => 10;
        /// The longest pause before the second attempt; doubled for each that follows. Pauses are drawn between nothing
        /// and that.
        pause_first: Duration = millis(400), millis(10) => minutes(1);
        /// The longest pause in any case, but for what the gateway or the backend asks for.
        pause_max: Duration = seconds(10), millis(10) => minutes(10);
        /// The longest pause that either is obeyed in. A call that is asked to wait for longer is not tried again.
        asked_max: Duration = minutes(1), millis(10) => minutes(60);
        /// Whether an idempotent call is tried again whose backend asks for that: by 503, by 429 with retry-after, by
        /// UNAVAILABLE, or by RESOURCE_EXHAUSTED with grpc-retry-pushback-ms. Off: such an answer is the app's.
        answers: bool = true, false => true;
        /// Each call earns this share of a retry of any call.
        budget_share: f64 = 0.2, 0.0 => 1.0;
        /// Retries that are earned each minute without calls.
        budget_per_minute: f64 = 6.0, 0.0 => 600.0;
        /// Retries that may be saved up.
        budget_max: f64 = 10.0, 1.0 => 1000.0;
    }
    check RetryPolicy::check_pauses;
}

impl RetryPolicy {
    fn check_pauses(&self) -> Result<(), String> {
        if self.pause_first > self.pause_max {
            let Self { pause_first, pause_max, .. } = self;
            return Err(format!("pause_first is {pause_first:?}, above pause_max, which is {pause_max:?}"));
        }
        Ok(())
    }
}

parameters! {
    /// When a call that waits goes by POST beside the link, or by the link beside its POST. The first answer counts; it
    /// runs once.
    pub struct HedgePolicy in "hedge" {
        /// Off: what waits on a connection that lives waits there.
        enabled: bool = true, false => true;
        /// The least urgent calls that are hedged: 0 is the most urgent, 3 what the app did not say anything of.
        urgency_max: u32 = 1, 0 => 7;
        /// The largest message.
        bytes_max: usize = 4096, 0 => 1_048_576;
        /// A call is hedged when it has waited for longer than this share of answers took.
        answered_share: f64 = 0.95, 0.5 => 1.0;
        /// Answers that this is known from at least.
        samples_min: usize = 10, 1 => 64;
        /// The shortest wait.
        after_min: Duration = millis(200), millis(10) => seconds(60);
        /// Each call earns this share of a hedge.
        budget_share: f64 = 0.05, 0.0 => 1.0;
        /// Hedges that are earned each minute without calls.
        budget_per_minute: f64 = 2.0, 0.0 => 600.0;
        /// Hedges that may be saved up.
        budget_max: f64 = 4.0, 1.0 => 1000.0;
    }
}

/// How a call has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// It has not run, or running it twice does no harm.
    pub may_run_again: bool,
    /// Whose fault it was may be over soon; a definite one is not.
    pub is_passing: bool,
    /// The failure is the backend's own answer.
    pub is_answer: bool,
    /// The pause that the gateway or the backend asks for.
    pub retry_after: Option<Duration>,
    /// Attempts that have failed, with this one.
    pub attempts: u32,
    /// What the call has left until its deadline.
    pub left: Duration,
}

/// Decides on all calls of a client.
#[derive(Clone, Debug)]
pub struct Retry {
    policy: RetryPolicy,
    budget: Budget,
    random: fastrand::Rng,
}

impl Retry {
    /// Pauses are drawn by `seed`.
    pub fn new(policy: RetryPolicy, seed: u64) -> Self {
        let budget = Budget::full(policy.budget_max);
        Self { policy, budget, random: fastrand::Rng::with_seed(seed) }
    }

    /// Other parameters, from now on.
    pub fn set_policy(&mut self, policy: RetryPolicy) {
        self.policy = policy;
    }

    /// The app makes a call.
    pub fn called(&mut self) {
        self.budget.earn(self.policy.budget_share, self.policy.budget_max);
    }

    /// A call has failed: how long to wait before it is tried again. `None`: it is not.
    pub fn failed(&mut self, now: Instant, failure: &Failure) -> Option<Duration> {
        let Self { policy, budget, random } = self;
        let is_worth_it = failure.may_run_again && failure.is_passing;
        let is_enabled = policy.enabled && (policy.answers || !failure.is_answer);
        if !is_enabled || !is_worth_it || failure.attempts >= policy.attempts_max {
            return None;
        }
        if failure.retry_after.is_some_and(|asked| asked > policy.asked_max) {
            return None;
        }
        // Full jitter: those that failed together come back spread out.
        let doublings = failure.attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        let ceiling = policy.pause_first.saturating_mul(1 << doublings).min(policy.pause_max);
        let pause = ceiling.mul_f64(random.f64());
        // They have been asked to stay away for so long, and not to come all at its end.
        let pause = failure.retry_after.map_or(pause, |asked| asked.saturating_add(pause));
        if pause >= failure.left {
            return None;
        }
        budget.spend(now, policy.budget_per_minute, policy.budget_max).then_some(pause)
    }
}

/// Decides which calls go both ways.
#[derive(Clone, Debug)]
pub struct Hedge {
    policy: HedgePolicy,
    budget: Budget,
}

impl Hedge {
    /// With a full budget.
    pub fn new(policy: HedgePolicy) -> Self {
        let budget = Budget::full(policy.budget_max);
        Self { policy, budget }
    }

    /// Other parameters, from now on.
    pub fn set_policy(&mut self, policy: HedgePolicy) {
        self.policy = policy;
    }

    /// The parameters.
    pub fn policy(&self) -> &HedgePolicy {
        &self.policy
    }

    /// The app makes a call.
    pub fn called(&mut self) {
        self.budget.earn(self.policy.budget_share, self.policy.budget_max);
    }

    /// Whether a call of that urgency and size is one to be hedged.
    pub fn is_for(&self, urgency: u8, bytes: usize) -> bool {
        self.policy.enabled && u32::from(urgency) <= self.policy.urgency_max && bytes <= self.policy.bytes_max
    }

    /// How long such a call waits before, where the share of answers that counts took so long.
    pub fn after(&self, answered: Duration) -> Duration {
        answered.max(self.policy.after_min)
    }

    /// One is due. Whether there is a budget for it.
    pub fn take(&mut self, now: Instant) -> bool {
        self.budget.spend(now, self.policy.budget_per_minute, self.policy.budget_max)
    }
}

/// Tries that were earned and not used.
#[derive(Clone, Copy, Debug)]
struct Budget {
    tries: f64,
    /// When time was counted last.
    counted: Option<Instant>,
}

impl Budget {
    fn full(max: f64) -> Self {
        Self { tries: max, counted: None }
    }

    fn earn(&mut self, share: f64, max: f64) {
        self.tries = (self.tries + share).min(max);
    }

    fn spend(&mut self, now: Instant, per_minute: f64, max: f64) -> bool {
        let since = self.counted.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.earn(since.as_secs_f64() / 60.0 * per_minute, max);
        let is_there = self.tries >= 1.0;
        if is_there {
            self.tries -= 1.0;
        }
        is_there
    }
}

/// The longest pause is reached by fewer.
const DOUBLINGS_MAX: u32 = 16;
