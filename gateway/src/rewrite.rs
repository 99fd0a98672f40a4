//! Rules that give topics another name before anything looks at them (`[[rewrite]]`).

use std::fmt::Write as _;

use regex::Regex;

use crate::{
    hub::{self, check_topic},
    router::TopicFilter,
    settings,
};

/// Every rule, in the order of the configuration; the first that matches is applied.
#[derive(Debug, Default)]
pub struct Rewrites {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    publish: bool,
    subscribe: bool,
    filter: TopicFilter,
    /// Must match too, and captures in place of the filter's wildcards.
    regex: Option<Regex>,
    to: String,
}

/// For whom a topic is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// `%c`
    pub client_id: Option<&'a str>,
    /// `%u`
    pub user: Option<&'a str>,
}

impl Rewrites {
    /// Compiles the rules.
    ///
    /// # Errors
    /// What is wrong with the first that is not one.
    pub fn compile(rules: &[settings::Rewrite]) -> Result<Self, String> {
        let compile = |rule: &settings::Rewrite| {
            let filter = TopicFilter::parse(&rule.topic)
                .map_err(|error| format!("rewrite \"{}\": topic filter: {error}", rule.topic))?;
            let regex = rule.regex.as_deref().map(Regex::new).transpose();
            let regex = regex.map_err(|error| format!("rewrite \"{}\": regex: {error}", rule.topic))?;
            let (publish, subscribe, to) = (rule.publish, rule.subscribe, rule.to.clone());
            Ok(Rule { publish, subscribe, filter, regex, to })
        };
        Ok(Self { rules: rules.iter().map(compile).collect::<Result<_, String>>()? })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The name that a published topic is to have; `None`: the one that it has, also when a rule makes of it what is no
    /// topic name.
    pub fn topic(&self, topic: &str, who: Who<'_>, levels_max: usize) -> Option<String> {
        let rewritten = self.first(topic, who, |rule| rule.publish)?;
        check_topic(&rewritten, levels_max).is_ok().then_some(rewritten)
    }

    /// The same for a topic filter, with its shared group if it has one.
    pub fn filter(&self, filter: &str, who: Who<'_>, levels_max: usize) -> Option<String> {
        let (group, bare) = towline_protocols::mqtt::topic::split_share(filter);
        let mut rewritten = self.first(bare, who, |rule| rule.subscribe)?;
        if let Some(group) = group {
            rewritten = format!("$share/{group}/{rewritten}");
        }
        hub::TopicFilter::parse(&rewritten, levels_max).is_ok().then_some(rewritten)
    }

    fn first(&self, topic: &str, who: Who<'_>, is_meant: impl Fn(&Rule) -> bool) -> Option<String> {
        self.rules.iter().filter(|rule| is_meant(rule)).find_map(|rule| rule.apply(topic, who))
    }
}

impl Rule {
    fn apply(&self, topic: &str, who: Who<'_>) -> Option<String> {
        let wildcards = self.filter.captures(topic)?;
        match &self.regex {
            None => Some(expand(&self.to, who, |index| wildcards.get(index.checked_sub(1)?).copied())),
            Some(regex) => {
                let captures = regex.captures(topic)?;
                Some(expand(&self.to, who, |index| captures.get(index).map(|found| found.as_str())))
            }
        }
    }
}

/// `$1` to `$9` (`$0` is all that a regex matched), `%c` and `%u`. What is not there is nothing.
fn expand<'t>(to: &str, who: Who<'_>, capture: impl Fn(usize) -> Option<&'t str>) -> String {
    let mut expanded = String::with_capacity(to.len());
    let mut chars = to.chars().peekable();
    while let Some(char) = chars.next() {
        let found = match (char, chars.peek().copied()) {
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                Some(capture(digit as usize - '0' as usize).unwrap_or_default())
            }
            ('%', Some('c')) => Some(who.client_id.unwrap_or_default()),
            ('%', Some('u')) => Some(who.user.unwrap_or_default()),
            _ => None,
        };
        match found {
            Some(text) => {
                chars.next();
                _ = write!(expanded, "{text}");
            }
            None => expanded.push(char),
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(topic: &str, regex: Option<&str>, to: &str) -> settings::Rewrite {
        settings::Rewrite {
            topic: topic.to_owned(),
            regex: regex.map(str::to_owned),
            to: to.to_owned(),
            publish: true,
            subscribe: true,
        }
    }

    const WHO: Who<'_> = Who { client_id: Some("dev"), user: None };

    #[track_caller]
    fn check(rules: &[settings::Rewrite], topic: &str, expected: Option<&str>) {
        let rewritten = Rewrites::compile(rules).unwrap().topic(topic, WHO, 8);
        assert_eq!(rewritten.as_deref(), expected, "{topic}");
    }

    #[test]
    fn the_first_rule_that_matches_gives_the_name() {
        // The example of EMQX's manual.
        let rules = [
            rule("y/+/z/#", Some("^y/(.+)/z/(.+)$"), "y/z/$2"),
            rule("x/#", Some("^x/y/(.+)$"), "z/y/x/$1"),
            rule("x/y/+", Some("^x/y/(\\d+)$"), "z/y/$1"),
        ];
        check(&rules, "y/a/z/b", Some("y/z/b"));
        check(&rules, "y/def", None);
        check(&rules, "x/1/2", None);
        check(&rules, "x/y/2", Some("z/y/x/2"));
        check(&rules, "x/y/z", Some("z/y/x/z"));
    }

    #[test]
    fn wildcards_capture_where_there_is_no_regex() {
        let rules = [rule("old/+/state/#", None, "new/%c/$2/$1")];
        check(&rules, "old/7/state/a/b", Some("new/dev/a/b/7"));
        check(&rules, "old/7/other", None);
        check(&[rule("a", None, "b/%u/c%d$")], "a", Some("b//c%d$"));
    }

    #[test]
    fn what_would_be_no_topic_keeps_its_name() {
        check(&[rule("a/#", None, "b/#")], "a/x", None);
        check(&[rule("a/#", None, "1/2/3/4/5/6/7/8/9")], "a/x", None);
    }

    #[test]
    fn a_filter_keeps_its_wildcards_and_its_group() {
        let rewrites = Rewrites::compile(&[rule("old/+/#", None, "new/$1/$2")]).unwrap();
        let filter = |text| rewrites.filter(text, WHO, 8);
        assert_eq!(filter("old/+/#").as_deref(), Some("new/+/#"));
        assert_eq!(filter("$share/g/old/7/x").as_deref(), Some("$share/g/new/7/x"));
        assert_eq!(filter("other/#"), None);
    }

    #[test]
    fn a_rule_that_is_none_is_named() {
        let error = Rewrites::compile(&[rule("a/#", Some("("), "b")]).unwrap_err();
        assert!(error.contains("rewrite \"a/#\": regex"), "{error}");
    }
}
