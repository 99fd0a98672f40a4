//! How long a quiet connection may be left alone: what a network's NAT forgets, learnt by trying.
//!
//! A NAT drops what it knows of a flow once nothing has passed for its time-out, and tells nobody. A beat that comes
//! sooner than it has to costs a radio seconds of power; one that comes later costs the connection. So intervals grow
//! while they succeed, and once one did not, the time-out is closed in between the longest that did and the shortest
//! that did not:
//!
//! ```text
//!        grow: good x growth                    close in: (good + bad) / 2            is found
//!  start ────────────────────> bad, once ───────────────────────────────────> bad, within tolerance of good
//!    ^                           |  ^                                                    |
//!    |  good fails twice         |  +── bad again: another tunnel would be chance <── tried once more, and again
//!    +───────────────────────────+      no: bad is forgotten, and good grows          after `reprobe_after`
//! ```
//!
//! Only a time in which nothing passed, either way, counts as tried.

mod records;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use self::records::{FORGET_AFTER_S, Filed, Learnt, NETWORKS_MAX, Records};
use super::{
    AppMode, AppState, NetworkKey, Transport,
    parameters::{hours, minutes, parameters, seconds},
};

parameters! {
    /// How long quiet connections are left alone. A strategy of its own learns it for each network and transport.
    pub struct HeartbeatPolicy in "heartbeat" {
        /// Off: the beat is the policy's `heartbeat`, whatever the network.
        enabled: bool = true, false => true;
        /// The shortest interval, unless the gateway allows none so long.
        min: Duration = seconds(10), seconds(1) => minutes(10);
        /// The longest; never above what the gateway allows.
        max: Duration = minutes(10), seconds(1) => hours(1);
        /// The longest while somebody looks at the app: a dead connection should be known before it is needed.
        foreground_max: Duration = minutes(2), seconds(1) => hours(1);
        /// An interval that succeeded is tried so many times longer, until one fails.
        growth: f64 = 1.5, 1.05 => 4.0;
        /// A time-out is found when the longest success and the shortest failure are within this share.
        tolerance: f64 = 0.05, 0.01 => 0.5;
        /// Beats keep this share below the longest success.
        margin: f64 = 0.03, 0.0 => 0.5;
        /// So often a time has to fail to be believed.
        confirm: u32 = 2, 1 => 5;
        /// A failure counts if the network carries another connection within this time; else the network was away.
        outage_max: Duration = seconds(15), seconds(1) => minutes(5);
        /// A time-out that was found is tried again after this time.
        reprobe_after: Duration = hours(168), hours(1) => hours(1440);
        /// A beat may come earlier by this share of its interval, to go with something else; twice that where power is
        /// to be saved.
        slack: f64 = 0.1, 0.0 => 0.5;
        /// A newcomer begins this share below what others have found on such networks.
        offered_margin: f64 = 0.1, 0.0 => 0.9;
    }
    check HeartbeatPolicy::check_order;
}

impl HeartbeatPolicy {
    fn check_order(&self) -> Result<(), String> {
        let bounds = [("max", self.max), ("foreground_max", self.foreground_max)];
        match bounds.into_iter().find(|(_, longest)| self.min > *longest) {
            Some((name, longest)) => {
                Err(format!("min is {:?}, above {name}, which is {longest:?}", self.min))
            }
            None => Ok(()),
        }
    }
}

/// Learns and paces the beats of one client.
#[derive(Debug)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    app: AppState,
    records: Records,
    /// Where the connection in use is; `None` before the first.
    place: Option<Place>,
    trial: Option<Trial>,
    miss: Option<Miss>,
    /// The device slept since anything passed: what is said next has no known quiet time before it.
    has_slept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    key: (NetworkKey, Transport),
    /// What is tried where nothing is known.
    start: Duration,
    /// The longest that the gateway waits.
    highest: Duration,
    /// What others found on networks like this.
    offered: Option<Duration>,
    unix_s: u64,
    began: Instant,
}

/// Something was said after a quiet time, and nothing was heard since.
#[derive(Clone, Copy, Debug)]
struct Trial {
    quiet: Duration,
    /// The device may have slept: that nothing is heard says nothing of the NAT.
    is_doubtful: bool,
    /// The connection lives, but may have been forgotten.
    is_heard: bool,
}

/// A connection ended during a trial: whether that was the NAT is judged by the next one.
#[derive(Clone, Copy, Debug)]
struct Miss {
    key: (NetworkKey, Transport),
    quiet: Duration,
    at: Instant,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The network.
    pub network: NetworkKey,
    /// What the network sees of the link.
    pub transport: Transport,
    /// The interval where nothing is known: the policy's `heartbeat`.
    pub start: Duration,
    /// The longest interval that the gateway allows; zero: any.
    pub highest: Duration,
    /// Seconds since 1970.
    pub unix_s: u64,
}

impl Heartbeat {
    /// With what earlier runs have learnt.
    pub fn new(policy: HeartbeatPolicy, records: Records) -> Self {
        let app = AppState::default();
        Self { policy, app, records, place: None, trial: None, miss: None, has_slept: false }
    }

    /// What has been learnt.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Other parameters, from now on.
    pub fn set_policy(&mut self, policy: HeartbeatPolicy) {
        self.policy = policy;
    }

    /// How much the app is wanted.
    pub fn set_app(&mut self, app: AppState) {
        self.app = app;
    }

    /// A connection is up. Whether anything was learnt from the end of the one before.
    pub fn begin(&mut self, now: Instant, ground: Ground) -> bool {
        let Ground { network, transport, start, highest, unix_s } = ground;
        let highest = if highest.is_zero() { Duration::MAX } else { highest };
        let key = (network, transport);
        let missed = self.miss.take().filter(|miss| {
            miss.key.0 == network && now.saturating_duration_since(miss.at) <= self.policy.outage_max
        });
        if let Some(miss) = missed {
            self.records.of(miss.key, unix_s).missed(miss.quiet, unix_s, &self.policy);
        }
        let offered = self.place.filter(|place| place.key == key).and_then(|place| place.offered);
        self.records.of(key, unix_s);
        self.place = Some(Place { key, start, highest, offered, unix_s, began: now });
        (self.trial, self.has_slept) = (None, false);
        missed.is_some()
    }

    /// The interval where nothing is known, from now on.
    pub fn set_start(&mut self, start: Duration) {
        if let Some(place) = &mut self.place {
            place.start = start;
        }
    }

    /// What others have found on networks like the one in use; zero: what was said of it before holds.
    pub fn offer(&mut self, timeout: Duration) {
        if let Some(place) = self.place.as_mut().filter(|_| !timeout.is_zero()) {
            place.offered = Some(timeout);
        }
    }

    /// The interval to keep from now on.
    pub fn interval(&self, now: Instant) -> Duration {
        let record = self.record();
        self.interval_after(now, record)
    }

    /// A beat is sent after `quiet`. The interval to promise with it, which holds if it is answered.
    pub fn beat(&mut self, now: Instant, quiet: Duration) -> Duration {
        self.spoke(quiet);
        let mut record = self.record();
        record.survived(quiet);
        self.interval_after(now, record)
    }

    /// Something is sent after `quiet`, the first since.
    pub fn spoke(&mut self, quiet: Duration) {
        let is_doubtful = std::mem::take(&mut self.has_slept) || self.app.dozing;
        self.trial.get_or_insert(Trial { quiet, is_doubtful, is_heard: false });
    }

    /// The device slept, or its clock jumped: times were longer than they seemed.
    pub fn slept(&mut self) {
        match &mut self.trial {
            Some(trial) => trial.is_doubtful = true,
            None => self.has_slept = true,
        }
    }

    /// The gateway is there, and has yet to say whether it sees the client where it was: on QUIC, a connection that a
    /// NAT forgot goes on. Whether that is to be waited for; otherwise nothing was said after a quiet time.
    pub fn is_alive(&mut self) -> bool {
        self.trial.as_mut().is_some_and(|trial| {
            trial.is_heard = true;
            true
        })
    }

    /// Something arrived that was sent after what was said last. Whether anything was learnt.
    pub fn heard(&mut self) -> bool {
        self.has_slept = false;
        let (Some(trial), Some(place)) = (self.trial.take(), self.place) else { return false };
        let record = self.records.of(place.key, place.unix_s);
        let before = *record;
        record.survived(trial.quiet);
        *record != before
    }

    /// The connection is dead, and nobody said why.
    pub fn lost(&mut self, now: Instant) {
        let trial = self.trial.take().filter(|trial| {
            self.policy.enabled && !trial.is_doubtful && !trial.is_heard && trial.quiet >= self.policy.min
        });
        if let (Some(trial), Some(place)) = (trial, self.place) {
            self.miss = Some(Miss { key: place.key, quiet: trial.quiet, at: now });
        }
    }

    /// The connection goes on, but the gateway was not reachable until something was said: the NAT had forgotten it.
    /// Whether anything was learnt.
    pub fn forgotten(&mut self) -> bool {
        let trial = self
            .trial
            .take()
            .filter(|trial| self.policy.enabled && !trial.is_doubtful && trial.quiet >= self.policy.min);
        let (Some(trial), Some(place)) = (trial, self.place) else { return false };
        self.records.of(place.key, place.unix_s).missed(trial.quiet, place.unix_s, &self.policy);
        true
    }

    /// The connection ended, and somebody said why.
    pub fn ended(&mut self) {
        (self.trial, self.miss, self.has_slept) = (None, None, false);
    }

    /// When to wake for a beat that is due then, where other wake-ups are due at `others`: with one of those, if one
    /// is near enough before.
    pub fn wake(
        &self,
        due: Instant,
        interval: Duration,
        others: impl IntoIterator<Item = Instant>,
    ) -> Instant {
        let from = due.checked_sub(self.slack(interval)).unwrap_or(due);
        others.into_iter().filter(|other| (from..due).contains(other)).min().unwrap_or(due)
    }

    /// Whether a beat that is due then goes out now, since somebody is awake.
    pub fn rides(&self, now: Instant, due: Instant, interval: Duration) -> bool {
        now + self.slack(interval) >= due
    }

    /// The network and transport that the interval is kept on.
    pub fn in_use(&self) -> Option<(NetworkKey, Transport)> {
        self.place.map(|place| place.key)
    }

    /// The interval between beats by that transport on the network in use, if its time-out was found, or none was up to
    /// the longest interval.
    pub fn found(&self, transport: Transport) -> Option<Duration> {
        let place = self.place.filter(|_| self.policy.enabled)?;
        let record = self.records.get((place.key.0, transport))?;
        let is_found = record.is_closed_in(&self.policy) || record.good >= self.longest(place);
        is_found.then(|| self.within(place, record.safe(&self.policy)))
    }

    /// The same as far as it is known, and where nothing has failed yet at least what is hoped for.
    pub fn outlook(&self, transport: Transport, hope: Duration) -> Duration {
        let Some(place) = self.place else { return Duration::ZERO };
        let record = self.records.get((place.key.0, transport)).unwrap_or_default();
        let safe = record.safe(&self.policy);
        self.within(place, if record.bad.is_some() { safe } else { safe.max(hope) })
    }

    /// The longest interval in the background.
    fn longest(&self, place: Place) -> Duration {
        self.policy.max.min(place.highest)
    }

    fn within(&self, place: Place, interval: Duration) -> Duration {
        let longest = self.longest(place);
        interval.clamp(self.policy.min.min(longest), longest)
    }

    fn record(&self) -> Learnt {
        self.place.and_then(|place| self.records.get(place.key)).unwrap_or_default()
    }

    fn slack(&self, interval: Duration) -> Duration {
        let times = if self.app.low_power { 2.0 } else { 1.0 };
        interval.mul_f64((self.policy.slack * times).min(0.5))
    }

    fn interval_after(&self, now: Instant, record: Learnt) -> Duration {
        let Some(place) = self.place else { return self.policy.min };
        if !self.policy.enabled {
            return place.start.min(place.highest);
        }
        let highest = match self.app.mode {
            AppMode::Foreground => self.policy.foreground_max.min(self.policy.max),
            AppMode::Unknown | AppMode::Background => self.policy.max,
        };
        let highest = highest.min(place.highest);
        let lowest = self.policy.min.min(highest);
        let unix_s = place.unix_s + now.saturating_duration_since(place.began).as_secs();
        let tried = record.next_trial(&self.policy, place.start, place.offered, unix_s);
        let interval = tried.filter(|_| !self.app.dozing).unwrap_or_else(|| record.safe(&self.policy));
        // Where nothing is known, and nothing is to be tried, the start is as good as any.
        let interval = if interval.is_zero() { place.start } else { interval };
        interval.clamp(lowest, highest)
    }
}
