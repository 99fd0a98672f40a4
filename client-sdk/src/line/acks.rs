//! When the gateway is told which outcomes were taken.
//!
//! The next request says it for nothing, so an ACK of its own waits for one. The gateway keeps the answers until
//! then, so that many of them, or large ones, do not wait.

use std::time::{Duration, Instant};

const AFTER: Duration = Duration::from_secs(1);
const OUTCOMES_MAX: usize = 16;
const ANSWER_BYTES_MAX: usize = 32 << 10;

/// The wait of an ACK.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Since when there is something to tell.
    since: Option<Instant>,
}

impl Acks {
    /// Whether the time has come, with so many outcomes untold, and answers of so many bytes. The caller then tells
    /// them.
    pub(super) fn are_due(&mut self, now: Instant, outcomes: usize, answer_bytes: usize) -> bool {
        if outcomes == 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let are_due = now >= since + AFTER || outcomes >= OUTCOMES_MAX || answer_bytes >= ANSWER_BYTES_MAX;
        if are_due {
            self.since = None;
        }
        are_due
    }

    /// When to ask again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_waits_for_a_request_but_not_for_long() {
        let (mut acks, start) = (Acks::default(), Instant::now());
        assert!(!acks.are_due(start, 1, 100));
        assert_eq!(acks.due(), Some(start + AFTER));
        assert!(!acks.are_due(start + AFTER / 2, 2, 200));
        assert!(acks.are_due(start + AFTER, 2, 200));
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn a_request_that_tells_ends_the_wait() {
        let (mut acks, start) = (Acks::default(), Instant::now());
        assert!(!acks.are_due(start, 1, 100));
        assert!(!acks.are_due(start + AFTER / 2, 0, 0));
        assert_eq!(acks.due(), None);
        assert!(!acks.are_due(start + AFTER, 1, 100), "the wait begins anew");
    }

    #[test]
    fn many_or_large_answers_do_not_wait() {
        let (mut acks, start) = (Acks::default(), Instant::now());
        assert!(acks.are_due(start, OUTCOMES_MAX, 0));
        assert!(acks.are_due(start, 1, ANSWER_BYTES_MAX));
    }
}
