use std::time::Duration;

use super::*;
use crate::settings::Settings;

fn bounds() -> Bounds {
    let settings = Settings::default();
    Bounds { base: settings.client_policy, heartbeat_max: Duration::from_secs(300) }
}

fn parse(source: &str) -> Result<Document, Mistakes> {
    parse_policy(Path::new("p.toml"), source, &bounds())
}

fn check(source: &str, expected: &str) {
    let mistakes = parse(source).expect_err(source).to_string();
    assert_eq!(mistakes, expected, "{source}");
}

#[test]
fn a_document_is_read() {
    let document = parse(
        r#"
name = "winter"
[[rules]]
name = "slow"
when = { network = ["2g", "3g"], platform = "Android", app_version = ">=5.2, <6", quality = "weak", percent = 12.5 }
set = { line.heartbeat = "4m", timeouts.margin = 4, timeouts.enabled = false, timeouts.samples_min = 5 }

[[experiments]]
name = "margins"
when.app = ["com.example.*"]
[[experiments.arms]]
name = "control"
[[experiments.arms]]
name = "wide"
weight = 3
set.timeouts.margin = 5.5
"#,
    )
    .unwrap();
    let rule = &document.rules[0];
    assert_eq!((&*document.name, &*rule.name, rule.when.share), ("winter", "slow", Some(1250)));
    assert_eq!(rule.when.platform, ["android"]);
    let set: Vec<_> = rule.set.iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(
        set,
        ["line.heartbeat 240s", "timeouts.enabled false", "timeouts.margin 4", "timeouts.samples_min 5"]
    );
    let arms: Vec<_> = document.experiments[0].arms.iter().map(|arm| (&*arm.name, arm.weight)).collect();
    assert_eq!(arms, [("control", 1), ("wide", 3)]);
    assert_eq!(parse("").unwrap(), Document::default());
}

#[test]
fn each_mistake_is_named_with_its_place_and_what_to_write() {
    let rule = "[[rules]]\nname = \"r\"\n";
    check("nam = 1", "p.toml:1:1: nam: unknown key; did you mean `name`?");
    check(
        &format!("{rule}set.timeouts.margni = 2"),
        "p.toml:3:14: set.timeouts.margni: is no parameter; did you mean `timeouts.margin`?",
    );
    check(
        &format!("{rule}set.timeout.margin = 2"),
        "p.toml:3:5: set.timeout: there are no such parameters; did you mean `timeouts`?",
    );
    check(
        &format!("{rule}set.timeouts.margin = 99"),
        "p.toml:3:23: set.timeouts.margin: 99 is out of range; write 1.5 to 20",
    );
    check(
        &format!("{rule}set.timeouts.margin = \"2\""),
        "p.toml:3:23: set.timeouts.margin: is not a number, as 0.25",
    );
    check(
        &format!("{rule}set.line.heartbeat = 30"),
        "p.toml:3:22: set.line.heartbeat: is not a time, as \"500ms\", \"30s\" or \"2m\"",
    );
    check(rule, "p.toml:1:1: rules.set: sets nothing; write for example set.line.heartbeat = \"60s\"");
    check(
        &format!("{rule}when.network = \"lte\"\nset.timeouts.enabled = false"),
        "p.toml:3:16: rules.when.network: \"lte\" is not known; write \"wifi\", \"ethernet\", \"cellular\", \"2g\", \"3g\", \
         \"4g\", \"5g\" or \"unknown\"",
    );
    check(
        &format!("{rule}when.app_version = \"new\"\nset.timeouts.enabled = false"),
        "p.toml:3:20: rules.when.app_version: \"new\" is no range; write for example \">=5.2, <6\"",
    );
    check(
        &format!("{rule}when.percent = 101\nset.timeouts.enabled = false"),
        "p.toml:3:16: rules.when.percent: 101 is not a number from 0 to 100",
    );
}

#[test]
fn a_document_goes_together() {
    let off = "set.timeouts.enabled = false\n";
    check(
        &format!("[[rules]]\nname = \"all\"\n{off}[[rules]]\nname = \"ios\"\nwhen.platform = \"ios\"\n{off}"),
        "p.toml:5:8: rules.name: is never reached: \"all\" stands before it, is for all its clients and sets all that it \
         sets",
    );
    check(
        &format!("[[rules]]\nname = \"none\"\nwhen.app_version = \">=6, <5\"\n{off}"),
        "p.toml:2:8: rules.name: is for nobody: app_version names no version",
    );
    check(
        "[[rules]]\nname = \"beat\"\nset.line.heartbeat = \"6m\"\n",
        "p.toml:2:8: rules.name: line.heartbeat is 360s, longer than session.heartbeat_max (300s), which the gateway \
         holds clients to",
    );
    check(
        "[[rules]]\nname = \"a\"\nset.line.backoff_min = \"20s\"\n[[rules]]\nname = \"b\"\nwhen.platform = \"ios\"\n\
         set.line.backoff_max = \"10s\"\n",
        "p.toml:5:8: rules.name: together with \"a\": line.backoff_min 20s is above backoff_max 10s",
    );
    let arms =
        "[[experiments.arms]]\nname = \"x\"\n[[experiments.arms]]\nname = \"y\"\nset.timeouts.margin = 4\n";
    check(
        &format!("[[experiments]]\nname = \"a\"\n{arms}[[experiments]]\nname = \"b\"\n{arms}"),
        "p.toml:9:8: experiments.name: sets timeouts.margin for clients for whom experiment \"a\" may set it too; \
         neither could be judged",
    );
    let one = "[[experiments]]\nname = \"a\"\n[[experiments.arms]]\nname = \"x\"\n";
    check(one, "p.toml:2:8: experiments.name: needs two arms or more, each of a name of its own");
}

#[test]
fn the_example_has_no_mistakes_and_shows_every_condition() {
    let example = include_str!("../../../policy.example.toml");
    let document = parse(example).unwrap();
    let Condition { app, app_version, platform, network, carrier, region, quality, share } =
        &document.rules[0].when;
    let lists = [app.len(), platform.len(), network.len(), carrier.len(), region.len(), quality.len()];
    assert!(!lists.contains(&0) && app_version.is_some() && share.is_some());
    assert_eq!(document.experiments.len(), 1);
}
