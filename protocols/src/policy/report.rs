//! When a client says of itself what it has seen.

use std::time::{Duration, Instant};

use super::parameters::{hours, minutes, parameters, seconds};

parameters! {
    /// When clients report to the gateway what they have seen: counts, latencies, the network's quality.
    pub struct ReportPolicy in "report" {
        /// Off: a client says what it is and what it is asked for, and nothing else.
        enabled: bool = true, false => true;
        /// The least time between two reports that nobody asked for. One waits until something else is sent.
        interval: Duration = minutes(10), seconds(1) => hours(24);
        /// The least time between two reports of which changes are the reason.
        change_pause: Duration = seconds(5), seconds(1) => minutes(10);
    }
}

/// Why a report may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportCause {
    /// The gateway asks for one, or facts changed, or another policy is taken into use.
    Needed,
    /// The network's quality level changed.
    Changed,
    /// Something else is being sent.
    Traffic,
}

/// When the last report went out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportClock {
    last: Option<Instant>,
}

impl ReportClock {
    /// Whether a report is due. The first of a client's life waits for an interval like any other.
    pub fn is_due(&mut self, now: Instant, policy: &ReportPolicy, cause: ReportCause) -> bool {
        let since = now.saturating_duration_since(*self.last.get_or_insert(now));
        match cause {
            ReportCause::Needed => true,
            ReportCause::Changed => policy.enabled && since >= policy.change_pause,
            ReportCause::Traffic => policy.enabled && since >= policy.interval,
        }
    }

    /// One went out.
    pub fn sent(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn traffic_carries_a_report_after_the_interval_and_what_is_needed_goes_at_once() {
        let policy = ReportPolicy::default();
        let mut clock = ReportClock::default();
        let start = Instant::now();
        let mut due = |after: Duration, cause| clock.is_due(start + after, &policy, cause);
        assert!(!due(Duration::ZERO, ReportCause::Traffic));
        assert!(due(Duration::ZERO, ReportCause::Needed));
        assert!(!due(policy.change_pause / 2, ReportCause::Changed));
        assert!(due(policy.change_pause, ReportCause::Changed));
        assert!(!due(policy.interval - Duration::from_secs(1), ReportCause::Traffic));
        assert!(due(policy.interval, ReportCause::Traffic));
        clock.sent(start + policy.interval);
        assert!(!clock.is_due(start + policy.interval, &policy, ReportCause::Traffic));
        let off = ReportPolicy { enabled: false, ..policy.clone() };
        assert!(!clock.is_due(start + 3 * policy.interval, &off, ReportCause::Traffic));
        assert!(clock.is_due(start + 3 * policy.interval, &off, ReportCause::Needed));
    }
}
