//! Whom a rule is for.

use std::fmt;

use towline_protocols::policy::{Level, NetworkKind};

use super::facts::{Facts, VersionRange};

/// Buckets that clients fall into: percentages go down to hundredths.
pub const BUCKETS: u32 = 10_000;

/// Whom a rule is for: everybody for whom all of this is so. What a client has not said is none of what is named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// One of these apps; a `*` at the end stands for anything. Empty, as each list here: any, or not known.
    pub app: Vec<String>,
    /// Versions of the app.
    pub app_version: Option<VersionRange>,
    /// One of these platforms.
    pub platform: Vec<String>,
    /// On one of these kinds of network; `Cellular` stands for all generations.
    pub network: Vec<NetworkKind>,
    /// Of one of these carriers.
    pub carrier: Vec<String>,
    /// In one of these regions.
    pub region: Vec<String>,
    /// On a network of one of these levels.
    pub quality: Vec<Level>,
    /// Buckets, of [`BUCKETS`], that it is for; `None`: all.
    pub share: Option<u32>,
}

impl Condition {
    /// Whether it is for the client, which is in bucket `bucket` of this rule.
    pub fn holds(&self, facts: &Facts, bucket: u32) -> bool {
        let version = || facts.app_version;
        is_one_of(&self.app, &facts.app)
            && self.app_version.is_none_or(|range| version().is_some_and(|it| range.holds(it)))
            && is_one_of(&self.platform, &facts.platform)
            && (self.network.is_empty() || self.network.iter().any(|kind| takes_in(*kind, facts.network)))
            && is_one_of(&self.carrier, &facts.carrier)
            && is_one_of(&self.region, &facts.region)
            && (self.quality.is_empty() || facts.level.is_some_and(|level| self.quality.contains(&level)))
            && self.share.is_none_or(|share| bucket < share)
    }

    /// Whether it is for everybody that `other` is for.
    pub fn covers(&self, other: &Self) -> bool {
        let any = VersionRange::default();
        let theirs = other.app_version.unwrap_or(any);
        covers(&self.app, &other.app, |a, b| pattern_covers(a, b))
            && self.app_version.is_none_or(|mine| other.app_version.is_some() && mine.covers(&theirs))
            && covers(&self.platform, &other.platform, |a, b| pattern_covers(a, b))
            && covers(&self.network, &other.network, |a, b| takes_in(*a, *b))
            && covers(&self.carrier, &other.carrier, |a, b| pattern_covers(a, b))
            && covers(&self.region, &other.region, |a, b| pattern_covers(a, b))
            && covers(&self.quality, &other.quality, |a, b| a == b)
            // Two rules have buckets of their own.
            && self.share.is_none()
    }

    /// Whether a client may be one that both are for.
    pub fn meets(&self, other: &Self) -> bool {
        let versions = match (self.app_version, other.app_version) {
            (Some(mine), Some(theirs)) => !mine.and(&theirs).is_empty(),
            _ => true,
        };
        versions
            && meets(&self.app, &other.app, |a, b| pattern_covers(a, b))
            && meets(&self.platform, &other.platform, |a, b| pattern_covers(a, b))
            && meets(&self.network, &other.network, |a, b| takes_in(*a, *b))
            && meets(&self.carrier, &other.carrier, |a, b| pattern_covers(a, b))
            && meets(&self.region, &other.region, |a, b| pattern_covers(a, b))
            && meets(&self.quality, &other.quality, |a, b| a == b)
    }

    /// Why it is for nobody, if it is.
    pub fn is_for_nobody(&self) -> Option<&'static str> {
        if self.app_version.is_some_and(|range| range.is_empty()) {
            return Some("app_version names no version");
        }
        (self.share == Some(0)).then_some("percent is 0")
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<_> = self.network.iter().map(|kind| kind.name().to_owned()).collect();
        let levels: Vec<_> = self.quality.iter().map(|level| level_name(*level).to_owned()).collect();
        let lists = [
            ("app", &self.app),
            ("platform", &self.platform),
            ("network", &networks),
            ("carrier", &self.carrier),
            ("region", &self.region),
            ("quality", &levels),
        ];
        let mut parts: Vec<_> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name} {}", list.join("|")))
            .collect();
        parts.extend(self.app_version.map(|range| format!("app_version {range}")));
        parts.extend(self.share.map(|share| format!("{}%", f64::from(share) / 100.0)));
        f.write_str(if parts.is_empty() { "everybody" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// Words for levels.
pub const LEVELS: [(&str, Level); 4] =
    [("poor", Level::Poor), ("weak", Level::Weak), ("fair", Level::Fair), ("good", Level::Good)];

/// As documents write it.
pub fn level_name(level: Level) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("", |(name, _)| name)
}

fn is_one_of(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || (!text.is_empty() && patterns.iter().any(|pattern| pattern_covers(pattern, text)))
}

/// Whether a pattern stands for all that another one, or a text, stands for.
fn pattern_covers(pattern: &str, other: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => other.starts_with(beginning),
        None => pattern == other,
    }
}

fn takes_in(kind: NetworkKind, other: NetworkKind) -> bool {
    kind == other || (kind == NetworkKind::Cellular && other.is_cellular())
}

fn covers<T>(mine: &[T], theirs: &[T], is_within: impl Fn(&T, &T) -> bool) -> bool {
    mine.is_empty() || (!theirs.is_empty() && theirs.iter().all(|b| mine.iter().any(|a| is_within(a, b))))
}

fn meets<T>(mine: &[T], theirs: &[T], is_within: impl Fn(&T, &T) -> bool) -> bool {
    let may = |a: &T, b: &T| is_within(a, b) || is_within(b, a);
    mine.is_empty() || theirs.is_empty() || mine.iter().any(|a| theirs.iter().any(|b| may(a, b)))
}
