//! What the network in use is like, from what happens on it anyway.

use std::time::{Duration, Instant};

use super::{
    parameters::{hours, millis, minutes, parameters, seconds},
    window::Window,
};

parameters! {
    /// How a network is judged. The thresholds of round trips are where Chromium parts 4G, 3G, 2G and what is slower.
    pub struct QualityPolicy in "quality" {
        /// What is as old as this weighs half as much as what is new.
        half_life: Duration = seconds(60), seconds(5) => hours(1);
        /// The longest median round trip of a good network.
        good_max: Duration = millis(272), millis(10) => seconds(60);
        /// Of a fair one; not below `good_max`.
        fair_max: Duration = millis(1420), millis(10) => seconds(60);
        /// Of a weak one, not below `fair_max`; beyond, it is poor.
        weak_max: Duration = millis(2010), millis(10) => seconds(60);
        /// The share of attempts that fail from which on a network is weak.
        weak_failures: f64 = 0.25, 0.01 => 1.0;
        /// From which on it is poor; not below `weak_failures`.
        poor_failures: f64 = 0.5, 0.01 => 1.0;
        /// A better level is believed when the round trip is below this share of its threshold.
        better_at: f64 = 0.8, 0.01 => 1.0;
        /// A level lasts at least so long before a better one is believed.
        better_after: Duration = seconds(10), seconds(0) => minutes(10);
    }
    check QualityPolicy::check_rising;
}

impl QualityPolicy {
    fn check_rising(&self) -> Result<(), String> {
        let times = [
            ("fair_max", self.fair_max, "good_max", self.good_max),
            ("weak_max", self.weak_max, "fair_max", self.fair_max),
        ];
        if let Some((name, value, other, least)) = times.iter().find(|(_, value, _, least)| value < least) {
            return Err(format!("{name} is {value:?}, below {other}, which is {least:?}"));
        }
        if self.poor_failures < self.weak_failures {
            let (poor, weak) = (self.poor_failures, self.weak_failures);
            return Err(format!("poor_failures is {poor}, below weak_failures, which is {weak}"));
        }
        Ok(())
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A connection, from the first packet until something may be said on it.
    Connect,
    /// The first byte of an answer, from when its request was given to the connection.
    FirstByte,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What was waited for came after this time.
    Came(Step, Duration),
    /// It did not within its limit.
    Expired(Step),
    /// An attempt failed at once: refused, reset, unreachable.
    Failed,
    /// A probe was answered after this time.
    RoundTrip(Duration),
    /// Another network is in use, of which nothing is known.
    NetworkChanged,
}

/// How good a network is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Most attempts fail, or a round trip takes seconds.
    Poor,
    /// Like 2G.
    Weak,
    /// Like 3G.
    Fair,
    /// Like 4G or better.
    Good,
}

/// What is known of the network in use.
///
/// ```text
///            Came, Expired, Failed, RoundTrip
///  unknown ------------------------------------> Poor <--> Weak <--> Fair <--> Good
///     ^                                            |  down at once, up after a while and by a margin
///     +------------------ NetworkChanged ----------+
/// ```
#[derive(Clone, Debug)]
pub struct Quality {
    policy: QualityPolicy,
    round_trips: Window<Duration>,
    connects: Window<Duration>,
    first_bytes: Window<Duration>,
    /// Whether attempts have failed.
    failures: Window<bool>,
    /// Limits in a row that were not kept.
    expired: [u32; 2],
    level: Option<(Level, Instant)>,
}

impl Quality {
    /// Of a network of which nothing is known.
    pub fn new(policy: QualityPolicy) -> Self {
        Self {
            policy,
            round_trips: Window::default(),
            connects: Window::default(),
            first_bytes: Window::default(),
            failures: Window::default(),
            expired: [0; 2],
            level: None,
        }
    }

    /// Takes in what happened. Says the level when that is another one; within, `None` is a network that is not known.
    pub fn on(&mut self, now: Instant, event: Event) -> Option<Option<Level>> {
        let before = self.level();
        match event {
            Event::Came(step, after) => {
                self.window_mut(step).add(now, after);
                self.expired[step as usize] = 0;
                self.failures.add(now, false);
            }
            Event::Expired(step) => {
                self.expired[step as usize] = self.expired[step as usize].saturating_add(1);
                self.failures.add(now, true);
            }
            Event::Failed => self.failures.add(now, true),
            Event::RoundTrip(after) => self.round_trips.add(now, after),
            Event::NetworkChanged => *self = Self::new(self.policy.clone()),
        }
        self.judge(now);
        (self.level() != before).then(|| self.level())
    }

    /// How good the network is; `None` where nothing is known yet.
    pub fn level(&self) -> Option<Level> {
        self.level.map(|(level, _)| level)
    }

    /// The median round trip, as near as is known: of probes, or else of what takes a round trip and the server's work,
    /// or two.
    pub fn round_trip(&self, now: Instant) -> Option<Duration> {
        let half_life = self.policy.half_life;
        let median = |window: &Window<Duration>| window.quantile(now, half_life, 0.5);
        let of_calls = || median(&self.first_bytes);
        let of_connects = || median(&self.connects).map(|connect| connect / 2);
        median(&self.round_trips).or_else(of_calls).or_else(of_connects)
    }

    /// The share of attempts that failed; `None` where none was made lately.
    pub fn failure_share(&self, now: Instant) -> Option<f64> {
        let weighted = self.failures.weighted(now, self.policy.half_life);
        let all: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let failed: f64 = weighted.iter().filter(|(failed, _)| *failed).map(|(_, weight)| weight).sum();
        (!weighted.is_empty()).then(|| failed / all)
    }

    /// The time that the given share of what was waited for did not exceed, and from how many times that is known.
    pub(super) fn quantile(&self, now: Instant, step: Step, share: f64) -> Option<(Duration, usize)> {
        let window = self.window(step);
        let known = window.weighted(now, self.policy.half_life).len();
        window.quantile(now, self.policy.half_life, share).map(|value| (value, known))
    }

    /// Limits in a row that were not kept.
    pub(super) fn expired(&self, step: Step) -> u32 {
        self.expired[step as usize]
    }

    fn window(&self, step: Step) -> &Window<Duration> {
        match step {
            Step::Connect => &self.connects,
            Step::FirstByte => &self.first_bytes,
        }
    }

    fn window_mut(&mut self, step: Step) -> &mut Window<Duration> {
        match step {
            Step::Connect => &mut self.connects,
            Step::FirstByte => &mut self.first_bytes,
        }
    }

    fn judge(&mut self, now: Instant) {
        let Some(seen) = self.level_by(now, 1.0) else { return };
        match self.level {
            Some((level, since)) if seen >= level => {
                let is_over = now.saturating_duration_since(since) >= self.policy.better_after;
                let sure = self.level_by(now, self.policy.better_at).unwrap_or(seen);
                if is_over && sure > level {
                    self.level = Some((sure, now));
                }
            }
            _ => self.level = Some((seen, now)),
        }
    }

    /// The level by thresholds that are taken times `share`.
    fn level_by(&self, now: Instant, share: f64) -> Option<Level> {
        let policy = &self.policy;
        let by_round_trip = self.round_trip(now).map(|time| match time {
            time if time <= policy.good_max.mul_f64(share) => Level::Good,
            time if time <= policy.fair_max.mul_f64(share) => Level::Fair,
            time if time <= policy.weak_max.mul_f64(share) => Level::Weak,
            _ => Level::Poor,
        });
        let by_failures = self.failure_share(now).map(|failed| match failed {
            failed if failed >= policy.poor_failures * share => Level::Poor,
            failed if failed >= policy.weak_failures * share => Level::Weak,
            _ => Level::Good,
        });
        by_round_trip.into_iter().chain(by_failures).min()
    }
}
