//! What is known of a client, as rules ask for it.

use std::{collections::HashSet, fmt, sync::Arc};

use parking_lot::Mutex;
use towline_protocols::{
    link::{ClientFacts, LevelReported, QualitySnapshot},
    policy::{Level, NetworkKind},
};

/// What a client is and what its network is like. Many clients have the same, and share one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The app's name; empty, as each text here: not known.
    pub app: String,
    /// Its version as it was said; `None` where it does not begin with a number.
    pub app_version: Option<Version>,
    /// The operating system.
    pub platform: String,
    /// Where the user is, as the app has it.
    pub region: String,
    /// What kind of network it is on.
    pub network: NetworkKind,
    /// Who runs the mobile network.
    pub carrier: String,
    /// How good the network is.
    pub level: Option<Level>,
}

impl Facts {
    /// What HELLO or REPORT said; the level stays what it was.
    #[must_use]
    pub fn told(&self, facts: &ClientFacts) -> Self {
        Self {
            app: facts.app.clone(),
            app_version: facts.app_version.parse().ok(),
            platform: facts.platform.to_ascii_lowercase(),
            region: facts.region.to_ascii_lowercase(),
            network: NetworkKind::from_number(u8::try_from(facts.network).unwrap_or_default()),
            carrier: facts.carrier.clone(),
            level: self.level,
        }
    }

    /// What a report says of the network in use.
    #[must_use]
    pub fn seen(&self, quality: &QualitySnapshot) -> Self {
        let level = match quality.level() {
            LevelReported::Unspecified => None,
            LevelReported::Poor => Some(Level::Poor),
            LevelReported::Weak => Some(Level::Weak),
            LevelReported::Fair => Some(Level::Fair),
            LevelReported::Good => Some(Level::Good),
        };
        Self { level, ..self.clone() }
    }
}

/// Values that many clients share.
#[derive(Default)]
pub struct FactsPool(Mutex<Pool>);

#[derive(Default)]
struct Pool {
    values: HashSet<Arc<Facts>>,
    /// Values that were asked for and not there, since those that nobody uses were looked for last.
    missed: usize,
}

impl FactsPool {
    /// Values above which those that nobody uses are looked for; beyond, clients have values of their own.
    const VALUES_MAX: usize = 16 * 1024;
    /// A look at all values is paid for by so many that were not there.
    const MISSES_MIN: usize = Self::VALUES_MAX / 4;

    /// The shared value.
    pub fn share(&self, facts: Facts) -> Arc<Facts> {
        let Pool { values, missed } = &mut *self.0.lock();
        if let Some(known) = values.get(&facts) {
            return Arc::clone(known);
        }
        *missed += 1;
        if values.len() >= Self::VALUES_MAX && *missed >= Self::MISSES_MIN {
            values.retain(|known| Arc::strong_count(known) > 1);
            *missed = 0;
        }
        let facts = Arc::new(facts);
        if values.len() < Self::VALUES_MAX {
            values.insert(Arc::clone(&facts));
        }
        facts
    }
}

/// A version: up to four numbers with dots between. What follows them, as in `5.2.0-beta` and `5.2.0rc1`, is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    numbers: [u32; Version::NUMBERS_MAX],
}

impl Version {
    const NUMBERS_MAX: usize = 4;

    /// The version as an operator writes it, and how many numbers were written.
    fn read(text: &str) -> Option<(Self, usize)> {
        let text = text.split(['-', '+', ' ']).next().unwrap_or_default();
        let mut version = Self::default();
        let mut written = 0;
        for part in text.split('.') {
            *version.numbers.get_mut(written)? = part.parse().ok()?;
            written += 1;
        }
        Some((version, written))
    }

    /// The first version behind all that begin with these `written` numbers.
    fn behind(mut self, written: usize) -> Self {
        if let Some(last) = self.numbers.get_mut(written.saturating_sub(1)) {
            *last = last.saturating_add(1);
        }
        self
    }
}

impl std::str::FromStr for Version {
    type Err = ();

    /// Reads what an app says of itself, which is nobody's mistake here.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut version = Self::default();
        let mut written = 0;
        for (number, part) in version.numbers.iter_mut().zip(text.split('.')) {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            let Ok(found) = part[..part.len() - rest.len()].parse() else { break };
            (*number, written) = (found, written + 1);
            if !rest.is_empty() {
                break;
            }
        }
        if written == 0 { Err(()) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.numbers.iter().rposition(|number| *number > 0).unwrap_or(0).max(1);
        let numbers: Vec<_> = self.numbers[..=last].iter().map(u32::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

/// Versions from one to before another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionRange {
    from: Version,
    /// Not included; `None`: all from there on.
    before: Option<Version>,
}

impl VersionRange {
    /// Whether the version is one of these.
    pub fn holds(&self, version: Version) -> bool {
        version >= self.from && self.before.is_none_or(|before| version < before)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.before.is_some_and(|before| before <= self.from)
    }

    /// Whether all of `other` are among these.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let ends = match (self.before, other.before) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs <= mine,
        };
        self.from <= other.from && ends
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let before = [self.before, other.before].into_iter().flatten().min();
        Self { from: self.from.max(other.from), before }
    }
}

impl std::str::FromStr for VersionRange {
    type Err = ();

    /// Reads `>=5.2, <6`: each part is `>=`, `>`, `<=`, `<` or `=` with a version. A version stands for all that begin
    /// with its numbers: `<=5.2` takes 5.2.9 in.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut range = Self::default();
        for part in text.split(',').map(str::trim) {
            let digits = part.find(|c: char| c.is_ascii_digit()).ok_or(())?;
            let (sign, number) = part.split_at(digits);
            let (version, written) = Version::read(number).ok_or(())?;
            let behind = version.behind(written);
            let (from, before) = match sign.trim() {
                ">=" => (version, None),
                ">" => (behind, None),
                "<=" => (Version::default(), Some(behind)),
                "<" => (Version::default(), Some(version)),
                "=" | "" => (version, Some(behind)),
                _ => return Err(()),
            };
            range = range.and(&Self { from, before });
        }
        Ok(range)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ">={}", self.from)?;
        self.before.map_or(Ok(()), |before| write!(f, ", <{before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_in_what_begins_with_its_numbers() {
        let check = |range: &str, inside: &[&str], outside: &[&str]| {
            let range: VersionRange = range.parse().unwrap();
            let holds = |version: &&str| range.holds(version.parse().unwrap());
            assert!(inside.iter().all(holds), "{range}: {inside:?}");
            assert!(!outside.iter().any(holds), "{range}: {outside:?}");
        };
        check(">=5.2, <6", &["5.2", "5.2.0-beta", "5.99.1.7"], &["5.1.9", "6", "6.0.1", "10"]);
        check("<=5.2", &["5.2.9", "1"], &["5.3"]);
        check(">5.2", &["5.3", "6"], &["5.2.9", "5.2"]);
        check("=5.2", &["5.2", "5.2.3"], &["5.3", "5.1"]);
        check("5.2.1", &["5.2.1", "5.2.1.8"], &["5.2.10"]);
        assert!(">=6, <5".parse::<VersionRange>().unwrap().is_empty());
        for (said, read) in [
            ("5.2.0rc1", "=5.2.0"),
            ("5.2.1_77", "=5.2.1"),
            ("5.2.1+g1a2b", "=5.2.1"),
            ("5.2 beta", "=5.2.0"),
            ("5.2.", "=5.2.0"),
            ("5.2.x.9", "=5.2.0"),
            ("1.2.3.4.5", "=1.2.3.4"),
            ("5.99999999999", "=5.0"),
        ] {
            check(read, &[said], &[]);
        }
        for none in ["", "v5", "rc1", ".5", "-1", "99999999999"] {
            assert!(none.parse::<Version>().is_err(), "{none}");
        }
        for wrong in ["", "five", ">= ", "~5", "1.2.3.4.5", ">=5,"] {
            assert!(wrong.parse::<VersionRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn equal_facts_are_one_value() {
        let pool = FactsPool::default();
        let facts = |app: &str| pool.share(Facts { app: app.into(), ..Facts::default() });
        let one = facts("shop");
        assert!(Arc::ptr_eq(&one, &facts("shop")) && !Arc::ptr_eq(&one, &facts("bank")));
    }

    #[test]
    fn values_that_nobody_uses_make_room_and_are_looked_for_now_and_then() {
        let pool = FactsPool::default();
        let facts = |app: usize| pool.share(Facts { app: app.to_string(), ..Facts::default() });
        let is_shared = |app| Arc::ptr_eq(&facts(app), &facts(app));
        let new = FactsPool::VALUES_MAX..;
        let held: Vec<_> = (0..FactsPool::VALUES_MAX).map(facts).collect();
        assert!(!is_shared(new.start), "all are in use");
        drop(held);
        // That look was in vain, and another is not due.
        for app in new.clone().skip(1).take(FactsPool::MISSES_MIN - 2) {
            facts(app);
        }
        assert_eq!(pool.0.lock().values.len(), FactsPool::VALUES_MAX);
        assert!(is_shared(0) && is_shared(new.start));
        assert!(pool.0.lock().values.len() < 3);
    }
}
