//! How much of a flow the next record holds.
//!
//! A receiver can use nothing of a record before all of it is there. So a flow begins, and begins again after a
//! pause, with records of about one packet, which are usable one by one as the packets come, however slow the
//! link is; when it turns out to be long, records grow until their overhead no longer counts.
//!
//! ```text
//!             first_bytes sent           each record twice the last
//!   first ───────────────────> doubling ────────────────────────────> 16 KiB
//!     ^                           │                                      │
//!     └───────────────────────────┴──────────── idle ────────────────────┘
//! ```

use std::time::Instant;

use super::record::CONTENT_BYTES_MAX;

/// When records are small and when they grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSizes {
    /// Octets of content in a small record: a packet without its headers and the record's overhead.
    pub first: u16,
    /// Octets of a flow that go in small records.
    pub first_bytes: u32,
    /// A pause, in milliseconds, that makes what follows a new flow.
    pub idle_ms: u32,
}

impl Default for RecordSizes {
    fn default() -> Self {
        Self { first: 1300, first_bytes: 64 * 1024, idle_ms: 1000 }
    }
}

/// The flow of one direction of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordSizer {
    /// Since the last pause.
    sent_bytes: u32,
    /// Of the last record that was larger than the first ones; zero before it.
    grown: u16,
    /// When the last record was made, milliseconds after `epoch`. It wraps after 49 days; who pauses for just
    /// that long is taken for somebody who did not.
    last_ms: u32,
}

impl RecordSizer {
    /// The most that the next record should hold. `epoch` is a moment in the past, always the same.
    pub fn next(&mut self, sizes: &RecordSizes, epoch: Instant, now: Instant) -> usize {
        let now_ms = now.saturating_duration_since(epoch).as_millis() as u32;
        if now_ms.wrapping_sub(self.last_ms) >= sizes.idle_ms {
            (self.sent_bytes, self.grown) = (0, 0);
        }
        self.last_ms = now_ms;
        if self.sent_bytes < sizes.first_bytes {
            return usize::from(sizes.first);
        }
        let last = usize::from(self.grown.max(sizes.first));
        (2 * last).min(CONTENT_BYTES_MAX)
    }

    /// A record of so many octets was made.
    pub fn sent(&mut self, sizes: &RecordSizes, length: usize) {
        let length = length.min(CONTENT_BYTES_MAX) as u16;
        if self.sent_bytes >= sizes.first_bytes {
            self.grown = self.grown.max(length);
        }
        self.sent_bytes = self.sent_bytes.saturating_add(length.into());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SIZES: RecordSizes = RecordSizes { first: 1000, first_bytes: 3000, idle_ms: 1000 };

    #[expect(
        clippy::disallowed_methods,
        reason = "an `Instant` cannot be made from a number; all others follow from this one"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    /// The lengths of the records of `flow` octets that are sent at once.
    fn records(sizer: &mut RecordSizer, epoch: Instant, now: Instant, mut flow: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        while flow > 0 {
            let length = sizer.next(&SIZES, epoch, now).min(flow);
            sizer.sent(&SIZES, length);
            lengths.push(length);
            flow -= length;
        }
        lengths
    }

    #[test]
    fn a_flow_begins_small_grows_and_is_small_again_after_a_pause() {
        let epoch = start();
        let mut sizer = RecordSizer::default();
        let mut now = epoch + Duration::from_secs(100);
        let grown = [1000, 1000, 1000, 2000, 4000, 8000, 16_000, 16_384, 16_384];
        assert_eq!(records(&mut sizer, epoch, now, grown.iter().sum()), grown);
        now += Duration::from_millis(900);
        assert_eq!(records(&mut sizer, epoch, now, 16_384), [16_384], "no pause yet");
        now += Duration::from_secs(1);
        assert_eq!(records(&mut sizer, epoch, now, 4500), [1000, 1000, 1000, 1500]);
        now += Duration::from_millis(500);
        assert_eq!(records(&mut sizer, epoch, now, 10), [10]);
    }

    #[test]
    fn a_long_life_wraps_and_goes_on() {
        let epoch = start();
        let mut sizer = RecordSizer::default();
        for minutes in 1..200 {
            let now = epoch + Duration::from_secs(60 * minutes);
            assert_eq!(records(&mut sizer, epoch, now, 4500), [1000, 1000, 1000, 1500]);
        }
    }

    proptest! {
        #[test]
        fn no_record_is_empty_or_too_long(
            steps in prop::collection::vec((0u64..3000, 1usize..100_000), 1..40),
            first in 1u16..=16_384, first_bytes in any::<u32>(), idle_ms in 0u32..5000,
        ) {
            let sizes = RecordSizes { first, first_bytes, idle_ms };
            let epoch = start();
            let mut now = epoch;
            let mut sizer = RecordSizer::default();
            for (pause, flow) in steps {
                now += Duration::from_millis(pause);
                let length = sizer.next(&sizes, epoch, now);
                prop_assert!((1..=CONTENT_BYTES_MAX).contains(&length));
                sizer.sent(&sizes, length.min(flow));
            }
        }
    }
}
