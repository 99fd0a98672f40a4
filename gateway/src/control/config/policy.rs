//! Policy documents: TOML in, [`Document`] or every mistake out.

use std::{path::Path, sync::Arc};

use toml::{Spanned, de::DeValue};
use towline_crypto::Providers;
use towline_protocols::policy::{
    NetworkKind, Value,
    units::{parse_duration, parse_size},
};

use super::{
    mistakes::Mistakes,
    reader::{Reader, Table, nearest},
};
use crate::policy::{
    ARMS_MAX, Arm, Assignments, BUCKETS, Bounds, Condition, Document, EXPERIMENTS_MAX, Everything,
    Experiment, LEVELS, Place, RULES_MAX, Rule, VersionRange, problems,
};

/// Largest document, bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;

const NETWORKS: [(&str, NetworkKind); 8] = [
    ("wifi", NetworkKind::Wifi),
    ("ethernet", NetworkKind::Ethernet),
    ("cellular", NetworkKind::Cellular),
    ("2g", NetworkKind::Cellular2g),
    ("3g", NetworkKind::Cellular3g),
    ("4g", NetworkKind::Cellular4g),
    ("5g", NetworkKind::Cellular5g),
    ("unknown", NetworkKind::Unknown),
];

/// Reads and checks a policy document; `path` is named in mistakes.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn parse_policy(path: &Path, source: &str, bounds: &Bounds) -> Result<Document, Mistakes> {
    let reader = Reader::new(Path::new(""), &Providers::default());
    if source.len() > DOCUMENT_BYTES_MAX {
        reader.note(0, format!("has {} bytes; allowed are {DOCUMENT_BYTES_MAX}", source.len()));
        return Err(Mistakes::new(path, "", reader.into_mistakes()));
    }
    let table = reader.document(source);
    let document = if reader.is_clean() {
        document(&reader, reader.root(table.get_ref()), bounds)
    } else {
        Document::default()
    };
    let mistakes = reader.into_mistakes();
    if mistakes.is_empty() { Ok(document) } else { Err(Mistakes::new(path, source, mistakes)) }
}

fn document(reader: &Reader, mut root: Table<'_, '_>, bounds: &Bounds) -> Document {
    let name = root.string("name", "");
    let (mut rule_tables, mut experiment_tables) = (root.tables("rules"), root.tables("experiments"));
    root.finish();
    let lengths =
        [("rules", rule_tables.len(), RULES_MAX), ("experiments", experiment_tables.len(), EXPERIMENTS_MAX)];
    for (key, count, max) in lengths {
        if count > max {
            root.mistake(key, format_args!("there are {count}; allowed are {max}"));
        }
    }
    let rules = rule_tables.iter_mut().map(rule).collect();
    let mut arm_tables = Vec::new();
    let experiments = experiment_tables.iter_mut().map(|t| experiment(t, &mut arm_tables)).collect();
    let document = Document { name, rules, experiments };
    if reader.is_clean() {
        for (place, text) in problems(&document, bounds) {
            match place {
                Place::Rule(at) => rule_tables[at].mistake("name", text),
                Place::Experiment(at) => experiment_tables[at].mistake("name", text),
                Place::Arm(at, arm) => arm_tables[at][arm].mistake("name", text),
            }
        }
    }
    document
}

fn rule(t: &mut Table<'_, '_>) -> Rule {
    let (name, when, set) = (name(t), condition(t.table("when")), t.table("set"));
    let sets_nothing = set.entries().next().is_none();
    let rule = Rule { name, when, set: assignments(&set) };
    if sets_nothing {
        t.mistake("set", "sets nothing; write for example set.line.heartbeat = \"60s\"");
    }
    t.finish();
    rule
}

fn experiment<'r, 'i>(t: &mut Table<'r, 'i>, arm_tables: &mut Vec<Vec<Table<'r, 'i>>>) -> Experiment {
    let (name, when) = (name(t), condition(t.table("when")));
    let mut tables = t.tables("arms");
    if tables.len() > ARMS_MAX {
        t.mistake("arms", format_args!("there are {}; allowed are {ARMS_MAX}", tables.len()));
    }
    t.finish();
    let arms = tables.iter_mut().map(arm).collect();
    arm_tables.push(tables);
    Experiment { name, when, arms }
}

fn arm(t: &mut Table<'_, '_>) -> Arm {
    let weight = t.integer("weight", 1, 0..=1_000_000) as u32;
    let arm = Arm { name: name(t), weight, set: assignments(&t.table("set")) };
    t.finish();
    arm
}

fn name(t: &mut Table<'_, '_>) -> Arc<str> {
    super::sections::name(t, "slow-networks")
}

fn condition(mut t: Table<'_, '_>) -> Condition {
    let condition = Condition {
        app: t.one_or_more_strings("app"),
        app_version: version_range(&mut t),
        platform: lower_case(t.one_or_more_strings("platform")),
        network: words(&mut t, "network", &NETWORKS),
        carrier: t.one_or_more_strings("carrier"),
        region: lower_case(t.one_or_more_strings("region")),
        quality: words(&mut t, "quality", &LEVELS),
        share: t.percent("percent").map(|percent| (percent / 100.0 * f64::from(BUCKETS)).round() as u32),
    };
    t.finish();
    condition
}

fn lower_case(texts: Vec<String>) -> Vec<String> {
    texts.iter().map(|text| text.to_ascii_lowercase()).collect()
}

fn words<T: Copy>(t: &mut Table<'_, '_>, key: &'static str, words: &[(&str, T)]) -> Vec<T> {
    let texts = t.one_or_more_strings(key);
    texts.iter().filter_map(|text| t.choose(key, text, words)).collect()
}

fn version_range(t: &mut Table<'_, '_>) -> Option<VersionRange> {
    let text = t.optional_string("app_version")?;
    let range = text.parse().ok();
    if range.is_none() {
        t.mistake("app_version", format_args!("\"{text}\" is no range; write for example \">=5.2, <6\""));
    }
    range
}

/// Parameters, each below its section.
fn assignments(t: &Table<'_, '_>) -> Assignments {
    let sections = Everything::sections();
    let mut set = Assignments::new();
    for (section, at, value) in t.entries() {
        let Some((known, _)) = sections.iter().find(|(known, _)| *known == section) else {
            let near = nearest(section, &sections.iter().map(|(known, _)| *known).collect::<Vec<_>>());
            t.note(at, format_args!("set.{section}: there are no such parameters{}", meant(near)));
            continue;
        };
        let Some(table) = value.get_ref().as_table() else {
            let text = format_args!("set.{section}: name a parameter of it, as set.{section}.enabled = true");
            t.note(value.span().start, text);
            continue;
        };
        for (key, value) in table.iter() {
            let name = format!("{known}.{}", key.get_ref());
            match assignment(&name, value) {
                Ok(value) => set.push((name, value)),
                Err((is_key, text)) => {
                    let at = if is_key { key.span().start } else { value.span().start };
                    t.note(at, format_args!("set.{name}: {text}"));
                }
            }
        }
    }
    set.sort_by(|one, other| one.0.cmp(&other.0));
    set
}

/// The value, or whether its name is what is wrong with it, and what.
fn assignment(name: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, (bool, String)> {
    let Some(parameter) = Everything::find(name) else {
        let sections = Everything::sections();
        let known: Vec<String> = sections
            .iter()
            .flat_map(|(section, list)| list.iter().map(move |it| format!("{section}.{}", it.name)))
            .collect();
        let near = nearest(name, &known.iter().map(String::as_str).collect::<Vec<_>>());
        return Err((true, format!("is no parameter{}", meant(near))));
    };
    let wanted = |example: &str| (false, format!("is not {}{example}", parameter.default.kind()));
    let value = value.get_ref();
    let number = || {
        let integer = value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        integer.map(|n| n as f64).or_else(|| value.as_float()?.as_str().parse().ok())
    };
    let parsed = match parameter.default {
        Value::Time(_) => {
            let time = value.as_str().and_then(parse_duration).map(Value::Time);
            time.ok_or_else(|| wanted(", as \"500ms\", \"30s\" or \"2m\""))?
        }
        Value::Number(_) => number().map(Value::Number).ok_or_else(|| wanted(", as 0.25"))?,
        Value::Switch(_) => value.as_bool().map(Value::Switch).ok_or_else(|| wanted(""))?,
        Value::Count(_) => {
            let plain = value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
            let count = plain.or_else(|| value.as_str().and_then(parse_size));
            count.map(Value::Count).ok_or_else(|| wanted(", as 3, or of bytes \"64KiB\""))?
        }
    };
    // On its own, so that what does not go together is said of the whole.
    let mut alone = Everything::default();
    alone.set(name, parsed).map_err(|_| {
        (false, format!("{parsed} is out of range; write {} to {}", parameter.min, parameter.max))
    })?;
    Ok(parsed)
}

fn meant(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
