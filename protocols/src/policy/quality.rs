//! What the network in use is like, from what happens on it anyway.
//!
//! ```text
//!  probes, QUIC's path --> round trip, jitter, loss --+
//!  calls ----------------> request round trip --------+--> Level, reports, limits, stagger, effort
//!  transfers --> Meter --> rates ---------------------+
//!  attempts -------------> failures ------------------+      all weighed by age
//!                              |        ^
//!                          Impression of each network, kept; where nothing is known, the Prior of its kind
//! ```

mod estimates;
mod level;
mod meter;
mod records;
#[cfg(test)]
mod tests;
mod window;

use std::time::{Duration, Instant};

pub use self::{
    level::Level,
    meter::Meter,
    records::{Impression, Impressions, Prior, Remembered},
};
use self::{
    level::{Judge, Seen},
    window::{Window, quantile},
};
use super::{
    Network, NetworkKey, NetworkKind,
    parameters::{hours, millis, minutes, parameters, seconds},
};

parameters! {
    /// How a network is judged. The thresholds of round trips are where Chromium parts 4G, 3G, 2G and what is slower.
    pub struct QualityPolicy in "quality" {
        /// Off: networks are not judged and not remembered. No level is known, and what follows it does what it does on
        /// a network of which nothing is known.
        enabled: bool = true, false => true;
        /// What is as old as this weighs half as much as what is new.
        half_life: Duration = seconds(60), seconds(5) => hours(1);
        /// The same for what is remembered of a network since an earlier stay on it.
        record_half_life: Duration = hours(72), hours(1) => hours(1440);
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
        /// The share of packets that are lost from which on a network is weak.
        weak_loss: f64 = 0.1, 0.001 => 1.0;
        /// From which on it is poor; not below `weak_loss`.
        poor_loss: f64 = 0.3, 0.001 => 1.0;
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
        let shares = [
            ("poor_failures", self.poor_failures, "weak_failures", self.weak_failures),
            ("poor_loss", self.poor_loss, "weak_loss", self.weak_loss),
        ];
        if let Some((name, value, other, least)) = shares.iter().find(|(_, value, _, least)| value < least) {
            return Err(format!("{name} is {value}, below {other}, which is {least}"));
        }
        Ok(())
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A connection, from the first packet until something may be said on it.
    Connect,
    /// The gateway's first byte, from when it was asked for something that it says at once.
    FirstByte,
    /// The next bytes of an answer that has begun.
    Gap,
}

/// How many there are.
const STEPS: usize = 3;

impl Step {
    const ALL: [Self; STEPS] = [Self::Connect, Self::FirstByte, Self::Gap];
}

/// The network that is in use from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What is learnt of it is filed under this; `None` where one cannot be told from another.
    pub network: Option<NetworkKey>,
    /// What is expected of it.
    pub kind: NetworkKind,
    /// Seconds since 1970.
    pub unix_s: u64,
}

impl Arrival {
    /// On that network. What is learnt of one that has no label would be taken for another's; cellular ones of one
    /// carrier are alike.
    pub fn at(network: &Network, unix_s: u64) -> Self {
        let is_told_apart =
            !network.key.is_empty() || (network.kind.is_cellular() && network.carrier.is_some());
        Self { network: is_told_apart.then(|| network.place()), kind: network.kind, unix_s }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// What was waited for came after this time.
    Came(Step, Duration),
    /// It did not within its limit.
    Expired(Step),
    /// An attempt failed at once: refused, reset, unreachable; or a connection died without a word.
    Failed,
    /// A probe was answered after this time.
    RoundTrip(Duration),
    /// The first byte of a call's answer came `after` it was given to a connection; `server` of that was spent behind
    /// the network, as far as the server says.
    Answered {
        /// The whole time.
        after: Duration,
        /// The server's part.
        server: Option<Duration>,
    },
    /// The first bytes of a message of a call's answer came so long after it was given to a connection.
    Delivered(Duration),
    /// What a transport that counts its packets has seen since the event before.
    Path {
        /// Smoothed, by the transport.
        round_trip: Duration,
        /// Packets sent.
        sent: u32,
        /// Of these, lost.
        lost: u32,
    },
    /// A transfer that was long enough came at so many bytes per second.
    Received(f64),
    /// One left at so many.
    Sent(f64),
    /// Another network is in use.
    NetworkChanged(Arrival),
}

/// What is known of the network in use.
///
/// ```text
///            Came, Expired, Failed, RoundTrip, ...
///  unknown ------------------------------------> Poor <--> Weak <--> Fair <--> Good
///     ^                                            |  down at once, up after a while and by a margin
///     +-- NetworkChanged, to one never used before +
/// ```
#[derive(Clone, Debug)]
pub struct Quality {
    policy: QualityPolicy,
    records: Impressions,
    /// Where the device is, and since when; `None` before anybody said.
    place: Option<(Arrival, Instant)>,
    /// What was known of the place on arrival or when it was noted last, and how much that counts.
    before: Option<(Impression, f64)>,
    noted: Noted,
    seen: Windows,
    /// Limits in a row that were not kept.
    expired: [u32; STEPS],
    judge: Judge,
}

/// When what is seen went to the records.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    at: Option<Instant>,
    /// Whether anything was seen since.
    is_stale: bool,
    /// Whether the records have changed since somebody asked.
    is_told: bool,
}

/// What was seen on the network in use.
#[derive(Clone, Debug, Default)]
struct Windows {
    probes: Window<Duration>,
    paths: Window<Duration>,
    /// Whether probes took as long as ones do that are sent again.
    late: Window<bool>,
    /// Packets sent, and lost.
    packets: Window<(u32, u32)>,
    requests: Window<Duration>,
    answers: Window<Duration>,
    steps: [Window<Duration>; STEPS],
    received: Window<f64>,
    sent: Window<f64>,
    /// Whether attempts have failed.
    failures: Window<bool>,
}

impl Quality {
    /// Of a network of which nothing is known.
    pub fn new(policy: QualityPolicy) -> Self {
        Self::remembering(policy, Impressions::default())
    }

    /// With what earlier runs have seen of networks.
    pub fn remembering(policy: QualityPolicy, records: Impressions) -> Self {
        Self {
            policy,
            records,
            place: None,
            before: None,
            noted: Noted::default(),
            seen: Windows::default(),
            expired: [0; STEPS],
            judge: Judge::default(),
        }
    }

    /// Other parameters, from now on. Says the level when that is another one.
    pub fn set_policy(&mut self, now: Instant, policy: QualityPolicy) -> Option<Option<Level>> {
        let before = self.level();
        self.policy = policy;
        if self.policy.enabled {
            self.look(now);
        } else {
            (self.seen, self.before, self.expired) = Default::default();
            self.judge = Judge::default();
        }
        (self.level() != before).then(|| self.level())
    }

    /// Takes in what happened. Says the level when that is another one; within, `None` is a network that is not known.
    pub fn on(&mut self, now: Instant, event: Event) -> Option<Option<Level>> {
        let before = self.level();
        match event {
            Event::NetworkChanged(arrival) => self.arrive(now, arrival),
            _ if !self.policy.enabled => {}
            _ => {
                self.see(now, event);
                self.noted.is_stale = true;
                let is_due = |at: Instant| now.saturating_duration_since(at) >= NOTE_EVERY;
                if self.noted.at.is_none_or(is_due) {
                    self.note(now);
                }
            }
        }
        self.look(now);
        (self.level() != before).then(|| self.level())
    }

    fn see(&mut self, now: Instant, event: Event) {
        match event {
            Event::Came(step, after) => {
                self.seen.steps[step as usize].add(now, after);
                self.expired[step as usize] = 0;
                self.seen.failures.add(now, false);
            }
            Event::Expired(step) => {
                self.expired[step as usize] = self.expired[step as usize].saturating_add(1);
                self.seen.failures.add(now, true);
            }
            Event::Failed => self.seen.failures.add(now, true),
            Event::RoundTrip(after) => {
                let is_late = self.is_late(now, after);
                self.seen.late.add(now, is_late);
                self.seen.probes.add(now, after);
            }
            Event::Answered { after, server } => {
                self.seen.requests.add(now, after.saturating_sub(server.unwrap_or_default()));
                self.seen.failures.add(now, false);
            }
            Event::Delivered(after) => self.seen.answers.add(now, after),
            Event::Path { round_trip, sent, lost } => {
                self.seen.paths.add(now, round_trip);
                self.seen.packets.add(now, (sent, lost.min(sent)));
            }
            Event::Received(rate) => self.seen.received.add(now, rate),
            Event::Sent(rate) => self.seen.sent.add(now, rate),
            Event::NetworkChanged(_) => {}
        }
    }

    fn arrive(&mut self, now: Instant, arrival: Arrival) {
        self.note(now);
        let Self { policy, records, noted, .. } = self;
        let known = arrival.network.filter(|_| policy.enabled);
        let before = known.and_then(|key| records.get(key, arrival.unix_s, policy.record_half_life));
        *self = Self {
            place: Some((arrival, now)),
            before,
            noted: Noted { at: Some(now), ..*noted },
            ..Self::remembering(policy.clone(), std::mem::take(records))
        };
    }

    /// Puts what is seen of the network in use into the records, if anything is.
    pub fn note(&mut self, now: Instant) {
        self.noted.at = Some(now);
        let is_stale = std::mem::take(&mut self.noted.is_stale) && self.policy.enabled;
        let Some((arrival, since)) = self.place.filter(|_| is_stale) else { return };
        let Some(network) = arrival.network else { return };
        let unix_s = arrival.unix_s + now.saturating_duration_since(since).as_secs();
        self.records.note(network, unix_s, &self.impression(now));
        self.before = self.records.get(network, unix_s, self.policy.record_half_life);
        self.noted.is_told = true;
    }

    /// What is remembered of networks, where that has changed since this was asked last.
    pub fn changed_records(&mut self) -> Option<&Impressions> {
        std::mem::take(&mut self.noted.is_told).then_some(&self.records)
    }

    /// What is remembered of networks.
    pub fn records(&self) -> &Impressions {
        &self.records
    }

    /// How good the network is; `None` where nothing is known yet.
    pub fn level(&self) -> Option<Level> {
        self.judge.level()
    }

    fn look(&mut self, now: Instant) {
        let seen = Seen {
            round_trip: self.round_trip(now),
            failures: self.failure_share(now),
            loss: self.seen_loss(now),
        };
        self.judge.look(now, &self.policy, &seen);
    }

    /// A packet that is sent again is later by the time that its sender waits for it (RFC 6298, section 2.4, and what
    /// systems make of that); the way back is as long as ever.
    fn is_late(&self, now: Instant, after: Duration) -> bool {
        let known = self.weighted(now, &self.seen.probes);
        let count = known.len();
        let usual = quantile(known, 0.5).filter(|usual| count >= LATE_SAMPLES_MIN && after >= 2 * *usual);
        let repeats_after = || REPEAT_MIN.max(4 * self.jitter(now).unwrap_or_default());
        usual.is_some_and(|usual| after >= usual + repeats_after())
    }
}

/// What is seen goes to the records so often.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// So many probes show what is usual.
const LATE_SAMPLES_MIN: usize = 4;
/// Linux and Darwin send nothing again sooner.
const REPEAT_MIN: Duration = Duration::from_millis(180);
