//! Who may publish and subscribe to what, as the operator says it.

use std::sync::Arc;

/// Rules of access to topics; the first that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    /// In the order of the file.
    pub rules: Vec<AclRule>,
    /// Where no rule matches; `None` allows without rules and denies with them.
    pub default: Option<Permission>,
    /// What MQTT 3 clients get for a publish that is denied.
    pub mqtt3_denied: Mqtt3Denied,
}

/// One rule. All conditions that are set must be met; of a list one is enough.
#[derive(Clone, Debug)]
pub struct AclRule {
    /// Unique name, used in logs and metrics.
    pub name: Arc<str>,
    /// What it says.
    pub permission: Permission,
    /// What it is about.
    pub action: AclAction,
    /// Patterns of topics; empty is every topic.
    pub topics: Vec<String>,
    /// Client ids, or beginnings of them with `*` behind.
    pub clients: Vec<Arc<str>>,
    /// Users, or beginnings of them with `*` behind.
    pub users: Vec<Arc<str>>,
    /// Names of listeners.
    pub listeners: Vec<Arc<str>>,
    /// Names that the client's certificate bears, or `*.suffix`; `*` takes every certificate.
    pub certificates: Vec<String>,
    /// Claims and a value of each; all of them are needed.
    pub claims: Vec<(String, String)>,
}

impl AclRule {
    /// A rule for everybody, every action and every topic.
    pub fn new(name: &str, permission: Permission) -> Self {
        Self {
            name: name.into(),
            permission,
            action: AclAction::Both,
            topics: Vec::new(),
            clients: Vec::new(),
            users: Vec::new(),
            listeners: Vec::new(),
            certificates: Vec::new(),
            claims: Vec::new(),
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
    /// The backend of [`Hook`](super::Hook) decides.
    Ask,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Publishing, wills included.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Either.
    Both,
}

/// What MQTT 3 clients get for a publish of QoS 1 or 2 that is denied: there is no word for it
/// [MQTT-3.3.5-2 of 3.1.1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mqtt3Denied {
    /// The acknowledgement of a message that was taken.
    #[default]
    Acknowledge,
    /// The end of the connection.
    Disconnect,
}
