//! What the queues of all sessions hold together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// In such steps a session counts, so that one whose client keeps up counts nothing and waits for no other core. So much
/// it may hold in any case.
const STEP_BYTES: usize = 4096;

/// Bytes that sessions hold, each in whole steps of 4 KiB. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<AtomicUsize>);

impl Held {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One session's part in it.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// `None` until it holds something.
    of: Option<Held>,
    bytes: usize,
}

impl Share {
    pub(super) const fn new() -> Self {
        Self { of: None, bytes: 0 }
    }

    /// Where it counts.
    pub(super) fn belongs_to(&mut self, all: &Held) {
        self.of.get_or_insert_with(|| all.clone());
    }

    /// The session holds so much now.
    pub(super) fn follow(&mut self, bytes: usize) {
        let (Some(all), bytes) = (&self.of, whole_steps(bytes)) else { return };
        if bytes > self.bytes {
            all.0.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            all.0.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Whether it may hold `more` beside `bytes`, once what it holds has come down to those.
    pub(super) fn has_room(&self, all: &Held, bytes: usize, more: usize, max: usize) -> bool {
        let counted = whole_steps(bytes);
        let others = || all.bytes().saturating_sub(self.bytes) + counted;
        whole_steps(bytes.saturating_add(more)) == counted || others() < max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.follow(0);
    }
}

fn whole_steps(bytes: usize) -> usize {
    bytes - bytes % STEP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_whole_steps_and_gives_them_back() {
        let all = Held::default();
        let (mut one, mut other) = (Share::new(), Share::new());
        one.follow(10_000);
        assert_eq!(all.bytes(), 0, "it counts nowhere yet");
        one.belongs_to(&all);
        other.belongs_to(&all);
        for (bytes, counted) in
            [(4095, 0), (4096, 4096), (10_000, 8192), (8192, 8192), (100, 0), (9000, 8192)]
        {
            one.follow(bytes);
            assert_eq!(all.bytes(), counted, "of {bytes}");
        }
        other.follow(5000);
        assert_eq!(all.bytes(), 12_288);
        drop(one);
        assert_eq!(all.bytes(), 4096);
    }

    #[test]
    fn there_is_room_within_a_step_and_below_the_bound() {
        let all = Held::default();
        let (mut one, mut other) = (Share::new(), Share::new());
        one.belongs_to(&all);
        other.belongs_to(&all);
        other.follow(8192);
        let max = 8192;
        assert!(one.has_room(&all, 0, 4095, max), "which counts as nothing");
        assert!(!one.has_room(&all, 0, 4096, max));
        assert!(!one.has_room(&all, 4000, 96, max));
        assert!(one.has_room(&all, 0, 4096, max + 1));
        assert!(other.has_room(&all, 4096, 4096, max), "where it has given up so much");
        assert!(!other.has_room(&all, 8192, 4096, max));
    }
}
