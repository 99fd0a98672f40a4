//! A set of sequence numbers in bounded memory.

use std::collections::BTreeMap;

/// Separate ranges remembered. A client has few requests in flight beside each other, so the holes
/// between acknowledged ones are few.
const RANGES_MAX: usize = 64;

/// All numbers up to a floor, and ranges above it.
#[derive(Debug, Default)]
pub(super) struct SeqSet {
    floor: u64,
    /// First to last, disjoint, not adjacent, all above the floor.
    ranges: BTreeMap<u64, u64>,
}

impl SeqSet {
    pub(super) fn contains(&self, seq: u64) -> bool {
        seq <= self.floor || self.ranges.range(..=seq).next_back().is_some_and(|(_, &last)| seq <= last)
    }

    /// Adds one number. When that makes too many ranges, the lowest is forgotten and its last number
    /// returned: of all numbers up to it, the set no longer knows.
    pub(super) fn insert(&mut self, seq: u64) -> Option<u64> {
        if self.contains(seq) {
            return None;
        }
        if seq == self.floor + 1 {
            self.raise_floor(seq);
            return None;
        }
        let last = self.ranges.remove(&(seq + 1)).unwrap_or(seq);
        match self.ranges.range_mut(..seq).next_back() {
            Some((_, before)) if *before + 1 == seq => *before = last,
            _ => _ = self.ranges.insert(seq, last),
        }
        if self.ranges.len() > RANGES_MAX { self.ranges.pop_first().map(|(_, last)| last) } else { None }
    }

    /// Adds all numbers up to `floor`.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while let Some(range) = self.ranges.first_entry() {
            if *range.key() > self.floor + 1 {
                break;
            }
            self.floor = self.floor.max(range.remove());
        }
    }

    /// Forgets ranges that end at or below `floor`, which another set answers for.
    pub(super) fn drop_up_to(&mut self, floor: u64) {
        while let Some(range) = self.ranges.first_entry() {
            if *range.get() > floor {
                break;
            }
            range.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_join_to_ranges_and_ranges_to_the_floor() {
        let mut set = SeqSet::default();
        for seq in [5, 3, 4, 1] {
            assert_eq!(set.insert(seq), None);
        }
        assert!((3..=5).all(|seq| set.contains(seq)));
        assert!(!set.contains(2) && !set.contains(6));
        set.insert(2);
        assert_eq!((set.floor, set.ranges.len()), (5, 0));
    }

    #[test]
    fn too_many_holes_forget_the_lowest_range() {
        let mut set = SeqSet::default();
        for n in 0..RANGES_MAX as u64 {
            assert_eq!(set.insert(10 + 2 * n), None);
        }
        assert_eq!(set.insert(1000), Some(10));
        assert_eq!(set.ranges.len(), RANGES_MAX);
    }
}
