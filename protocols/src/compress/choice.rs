//! Whether to try to compress a message: learnt from what came of it before, by route and size.
//!
//! ```text
//!                       smaller by an eighth or more: failures = 0
//!  try ----------------> learn
//!   ^                       | not so: failures + 1, and the next 2^failures - 1 of the kind are left as they are
//!   +--- none left to skip -+
//! ```
//!
//! A payload that does not compress (images, what is encrypted) costs one try in 256 in the end, and a look
//! into a small table otherwise.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Kinds of messages that are told apart: a few dozen routes in a few sizes each. Two that share a place share
/// what they learn, which costs bytes or time, and nothing else.
const PLACES: usize = 512;
/// At most 2^8 - 1 messages are left as they are between two tries.
const FAILURES_MAX: u32 = 8;
/// A message must get smaller by one part in so many, or compressing it is not worth the receiver's time.
const GAIN_PARTS: usize = 8;
/// Sizes are remembered in so many parts of a whole.
const SIZE_PARTS: f64 = 255.0;

/// A kind of messages: a route, of one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind(u32);

/// What is known of one kind. A machine of three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    failures: u32,
    /// Messages to leave as they are before the next try.
    skip: u32,
    /// What messages had left of their size lately, in parts of 255; 0: nothing is known.
    size: u32,
}

/// What one side has learnt, shared by all its connections; clones are the same.
#[derive(Clone)]
pub(super) struct Choices {
    places: Arc<[AtomicU32; PLACES]>,
}

impl Kind {
    /// Of a request's path: what follows `?` and segments that hold a digit, which name things rather than
    /// kinds of things, are not looked at.
    pub fn of_path(path: &[u8]) -> Self {
        let path = path.split(|&byte| byte == b'?').next().unwrap_or_default();
        let segments = path.split(|&byte| byte == b'/');
        let named = segments.filter(|segment| !segment.iter().any(u8::is_ascii_digit));
        let hash = named
            .flat_map(|segment| segment.iter().chain(b"/"))
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        Self(hash)
    }

    /// Sizes within a factor of four behave alike.
    fn place(self, bytes: usize) -> usize {
        let size = (bytes.max(1).ilog2() / 2).wrapping_mul(0x9e37_79b9);
        let mixed = self.0 ^ size;
        (mixed ^ mixed >> 16) as usize % PLACES
    }
}

impl Known {
    /// Whether to try now.
    fn advise(mut self) -> (bool, Self) {
        let tries = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        (tries, self)
    }

    /// What came of it.
    fn learn(self, bytes_before: usize, bytes_after: usize) -> Self {
        let size = self.size_with(bytes_before, bytes_after);
        if bytes_after <= bytes_before - bytes_before / GAIN_PARTS {
            return Self { size, ..Self::default() };
        }
        let failures = (self.failures + 1).min(FAILURES_MAX);
        Self { failures, skip: (1 << failures) - 1, size }
    }

    /// Smoothed by quarters.
    fn size_with(self, bytes_before: usize, bytes_after: usize) -> u32 {
        let parts = (bytes_after.min(bytes_before) as f64 / bytes_before.max(1) as f64 * SIZE_PARTS).round();
        // 0 to 255.
        let new = (parts as u32).max(1);
        if self.size == 0 { new } else { ((3 * self.size + new + 2) / 4).max(1) }
    }

    fn pack(self) -> u32 {
        self.size << 24 | self.failures << 16 | self.skip
    }

    fn unpack(packed: u32) -> Self {
        Self { size: packed >> 24, failures: packed >> 16 & 0xff, skip: packed & 0xffff }
    }
}

impl Choices {
    /// Whether to try to compress a message of this kind and length.
    pub(super) fn advise(&self, kind: Kind, bytes: usize) -> bool {
        // Two threads at one place may lose a count, and nothing else.
        let place = &self.places[kind.place(bytes)];
        let known = Known::unpack(place.load(Ordering::Relaxed));
        if known.failures == 0 {
            return true;
        }
        let (tries, known) = known.advise();
        place.store(known.pack(), Ordering::Relaxed);
        tries
    }

    /// The share of their bytes that messages of this kind and length had left; `None` where nothing is known.
    pub(super) fn size(&self, kind: Kind, bytes: usize) -> Option<f64> {
        let known = Known::unpack(self.places[kind.place(bytes)].load(Ordering::Relaxed));
        (known.size > 0).then(|| f64::from(known.size) / SIZE_PARTS)
    }

    /// Says what came of a try.
    pub(super) fn learn(&self, kind: Kind, bytes_before: usize, bytes_after: usize) {
        let place = &self.places[kind.place(bytes_before)];
        let before = place.load(Ordering::Relaxed);
        let after = Known::unpack(before).learn(bytes_before, bytes_after).pack();
        if after != before {
            place.store(after, Ordering::Relaxed);
        }
    }
}

impl Default for Choices {
    fn default() -> Self {
        Self { places: Arc::new([const { AtomicU32::new(0) }; PLACES]) }
    }
}

impl std::fmt::Debug for Choices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Choices")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many messages, how many are tried.
    fn tries(choices: &Choices, kind: Kind, count: usize, bytes_after: usize) -> usize {
        let mut tried = 0;
        for _ in 0..count {
            if choices.advise(kind, 1000) {
                tried += 1;
                choices.learn(kind, 1000, bytes_after);
            }
        }
        tried
    }

    #[test]
    fn what_does_not_get_smaller_is_tried_less_and_less() {
        let (choices, images) = (Choices::default(), Kind::of_path(b"/images"));
        // Tried, one left, tried, three left, tried, seven left.
        assert_eq!(tries(&choices, images, 1 + 1 + 1 + 3 + 1 + 7, 1000), 3);
        let tried = tries(&choices, images, 100_000, 1000);
        assert!(tried <= 100_000 / 256 + 8, "{tried}");
    }

    #[test]
    fn what_gets_smaller_is_always_tried_and_the_past_forgotten() {
        let (choices, kind) = (Choices::default(), Kind::of_path(b"/feed"));
        assert_eq!(tries(&choices, kind, 100, 500), 100);
        tries(&choices, kind, 1000, 1000);
        let before_it_is_tried = 256;
        tries(&choices, kind, before_it_is_tried, 500);
        assert_eq!(tries(&choices, kind, 100, 500), 100, "one success is enough");
    }

    #[test]
    fn a_gain_of_an_eighth_is_the_least() {
        assert_eq!(Known::default().learn(800, 700).failures, 0);
        assert_eq!(Known::default().learn(800, 701).failures, 1);
    }

    #[test]
    fn what_messages_had_left_is_remembered_and_followed() {
        let (choices, kind) = (Choices::default(), Kind::of_path(b"/feed"));
        let near = |expected: f64| {
            let size = choices.size(kind, 1000).unwrap();
            assert!((size - expected).abs() < 0.02, "{size}");
        };
        assert_eq!(choices.size(kind, 1000), None);
        tries(&choices, kind, 1, 300);
        near(0.3);
        tries(&choices, kind, 1, 700);
        near(0.4);
        tries(&choices, kind, 40, 700);
        near(0.7);
    }

    #[test]
    fn kinds_are_paths_without_names_of_things() {
        let same = |a: &str, b: &str| Kind::of_path(a.as_bytes()) == Kind::of_path(b.as_bytes());
        assert!(same("/orders/17", "/orders/18?full=1"));
        assert!(!same("/shop.Orders/Get", "/shop.Orders/Put"));
        assert!(!same("/orders/17", "/images/17"));
    }

    #[test]
    fn sizes_of_one_route_are_told_apart() {
        let (choices, kind) = (Choices::default(), Kind::of_path(b"/mixed"));
        tries(&choices, kind, 100, 1000);
        assert!(choices.advise(kind, 100_000));
    }
}
