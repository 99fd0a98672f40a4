use towline_protocols::policy::{Level, NetworkKind};

use super::*;

fn facts() -> Facts {
    Facts {
        app: "com.example.shop".into(),
        app_version: "5.2.1".parse().ok(),
        platform: "android".into(),
        region: "eu-west".into(),
        network: NetworkKind::Cellular2g,
        carrier: "46001".into(),
        level: Some(Level::Weak),
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn check(when: Condition, expected: bool) {
    assert_eq!(when.holds(&facts(), 4999), expected, "{when}");
    // Of a client that has said nothing, only what names nothing is so.
    let names_something = when != Condition { share: when.share, ..Condition::default() };
    assert!(!names_something || !when.holds(&Facts::default(), 0), "{when}");
    assert!(Condition::default().covers(&when) && when.meets(&when));
}

#[test]
fn a_condition_holds_where_all_of_it_does() {
    let any = Condition::default;
    check(any(), true);
    check(Condition { app: texts(&["com.example.*"]), ..any() }, true);
    check(Condition { app: texts(&["com.example"]), ..any() }, false);
    check(Condition { app_version: ">=5, <6".parse().ok(), ..any() }, true);
    check(Condition { app_version: ">=5.3".parse().ok(), ..any() }, false);
    check(Condition { platform: texts(&["ios", "android"]), ..any() }, true);
    check(Condition { network: vec![NetworkKind::Cellular], ..any() }, true);
    check(Condition { network: vec![NetworkKind::Wifi, NetworkKind::Cellular3g], ..any() }, false);
    check(Condition { carrier: texts(&["46001"]), ..any() }, true);
    check(Condition { region: texts(&["eu*"]), ..any() }, true);
    check(Condition { region: texts(&["cn"]), ..any() }, false);
    check(Condition { quality: vec![Level::Poor, Level::Weak], ..any() }, true);
    check(Condition { quality: vec![Level::Good], ..any() }, false);
    check(Condition { share: Some(5000), ..any() }, true);
    check(Condition { share: Some(4999), ..any() }, false);
    check(Condition { platform: texts(&["android"]), region: texts(&["cn"]), ..any() }, false);
}

#[test]
fn one_condition_covers_another_or_meets_it() {
    let android = Condition { platform: texts(&["android", "ios"]), ..Condition::default() };
    let ios = Condition { platform: texts(&["ios"]), ..Condition::default() };
    let windows = Condition { platform: texts(&["windows"]), ..Condition::default() };
    assert!(android.covers(&ios) && !ios.covers(&android) && !ios.covers(&Condition::default()));
    assert!(android.meets(&ios) && !windows.meets(&ios));
    let old = Condition { app_version: "<5".parse().ok(), ..Condition::default() };
    let new = Condition { app_version: ">=5".parse().ok(), ..Condition::default() };
    assert!(!old.meets(&new) && old.covers(&old));
    let half = Condition { share: Some(5000), ..Condition::default() };
    assert!(!half.covers(&half) && half.meets(&half), "each rule has buckets of its own");
}

fn rule(name: &str, when: Condition, margin: f64) -> Rule {
    Rule { name: name.into(), when, set: vec![("timeouts.margin".into(), Value::Number(margin))] }
}

#[test]
fn the_first_that_sets_a_parameter_decides_on_it_experiments_before_rules() {
    let ios = Condition { platform: texts(&["ios"]), ..Condition::default() };
    let mut last = rule("all", Condition::default(), 9.0);
    last.set.push(("line.heartbeat".into(), Value::Count(7)));
    let mut document = Document {
        rules: vec![rule("ios", ios, 2.0), rule("weak", Condition::default(), 4.0), last],
        ..Document::default()
    };
    let resolved = document.resolve("c", &facts());
    assert_eq!(resolved.set["timeouts.margin"], Value::Number(4.0));
    assert_eq!(resolved.set["line.heartbeat"], Value::Count(7));
    assert_eq!(resolved.rules, ["weak", "all"]);
    let arm = Arm { name: "on".into(), weight: 1, set: rule("", Condition::default(), 8.0).set };
    let arms = vec![Arm { name: "off".into(), weight: 0, set: vec![] }, arm];
    document.experiments = vec![Experiment { name: "e".into(), when: Condition::default(), arms }];
    let resolved = document.resolve("c", &facts());
    assert_eq!(resolved.set["timeouts.margin"], Value::Number(8.0));
    assert_eq!(resolved.arms[0].1.name, "on".into());
}

#[test]
fn shares_and_arms_are_as_large_as_they_say_and_independent_of_each_other() {
    let arms = [("a", 1), ("b", 3)].map(|(name, weight)| Arm { name: name.into(), weight, set: vec![] });
    let when = Condition { share: Some(BUCKETS / 5), ..Condition::default() };
    let experiment = |name: &str| Experiment { name: name.into(), when: when.clone(), arms: arms.to_vec() };
    let (one, two) = (experiment("one"), experiment("two"));
    let facts = facts();
    let (mut inside, mut b, mut both) = (0, 0, 0);
    for client in 0..20_000 {
        let id = format!("client-{client}");
        let arm = one.arm_of(&id, &facts);
        assert_eq!(arm, one.arm_of(&id, &facts), "a client stays where it is");
        inside += usize::from(arm.is_some());
        b += usize::from(arm.is_some_and(|arm| &*arm.name == "b"));
        both += usize::from(arm.is_some() && two.arm_of(&id, &facts).is_some());
    }
    // Four standard deviations of so many draws.
    assert!(inside.abs_diff(4000) < 230, "{inside}");
    assert!(b.abs_diff(inside * 3 / 4) < 120, "{b} of {inside}");
    assert!(both.abs_diff(800) < 120, "{both}");
}
