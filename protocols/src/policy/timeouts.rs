//! How long to wait for what has always come until now.
//!
//! ```text
//!               what 99 of 100 took there x margin, doubled where it was not kept
//!  limit of  =  or, where nothing is known:                                        +  bytes / rate,  within what is left
//!  a step       the highest; of a call, a share of the time that it has left
//! ```

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::{
    parameters::{millis, parameters, seconds},
    quality::{Quality, Step},
};

parameters! {
    /// How limits follow from what a network is like. A limit that is too short repeats what would have come, so it is
    /// never shorter than what 99 of 100 took there, by a margin, and is doubled where it was not kept.
    pub struct TimeoutPolicy in "timeouts" {
        /// Off: limits are the highest.
        enabled: bool = true, false => true;
        /// Times that are known of a network before a limit follows them; until then it is the highest.
        samples_min: usize = 3, 1 => 64;
        /// A limit is so many times what 99 of 100 took.
        margin: f64 = 3.0, 1.5 => 20.0;
        /// The shortest limit of connecting.
        connect_min: Duration = seconds(2), millis(100) => seconds(120);
        /// The shortest limit of the first byte: a server may have more to do than at other times.
        first_byte_min: Duration = seconds(4), millis(100) => seconds(120);
        /// The shortest limit of a gap in an answer that has begun.
        gap_min: Duration = seconds(4), millis(100) => seconds(120);
        /// Of a network of which nothing is known, a call's POST waits for so much of the time that the call has left:
        /// the next one waits for less, and another gateway or the link may be better.
        unknown_share: f64 = 0.25, 0.05 => 1.0;
        /// Bytes may take so long as this many per second need, until more is known.
        rate_min: u64 = 8_000, 100 => 100_000_000;
        /// They are given so many times what the network needs for them.
        rate_margin: f64 = 2.0, 1.0 => 20.0;
    }
}

/// What is waited for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What.
    pub step: Step,
    /// Bytes that have to be sent before it can come.
    pub bytes: u64,
    /// What a call has left until its deadline; `None` where no call waits.
    pub left: Option<Duration>,
    /// The longest, but for what its bytes need.
    pub highest: Duration,
}

impl Wanted {
    /// Without bytes or a call.
    pub fn of(step: Step, highest: Duration) -> Self {
        Self { step, bytes: 0, left: None, highest }
    }
}

impl TimeoutPolicy {
    /// How long to wait for that step now, and never longer than `highest`.
    pub fn limit(&self, now: Instant, step: Step, quality: &Quality, highest: Duration) -> Duration {
        self.limit_of(now, &Wanted::of(step, highest), quality)
    }

    /// How long to wait for that. A call that has a deadline waits no longer: the gateway ends it then.
    pub fn limit_of(&self, now: Instant, wanted: &Wanted, quality: &Quality) -> Duration {
        let left = wanted.left.unwrap_or(Duration::MAX);
        let limit = if self.enabled { self.dynamic(now, wanted, quality) } else { wanted.highest };
        limit.saturating_add(self.sending(now, wanted.bytes, quality)).min(left)
    }

    fn dynamic(&self, now: Instant, wanted: &Wanted, quality: &Quality) -> Duration {
        let Wanted { step, left, highest, .. } = *wanted;
        let seen = quality.highest(now, step, self.samples_min);
        // One connection, or the round trips of it, say less than three would, and a good deal more than nothing: a race that
        // begins in a tunnel repeats its packets ever later, and another one begins anew.
        let usual = || quality.connect(now).filter(|_| step == Step::Connect);
        let Some(time) = seen.or_else(|| Some(usual()? * USUAL_TIMES)) else {
            let share = left.map_or(highest, |left| left.mul_f64(self.unknown_share));
            return share.max(self.expected(step, quality)).min(highest);
        };
        let lowest = match step {
            Step::Connect => self.connect_min,
            Step::FirstByte => self.first_byte_min,
            Step::Gap => self.gap_min,
        };
        let limit = time.mul_f64(self.margin).max(lowest);
        limit.saturating_mul(1 << quality.expired(step).min(DOUBLINGS_MAX)).min(highest)
    }

    /// What networks of this kind need, however short a call's time is.
    fn expected(&self, step: Step, quality: &Quality) -> Duration {
        let Some(prior) = quality.prior() else { return UNKNOWN_MIN };
        let time = match step {
            // A lookup, TCP and TLS.
            Step::Connect => prior.round_trip * 3,
            Step::FirstByte => prior.request,
            Step::Gap => prior.round_trip,
        };
        time.mul_f64(self.margin).max(UNKNOWN_MIN)
    }

    /// What the bytes need that have to be sent first.
    fn sending(&self, now: Instant, bytes: u64, quality: &Quality) -> Duration {
        let bytes = bytes.saturating_sub(BYTES_FREE);
        let lowest = self.rate_min as f64;
        let known = if self.enabled { quality.expected_send_rate(now) } else { None };
        let rate = known.map_or(lowest, |rate| rate / self.rate_margin).max(lowest / self.rate_margin);
        Duration::from_secs_f64((bytes as f64 / rate).min(SENDING_S_MAX))
    }
}

/// What 99 of 100 took is taken for so many times what is usual, where too few were seen to tell.
const USUAL_TIMES: u32 = 2;
/// The highest limit is reached by fewer doublings from the lowest.
const DOUBLINGS_MAX: u32 = 16;
/// Where nothing at all is known, nothing is cut sooner.
const UNKNOWN_MIN: Duration = Duration::from_secs(1);
/// A network takes so many bytes in a round trip anyhow: RFC 6928's first window, nearly.
const BYTES_FREE: u64 = 12 << 10;
/// However much is to be sent, the end is waited for no longer.
const SENDING_S_MAX: f64 = 600.0;
