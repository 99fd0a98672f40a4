//! What REPORT and the facts of HELLO may hold: they come from a peer, and are kept and counted.

mod latencies;

pub use latencies::{BUCKETS, LatencyHistogram};

use super::{Arm, ClientFacts, LinkError, Report};

/// Longest text of facts, of an experiment's name and of an arm's, bytes.
pub const TEXT_BYTES_MAX: usize = 64;
/// Experiments that one client takes part in at one time.
pub const ARMS_MAX: usize = 16;
/// Kinds of outcomes in one report: all of RESET's, and room for more of them.
pub const OUTCOMES_MAX: usize = 32;
/// Learnt heartbeats in one report.
pub const BEATS_MAX: usize = 8;

/// Refuses what no client should say of itself.
pub(super) fn check(report: &Report) -> Result<(), LinkError> {
    report.facts.as_ref().map_or(Ok(()), check_facts)?;
    check_arms(&report.arms)?;
    let counts = [
        ("outcomes", report.outcomes.len(), OUTCOMES_MAX),
        ("beats_learnt", report.beats_learnt.len(), BEATS_MAX),
    ];
    if let Some((name, _, max)) = counts.iter().find(|(_, count, max)| count > max) {
        return Err(LinkError::protocol(format!("REPORT: {name} has more than {max} elements")));
    }
    match report.latencies.as_ref().is_none_or(latencies::is_sound) {
        true => Ok(()),
        false => Err(LinkError::protocol("REPORT: latencies is no histogram")),
    }
}

/// Facts are short texts.
pub(super) fn check_facts(facts: &ClientFacts) -> Result<(), LinkError> {
    let ClientFacts { app, app_version, platform, region, carrier, .. } = facts;
    let texts = [app, app_version, platform, region, carrier];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX || text.contains(char::is_control)) {
        return Err(LinkError::protocol("facts: a text has more than 64 bytes, or control characters"));
    }
    Ok(())
}

fn check_arms(arms: &[Arm]) -> Result<(), LinkError> {
    let is_long = |arm: &Arm| arm.experiment.len() > TEXT_BYTES_MAX || arm.arm.len() > TEXT_BYTES_MAX;
    if arms.len() > ARMS_MAX || arms.iter().any(is_long) {
        return Err(LinkError::protocol("REPORT: arms are at most 16, and names have at most 64 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Outcome, proto::Latencies};

    fn check_report(report: Report, accepted: bool) {
        assert_eq!(check(&report).is_ok(), accepted, "{report:?}");
    }

    fn facts(carrier: String) -> Report {
        Report { facts: Some(ClientFacts { carrier, ..ClientFacts::default() }), ..Report::default() }
    }

    #[test]
    fn reports_are_bounded() {
        check_report(Report::default(), true);
        check_report(facts("x".repeat(64)), true);
        check_report(facts("x".repeat(65)), false);
        check_report(facts("a\nb".into()), false);
        let arm = |bytes| Arm { experiment: "e".repeat(bytes), arm: "a".into() };
        check_report(Report { arms: vec![arm(64); 16], ..Report::default() }, true);
        check_report(Report { arms: vec![arm(64); 17], ..Report::default() }, false);
        check_report(Report { arms: vec![arm(65)], ..Report::default() }, false);
        check_report(Report { outcomes: vec![Outcome::default(); 33], ..Report::default() }, false);
        check_report(Report { beats_learnt: vec![Default::default(); 9], ..Report::default() }, false);
    }

    #[test]
    fn histograms_have_rising_buckets_with_counts() {
        let check = |buckets: &[u32], counts: &[u32], accepted| {
            let latencies = Some(Latencies { buckets: buckets.to_vec(), counts: counts.to_vec() });
            check_report(Report { latencies, ..Report::default() }, accepted);
        };
        check(&[], &[], true);
        check(&[0, 159], &[1, u32::MAX], true);
        check(&[0, 160], &[1, 1], false);
        check(&[5, 5], &[1, 1], false);
        check(&[6, 5], &[1, 1], false);
        check(&[5], &[0], false);
        check(&[5], &[], false);
    }
}
