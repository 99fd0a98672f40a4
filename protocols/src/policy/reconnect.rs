//! When to connect again: at once where that is the client's own affair, spread out where a gateway's other clients come
//! at the same moment.
//!
//! ```text
//!  up ──the network changed, a beat was missed──> at once ──failed──> min, doubling
//!  up ──closed by the gateway──────────────────> spread ────failed──> spread, doubling
//!  up ──GOAWAY, whose spread is over───────────> at once ──failed──> spread, doubling      all up to max, with jitter
//!  up for a moment ──and GOAWAY once more──────> spread, doubling
//! ```

use std::time::Duration;

use super::parameters::{minutes, parameters, seconds};

parameters! {
    /// How clients come back whose connections a gateway closed, or that were asked to leave it: the gateway that takes
    /// them in must not get them all in one moment.
    pub struct ReconnectPolicy in "reconnect" {
        /// Off: the delays are those of the fields `backoff_min` and `backoff_max` whatever has happened.
        enabled: bool = true, false => true;
        /// Over so much time clients come back that a gateway has closed; also the first ceiling where their attempts
        /// fail.
        spread: Duration = seconds(3), Duration::ZERO => minutes(10);
        /// The part of it over which clients come back whose app waits for an answer.
        awaited_share: f64 = 0.1, 0.0 => 1.0;
        /// A connection that was up for less has not shown that the gateway is well: delays go on to grow.
        stable_after: Duration = seconds(10), Duration::ZERO => minutes(10);
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The client's own affair: the network changed, the gateway was not heard, the app wanted another.
    Own,
    /// The gateway closed it, or the system reset it.
    Closed,
    /// GOAWAY, and its spread time is over.
    SentAway,
    /// None could be made.
    Failed,
}

/// What happened, and what depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub loss: Loss,
    /// For how long the gateway had said WELCOME; `None`: it had not.
    pub was_up: Option<Duration>,
}

/// How long to wait before the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// While the app waits for nothing.
    pub quiet: Duration,
    /// From the same moment on, while it waits for an answer; never longer.
    pub awaited: Duration,
}

impl Delay {
    /// The same for all.
    pub fn of(delay: Duration) -> Self {
        Self { quiet: delay, awaited: delay }
    }
}

/// The delays of one client.
#[derive(Clone, Debug)]
pub struct Reconnect {
    random: fastrand::Rng,
    failures: u32,
    /// Others are likely to come at the same moment.
    is_crowded: bool,
    /// A gateway has sent it away, and no other has shown since that it is well.
    was_sent_away: bool,
}

impl Reconnect {
    /// Of a client that has just started.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), failures: 0, is_crowded: false, was_sent_away: false }
    }

    /// How long to wait before the next attempt. Delays are drawn from zero up to a ceiling (full jitter), so that clients
    /// that fell together do not rise together; it begins at `min`, or at the policy's spread, and doubles up to `max`.
    pub fn delay(&mut self, policy: &ReconnectPolicy, lost: Lost, min: Duration, max: Duration) -> Delay {
        let Lost { loss, was_up } = lost;
        let stable = if policy.enabled { policy.stable_after } else { Duration::ZERO };
        if was_up.is_some_and(|up| up >= stable) {
            (self.failures, self.is_crowded, self.was_sent_away) = (0, false, false);
        }
        match loss {
            Loss::Own if was_up.is_some() => return Delay::default(),
            Loss::SentAway => {
                self.is_crowded = policy.enabled;
                if !std::mem::replace(&mut self.was_sent_away, true) {
                    return Delay::default();
                }
            }
            Loss::Closed => self.is_crowded |= policy.enabled && was_up.is_some(),
            Loss::Own | Loss::Failed => {}
        }
        // From the second failure on at least half of `min`, so that a refused client does not spin.
        let lowest = if self.failures == 0 { Duration::ZERO } else { min / 2 };
        // 2^20 times the smallest allowed minimum is above the largest allowed maximum.
        let doublings = 1 << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let draw = self.random.f64();
        let delay = |share: f64| {
            let first = if self.is_crowded { policy.spread.mul_f64(share).max(min) } else { min };
            let ceiling = first.saturating_mul(doublings).min(max);
            let lowest = lowest.min(ceiling);
            lowest + (ceiling - lowest).mul_f64(draw)
        };
        Delay { quiet: delay(1.0), awaited: delay(policy.awaited_share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(60);

    fn lost(loss: Loss, up_s: Option<u64>) -> Lost {
        Lost { loss, was_up: up_s.map(Duration::from_secs) }
    }

    fn delays(policy: &ReconnectPolicy, seed: u64, lost: &[Lost]) -> Vec<Duration> {
        let mut reconnect = Reconnect::new(seed);
        lost.iter().map(|lost| reconnect.delay(policy, *lost, MIN, MAX).quiet).collect()
    }

    #[test]
    fn a_change_of_the_network_is_followed_at_once_and_failures_grow_to_the_maximum() {
        let policy = ReconnectPolicy::default();
        let mut losses = vec![lost(Loss::Own, Some(5))];
        losses.extend([lost(Loss::Failed, None); 50]);
        for seed in 0..100 {
            let delays = delays(&policy, seed, &losses);
            assert_eq!(delays[0], Duration::ZERO);
            let mut ceiling = MIN;
            for (number, delay) in delays[1..].iter().enumerate() {
                let lowest = if number == 0 { Duration::ZERO } else { MIN / 2 };
                assert!((lowest..=ceiling).contains(delay), "{number}: {delay:?} of {ceiling:?}");
                ceiling = (ceiling * 2).min(MAX);
            }
        }
    }

    #[test]
    fn what_was_up_for_a_moment_only_starts_nothing_over() {
        let policy = ReconnectPolicy::default();
        let longest = |up| {
            let losses = [lost(Loss::Closed, Some(up)); 12];
            (0..50).flat_map(|seed| delays(&policy, seed, &losses)).max().unwrap()
        };
        assert!(longest(1) > MAX / 2, "a gateway that dies of its clients is given more and more time");
        assert!(longest(20) <= policy.spread);
    }

    #[test]
    fn who_is_sent_in_circles_goes_slower_each_time() {
        let policy = ReconnectPolicy::default();
        let losses = [lost(Loss::SentAway, Some(1)); 12];
        let all: Vec<_> = (0..50).map(|seed| delays(&policy, seed, &losses)).collect();
        assert!(all.iter().all(|delays| delays[0] == Duration::ZERO));
        assert!(all.iter().all(|delays| delays[2..].iter().all(|delay| *delay >= MIN / 2)));
        assert!(all.iter().flatten().max().unwrap() > &(MAX / 2));
        let settled = [lost(Loss::SentAway, Some(60)); 3];
        assert_eq!(delays(&policy, 1, &settled), [Duration::ZERO; 3]);
    }

    #[test]
    fn who_is_waited_for_comes_back_sooner_and_switched_off_nobody_is_spread() {
        let policy = ReconnectPolicy::default();
        let off = ReconnectPolicy { enabled: false, ..policy.clone() };
        let first = |policy: &ReconnectPolicy, which: fn(Delay) -> Duration| {
            let delay = |seed| Reconnect::new(seed).delay(policy, lost(Loss::Closed, Some(60)), MIN, MAX);
            (0..200).map(|seed| which(delay(seed))).max().unwrap()
        };
        assert!(first(&policy, |it| it.quiet) > Duration::from_secs(2));
        assert!(first(&policy, |it| it.awaited) <= policy.spread.mul_f64(policy.awaited_share).max(MIN));
        assert!(first(&off, |it| it.quiet) <= MIN);
    }

    /// A gateway dies with ten thousand clients, and is back after a while, or has sent them away to one that is dead.
    #[test]
    fn clients_of_a_gateway_that_died_do_not_come_back_in_one_moment() {
        const CLIENTS: u64 = 10_000;
        let arrivals = |policy: &ReconnectPolicy, first: Loss, back_after: Duration| {
            let mut seconds = std::collections::BTreeMap::<u64, usize>::new();
            let (mut tries, mut latest) = (0, Duration::ZERO);
            for seed in 0..CLIENTS {
                let mut reconnect = Reconnect::new(seed);
                let mut at = reconnect.delay(policy, lost(first, Some(3600)), MIN, MAX).quiet;
                while at < back_after {
                    tries += 1;
                    at += reconnect.delay(policy, lost(Loss::Failed, None), MIN, MAX).quiet;
                }
                *seconds.entry(at.as_millis() as u64 / 100).or_default() += 1;
                latest = latest.max(at);
            }
            (seconds.into_values().max().unwrap(), tries, latest)
        };
        let policy = ReconnectPolicy::default();
        let off = ReconnectPolicy { enabled: false, ..policy.clone() };
        let (most, ..) = arrivals(&policy, Loss::Closed, Duration::ZERO);
        assert!(most < CLIENTS as usize / 20, "{most} in a tenth of a second");
        assert!(
            arrivals(&off, Loss::Closed, Duration::ZERO).0 > CLIENTS as usize / 6,
            "the test sees crowds"
        );
        for loss in [Loss::Closed, Loss::SentAway] {
            let outage = Duration::from_secs(30);
            let (most, tries, latest) = arrivals(&policy, loss, outage);
            let (_, tries_off, _) = arrivals(&off, loss, outage);
            assert!(most < CLIENTS as usize / 50, "{most} in a tenth of a second");
            assert!(tries * 10 < tries_off * 8, "{tries} of {tries_off}: fewer attempts in vain");
            assert!(latest < outage + MAX, "{latest:?}");
        }
    }
}
