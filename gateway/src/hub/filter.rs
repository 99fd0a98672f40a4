//! Topic names and topic filters, parsed once at the edge (MQTT 5, section 4.7).

/// A valid topic filter, with its shared group taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    /// Group of `$share/group/filter` (MQTT 5, section 4.8.2).
    group: Option<&'a str>,
    /// What topics are matched against.
    filter: &'a str,
}

/// Which rule a topic name or filter breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// MQTT-4.7.3-1.
    #[error("a topic name or filter must have at least one character (MQTT-4.7.3-1)")]
    Empty,
    /// MQTT-4.7.3-2.
    #[error("a topic name or filter must not hold U+0000 (MQTT-4.7.3-2)")]
    Null,
    /// MQTT-4.7.3-3.
    #[error("a topic name or filter must not be longer than 65535 bytes (MQTT-4.7.3-3)")]
    TooLong,
    /// The bound is a setting.
    #[error("a topic name or filter has more than {0} levels (mqtt.topic_levels_max)")]
    TooManyLevels(usize),
    /// MQTT-4.7.1-1.
    #[error("\"#\" must stand alone in the last level of a filter (MQTT-4.7.1-1)")]
    MultiLevelWildcard,
    /// MQTT-4.7.1-2.
    #[error("\"+\" must stand alone in its level (MQTT-4.7.1-2)")]
    SingleLevelWildcard,
    /// MQTT-3.3.2-2.
    #[error("a topic name must not hold the wildcards \"+\" and \"#\" (MQTT-3.3.2-2)")]
    WildcardInName,
    /// MQTT-4.8.2-1 and MQTT-4.8.2-2.
    #[error(
        "a shared subscription is $share/group/filter with a group free of \"/\", \"+\" and \"#\" (MQTT-4.8.2-2)"
    )]
    Share,
}

impl<'a> TopicFilter<'a> {
    /// Checks `text` against every rule for topic filters.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn parse(text: &'a str, levels_max: usize) -> Result<Self, FilterError> {
        let (group, filter) = match text.strip_prefix("$share/") {
            Some(rest) => split_group(rest)?,
            None => (None, text),
        };
        check_text(filter, levels_max)?;
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(FilterError::MultiLevelWildcard);
            }
            if level.contains('+') && level != "+" {
                return Err(FilterError::SingleLevelWildcard);
            }
        }
        Ok(Self { group, filter })
    }

    /// Name of the shared group, if it is a shared subscription.
    pub const fn group(&self) -> Option<&'a str> {
        self.group
    }

    /// The filter without `$share/group/`.
    pub const fn filter(&self) -> &'a str {
        self.filter
    }

    /// Whether `topic`, a valid topic name, matches. For one pair; the hub's tree answers for many.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.filter.starts_with(['+', '#']) {
            // MQTT-4.7.2-1: wildcards in the first level do not reach topics that begin with "$".
            return false;
        }
        let mut names = topic.split('/');
        for level in self.filter.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// As its client wrote it.
impl std::fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(group) = self.group {
            write!(f, "$share/{group}/")?;
        }
        f.write_str(self.filter)
    }
}

/// Checks a topic name.
///
/// # Errors
/// Names the rule that is broken.
pub fn check_topic(topic: &str, levels_max: usize) -> Result<(), FilterError> {
    check_text(topic, levels_max)?;
    if topic.contains(['+', '#']) {
        return Err(FilterError::WildcardInName);
    }
    Ok(())
}

fn split_group(rest: &str) -> Result<(Option<&str>, &str), FilterError> {
    match rest.split_once('/') {
        Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) => {
            Ok((Some(group), filter))
        }
        _ => Err(FilterError::Share),
    }
}

fn check_text(text: &str, levels_max: usize) -> Result<(), FilterError> {
    if text.is_empty() {
        return Err(FilterError::Empty);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(FilterError::TooLong);
    }
    if text.contains('\0') {
        return Err(FilterError::Null);
    }
    if text.split('/').count() > levels_max {
        return Err(FilterError::TooManyLevels(levels_max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, expected: Result<(Option<&str>, &str), FilterError>) {
        let parsed = TopicFilter::parse(filter, 4);
        assert_eq!(parsed.map(|f| (f.group(), f.filter())), expected, "{filter:?}");
    }

    #[test]
    fn each_rule_for_filters_is_named() {
        check("a/b/c/d", Ok((None, "a/b/c/d")));
        check("a/b/c/d/e", Err(FilterError::TooManyLevels(4)));
        check("", Err(FilterError::Empty));
        check("a\0", Err(FilterError::Null));
        check(&"a".repeat(65_536), Err(FilterError::TooLong));
        check("#", Ok((None, "#")));
        check("a/#", Ok((None, "a/#")));
        check("a#", Err(FilterError::MultiLevelWildcard));
        check("#/a", Err(FilterError::MultiLevelWildcard));
        check("+/a/+", Ok((None, "+/a/+")));
        check("a+/b", Err(FilterError::SingleLevelWildcard));
        check("$share/g/a/b/c/d", Ok((Some("g"), "a/b/c/d")));
        check("$share/g", Err(FilterError::Share));
        check("$share//a", Err(FilterError::Share));
        check("$share/+/a", Err(FilterError::Share));
        check("$share/g/", Err(FilterError::Empty));
    }

    #[test]
    fn a_topic_name_holds_no_wildcard() {
        assert_eq!(check_topic("a/+", 4), Err(FilterError::WildcardInName));
        assert_eq!(check_topic("a//b", 4), Ok(()));
    }

    #[test]
    fn examples_of_mqtt_5_section_4_7_match() {
        let check = |filter: &str, topic: &str, expected: bool| {
            let filter = TopicFilter::parse(filter, 8).unwrap();
            assert_eq!(filter.matches(topic), expected, "{filter:?} {topic}");
        };
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true);
        check("sport/#", "sport", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("#", "$SYS/uptime", false);
        check("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check("$SYS/#", "$SYS/monitor", true);
    }
}
