//! Topic names and topic filters (4.7), and shared subscriptions (4.8.2). All loops, no recursion: a name
//! may hold 65535 levels.

use super::MqttError;

/// Checks a topic name: at least one character, no wildcard.
pub fn check_name(name: &str) -> Result<(), MqttError> {
    if name.is_empty() {
        return Err(MqttError::protocol("MQTT-4.7.3-1: a topic name has at least one character"));
    }
    if name.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(MqttError::malformed("MQTT-3.3.2-2: a topic name must not hold wildcards"));
    }
    Ok(())
}

/// Checks a topic filter, shared or not.
pub fn check_filter(filter: &str) -> Result<(), MqttError> {
    let plain = match filter.strip_prefix("$share/") {
        None => filter,
        Some(rest) => {
            let (group, plain) = rest.split_once('/').ok_or(MqttError::malformed(
                "MQTT-4.8.2-2: a ShareName is followed by / and a topic filter",
            ))?;
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(MqttError::malformed("MQTT-4.8.2-1: a ShareName has a character, and no / + #"));
            }
            plain
        }
    };
    if plain.is_empty() {
        return Err(MqttError::malformed("MQTT-4.7.3-1: a topic filter has at least one character"));
    }
    let mut levels = plain.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(MqttError::malformed("MQTT-4.7.1-1: # must be alone on the last level"));
        }
        if level.contains('+') && level != "+" {
            return Err(MqttError::malformed("MQTT-4.7.1-2: + must be alone on its level"));
        }
    }
    Ok(())
}

/// The levels of a name or filter.
pub fn levels(topic: &[u8]) -> usize {
    topic.iter().filter(|byte| **byte == b'/').count() + 1
}

/// Splits `$share/GROUP/FILTER` into group and filter; a filter that is not shared has no group.
pub fn split_share(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((group, plain)) => (Some(group), plain),
        None => (None, filter),
    }
}

/// Whether a filter (without `$share`) matches a topic name. Both are taken as checked.
pub fn matches(filter: &str, name: &str) -> bool {
    // MQTT-4.7.2-1: a wildcard at the front does not match names that begin with $.
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        if level == "#" {
            // It also stands for the parent level (4.7.1.2), so nothing need be left.
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_match(filter: &str, name: &str, expected: bool) {
        assert_eq!(matches(filter, name), expected, "{filter} against {name}");
    }

    #[test]
    fn examples_of_section_4_7() {
        for name in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
        {
            check_match("sport/tennis/player1/#", name, true);
        }
        check_match("sport/#", "sport", true);
        check_match("sport/tennis/+", "sport/tennis/player1", true);
        check_match("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check_match("sport/+", "sport", false);
        check_match("sport/+", "sport/", true);
        check_match("+/+", "/finance", true);
        check_match("/+", "/finance", true);
        check_match("+", "/finance", false);
        check_match("#", "$SYS/uptime", false);
        check_match("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check_match("$SYS/#", "$SYS/uptime", true);
        check_match("$SYS/monitor/+", "$SYS/monitor/Clients", true);
        check_match("ACCOUNTS", "Accounts", false);
        check_match("a//b", "a//b", true);
        check_match("a/b", "a//b", false);
    }

    #[track_caller]
    fn check_rule(filter: &str, rule: Option<&str>) {
        let found = check_filter(filter).err().map(|error| error.rule.split(':').next().unwrap());
        assert_eq!(found, rule, "{filter}");
    }

    #[test]
    fn filters_at_the_boundaries_of_the_rules() {
        for filter in ["#", "+", "/", "a/#", "+/+/#", "a//b", "$share/g/#", "$share/g//", "$shared", "$share"]
        {
            check_rule(filter, None);
        }
        check_rule("", Some("MQTT-4.7.3-1"));
        check_rule("sport/tennis#", Some("MQTT-4.7.1-1"));
        check_rule("sport/#/ranking", Some("MQTT-4.7.1-1"));
        check_rule("sport+", Some("MQTT-4.7.1-2"));
        check_rule("$share/", Some("MQTT-4.8.2-2"));
        check_rule("$share/g", Some("MQTT-4.8.2-2"));
        check_rule("$share//a", Some("MQTT-4.8.2-1"));
        check_rule("$share/+/a", Some("MQTT-4.8.2-1"));
        check_rule("$share/g/", Some("MQTT-4.7.3-1"));
    }

    #[test]
    fn a_name_of_65535_levels_is_matched_without_recursion() {
        let name = "/".repeat(65_534);
        assert_eq!(levels(name.as_bytes()), 65_535);
        check_match(&"+/".repeat(65_534), &name, true);
        check_match("#", &name, true);
    }

    #[test]
    fn names_hold_a_character_and_no_wildcard() {
        assert!(check_name("a").is_ok());
        assert!(check_name("/").is_ok());
        assert!(check_name("").is_err());
        assert!(check_name("a/+").is_err());
        assert!(check_name("a/#").is_err());
    }

    #[test]
    fn shares_are_split() {
        assert_eq!(split_share("$share/g/a/b"), (Some("g"), "a/b"));
        assert_eq!(split_share("a/b"), (None, "a/b"));
    }
}
