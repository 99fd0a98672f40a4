//! `[acl]`.

use std::{collections::HashSet, sync::Arc};

use super::name;
use crate::{
    access::Pattern,
    control::config::reader::Table,
    settings::{Acl, AclAction, AclRule, Listener, Mqtt3Denied, Permission},
};

const PERMISSIONS: &[(&str, Permission)] =
    &[("allow", Permission::Allow), ("deny", Permission::Deny), ("ask", Permission::Ask)];
const ACTIONS: &[(&str, AclAction)] =
    &[("publish", AclAction::Publish), ("subscribe", AclAction::Subscribe), ("both", AclAction::Both)];
const NO_HOOK: &str = "\"ask\" needs somebody to ask: [auth.hook] backend = \"NAME\"";
const MQTT3_DENIED: &[(&str, Mqtt3Denied)] =
    &[("acknowledge", Mqtt3Denied::Acknowledge), ("disconnect", Mqtt3Denied::Disconnect)];

pub(super) fn acl(mut t: Table<'_, '_>, listeners: &[Listener], has_hook: bool) -> Acl {
    let default = t.optional_string("default").and_then(|word| t.choose("default", &word, PERMISSIONS));
    if default == Some(Permission::Ask) && !has_hook {
        t.mistake("default", NO_HOOK);
    }
    let mqtt3_denied = t.word("mqtt3_denied", Mqtt3Denied::default(), MQTT3_DENIED);
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for mut table in t.tables("rules") {
        let rule = rule(&mut table, listeners);
        if rule.permission == Permission::Ask && !has_hook {
            table.mistake("permission", NO_HOOK);
        }
        if table.has("name") && !names.insert(rule.name.clone()) {
            let text = format_args!("\"{}\" names an earlier rule too; names are unique", rule.name);
            table.mistake("name", text);
        }
        table.finish();
        rules.push(rule);
    }
    t.finish();
    Acl { rules, default, mqtt3_denied }
}

fn rule(t: &mut Table<'_, '_>, listeners: &[Listener]) -> AclRule {
    let name = name(t, "own-topics");
    let permission = t.required_string("permission", "allow");
    // What is missing or no word is a mistake already.
    let permission = t.has("permission").then(|| t.choose("permission", &permission, PERMISSIONS)).flatten();
    let rule = AclRule {
        name,
        permission: permission.unwrap_or(Permission::Deny),
        action: t.word("action", AclAction::Both, ACTIONS),
        topics: t.strings("topics"),
        clients: shared(t.strings("clients")),
        users: shared(t.strings("users")),
        listeners: shared(t.strings("listeners")),
        certificates: t.strings("certificates"),
        claims: claims(t),
    };
    for topic in &rule.topics {
        if let Err(error) = Pattern::parse(topic) {
            t.mistake("topics", error);
        }
    }
    for key in ["topics", "clients", "users", "listeners", "certificates", "claims"] {
        check_empty(t, key, &rule);
    }
    for unknown in rule.listeners.iter().filter(|name| !listeners.iter().any(|each| each.name == **name)) {
        t.mistake("listeners", format_args!("there is no listener \"{unknown}\""));
    }
    rule
}

/// An empty list would be no condition at all, which is the opposite of what it looks like.
fn check_empty(t: &Table<'_, '_>, key: &str, rule: &AclRule) {
    let is_empty = match key {
        "topics" => rule.topics.is_empty(),
        "clients" => rule.clients.is_empty(),
        "users" => rule.users.is_empty(),
        "listeners" => rule.listeners.is_empty(),
        "certificates" => rule.certificates.is_empty(),
        _ => rule.claims.is_empty(),
    };
    if is_empty && t.has(key) {
        t.mistake(key, "names nothing; leave the key out for a rule without this condition");
    }
}

fn claims(t: &mut Table<'_, '_>) -> Vec<(String, String)> {
    let mut claims = Vec::new();
    for text in t.strings("claims") {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => claims.push((name.to_owned(), value.to_owned())),
            _ => t.mistake("claims", format_args!("\"{text}\" is not name=value, as \"role=admin\"")),
        }
    }
    claims
}

fn shared(strings: Vec<String>) -> Vec<Arc<str>> {
    strings.into_iter().map(Into::into).collect()
}
