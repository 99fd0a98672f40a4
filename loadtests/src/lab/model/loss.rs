//! Which packets a direction loses: Gilbert's and Elliott's chain of a good and a bad state, a step a packet.
//!
//! ```text
//!            enter                     share of packets in the bad state: enter / (enter + leave)
//!   good ------------> bad             mean length of a stay there:       1 / leave packets
//!   lost: good's  <--- lost: bad's
//!            leave
//! ```

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// The chain's parameters, probabilities all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// A packet is lost while the state is good.
    pub good: f64,
    /// A packet is lost while the state is bad.
    pub bad: f64,
    /// The state turns bad with a packet.
    pub enter: f64,
    /// The state turns good again with a packet.
    pub leave: f64,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Self = Self { good: 0.0, bad: 0.0, enter: 0.0, leave: 1.0 };

    /// Each packet is lost with the same probability, whatever happened to the one before.
    pub const fn random(share: f64) -> Self {
        Self { good: share, ..Self::NONE }
    }

    /// Losses come in bursts; `bad` is the loss within one.
    pub const fn bursts(enter: f64, leave: f64, bad: f64) -> Self {
        Self { good: 0.0, bad, enter, leave }
    }

    /// The share of packets that is lost in the long run.
    pub fn mean(&self) -> f64 {
        let stay = self.enter + self.leave;
        let bad = if stay > 0.0 { self.enter / stay } else { 0.0 };
        self.bad * bad + self.good * (1.0 - bad)
    }
}

/// The chain.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    loss: Loss,
    is_bad: bool,
}

impl Losses {
    pub(super) fn new(loss: Loss) -> Self {
        Self { loss, is_bad: false }
    }

    /// Whether the next packet is lost.
    pub(super) fn next(&mut self, rng: &mut Rng) -> bool {
        let turns = if self.is_bad { self.loss.leave } else { self.loss.enter };
        self.is_bad ^= rng.f64() < turns;
        let lost = if self.is_bad { self.loss.bad } else { self.loss.good };
        rng.f64() < lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: usize = 200_000;

    /// The measured share of lost packets, and the mean length of a row of them.
    fn measure(loss: Loss) -> (f64, f64) {
        let (mut losses, mut rng) = (Losses::new(loss), Rng::with_seed(7));
        let lost: Vec<bool> = (0..PACKETS).map(|_| losses.next(&mut rng)).collect();
        let total = lost.iter().filter(|lost| **lost).count();
        let rows = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count().max(1);
        (total as f64 / PACKETS as f64, total as f64 / rows as f64)
    }

    fn check(loss: Loss, row: f64) {
        let (share, measured) = measure(loss);
        let mean = loss.mean();
        assert!((share - mean).abs() <= 0.03 * mean + 0.0002, "{loss:?}: lost {share}, asked for {mean}");
        assert!((measured - row).abs() <= 0.05 * row, "{loss:?}: rows of {measured}, expected {row}");
    }

    #[test]
    fn random_loss_is_what_was_asked_for_and_has_no_memory() {
        check(Loss::random(0.02), 1.0 / 0.98);
        check(Loss::random(0.1), 1.0 / 0.9);
    }

    #[test]
    fn bursts_are_as_long_as_the_stay_in_the_bad_state() {
        check(Loss::bursts(0.01, 0.25, 1.0), 4.0);
        check(Loss::bursts(0.005, 0.1, 1.0), 10.0);
    }

    #[test]
    fn a_bad_state_that_loses_half_has_shorter_rows() {
        // A row goes on with the stay (0.75) and another loss (0.5).
        check(Loss::bursts(0.01, 0.25, 0.5), 1.0 / (1.0 - 0.75 * 0.5));
    }

    #[test]
    fn no_loss_loses_nothing() {
        assert_eq!(measure(Loss::NONE).0, 0.0);
    }
}
