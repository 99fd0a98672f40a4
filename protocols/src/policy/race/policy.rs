//! The parameters of races, and the delays that follow from them.

use std::time::Duration;

use crate::policy::parameters::{hours, millis, minutes, parameters, seconds};

parameters! {
    /// How ways to gateways are raced, and what is remembered of them.
    pub struct RacePolicy in "race" {
        /// Off: one gateway at a time, its ways at fixed delays, without memory of ways or names.
        enabled: bool = true, false => true;
        /// The next way is tried after so many times what connecting usually takes on the network.
        stagger_share: f64 = 1.25, 0.1 => 10.0;
        /// The shortest time between two ways (RFC 8305, section 8, wants at least 10 ms).
        stagger_min: Duration = millis(100), millis(10) => seconds(2);
        /// The longest.
        stagger_max: Duration = seconds(2), millis(100) => seconds(30);
        /// Another gateway is tried after so many of these times: a session lives at one gateway.
        gateway_staggers: u32 = 6, 1 => 100;
        /// Where QUIC has not got through before, TCP's handshake begins soon behind it and is kept ready, and TLS follows when
        /// QUIC has had its time; off: TCP begins when that is over.
        warm: bool = true, false => true;
        /// TCP's handshake begins so long after QUIC's, at the latest when it would without `warm`.
        warm_after: Duration = millis(30), Duration::ZERO => seconds(2);
        /// QUIC has so many times as long as TCP's handshake took, which is a round trip of the network as it is now.
        warm_share: f64 = 1.5, 1.0 => 10.0;
        /// It has so much more than that round trip at least: its handshake is work for both ends, and larger.
        warm_min: Duration = millis(50), Duration::ZERO => seconds(10);
        /// A flight of QUIC's handshake, but the first, is sent again where nothing answers it, sooner than QUIC's own timers do
        /// it, and with the first call that was behind it. Off: what was lost of it waits for those.
        repeat: bool = true, false => true;
        /// It is sent after so many of the handshake's first round trips, and once more after twice as many.
        repeat_share: f64 = 1.5, 1.1 => 10.0;
        /// Ways that are tried at one time.
        in_flight_max: usize = 4, 1 => 8;
        /// A way that failed so often of the last eight times, while others got through, is banned: tried when nothing
        /// else is left.
        ban_failures: u32 = 2, 1 => 8;
        /// The first ban; each further one lasts twice as long.
        ban_min: Duration = minutes(5), seconds(1) => hours(1);
        /// The longest ban.
        ban_max: Duration = hours(1), seconds(1) => hours(24);
        /// What was not used for so long is forgotten.
        kept: Duration = hours(7 * 24), minutes(1) => hours(90 * 24);
        /// Addresses that were found for a name since then are not looked up again.
        names_fresh: Duration = seconds(60), Duration::ZERO => hours(1);
        /// The system's resolver is asked for a name once more where it has said nothing for so long, and then after twice as
        /// long each time, four times in all: a question that was lost it repeats by itself after five seconds.
        names_again: Duration = millis(500), millis(100) => minutes(1);
    }
    check RacePolicy::check_spans;
}

/// RFC 8305, section 5: the recommended delay where nothing is known.
const STAGGER_UNKNOWN: Duration = Duration::from_millis(250);

/// The delays of one race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between ways of one series.
    pub stagger: Duration,
    /// Between the two series of a gateway.
    pub fallback: Duration,
    /// Between the first gateway and the second.
    pub gateway: Duration,
    /// Between those behind it.
    pub others: Duration,
}

impl Pace {
    /// When the gateway of that rank, 0 the first, has its turn, counted from the beginning.
    pub fn turn(&self, rank: usize) -> Duration {
        match rank.checked_sub(1) {
            None => Duration::ZERO,
            Some(others) => self.gateway + self.others * u32::try_from(others).unwrap_or(u32::MAX),
        }
    }

    /// The same where the first gateway has `first` for itself at least. What that leaves of `limit` is shared by the others of
    /// `gateways`: each has a turn before it is over, if the second has one.
    pub fn spread(self, first: Duration, limit: Duration, gateways: usize) -> Self {
        let gateway = self.gateway.max(first);
        let others = u32::try_from(gateways.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
        Self { gateway, others: self.others.min(limit.saturating_sub(gateway) / others), ..self }
    }
}

impl RacePolicy {
    fn check_spans(&self) -> Result<(), String> {
        let pairs = [
            ("stagger_min", self.stagger_min, "stagger_max", self.stagger_max),
            ("ban_min", self.ban_min, "ban_max", self.ban_max),
        ];
        match pairs.iter().find(|(_, min, _, max)| min > max) {
            Some((lower, min, upper, max)) => Err(format!("{lower} {min:?} is above {upper} {max:?}")),
            None => Ok(()),
        }
    }

    /// The delays on a network where connecting takes as long as `expected`, if that is known; `fallback` is the delay
    /// of TCP behind QUIC where it is not.
    pub fn pace(&self, expected: Option<Duration>, fallback: Duration) -> Pace {
        let known = expected.filter(|_| self.enabled).map(|expected| {
            let (min, max) = (self.stagger_min, self.stagger_max.max(self.stagger_min));
            expected.mul_f64(self.stagger_share).clamp(min, max)
        });
        let stagger = known.unwrap_or(STAGGER_UNKNOWN);
        let fallback = known.unwrap_or(fallback);
        let gateway = stagger.max(fallback) * self.gateway_staggers;
        Pace { stagger, fallback, gateway, others: gateway }
    }
}
