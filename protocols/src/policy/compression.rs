//! How much effort goes into making messages smaller.

use super::parameters::parameters;
use crate::compress::Pace;

parameters! {
    /// How hard a client compresses: what brings a message over soonest at the rate of the network.
    pub struct CompressionPolicy in "compression" {
        /// Off: at the middle level, 3, whatever the network.
        enabled: bool = true, false => true;
        /// The lowest level of zstd.
        level_min: u32 = 1, 1 => 15;
        /// The highest: above 9 a phone's processor works long for little. Not below `level_min`.
        level_max: u32 = 9, 1 => 15;
        /// Bytes per second that the device compresses at level 3.
        speed: u64 = 40_000_000, 100_000 => 10_000_000_000;
    }
    check CompressionPolicy::check_levels;
}

impl CompressionPolicy {
    fn check_levels(&self) -> Result<(), String> {
        if self.level_max < self.level_min {
            let Self { level_min, level_max, .. } = self;
            return Err(format!("level_max is {level_max}, below level_min, which is {level_min}"));
        }
        Ok(())
    }

    /// The pace on a network that sends so many bytes per second. `None`: the middle level.
    pub fn pace(&self, rate: Option<f64>) -> Option<Pace> {
        let rate = rate.filter(|rate| self.enabled && *rate > 0.0)?;
        // Both are far below what a float holds exactly, and levels below what an i32 does.
        let [level_min, level_max] = [self.level_min, self.level_max].map(|level| level as i32);
        Some(Pace { rate, speed: self.speed as f64, level_min, level_max })
    }
}
