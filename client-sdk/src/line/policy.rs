//! The gateway's policy on a line, and reports to it.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::link;

use super::Line;
use crate::{core::now, reports::Standing};

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// A policy that cannot be followed is refused with the reason, and the last good one stays. What was counted under
    /// the one before is reported as such, or forgotten where that wants no reports.
    pub(super) fn on_policy(&mut self, policy: &link::Policy) {
        let now = now();
        let is_other = policy.revision != self.shared.in_force.arms().0;
        let is_enabled = self.reports_are_on();
        let has_counts = self.shared.with(|core| {
            if policy.report_wanted {
                core.reports.want();
            }
            core.reports.has_counts(is_enabled)
        });
        if is_other && has_counts {
            self.report(now);
        }
        let word = self.shared.in_force.apply(policy);
        let control = self.machine.control();
        control.policy_ack(policy.revision, word.as_ref().copied().map_err(String::as_str));
        match word {
            Ok(()) => {
                self.watch.on_policy(control, now);
                let pings = control.pings_sent();
                if is_other {
                    self.shared.with(|core| {
                        core.reports.pinged(pings);
                        core.reports.begin_anew(now, &self.shared.traffic);
                    });
                }
            }
            Err(text) => tracing::warn!(revision = policy.revision, "policy refused: {text}"),
        }
    }

    /// Reports if that is due; whether it did. `sends`: something else is being sent.
    pub(super) fn report_when_due(&mut self, now: Instant, sends: bool) -> bool {
        if !self.online {
            return false;
        }
        let level = *self.shared.quality.level.borrow();
        let strategies = self.shared.strategies.borrow();
        let is_due = self
            .shared
            .with(|core| core.reports.is_due(now, &strategies.report, &core.network, level, sends));
        drop(strategies);
        if is_due {
            self.report(now);
        }
        is_due
    }

    fn reports_are_on(&self) -> bool {
        self.shared.strategies.borrow().report.enabled
    }

    fn report(&mut self, now: Instant) {
        let is_enabled = self.reports_are_on();
        let pings = self.machine.control().pings_sent();
        let shared = &self.shared;
        let (policy_revision, arms) = shared.in_force.arms();
        let (quality, level) = (shared.quality.snapshot(), *shared.quality.level.borrow());
        let report = shared.with(|core| {
            core.reports.pinged(pings);
            let (network, traffic) = (&core.network, &shared.traffic);
            let beats_learnt = &core.beats.learnt(network.place(), now);
            let arms = &arms;
            let standing = Standing {
                network,
                level,
                quality,
                beats_learnt,
                traffic,
                policy_revision,
                arms,
                is_enabled,
            };
            core.reports.take(now, &standing)
        });
        self.machine.control().report(report);
    }
}
