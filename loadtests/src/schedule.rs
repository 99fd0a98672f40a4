//! When each operation of an open loop is due.
//!
//! Operations are numbered over all connections of all processes: operation `n` is due at `n / rate`
//! and belongs to connection `n mod connections`, so the whole rate is even however the connections are
//! spread. A worker holds the connections `first .. first + count`:
//!
//! ```text
//!   connections = 5, worker B holds 3..5
//!   n          0 1 2 3 4 | 5 6 7 8 9 | 10 ...
//!   worker     A A A B B | A A A B B |
//!   B's step         0 1         2 3
//! ```

use crate::clock::SECOND;

/// One worker's part of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Operations per second, over all workers; above zero.
    pub rate: f64,
    /// Connections that send, over all workers.
    pub connections: usize,
    /// This worker's first connection.
    pub first: usize,
    /// How many this worker has; above zero.
    pub count: usize,
}

impl Schedule {
    /// The worker's operation number `step`: which of its connections sends it (counted from the
    /// worker's first), and how many nanoseconds after the start.
    pub fn step(&self, step: u64) -> (usize, u64) {
        let (cycle, lane) = (step / self.count as u64, (step % self.count as u64) as usize);
        let number = cycle * self.connections as u64 + (self.first + lane) as u64;
        (lane, (number as f64 / self.rate * SECOND as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_sends_evenly() {
        let schedule = Schedule { rate: 1000.0, connections: 2, first: 0, count: 2 };
        let steps: Vec<_> = (0..4).map(|step| schedule.step(step)).collect();
        assert_eq!(steps, [(0, 0), (1, 1_000_000), (0, 2_000_000), (1, 3_000_000)]);
    }

    #[test]
    fn workers_interleave_to_the_same_schedule_as_one_alone() {
        let alone = Schedule { rate: 77.0, connections: 5, first: 0, count: 5 };
        let left = Schedule { first: 0, count: 3, ..alone };
        let right = Schedule { first: 3, count: 2, ..alone };
        let mut expected: Vec<_> = (0..50).map(|step| alone.step(step).1).collect();
        let mut spread: Vec<_> = (0..30).map(|step| left.step(step).1).collect();
        spread.extend((0..20).map(|step| right.step(step).1));
        expected.sort_unstable();
        spread.sort_unstable();
        assert_eq!(spread, expected);
    }

    #[test]
    fn an_hour_at_a_high_rate_does_not_drift() {
        let schedule = Schedule { rate: 50_000.0, connections: 1, first: 0, count: 1 };
        assert_eq!(schedule.step(50_000 * 3600).1, 3600 * SECOND);
    }
}
