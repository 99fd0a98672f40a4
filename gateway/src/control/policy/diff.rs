//! What another document would change, rule by rule.

use std::{collections::BTreeSet, iter::once};

use crate::policy::{Assignments, Document};

/// The lines of `old` that are not in `new`, and the other way round, and what has another place; empty: they mean the same.
pub fn diff(old: &Document, new: &Document) -> String {
    let (lines_old, lines_new) = (lines(old), lines(new));
    let (known_old, known_new): (BTreeSet<_>, BTreeSet<_>) =
        (lines_old.iter().collect(), lines_new.iter().collect());
    let gone = lines_old.iter().filter(|line| !known_new.contains(line)).map(|line| format!("- {line}\n"));
    let come = lines_new.iter().filter(|line| !known_old.contains(line)).map(|line| format!("+ {line}\n"));
    gone.chain(come).chain(moves(old, new)).collect()
}

/// What is in both and no longer in the same order, which decides: the first rule, experiment or arm that is for a client.
fn moves(old: &Document, new: &Document) -> Vec<String> {
    let experiments = new.experiments.iter().filter_map(|new| {
        let old = old.experiment(&new.name)?;
        let what = format!("arms of experiment \"{}\"", new.name);
        let decides = "clients change arms";
        moved(&what, decides, old.arms.iter().map(|it| &*it.name), new.arms.iter().map(|it| &*it.name))
    });
    let names = |document: &'_ Document| -> Vec<String> {
        document.experiments.iter().map(|it| it.name.to_string()).collect()
    };
    let (before, after) = (names(old), names(new));
    let order = moved("experiments", FIRST, before.iter().map(|it| &**it), after.iter().map(|it| &**it));
    let rules =
        moved("rules", FIRST, old.rules.iter().map(|it| &*it.name), new.rules.iter().map(|it| &*it.name));
    order.into_iter().chain(experiments).chain(once(rules).flatten()).collect()
}

const FIRST: &str = "the first that is for a client decides";

/// A line for those that changed places among those that are in both.
fn moved<'d>(
    what: &str,
    why: &str,
    old: impl Iterator<Item = &'d str> + Clone,
    new: impl Iterator<Item = &'d str> + Clone,
) -> Option<String> {
    let (known_old, known_new): (BTreeSet<_>, BTreeSet<_>) = (old.clone().collect(), new.clone().collect());
    let old: Vec<_> = old.filter(|name| known_new.contains(name)).collect();
    let new: Vec<_> = new.filter(|name| known_old.contains(name)).collect();
    let first = old.iter().zip(&new).position(|(old, new)| old != new)?;
    let last = old.iter().zip(&new).rposition(|(old, new)| old != new)?;
    let list = |names: &[&str]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let (was, is) = (list(&old[first..=last]), list(&new[first..=last]));
    Some(format!("~ {what} in another order: {is} (was {was}); {why}\n"))
}

fn lines(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for experiment in &document.experiments {
        let whole = format!("experiment \"{}\" ({})", experiment.name, experiment.when);
        for arm in &experiment.arms {
            let name = format!("{whole}, arm \"{}\" of weight {}", arm.name, arm.weight);
            add(&mut lines, &name, &arm.set);
        }
    }
    for rule in &document.rules {
        add(&mut lines, &format!("rule \"{}\" ({})", rule.name, rule.when), &rule.set);
    }
    lines
}

fn add(lines: &mut Vec<String>, name: &str, set: &Assignments) {
    lines.extend(set.iter().map(|(parameter, value)| format!("{name}: {parameter} = {value}")));
    if set.is_empty() {
        lines.push(format!("{name}: nothing"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Arm, Condition, Experiment, Rule};

    fn document(rules: &[&str], arms: &[&str], experiments: &[&str]) -> Document {
        let rule = |name: &&str| Rule { name: (*name).into(), when: Condition::default(), set: Vec::new() };
        let arm = |name: &&str| Arm { name: (*name).into(), weight: 1, set: Vec::new() };
        let experiment = |name: &&str| Experiment {
            name: (*name).into(),
            when: Condition::default(),
            arms: arms.iter().map(arm).collect(),
        };
        Document {
            rules: rules.iter().map(rule).collect(),
            experiments: experiments.iter().map(experiment).collect(),
            ..Document::default()
        }
    }

    fn of_rules(rules: &[&str]) -> Document {
        document(rules, &[], &[])
    }

    #[test]
    fn another_order_is_said_also_beside_other_changes() {
        let old = of_rules(&["a", "b", "c", "d"]);
        assert_eq!(diff(&old, &old), "");
        let moved = "~ rules in another order: \"c\", \"b\" (was \"b\", \"c\"); the first that is for a client decides\n";
        assert_eq!(diff(&old, &of_rules(&["a", "c", "b", "d"])), moved);
        let all = Condition::default();
        let come = format!("+ rule \"new\" ({all}): nothing\n");
        let gone = format!("- rule \"a\" ({all}): nothing\n");
        assert_eq!(diff(&old, &of_rules(&["c", "new", "b", "d"])), format!("{gone}{come}{moved}"));
        assert_eq!(diff(&old, &of_rules(&["b", "new", "c", "d"])), format!("{gone}{come}"), "none has moved");
    }

    #[test]
    fn experiments_and_arms_have_an_order_too() {
        let old = document(&[], &["off", "on"], &["x", "y"]);
        let arms = diff(&old, &document(&[], &["on", "off"], &["x", "y"]));
        assert!(arms.contains("arms of experiment \"x\" in another order: \"on\", \"off\" (was"), "{arms}");
        let experiments = diff(&old, &document(&[], &["off", "on"], &["y", "x"]));
        assert!(
            experiments.starts_with("~ experiments in another order: \"y\", \"x\" (was"),
            "{experiments}"
        );
    }
}
