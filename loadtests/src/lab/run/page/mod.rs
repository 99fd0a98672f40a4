//! The figures as a page that needs nothing else: tables, and plots as inline SVG.

mod plot;

use std::fmt::Write;

use self::plot::{Line, Range, curves, ranges};
use super::{
    Outcome, Report,
    table::{COLUMNS, NOTES, judge, label},
};

/// Colours of the clients; what is left goes round.
const COLOURS: [(&str, &str); 4] =
    [("sdk", "#00875a"), ("h1", "#8a8a8a"), ("h2", "#d9730d"), ("h3", "#2457c5")];
const MORE_COLOURS: [&str; 8] =
    ["#7b3fb5", "#b5305f", "#5b7a00", "#007a87", "#a05a2c", "#4d4d9e", "#c2410c", "#33691e"];

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#1c1c1c}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em}h3{font-size:1em;margin:1.6em 0 .2em}
table{border-collapse:collapse;font-size:12.5px}td,th{padding:2px 8px;text-align:right;border-bottom:1px solid #e4e4e4}
td:first-child,th:first-child{text-align:left}tr.first td{border-top:2px solid #bbb}
.met{color:#00875a}.missed{color:#c0262d;font-weight:600}.about{color:#666;font-weight:400}
.bad{background:#fbe9e9}svg text{font:11px system-ui,sans-serif;fill:#333}svg .axis{stroke:#ddd}
.key span{display:inline-block;margin-right:1.4em}.key i{display:inline-block;width:12px;height:12px;margin-right:5px}
p{max-width:80ch}details{margin:.5em 0}
";

/// The page of a run.
pub(super) fn page(report: &Report) -> String {
    let labels = labels(report);
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Weak networks</title><style>{STYLE}</style>\
         <h1>Towline and others in weak networks</h1><p>Requests of {} bytes, answers of {} bytes, none of which \
         compress. HTTP/1.1 and HTTP/2 are curl's, served by {}; HTTP/3 is quinn's and h3's, served by the gateway, as the SDK. \
         Every client has a link of its own with the same seed ({}).</p>{}",
        report.effort.request_bytes,
        report.effort.answer_bytes,
        escaped(report.peer),
        report.seed,
        key(&labels)
    );
    html += "<h2>A call on a connection that is there</h2><p>From the median over the 90th to the 99th percentile, \
             milliseconds.</p>";
    html += &overview(report, &labels, |it| [it.figures.p50_ms, it.figures.p90_ms, it.figures.p99_ms]);
    html += "<h2>From the start of an app to its first answer</h2><p>For the first time: the median and the 90th \
             percentile; the hollow ring is the median of an app that was there before.</p>";
    html += &overview(report, &labels, |it| {
        [it.figures.cold_p50_ms, it.figures.cold_p90_ms, it.figures.again_p50_ms.map(|ms| -ms)]
    });
    html += "<h2>Until calls are answered again</h2><p>The dot: after a hand-over to another address; the ring: after all \
             flows died without a word. The longest seen; 14 s stands for never.</p>";
    html += &overview(report, &labels, |it| [it.figures.moved_ms, None, it.figures.dead_ms.map(|ms| -ms)]);
    html += &goals(report);
    html += &figures(report);
    html += "<h2>Every network</h2><p>Share of calls that were answered within a time, of all calls on a connection \
             that is there; a call without an answer never is.</p>";
    html += &networks(report, &labels);
    html
}

fn labels(report: &Report) -> Vec<String> {
    let mut labels = Vec::new();
    for label in report.results.iter().map(label) {
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

fn colour(labels: &[String], label: &str) -> &'static str {
    if let Some((_, colour)) = COLOURS.iter().find(|(name, _)| *name == label) {
        return colour;
    }
    let place = labels.iter().position(|it| it == label).unwrap_or_default();
    MORE_COLOURS[place % MORE_COLOURS.len()]
}

fn key(labels: &[String]) -> String {
    let entry = |label: &String| {
        format!("<span><i style=\"background:{}\"></i>{}</span>", colour(labels, label), escaped(label))
    };
    format!("<p class=key>{}</p>", labels.iter().map(entry).collect::<String>())
}

/// One group of ranges for each network. A figure below zero is drawn as a ring.
fn overview(report: &Report, labels: &[String], of: impl Fn(&Outcome) -> [Option<f64>; 3]) -> String {
    let mut groups: Vec<(&str, Vec<Range>)> = Vec::new();
    for outcome in &report.results {
        let label = label(outcome);
        let range = Range { colour: colour(labels, &label), values: of(outcome), label };
        match groups.last_mut().filter(|(profile, _)| *profile == outcome.trial.profile) {
            Some((_, group)) => group.push(range),
            None => groups.push((&outcome.trial.profile, vec![range])),
        }
    }
    ranges(&groups)
}

fn goals(report: &Report) -> String {
    let judged = judge(report);
    if judged.iter().all(|(_, goals)| goals.is_empty()) {
        return String::new();
    }
    let mut html = "<h2>Goals</h2><p>success: at least 99.7 %; cold, again: 40 % below the better one of HTTP/2 and HTTP/3; \
                    p99: 30 % below; noticed: a dead link within three round trips and 1 s; moved: calls go on within two \
                    round trips and 200 ms.</p><table>"
        .to_owned();
    for (profile, goals) in judged {
        let cells = goals.iter().map(|goal| {
            let class = if goal.is_met { "met" } else { "missed" };
            let digits = if goal.name == "success" { 3 } else { 0 };
            let least = goal.least.map_or(String::new(), |least| format!(", the network takes {least:.0}"));
            format!(
                "<td class={class}>{} {:.digits$} <span class=about>of {:.digits$}{least}</span></td>",
                goal.name, goal.value, goal.bound
            )
        });
        // Writing to a string cannot fail.
        let _ = write!(html, "<tr><td>{profile}</td>{}</tr>", cells.collect::<String>());
    }
    html + "</table>"
}

fn figures(report: &Report) -> String {
    let heads: String = COLUMNS.iter().map(|(name, ..)| format!("<th>{name}</th>")).collect();
    let mut html = format!("<h2>Figures</h2><p>{NOTES}</p><table><tr><th></th>{heads}<th>twice</th></tr>");
    let mut last = "";
    for outcome in &report.results {
        let class = if last == outcome.trial.profile { "" } else { " class=first" };
        last = &outcome.trial.profile;
        let cells = COLUMNS.map(|(_, figure, digits)| {
            figure(&outcome.figures).map_or("<td>-</td>".to_owned(), |it| format!("<td>{it:.digits$}</td>"))
        });
        let (cells, name) = (cells.concat(), escaped(&label(outcome)));
        let twice = outcome.figures.twice;
        let _ = write!(html, "<tr{class}><td>{last}, {name}</td>{cells}<td>{twice}</td></tr>");
        if let Some(failure) = &outcome.trial.failure {
            let _ = write!(html, "<tr class=bad><td colspan=15>{}</td></tr>", escaped(failure));
        }
    }
    html + "</table>"
}

fn networks(report: &Report, labels: &[String]) -> String {
    let mut html = String::new();
    for group in report.results.chunk_by(|left, right| left.trial.profile == right.trial.profile) {
        let lines: Vec<Line> = group.iter().map(|outcome| line(outcome, labels)).collect();
        let (profile, about) = (&group[0].trial.profile, group[0].about);
        let _ =
            write!(html, "<h3>{profile} <span class=about>{}</span></h3>{}", escaped(about), curves(&lines));
        html += &errors(group);
    }
    html
}

fn line(outcome: &Outcome, labels: &[String]) -> Line {
    let calls = outcome.trial.calls.get(1..).unwrap_or_default();
    let mut times: Vec<f64> =
        calls.iter().filter(|it| it.error.is_none()).map(|it| it.took as f64 / 1e6).collect();
    times.sort_by(f64::total_cmp);
    Line { colour: colour(labels, &label(outcome)), times, of: calls.len() }
}

/// What went wrong, and how often.
fn errors(group: &[Outcome]) -> String {
    let mut list = String::new();
    for outcome in group {
        let trial = &outcome.trial;
        let mut errors = std::collections::BTreeMap::<&str, usize>::new();
        let samples = trial.cold.iter().chain(&trial.again).chain(&trial.calls);
        samples.filter_map(|it| it.error.as_deref()).for_each(|error| *errors.entry(error).or_default() += 1);
        for (error, count) in errors {
            let _ = write!(list, "<li>{}: {count} times {}</li>", label(outcome), escaped(error));
        }
    }
    if list.is_empty() {
        list
    } else {
        format!("<details><summary>Errors</summary><ul>{list}</ul></details>")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_said_is_text_and_no_markup() {
        assert_eq!(escaped("<b>&</b>"), "&lt;b&gt;&amp;&lt;/b&gt;");
    }

    #[test]
    fn clients_keep_their_colours_and_variants_get_others() {
        let labels = ["sdk", "sdk -hedging", "sdk -heartbeat"].map(str::to_owned);
        assert_eq!(colour(&labels, "sdk"), COLOURS[0].1);
        assert_ne!(colour(&labels, &labels[1]), colour(&labels, &labels[2]));
    }
}
