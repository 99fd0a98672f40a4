//! Who may publish and subscribe to what. The rules are the operator's ([`crate::settings::Acl`]); every front asks
//! here: MQTT clients, apps on the link, and what the gateway publishes in their names (wills, answers of backends).
//!
//! The first rule that matches decides. For a subscription a rule that allows matches what lies within its patterns,
//! and one that denies matches what touches them: so no filter, however wide, reaches a topic that the rules deny. A rule
//! may also leave it to a backend ([`crate::auth::hook`]).

mod claims;
mod denials;
mod pattern;
mod rule;

use self::rule::Rule;
pub use self::{
    claims::Claims,
    denials::Denials,
    pattern::{Pattern, PatternError},
};
use crate::{auth::hook::Verdict, request::Origin, settings};

/// What a client is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish to a topic.
    Publish,
    /// Subscribe to a topic filter; a shared subscription is judged by its filter.
    Subscribe,
}

impl Action {
    /// The value of metrics' `action` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What a client's wish came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may.
    Granted,
    /// It may not.
    Denied,
    /// The hook, which is to say so, gave no answer: it may not, but another attempt may do better.
    Unknown,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement<'r> {
    /// It is allowed.
    Allowed,
    /// The rule of that name denies it.
    Denied(&'r str),
    /// The hook has to be asked.
    Ask,
}

/// What denies where no rule matches.
const DEFAULT: &str = "default";

/// The rules in force.
#[derive(Debug)]
pub struct Acl {
    rules: Vec<Rule>,
    /// Where no rule matches.
    default: settings::Permission,
}

impl Acl {
    /// Compiles the operator's rules.
    ///
    /// # Errors
    /// Names the rule and what is wrong with its pattern.
    pub fn new(settings: &settings::Acl) -> Result<Self, String> {
        let compile = |rule| Rule::new(rule).map_err(|error| format!("acl rule `{}`: {error}", rule.name));
        let rules = settings.rules.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        let default = settings.default.unwrap_or(match rules.is_empty() {
            true => settings::Permission::Allow,
            false => settings::Permission::Deny,
        });
        Ok(Self { rules, default })
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && self.default == settings::Permission::Allow
    }

    /// Judges what a client wants; `said` is what the hook says of it, once it was asked.
    ///
    /// A rule that asks matches what touches its topics. What the hook denies is denied; what it allows is allowed if it
    /// lies within the topics, and else the rules that follow are to allow the rest.
    pub fn judge(
        &self,
        origin: &Origin,
        action: Action,
        topic: &str,
        said: Option<&Verdict>,
    ) -> Judgement<'_> {
        let topic = Self::judged(action, topic);
        for rule in self.rules.iter().filter(|rule| rule.matches(origin, action, topic)) {
            match (rule.permission(), said) {
                (settings::Permission::Allow, _) => return Judgement::Allowed,
                (settings::Permission::Deny, _) | (_, Some(Verdict::Deny(..))) => {
                    return Judgement::Denied(rule.name());
                }
                (settings::Permission::Ask, None) => return Judgement::Ask,
                (settings::Permission::Ask, Some(Verdict::Allow(_))) if rule.covers(topic, origin) => {
                    return Judgement::Allowed;
                }
                (settings::Permission::Ask, Some(Verdict::Allow(_) | Verdict::NotMine)) => {}
            }
        }
        match (self.default, said) {
            (settings::Permission::Allow, _) | (settings::Permission::Ask, Some(Verdict::Allow(_))) => {
                Judgement::Allowed
            }
            (settings::Permission::Ask, None) => Judgement::Ask,
            (settings::Permission::Ask | settings::Permission::Deny, _) => Judgement::Denied(DEFAULT),
        }
    }

    /// What of a topic or filter is judged.
    pub fn judged(action: Action, topic: &str) -> &str {
        match action {
            Action::Publish => topic,
            Action::Subscribe => towline_protocols::mqtt::topic::split_share(topic).1,
        }
    }
}

#[cfg(test)]
mod tests;
