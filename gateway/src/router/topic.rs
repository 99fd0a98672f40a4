//! MQTT topic filters of routes, with captures of what their wildcards matched.

/// Levels of a filter. More than any topic scheme uses, and little to walk.
const LEVELS_MAX: usize = 128;

/// A topic filter, split into levels once.
#[derive(Clone, Debug)]
pub struct TopicFilter {
    levels: Vec<Level>,
}

/// The rule of MQTT 5.0, section 4.7, that a filter breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// [MQTT-4.7.3-1].
    #[error("it is empty; write at least one character")]
    Empty,
    /// [MQTT-4.7.3-2].
    #[error("it holds a null character")]
    Null,
    /// [MQTT-4.7.1-1].
    #[error("`#` must stand alone in the last level, as in `devices/#`")]
    MultiLevel,
    /// [MQTT-4.7.1-2].
    #[error("`+` must stand alone in its level, as in `devices/+/state`")]
    SingleLevel,
    /// A bound of the gateway's.
    #[error("it has more than 128 levels")]
    Levels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Name(Box<str>),
    /// `+`
    Single,
    /// `#`, last.
    Multi,
}

impl TopicFilter {
    /// Parses a filter.
    pub fn parse(filter: &str) -> Result<Self, InvalidFilter> {
        if filter.is_empty() {
            return Err(InvalidFilter::Empty);
        }
        if filter.contains('\0') {
            return Err(InvalidFilter::Null);
        }
        let count = filter.split('/').count();
        if count > LEVELS_MAX {
            return Err(InvalidFilter::Levels);
        }
        let levels = filter.split('/').enumerate();
        let levels = levels.map(|(index, text)| Level::parse(text, index + 1 == count));
        Ok(Self { levels: levels.collect::<Result<_, _>>()? })
    }

    /// Matches a topic name. Some: what each wildcard matched, in order.
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        // Wildcards in the first level do not match names that begin with `$` [MQTT-4.7.2-1].
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Name(_))) {
            return None;
        }
        let mut captures = Vec::new();
        let mut rest = Some(topic);
        for level in &self.levels {
            if *level == Level::Multi {
                // `sport/#` also matches `sport` itself (section 4.7.1.2).
                captures.push(rest.unwrap_or_default());
                return Some(captures);
            }
            let (name, after) = match rest?.split_once('/') {
                Some((name, after)) => (name, Some(after)),
                None => (rest?, None),
            };
            match level {
                Level::Name(wanted) if **wanted != *name => return None,
                Level::Name(_) => {}
                Level::Single => captures.push(name),
                Level::Multi => return None,
            }
            rest = after;
        }
        rest.is_none().then_some(captures)
    }
}

impl Level {
    fn parse(text: &str, last: bool) -> Result<Self, InvalidFilter> {
        match text {
            "#" if last => Ok(Self::Multi),
            "+" => Ok(Self::Single),
            _ if text.contains('#') => Err(InvalidFilter::MultiLevel),
            _ if text.contains('+') => Err(InvalidFilter::SingleLevel),
            _ => Ok(Self::Name(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, topic: &str, expected: Option<&[&str]>) {
        let captures = TopicFilter::parse(filter).expect("valid").captures(topic);
        assert_eq!(captures.as_deref(), expected, "{filter} against {topic}");
    }

    #[test]
    fn wildcards_match_as_mqtt_says_and_capture() {
        check("a/b", "a/b", Some(&[]));
        check("a/b", "a/b/c", None);
        check("a/b", "a", None);
        check("a/+/c", "a/x/c", Some(&["x"]));
        check("a/+/c", "a//c", Some(&[""]));
        check("a/+", "a/", Some(&[""]));
        check("a/+", "a", None);
        check("+/+", "/x", Some(&["", "x"]));
        check("a/#", "a/b/c", Some(&["b/c"]));
        check("a/#", "a", Some(&[""]));
        check("a/+/#", "a/b/c/d", Some(&["b", "c/d"]));
        check("#", "a/b", Some(&["a/b"]));
        check("#", "$SYS/up", None);
        check("+/up", "$SYS/up", None);
        check("$SYS/#", "$SYS/up", Some(&["up"]));
    }

    #[test]
    fn a_filter_that_breaks_a_rule_is_refused_by_name() {
        for (filter, expected) in [
            ("", InvalidFilter::Empty),
            ("a/#/b", InvalidFilter::MultiLevel),
            ("a#", InvalidFilter::MultiLevel),
            ("a/b+", InvalidFilter::SingleLevel),
            ("a\0", InvalidFilter::Null),
        ] {
            assert_eq!(TopicFilter::parse(filter).unwrap_err(), expected, "{filter:?}");
        }
        let deep = "a/".repeat(LEVELS_MAX);
        assert_eq!(TopicFilter::parse(&deep).unwrap_err(), InvalidFilter::Levels);
    }
}
