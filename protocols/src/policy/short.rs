//! When calls go out over short connections beside the link.

use std::time::{Duration, Instant};

use super::{
    parameters::{millis, parameters, seconds},
    quality::{Quality, Step},
    timeouts::TimeoutPolicy,
};

parameters! {
    /// When a call goes out by an HTTPS POST of its own: where there is no link in time, where the link died under the
    /// call, where nothing is heard on it, and where the call's answer stands still on it. The gateway runs the call once.
    pub struct ShortPolicy in "short" {
        /// Off: calls wait for the link.
        enabled: bool = true, false => true;
        /// So many times what connecting usually takes on the network, calls wait for a link that is not there.
        after_share: f64 = 3.0, 1.0 => 50.0;
        /// They wait at least so long; at most as the app says, which is also how long they wait on a network that is not
        /// known.
        after_min: Duration = millis(500), Duration::ZERO => seconds(60);
        /// A call that was under way on a link that died has a shorter wait; off: it waits as others do.
        when_cut: bool = true, false => true;
        /// Where the link is nearer than a POST's three round trips (TCP, TLS, the call), a call waits for so many times what
        /// the link's answer usually takes, from when the link is made again; where it is not, or could not be made, the
        /// call goes out at once. Zero: always at once.
        cut_share: f64 = 1.25, 0.0 => 50.0;
        /// It waits at least so long where it waits, and so long on a network that is not known.
        cut_min: Duration = millis(250), Duration::ZERO => seconds(60);
        /// A call goes out while the link counts as up, if nothing was heard on that for as long as a first byte is waited
        /// for; off: not before the link is given up.
        when_silent: bool = true, false => true;
        /// A call goes out while the link lives, if its answer has begun and nothing of any answer came on the link for as
        /// long as a gap in one is waited for: the answer goes on by whichever brings it. Off: it waits for the link.
        when_stalled: bool = true, false => true;
    }
}

/// How long calls wait before they go by POST, as a network is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortWaits {
    /// For a link that is not there; `None`: for good.
    pub absent: Option<Duration>,
    /// For the successor of a link that died under the call; zero where that is no nearer than a POST.
    pub cut: Option<Duration>,
    /// For a word from a link that counts as up.
    pub silent: Option<Duration>,
    /// For more of an answer that has begun.
    pub stalled: Option<Duration>,
}

impl ShortPolicy {
    /// The waits on a network like this, where the next link carries calls with its first packets if it does so `early`, of
    /// which `absent_max` is the longest for an absent link, and `answer_max` for an
    /// answer.
    pub fn waits(
        &self,
        quality: &Quality,
        early: bool,
        timeouts: &TimeoutPolicy,
        absent_max: Duration,
        answer_max: Duration,
        now: Instant,
    ) -> ShortWaits {
        if !self.enabled {
            return ShortWaits { absent: None, cut: None, silent: None, stalled: None };
        }
        let usual = quality.connect(now);
        let absent = usual.map_or(absent_max, |usual| usual.mul_f64(self.after_share).max(self.after_min));
        let absent = absent.min(absent_max);
        let cut = match usual.zip(quality.expected_round_trip(now)) {
            _ if self.cut_share == 0.0 => Duration::ZERO,
            None => self.cut_min,
            Some((connect, round_trip)) => {
                let by_link = if early { connect } else { connect + round_trip };
                let is_nearer = by_link < round_trip * POST_TRIPS;
                if is_nearer { by_link.mul_f64(self.cut_share).max(self.cut_min) } else { Duration::ZERO }
            }
        };
        let limit = |step| timeouts.limit(now, step, quality, answer_max);
        ShortWaits {
            absent: Some(absent),
            cut: Some(if self.when_cut { cut.min(absent) } else { absent }),
            silent: self.when_silent.then(|| limit(Step::FirstByte)),
            stalled: self.when_stalled.then(|| limit(Step::Gap)),
        }
    }
}

/// Round trips until a POST on a connection of its own is answered: TCP's handshake, TLS 1.3's, and the call.
const POST_TRIPS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Event, QualityPolicy};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn waits_follow_the_network_within_their_bounds() {
        let (now, ms, second) = (Instant::now(), Duration::from_millis, Duration::from_secs(1));
        let timeouts = TimeoutPolicy::default();
        let waits = |policy: &ShortPolicy, connect: Option<Duration>| {
            let mut quality = Quality::new(QualityPolicy::default());
            for connect in connect.iter().cycle().take(5) {
                quality.on(now, Event::Came(Step::Connect, *connect));
            }
            policy.waits(&quality, true, &timeouts, 3 * second, 10 * second, now)
        };
        let policy = ShortPolicy::default();
        let absent = |connect| waits(&policy, connect).absent;
        assert_eq!(absent(None), Some(3 * second));
        assert_eq!(absent(Some(ms(50))), Some(policy.after_min));
        assert_eq!(absent(Some(ms(400))), Some(ms(1200)));
        assert_eq!(absent(Some(ms(5000))), Some(3 * second));
        let usual = waits(&policy, None);
        assert_eq!((usual.cut, usual.silent), (Some(policy.cut_min), Some(10 * second)));
        assert_eq!(usual.stalled, Some(10 * second), "nothing is known");
        assert_eq!(waits(&policy, Some(ms(400))).cut, Some(ms(500)));
        assert_eq!(waits(&policy, Some(ms(5000))).cut, Some(3 * second), "no longer than others wait");
        assert_eq!(waits(&policy, Some(ms(40))).cut, Some(policy.cut_min));
        let hasty = ShortPolicy { cut_share: 0.0, ..policy.clone() };
        assert_eq!(waits(&hasty, Some(ms(400))).cut, Some(Duration::ZERO));
        let patient =
            ShortPolicy { when_cut: false, when_silent: false, when_stalled: false, ..policy.clone() };
        let patient = waits(&patient, None);
        assert_eq!((patient.cut, patient.silent, patient.stalled), (Some(3 * second), None, None));
        let off = ShortPolicy { enabled: false, ..policy };
        let never = ShortWaits { absent: None, cut: None, silent: None, stalled: None };
        assert_eq!(waits(&off, None), never);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn an_answer_stands_still_behind_what_99_of_100_gaps_took() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let stalled = |gap_s: u32, expired: u32| {
            let mut quality = Quality::new(QualityPolicy::default());
            (0..100).for_each(|_| _ = quality.on(now, Event::Came(Step::Gap, second * gap_s / 10)));
            (0..expired).for_each(|_| _ = quality.on(now, Event::Expired(Step::Gap)));
            let timeouts = TimeoutPolicy::default();
            ShortPolicy::default().waits(&quality, true, &timeouts, second, 30 * second, now).stalled
        };
        assert_eq!(stalled(2, 0), Some(4 * second), "gap_min");
        let slow = stalled(30, 0).unwrap();
        assert!(slow >= 9 * second && slow < 10 * second, "{slow:?}");
        assert_eq!(stalled(2, 1), Some(8 * second), "it was not kept");
        assert_eq!(stalled(90, 0), Some(27 * second));
    }

    /// One round trip is 400 ms; a POST takes three.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn a_call_whose_link_died_waits_for_the_next_one_only_where_that_is_nearer_than_a_post() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let policy = ShortPolicy::default();
        let check = |connect: u64, early: bool, expected: u64| {
            let mut quality = Quality::new(QualityPolicy::default());
            for _ in 0..5 {
                quality.on(now, Event::Came(Step::Connect, ms(connect)));
                quality.on(now, Event::RoundTrip(ms(400)));
            }
            let timeouts = TimeoutPolicy::default();
            let waits = policy.waits(&quality, early, &timeouts, ms(3000), ms(10_000), now);
            assert_eq!(waits.cut, Some(ms(expected)), "{connect} {early}");
        };
        // QUIC, with the call in its first packets or behind its handshake.
        check(400, true, 500);
        check(400, false, 1000);
        // TCP and TLS, which make a link as far as a POST unless the call goes early.
        check(800, true, 1000);
        check(820, false, 0);
        // Connecting took longer than a POST would lately.
        check(1600, true, 0);
    }
}
