//! When the link carries nothing: blackouts that come again and again, by seed.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Outages that come again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outages {
    /// Mean time from the end of one to the beginning of the next, which is this plus or minus a half.
    pub every: Duration,
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// Whether packets wait for its end, as far as the queue has room, as behind a radio that is being handed over;
    /// otherwise they are lost.
    pub holds: bool,
    /// Whether the client has another address afterwards.
    pub moves: bool,
}

/// One outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) from: Duration,
    pub(super) until: Duration,
    pub(super) holds: bool,
    pub(super) moves: bool,
}

/// The outages of a run, made as time goes on.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    outages: Option<Outages>,
    rng: Rng,
    /// The one that is, or the next.
    next: Option<Outage>,
}

impl Calendar {
    pub(super) fn new(outages: Option<Outages>, seed: u64) -> Self {
        let mut calendar = Self { outages, rng: Rng::with_seed(seed), next: None };
        calendar.plan(Duration::ZERO);
        calendar
    }

    /// The outage at `now`, and whether one that moves the client has ended since the last look.
    pub(super) fn look(&mut self, now: Duration) -> (Option<Outage>, bool) {
        let mut moved = false;
        while let Some(over) = self.next.filter(|next| next.until <= now) {
            moved |= over.moves;
            self.next = None;
            self.plan(over.until);
        }
        (self.next.filter(|next| next.from <= now), moved)
    }

    /// The end of the outage that is, or of the next.
    pub(super) fn next_end(&self) -> Option<Duration> {
        self.next.map(|next| next.until)
    }

    /// An outage out of turn. One that would have begun before its end is left out.
    pub(super) fn begin(&mut self, outage: Outage) {
        self.next = Some(outage);
    }

    fn plan(&mut self, after: Duration) {
        self.next = self.outages.map(|outages| {
            let from = after + outages.every.mul_f64(0.5 + self.rng.f64());
            let spread = outages.max.saturating_sub(outages.min);
            let until = from + outages.min + spread.mul_f64(self.rng.f64());
            Outage { from, until, holds: outages.holds, moves: outages.moves }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn outages_come_as_often_and_last_as_long_as_asked() {
        let asked = Outages { every: ms(90_000), min: ms(3000), max: ms(8000), holds: false, moves: true };
        let mut calendar = Calendar::new(Some(asked), 11);
        let (mut down, mut moves, hours) = (Duration::ZERO, 0, 100);
        let mut lengths = Vec::new();
        for step in 0..hours * 36_000 {
            let (outage, moved) = calendar.look(ms(100 * step));
            down += outage.map_or(ms(0), |_| ms(100));
            moves += u64::from(moved);
            lengths.extend(outage.map(|outage| outage.until - outage.from));
        }
        assert!(lengths.iter().all(|length| (ms(3000)..=ms(8000)).contains(length)));
        // 3600 s hold 3600 / 95.5 of them, which take 5.5 s each.
        let per_hour = moves as f64 / hours as f64;
        assert!((per_hour - 37.7).abs() < 1.0, "{per_hour}");
        let share = down.as_secs_f64() / (hours as f64 * 3600.0);
        assert!((share - 5.5 / 95.5).abs() < 0.003, "{share}");
    }

    #[test]
    fn one_out_of_turn_is_an_outage_like_another() {
        let mut calendar = Calendar::new(None, 1);
        assert_eq!(calendar.look(ms(10)), (None, false));
        let outage = Outage { from: ms(20), until: ms(50), holds: false, moves: false };
        calendar.begin(outage);
        assert_eq!(calendar.look(ms(19)), (None, false));
        assert_eq!(calendar.look(ms(20)), (Some(outage), false));
        assert_eq!(calendar.look(ms(50)), (None, false));
        assert_eq!(calendar.next_end(), None);
    }
}
