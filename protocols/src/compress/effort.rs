//! How hard to try to make a message smaller: what a level costs in time against what it saves on the wire.
//!
//! ```text
//!  time of a level = bytes / (speed x how fast the level is)  +  bytes x size x (how small the level gets it) / rate
//! ```

use std::sync::{Arc, Mutex, PoisonError};

/// What decides: the network's rate, and what the device may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Bytes per second that can be sent.
    pub rate: f64,
    /// Bytes per second that the device compresses at level 3.
    pub speed: f64,
    /// The lowest level.
    pub level_min: i32,
    /// The highest.
    pub level_max: i32,
}

/// A level of zstd: how fast it is and how small messages get by it, as shares of what level 3 does.
struct Level {
    level: i32,
    speed: f64,
    size: f64,
}

const fn level(level: i32, speed: f64, size: f64) -> Level {
    Level { level, speed, size }
}

/// Of JSON and protobuf of some kilobytes to some hundred, in round figures.
const LEVELS: [Level; 6] = [
    level(1, 2.0, 1.06),
    level(3, 1.0, 1.0),
    level(6, 0.4, 0.95),
    level(9, 0.22, 0.93),
    level(12, 0.12, 0.918),
    level(15, 0.05, 0.903),
];
/// Of what its size was before, a message has so much left where nothing is known of its kind.
const SIZE_USUAL: f64 = 0.4;

impl Pace {
    /// The level that brings a message over soonest; `size`: the share of their bytes that messages of its kind had left.
    /// `None`: as it is, it is there before any level is done.
    pub fn level(&self, size: Option<f64>) -> Option<i32> {
        let size = size.unwrap_or(SIZE_USUAL);
        let allowed = LEVELS.iter().filter(|it| (self.level_min..=self.level_max).contains(&it.level));
        let time = |it: &Level| 1.0 / (self.speed * it.speed) + size * it.size / self.rate;
        let best = allowed.map(|it| (time(it), it.level)).min_by(|(one, _), (other, _)| one.total_cmp(other));
        match best {
            Some((time, level)) => (time < 1.0 / self.rate).then_some(level),
            // Bounds with none of them between.
            None => Some(self.level_min),
        }
    }
}

/// Tells compressors the pace, from now on; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Effort(Arc<Mutex<Option<Pace>>>);

impl Effort {
    /// `None`: each compressor's own level.
    pub fn set(&self, pace: Option<Pace>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pace;
    }

    /// What was set.
    pub fn pace(&self) -> Option<Pace> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kbps: f64) -> Pace {
        Pace { rate: kbps * 125.0, speed: 40e6, level_min: 1, level_max: 15 }
    }

    #[test]
    fn the_slower_the_network_the_more_is_tried() {
        let levels: Vec<Option<i32>> = [20.0, 74.0, 749.0, 2_658.0, 9_000.0, 50_000.0, 2_000_000.0]
            .map(|it| at(it).level(None))
            .to_vec();
        assert_eq!(levels, [Some(15), Some(15), Some(9), Some(6), Some(3), Some(1), None]);
    }

    #[test]
    fn what_gets_small_anyway_is_worth_less_effort_and_what_hardly_does_none_on_a_fast_network() {
        let pace = at(2_658.0);
        assert!(pace.level(Some(0.05)) < pace.level(Some(0.8)), "there is little left to save");
        let fast = at(400_000.0);
        assert_eq!((fast.level(Some(0.2)), fast.level(Some(0.9))), (Some(1), None));
    }

    #[test]
    fn bounds_are_kept() {
        let bounded = |level_min, level_max, kbps| Pace { level_min, level_max, ..at(kbps) }.level(None);
        assert_eq!(bounded(1, 6, 20.0), Some(6));
        assert_eq!(bounded(3, 15, 50_000.0), Some(3));
        assert_eq!(bounded(7, 8, 50.0), Some(7), "no level of the table");
    }
}
