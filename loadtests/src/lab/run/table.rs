//! The figures as text.

use std::{cmp::Reverse, fmt::Write, time::Duration};

use super::{
    Effort, Outcome, Report,
    figures::Figures,
    goals::{Goal, Trip, goals},
    orders::{Sample, Who},
};
use crate::lab::{
    model::Way,
    profiles::{Profile, chosen},
};

pub(super) type Column = (&'static str, fn(&Figures) -> Option<f64>, usize);

/// Heads, figures, digits behind the point.
pub(super) const COLUMNS: [Column; 14] = [
    ("ok %", |it| it.success.map(|share| 100.0 * share), 1),
    ("connect", |it| it.connect_ms, 0),
    ("cold", |it| it.cold_p50_ms, 0),
    ("cold90", |it| it.cold_p90_ms, 0),
    ("bundled", |it| it.bundled_p50_ms, 0),
    ("again", |it| it.again_p50_ms, 0),
    ("p50", |it| it.p50_ms, 0),
    ("p90", |it| it.p90_ms, 0),
    ("p99", |it| it.p99_ms, 0),
    ("bytes", |it| it.bytes, 0),
    ("beats/h", |it| it.wakes_per_hour, 0),
    ("noticed", |it| it.noticed_ms, 0),
    ("dead", |it| it.dead_ms, 0),
    ("moved", |it| it.moved_ms, 0),
];

/// Prints the table with so many of each client's slowest calls, what did not go well, and which goals are met.
pub(super) fn print(report: &Report, slowest: usize) {
    let mut text = String::new();
    text += &head();
    for (number, outcome) in report.results.iter().enumerate() {
        let is_first = number == 0 || report.results[number - 1].trial.profile != outcome.trial.profile;
        if is_first {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {}", outcome.trial.profile, outcome.about);
        }
        text += &row(outcome);
        text += &slow(outcome, slowest);
    }
    text += NOTES;
    text += &worth(report);
    text += &judged(report);
    print!("{text}");
}

pub(super) const NOTES: &str = "\
Times in milliseconds; a call without an answer within 10 s counts as 10 s. ok: calls answered within 10 s. connect, cold:
median from the start of an app that was never there to a connection with TLS, and to the first answer; bundled: the same
of one that was built with the server's address, which the others ask DNS for; again: of one that was there. p50 to p99:
calls on a connection that is there. bytes: IP packets of such a call, both ways. beats/h: times an hour that the phone
speaks in silence. noticed: from a call on flows that died to the line being given up; dead: to the next answer. moved:
from the new address after a hand-over to the next answer. The last three: the longest of some.
";

fn head() -> String {
    let mut line = format!("{:<24}", "");
    COLUMNS.iter().for_each(|(name, ..)| line += &format!("{name:>9}"));
    line + "\n"
}

fn row(outcome: &Outcome) -> String {
    let mut line = format!("  {:<22}", label(outcome));
    for (_, figure, digits) in COLUMNS {
        let figure = figure(&outcome.figures).map_or("-".to_owned(), |it| format!("{it:.digits$}"));
        line += &format!("{figure:>9}");
    }
    line.push('\n');
    if !outcome.trial.runs.twice.is_empty() {
        line += &format!("    RAN TWICE: {}\n", outcome.trial.runs.twice.join(", "));
    }
    if let Some(failure) = &outcome.trial.failure {
        line += &format!("    FAILED: {failure}\n");
    }
    line
}

/// The slowest calls on a connection that was there, with where their time went if that is known.
fn slow(outcome: &Outcome, count: usize) -> String {
    let Some((first, warm)) = outcome.trial.calls.split_first() else { return String::new() };
    let mut slowest: Vec<&Sample> = warm.iter().collect();
    slowest.sort_by_key(|sample| Reverse(sample.took));
    let lines = slowest.into_iter().take(count).map(|sample| {
        let (took, at) = (sample.took / 1_000_000, sample.start.saturating_sub(first.start) / 1_000_000);
        let went = sample.error.as_deref().or(sample.timeline.as_deref()).unwrap_or_default();
        format!("    {took:>6} at {at:>6} {} {went}\n", sample.by)
    });
    lines.collect()
}

/// Who it was, and what was switched off.
pub(super) fn label(outcome: &Outcome) -> String {
    let off: String = outcome.trial.without.iter().map(|name| format!(" -{name}")).collect();
    format!("{}{off}", outcome.trial.who.name())
}

/// The goals of every network in which the SDK was.
pub(super) fn judge(report: &Report) -> Vec<(&str, Vec<Goal>)> {
    let sdks = report.results.iter().filter(|it| it.trial.who == Who::Sdk && it.trial.without.is_empty());
    sdks.map(|sdk| {
        let profile = sdk.trial.profile.as_str();
        let peers = report
            .results
            .iter()
            .filter(|it| it.trial.profile == profile && matches!(it.trial.who, Who::H2 | Who::H3));
        let peers: Vec<&Figures> = peers.map(|it| &it.figures).collect();
        let known = chosen(std::slice::from_ref(&sdk.trial.profile)).ok().and_then(|mut found| found.pop());
        (profile, known.map_or(Vec::new(), |known| goals(&sdk.figures, &peers, trip(report, &known))))
    })
    .collect()
}

/// What the network does to a request and its answer.
fn trip(report: &Report, profile: &Profile) -> Trip {
    let (up, down) = (profile.link.up, profile.link.down);
    let Effort { request_bytes, answer_bytes, .. } = report.effort;
    let whole = profile.round_trip()
        + (up.jitter + up.transmission(request_bytes))
        + (down.jitter + down.transmission(answer_bytes));
    let arrives = |way: Way, bytes: usize| {
        let packets = bytes.div_ceil(PACKET_BYTES).try_into().unwrap_or(i32::MAX);
        // In bursts, calls lose more than one packet, and fewer calls do.
        if way.loss.enter > 0.0 { 1.0 } else { (1.0 - way.loss.mean()).powi(packets) }
    };
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Trip {
        bare_ms: ms(profile.round_trip()),
        whole_ms: ms(whole),
        lost: 1.0 - arrives(up, request_bytes) * arrives(down, answer_bytes),
    }
}

/// What a packet holds of a message on a path of which nothing is known.
const PACKET_BYTES: usize = 1200;

/// What became of the figures without each strategy that was switched off, if any was.
fn worth(report: &Report) -> String {
    let mut text = String::new();
    for without in report.results.iter().filter(|it| !it.trial.without.is_empty()) {
        let is_whole = |it: &&Outcome| {
            let (it, other) = (&it.trial, &without.trial);
            it.profile == other.profile && it.who == other.who && it.without.is_empty()
        };
        let Some(whole) = report.results.iter().find(is_whole) else { continue };
        if text.is_empty() {
            text += "Without a strategy (figures that change by more than a tenth; single losses move p99 as much):\n";
        }
        let off = without.trial.without.join(", ");
        let words = changes(&whole.figures, &without.figures);
        let words = if words.is_empty() { "nothing".to_owned() } else { words.join("  ") };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<12} {off:<12} {words}", without.trial.profile);
    }
    text
}

/// The figures that differ by more than a tenth.
fn changes(whole: &Figures, without: &Figures) -> Vec<String> {
    let changed = COLUMNS.iter().filter_map(|(name, figure, digits)| {
        let (before, after) = figure(whole).zip(figure(without))?;
        let is_told = (after - before).abs() > before.abs() * CHANGE_MIN;
        is_told.then(|| format!("{name} {before:.digits$} -> {after:.digits$}"))
    });
    changed.collect()
}

/// A smaller share of a figure is noise.
const CHANGE_MIN: f64 = 0.1;

fn judged(report: &Report) -> String {
    let mut text =
        "Goals of the SDK (value, bound; least: what the network takes, where that is more):\n".to_owned();
    for (profile, goals) in judge(report) {
        let words = goals.iter().map(|goal| {
            let digits = if goal.name == "success" { 3 } else { 0 };
            let word = if goal.is_met { "met" } else { "MISSED" };
            let least = goal.least.map_or(String::new(), |least| format!(", least {least:.0}"));
            format!("{} {word} ({:.digits$}, {:.digits$}{least})", goal.name, goal.value, goal.bound)
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {profile:<12} {}", words.collect::<Vec<_>>().join("  "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_without_a_strategy_is_told_by_figure() {
        let whole =
            Figures { success: Some(1.0), p50_ms: Some(70.0), p99_ms: Some(150.0), ..Figures::default() };
        let without =
            Figures { success: Some(0.5), p50_ms: Some(75.0), p99_ms: Some(301.0), ..whole.clone() };
        assert_eq!(changes(&whole, &whole), [""; 0]);
        assert_eq!(changes(&whole, &without), ["ok % 100.0 -> 50.0", "p99 150 -> 301"]);
    }
}
