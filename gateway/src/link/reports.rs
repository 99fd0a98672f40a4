//! What a client says of itself, and the policy that follows from it.

use std::time::{Duration, Instant};

use towline_protocols::link::{Control, Hello, Report};

use super::attendance::Attendance;

/// Reports of one connection whose counts are taken within [`PERIOD`]: what changes of network and policy ask for.
const REPORTS_MAX: u8 = 12;
/// Of what a client says of a policy that it refuses, for logs and operators.
const TEXT_CHARS_MAX: usize = 256;
/// See [`REPORTS_MAX`].
const PERIOD: Duration = Duration::from_secs(60);

/// How many reports there were lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    count: u8,
}

impl Pace {
    fn admits(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= REPORTS_MAX
    }
}

impl Attendance {
    /// What HELLO says of the client.
    pub(super) fn learn(&mut self, hello: &Hello) {
        let session = self.door.lease.session();
        session.note_policy(hello.policy_revision);
        if let Some(facts) = &hello.facts {
            let known = session.facts().unwrap_or_default();
            session.learn_facts(self.door.gateway.policies.facts.share(known.told(facts)));
        }
    }

    /// Tells the client of a policy that it does not follow yet.
    pub(super) fn send_policy(&mut self, control: &mut Control) {
        let gateway = &self.door.gateway;
        let generation = gateway.policies.generation() + 1;
        if self.told.policies == generation {
            return;
        }
        self.told.policies = generation;
        let session = self.door.lease.session();
        let (facts, snapshot) = (session.facts(), gateway.snapshot());
        let base = &snapshot.settings.client_policy;
        let policy = gateway.policies.policy_for(base, session.client_id(), facts.as_deref());
        if policy.revision != session.policy_told() {
            session.note_policy(policy.revision);
            gateway.metrics.policies.with_label_values(&["sent"]).inc();
            control.policy(policy);
        }
    }

    pub(super) fn on_policy_ack(&mut self, revision: u64, accepted: bool, text: &str) {
        let gateway = &self.door.gateway;
        let text = &*shown(text);
        let outcome = if accepted { "accepted" } else { "refused" };
        gateway.metrics.policies.with_label_values(&[outcome]).inc();
        gateway.policies.answered(revision, (!accepted).then_some(text));
        if accepted {
            return;
        }
        let version = gateway.policies.edition().version;
        gateway.metrics.policy_refusals.with_label_values(&[&version.to_string()]).inc();
        // The text is the peer's: it neither forges lines nor fills the log.
        if let Some(held_back) = gateway.refusals.pass(Instant::now()) {
            let client = &**self.door.lease.session().client_id();
            tracing::warn!(client, revision, held_back, "the client refused the policy: {text:?}");
        }
    }

    pub(super) fn on_report(&mut self, control: &mut Control, report: &Report) {
        let gateway = &self.door.gateway;
        let session = self.door.lease.session();
        // Nothing that arrives behind a take-over is acted on.
        if self.door.lease.revoked().is_some() {
            return;
        }
        let admitted = self.reports.get_or_insert_default().admits(super::now());
        let counted = admitted && gateway.policies.count(session.client_id(), report);
        let outcome = match (admitted, counted) {
            (false, _) => "left_out",
            (true, true) => "counted",
            (true, false) => "taken",
        };
        gateway.metrics.reports.with_label_values(&[outcome]).inc();
        if !admitted {
            gateway.metrics.limit_hit("reports_per_minute_max");
            return;
        }
        let before = session.facts();
        let mut facts = before.as_deref().cloned().unwrap_or_default();
        if let Some(told) = &report.facts {
            facts = facts.told(told);
        }
        if let Some(quality) = &report.quality {
            facts = facts.seen(quality);
        }
        for beat in &report.beats_learnt {
            let (network, carrier) = (facts.network as u32, &*facts.carrier);
            if gateway.learned.tell(session.client_id(), network, carrier, beat) {
                gateway.metrics.limit_hit("networks_learned_max");
            }
        }
        if before.as_deref() != Some(&facts) {
            session.learn_facts(gateway.policies.facts.share(facts));
            self.told.policies = 0;
            self.send_policy(control);
        }
    }
}

/// What of a client's text goes to logs and operators.
fn shown(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_a_policy_is_kept_short() {
        assert_eq!(shown("no such parameter: ä"), "no such parameter: ä");
        assert_eq!(shown(&"ä".repeat(100_000)).chars().count(), TEXT_CHARS_MAX);
    }

    #[test]
    fn reports_beyond_what_changes_need_are_left_out_until_a_minute_is_over() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let admitted = |pace: &mut Pace, at| (0..20).filter(|_| pace.admits(start + at)).count();
        assert_eq!(admitted(&mut pace, Duration::ZERO), 12);
        assert_eq!(admitted(&mut pace, Duration::from_secs(59)), 0);
        assert_eq!(admitted(&mut pace, Duration::from_secs(60)), 12);
    }
}
