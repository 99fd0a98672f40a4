//! One rule: whom it is about, what it is about, and what it says.

use std::sync::Arc;

use super::{Action, Pattern, PatternError};
use crate::{
    request::Origin,
    settings::{AclAction, AclRule, Permission},
};

/// A compiled [`AclRule`].
#[derive(Debug)]
pub(super) struct Rule {
    settings: AclRule,
    topics: Vec<Pattern>,
}

impl Rule {
    pub(super) fn new(settings: &AclRule) -> Result<Self, PatternError> {
        let topics = settings.topics.iter().map(|topic| Pattern::parse(topic)).collect::<Result<_, _>>()?;
        Ok(Self { settings: settings.clone(), topics })
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn permission(&self) -> Permission {
        self.settings.permission
    }

    /// Whether all of `topic` is the rule's.
    pub(super) fn covers(&self, topic: &str, origin: &Origin) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|pattern| pattern.covers(topic, origin))
    }

    pub(super) fn matches(&self, origin: &Origin, action: Action, topic: &str) -> bool {
        self.is_about(action) && self.is_for(origin) && self.concerns(topic, origin)
    }

    fn is_about(&self, action: Action) -> bool {
        match self.settings.action {
            AclAction::Both => true,
            AclAction::Publish => action == Action::Publish,
            AclAction::Subscribe => action == Action::Subscribe,
        }
    }

    /// Every condition that is set is met.
    fn is_for(&self, origin: &Origin) -> bool {
        let AclRule { clients, users, listeners, certificates, claims, .. } = &self.settings;
        let identity = origin.identity.as_deref();
        (listeners.is_empty() || listeners.contains(&origin.listener))
            && is_one_of(clients, origin.client_id.as_ref())
            && is_one_of(users, origin.user.as_ref())
            && (certificates.is_empty()
                || identity.is_some_and(|identity| certificates.iter().any(|name| identity.is_named(name))))
            && claims.iter().all(|(name, value)| {
                let values = origin.claims.as_ref().map(|claims| claims.all(name)).unwrap_or_default();
                values.iter().any(|held| **held == **value)
            })
    }

    fn concerns(&self, topic: &str, origin: &Origin) -> bool {
        let concerns = |pattern: &Pattern| match self.settings.permission {
            Permission::Allow => pattern.covers(topic, origin),
            Permission::Deny | Permission::Ask => pattern.overlaps(topic, origin),
        };
        self.topics.is_empty() || self.topics.iter().any(concerns)
    }
}

/// Whether a name is in a list of names, of which those that end in `*` are beginnings.
fn is_one_of(names: &[Arc<str>], name: Option<&Arc<str>>) -> bool {
    let is_named = |name: &Arc<str>| {
        names.iter().any(|each| match each.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => each == name,
        })
    };
    names.is_empty() || name.is_some_and(is_named)
}
