//! What is wrong with a document although each of its values is right.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    condition::Condition,
    document::{Assignments, Document, Rule},
    parameters::Everything,
};
use crate::settings::ClientPolicy;

/// What a document has to go together with.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// What clients do that no document concerns.
    pub base: ClientPolicy,
    /// `session.heartbeat_max`.
    pub heartbeat_max: Duration,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In that rule.
    Rule(usize),
    /// In that experiment.
    Experiment(usize),
    /// In that arm of an experiment.
    Arm(usize, usize),
}

/// Everything that is wrong, for people.
pub fn problems(document: &Document, bounds: &Bounds) -> Vec<(Place, String)> {
    let mut problems = Vec::new();
    names(document, &mut problems);
    for (place, rule) in document.rules.iter().enumerate() {
        if let Some(why) = rule.when.is_for_nobody() {
            problems.push((Place::Rule(place), format!("is for nobody: {why}")));
        } else if let Some(text) = unreachable(document, place, rule) {
            problems.push((Place::Rule(place), text));
        }
    }
    experiments(document, &mut problems);
    if problems.is_empty() {
        together(document, bounds, &mut problems);
    }
    problems
}

fn names(document: &Document, problems: &mut Vec<(Place, String)>) {
    let mut seen = BTreeSet::new();
    let rules = document.rules.iter().enumerate().map(|(place, rule)| (Place::Rule(place), &rule.name));
    let experiments = document.experiments.iter().enumerate();
    let experiments = experiments.map(|(place, experiment)| (Place::Experiment(place), &experiment.name));
    for (place, name) in rules.chain(experiments) {
        if !seen.insert(Arc::clone(name)) {
            problems.push((place, format!("another rule or experiment is called \"{name}\" as well")));
        }
    }
}

/// A rule that decides on nothing, because earlier ones that are for the same clients do.
fn unreachable(document: &Document, place: usize, rule: &Rule) -> Option<String> {
    let earlier = || document.rules[..place].iter().filter(|earlier| earlier.when.covers(&rule.when));
    let sets = |earlier: &&Rule, name: &String| earlier.set.iter().any(|(set, _)| set == name);
    let by: Option<Vec<&str>> =
        rule.set.iter().map(|(name, _)| earlier().find(|it| sets(it, name)).map(|it| &*it.name)).collect();
    let mut by = by.filter(|by| !by.is_empty())?;
    by.sort_unstable();
    by.dedup();
    let by = by.join("\", \"");
    Some(format!(
        "is never reached: \"{by}\" stands before it, is for all its clients and sets all that it sets"
    ))
}

fn experiments(document: &Document, problems: &mut Vec<(Place, String)>) {
    for (place, experiment) in document.experiments.iter().enumerate() {
        let here = Place::Experiment(place);
        if let Some(why) = experiment.when.is_for_nobody() {
            problems.push((here, format!("is for nobody: {why}")));
        }
        let names: BTreeSet<_> = experiment.arms.iter().map(|arm| &arm.name).collect();
        if names.len() < experiment.arms.len() || experiment.arms.len() < 2 {
            problems.push((here, "needs two arms or more, each of a name of its own".to_owned()));
        }
        if experiment.arms.iter().all(|arm| arm.weight == 0) {
            problems.push((here, "has no arm with a weight above 0".to_owned()));
        }
        let set = |experiment: &super::document::Experiment| -> BTreeSet<String> {
            experiment.arms.iter().flat_map(|arm| arm.set.iter().map(|(name, _)| name.clone())).collect()
        };
        let mine = set(experiment);
        for other in &document.experiments[..place] {
            if other.when.meets(&experiment.when)
                && let Some(name) = set(other).intersection(&mine).next()
            {
                let text = format!(
                    "sets {name} for clients for whom experiment \"{}\" may set it too; neither could be judged",
                    other.name
                );
                problems.push((here, text));
            }
        }
    }
}

/// Values of one rule or arm, and of any two that may be for one client, must go together.
fn together(document: &Document, bounds: &Bounds, problems: &mut Vec<(Place, String)>) {
    struct Part<'d> {
        place: Place,
        name: &'d str,
        when: &'d Condition,
        set: &'d Assignments,
    }
    let mut parts = Vec::new();
    for (place, experiment) in document.experiments.iter().enumerate() {
        for (arm_place, arm) in experiment.arms.iter().enumerate() {
            let place = Place::Arm(place, arm_place);
            parts.push(Part { place, name: &arm.name, when: &experiment.when, set: &arm.set });
        }
    }
    let rules = document.rules.iter().enumerate();
    parts.extend(rules.map(|(place, rule)| Part {
        place: Place::Rule(place),
        name: &rule.name,
        when: &rule.when,
        set: &rule.set,
    }));
    let check = |sets: &[&Assignments]| {
        let mut everything = Everything::of(&bounds.base);
        sets.iter().for_each(|set| everything.set_all(set));
        everything.check(bounds.heartbeat_max)
    };
    let mut wrong = vec![false; parts.len()];
    for (at, part) in parts.iter().enumerate() {
        if let Err(text) = check(&[part.set]) {
            wrong[at] = true;
            problems.push((part.place, text));
        }
    }
    for (at, part) in parts.iter().enumerate() {
        for (earlier_at, earlier) in parts[..at].iter().enumerate() {
            let are_arms =
                matches!((part.place, earlier.place), (Place::Arm(a, _), Place::Arm(b, _)) if a == b);
            if wrong[at] || wrong[earlier_at] || are_arms || !earlier.when.meets(part.when) {
                continue;
            }
            // What stands before decides.
            if let Err(text) = check(&[part.set, earlier.set]) {
                problems.push((part.place, format!("together with \"{}\": {text}", earlier.name)));
            }
        }
    }
}
