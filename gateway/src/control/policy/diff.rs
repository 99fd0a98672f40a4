//! What another document would change, rule by rule.

use std::collections::BTreeSet;

use crate::policy::{Assignments, Document};

/// The lines of `old` that are not in `new`, and the other way round; empty: they mean the same.
pub fn diff(old: &Document, new: &Document) -> String {
    let (old, new) = (lines(old), lines(new));
    let (known_old, known_new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let gone = old.iter().filter(|line| !known_new.contains(line)).map(|line| format!("- {line}\n"));
    let come = new.iter().filter(|line| !known_old.contains(line)).map(|line| format!("+ {line}\n"));
    let moved = old != new && known_old == known_new;
    let note =
        if moved { "the same rules in another order: the first that is for a client decides\n" } else { "" };
    gone.chain(come).collect::<String>() + note
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
