//! What was learnt of networks' time-outs, one record for each network and transport.

use std::time::Duration;

use super::HeartbeatPolicy;
use crate::policy::{NetworkKey, Transport};

/// What is known of the time-out of one network for one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Learnt {
    /// The longest quiet time that a connection outlived; zero where none is known.
    pub good: Duration,
    /// The shortest that one did not.
    pub bad: Option<Duration>,
    /// How often that failed.
    pub bad_times: u32,
    /// Seconds since 1970 when it last failed.
    pub bad_at_s: u64,
    /// Times in a row that one of no more than `good` failed.
    pub strikes: u32,
}

impl Learnt {
    /// The interval that is tried next, if one is.
    pub(super) fn next_trial(
        &self,
        policy: &HeartbeatPolicy,
        start: Duration,
        offered: Option<Duration>,
        unix_s: u64,
    ) -> Option<Duration> {
        let Some(bad) = self.bad else {
            let offered = offered.map(|offered| offered.mul_f64(1.0 - policy.offered_margin));
            return Some(match offered {
                Some(offered) if self.good < offered => offered,
                // Others found that it is near.
                Some(offered) if self.good < offered.mul_f64(1.2) => {
                    self.good.mul_f64(policy.growth.min(OFFERED_GROWTH))
                }
                _ if self.good.is_zero() => start,
                _ => self.good.mul_f64(policy.growth),
            });
        };
        if !self.is_closed_in(policy) {
            let middle = (self.good + bad) / 2;
            return Some(if self.good.is_zero() {
                middle
            } else {
                middle.min(self.good.mul_f64(policy.growth))
            });
        }
        let is_old = unix_s.saturating_sub(self.bad_at_s) >= policy.reprobe_after.as_secs();
        (self.bad_times < policy.confirm || is_old).then_some(bad)
    }

    /// The interval to keep where nothing is tried.
    pub(super) fn safe(&self, policy: &HeartbeatPolicy) -> Duration {
        match self.bad {
            Some(bad) if self.good.is_zero() => bad / 2,
            Some(_) => self.good.mul_f64(1.0 - policy.margin),
            None => self.good,
        }
    }

    pub(super) fn is_closed_in(&self, policy: &HeartbeatPolicy) -> bool {
        self.bad.is_some_and(|bad| {
            let apart = bad.saturating_sub(self.good);
            apart <= bad.mul_f64(policy.tolerance).max(Duration::from_secs(1)) || bad <= policy.min
        })
    }

    pub(super) fn survived(&mut self, quiet: Duration) {
        if quiet >= self.good {
            self.strikes = 0;
        }
        self.good = self.good.max(quiet);
        // Only what is as long says anything against what failed, and only when it is outlived.
        if self.bad.is_some_and(|bad| quiet >= bad.mul_f64(AS_LONG)) {
            (self.bad, self.bad_times) = (None, 0);
        }
    }

    pub(super) fn missed(&mut self, quiet: Duration, unix_s: u64, policy: &HeartbeatPolicy) {
        if quiet <= self.good {
            self.strikes += 1;
            if self.strikes < policy.confirm {
                return;
            }
            // The network is another than it was.
            *self = Self { bad: Some(quiet), bad_times: policy.confirm, bad_at_s: unix_s, ..Self::default() };
            return;
        }
        match self.bad {
            // A longer time says nothing that was not known.
            Some(bad) if quiet > bad.mul_f64(2.0 - SAME) => {}
            Some(bad) if quiet >= bad.mul_f64(SAME) || self.is_closed_in(policy) => {
                self.bad = Some(bad.min(quiet));
                self.bad_times = self.bad_times.saturating_add(1);
                self.bad_at_s = unix_s;
            }
            _ => (self.bad, self.bad_times, self.bad_at_s) = (Some(quiet), 1, unix_s),
        }
    }
}

/// Times that differ by less, as round trips do, are the same.
const SAME: f64 = 0.99;
/// The trial of a time that had failed is short of it by no more than a timer's step.
const AS_LONG: f64 = 0.999;
/// Where others found a time-out, it is neared in steps of this.
const OFFERED_GROWTH: f64 = 1.08;

/// Networks that are remembered; beyond, the one that was used longest ago is forgotten.
pub const NETWORKS_MAX: usize = 64;
/// What was not used for so long is forgotten: 60 days.
pub const FORGET_AFTER_S: u64 = 60 * 86_400;

/// What is known of each network, the one used last first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records(Vec<Filed>);

/// One network's part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filed {
    /// The network.
    pub network: NetworkKey,
    /// What it sees of the link.
    pub transport: Transport,
    /// Seconds since 1970 when it was used last.
    pub used_s: u64,
    /// What is known.
    pub learnt: Learnt,
}

impl Records {
    /// Of what a file held, the one used last first.
    pub fn restore(filed: impl IntoIterator<Item = Filed>, unix_s: u64) -> Self {
        let is_fresh = |it: &Filed| unix_s.saturating_sub(it.used_s) <= FORGET_AFTER_S;
        Self(filed.into_iter().filter(is_fresh).take(NETWORKS_MAX).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Filed> {
        self.0.iter()
    }

    /// What is known of one.
    pub fn get(&self, key: (NetworkKey, Transport)) -> Option<Learnt> {
        self.0.iter().find(|it| (it.network, it.transport) == key).map(|it| it.learnt)
    }

    pub(super) fn of(&mut self, key: (NetworkKey, Transport), unix_s: u64) -> &mut Learnt {
        let place = self.0.iter().position(|it| (it.network, it.transport) == key);
        let mut filed = match place {
            Some(place) => self.0.remove(place),
            None => Filed { network: key.0, transport: key.1, used_s: unix_s, learnt: Learnt::default() },
        };
        filed.used_s = filed.used_s.max(unix_s);
        self.0.truncate(NETWORKS_MAX - 1);
        self.0.insert(0, filed);
        &mut self.0[0].learnt
    }
}
