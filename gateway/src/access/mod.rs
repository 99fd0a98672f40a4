//! Who may publish and subscribe to what. The rules are the operator's ([`crate::settings::Acl`]); every front asks
//! here: MQTT clients, apps on the link, and what the gateway publishes in their names (wills, answers of backends).
//!
//! The first rule that matches decides. For a subscription a rule that allows matches what lies within its patterns,
//! and one that denies matches what touches them: so no filter, however wide, reaches a topic that the rules deny.

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
use crate::{request::Origin, settings};

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

/// What denies where no rule matches.
const DEFAULT: &str = "default";

/// The rules in force.
#[derive(Debug, Default)]
pub struct Acl {
    rules: Vec<Rule>,
    denies_the_rest: bool,
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
        Ok(Self { rules, denies_the_rest: default == settings::Permission::Deny })
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && !self.denies_the_rest
    }

    /// The name of the rule that keeps a client from `action`; `None` if it may.
    pub fn denial(&self, origin: &Origin, action: Action, topic: &str) -> Option<&str> {
        let topic = match action {
            Action::Publish => topic,
            Action::Subscribe => towline_protocols::mqtt::topic::split_share(topic).1,
        };
        match self.rules.iter().find(|rule| rule.matches(origin, action, topic)) {
            Some(rule) => rule.denies().then_some(rule.name()),
            None => self.denies_the_rest.then_some(DEFAULT),
        }
    }
}

#[cfg(test)]
mod tests;
