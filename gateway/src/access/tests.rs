use std::sync::Arc;

use super::*;
use crate::{
    auth::DenyReason,
    request::Protocol,
    settings::{AclAction, AclRule, Permission},
};

fn origin(client_id: &str, user: Option<&str>) -> Origin {
    let mut origin = Origin::new("edge".into(), ([127, 0, 0, 1], 9).into(), Protocol::Mqtt, true);
    origin.client_id = Some(client_id.into());
    origin.user = user.map(Into::into);
    origin
}

fn rule(permission: Permission, topic: &str) -> AclRule {
    AclRule { topics: vec![topic.to_owned()], ..AclRule::new("r", permission) }
}

fn acl(rules: Vec<AclRule>, default: Option<Permission>) -> Acl {
    Acl::new(&settings::Acl { rules, default, ..settings::Acl::default() }).unwrap()
}

/// Whether an allowing rule for `pattern` lets client `c`, user `u` subscribe to `filter`.
#[track_caller]
fn check_covers(pattern: &str, filter: &str, expected: bool) {
    let covers = Pattern::parse(pattern).unwrap().covers(filter, &origin("c", Some("u")));
    assert_eq!(covers, expected, "{pattern} covers {filter}");
}

#[track_caller]
fn check_overlaps(pattern: &str, filter: &str, expected: bool) {
    let overlaps = Pattern::parse(pattern).unwrap().overlaps(filter, &origin("c", Some("u")));
    assert_eq!(overlaps, expected, "{pattern} overlaps {filter}");
}

#[test]
fn a_pattern_without_wildcards_is_one_topic_of_a_client() {
    let expand = |pattern: &str, id: &str, user| Pattern::parse(pattern).unwrap().expand(&origin(id, user));
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(expand("r/${username}-${clientid}/", "c", Some("u")), is("r/u-c/"));
    assert_eq!(expand("r", "c", None), is("r"));
    for id in ["a/b", "a+", "#", "a\0", ""] {
        assert_eq!(expand("r/${clientid}", id, None), None, "{id}");
    }
    assert_eq!(expand("${clientid}/r", "$SYS", None), None);
    assert_eq!(expand("r/${username}", "c", None), None);
    for pattern in ["r/+", "r/${clientid}/#"] {
        assert_eq!(expand(pattern, "c", None), None, "{pattern}");
        assert!(Pattern::parse(pattern).unwrap().has_wildcard());
    }
}

#[test]
fn an_allowing_pattern_covers_what_lies_within_it() {
    for filter in ["a", "a/b", "a/+", "a/+/c", "a/#", "a/+/#"] {
        check_covers("a/#", filter, true);
    }
    for filter in ["+", "#", "+/b", "+/#", "b", "$SYS/a"] {
        check_covers("a/#", filter, false);
    }
    check_covers("a/+", "a/b", true);
    check_covers("a/+", "a/+", true);
    check_covers("a/+", "a/#", false);
    check_covers("a/+", "a", false);
    check_covers("#", "+/x/#", true);
    check_covers("#", "$SYS/x", false);
    check_covers("+/x", "$SYS/x", false);
    check_covers("$SYS/#", "$SYS/broker/load", true);
    check_covers("d/${clientid}/${username}", "d/c/u", true);
    check_covers("d/x-${clientid}.y", "d/x-c.y", true);
    check_covers("d/${clientid}", "d/+", false);
    check_covers("d/${claim.site}", "d/anything", false);
}

#[test]
fn a_denying_pattern_meets_whatever_could_reach_it() {
    for filter in ["secret/x", "secret/+", "secret/#", "secret", "+/x", "+/#", "#"] {
        check_overlaps("secret/#", filter, true);
    }
    for filter in ["open/#", "+", "$SYS/#"] {
        check_overlaps("secret/key", filter, false);
    }
    check_overlaps("#", "$SYS/x", false);
    check_overlaps("$SYS/#", "#", false);
    check_overlaps("$SYS/#", "+/broker", false);
    check_overlaps("a/b", "a/b/#", true);
    check_overlaps("a/b", "a/b/+", false);
    check_overlaps("a/+/c", "a/b", false);
    check_overlaps("d/${clientid}", "d/+", true);
    check_overlaps("d/${clientid}", "d/other", false);
    check_overlaps("d/${claim.site}/x", "d/+/x", false);
}

#[test]
fn a_value_never_widens_a_pattern() {
    for id in ["+", "#", "a/b", "a\0b", "", "x+"] {
        let origin = origin(id, Some("u"));
        let pattern = Pattern::parse("d/${clientid}/#").unwrap();
        for filter in ["d/+/#", "d/#", "#", "d/a/b/c", "d//x", &format!("d/{id}/x")] {
            assert!(!pattern.covers(filter, &origin), "{id:?} {filter}");
        }
        assert!(pattern.overlaps("d/a/b", &origin), "what denies holds for every value: {id:?}");
        assert!(!pattern.overlaps("e/a", &origin));
    }
    let origin = origin("$SYS", None);
    assert!(!Pattern::parse("${clientid}/#").unwrap().covers("$SYS/broker", &origin));
    assert!(Pattern::parse("d/${clientid}").unwrap().covers("d/$SYS", &origin));
}

#[test]
fn mistakes_in_patterns_are_named() {
    for (pattern, said) in [
        ("$share/g/a", "leave $share"),
        ("a/#/b", "MQTT-4.7.1-1"),
        ("a/${user}", "${username}"),
        ("a/${claim.}", "${claim.NAME}"),
        ("a/${clientid", "ends with }"),
        ("", "at least one"),
    ] {
        let error = Pattern::parse(pattern).unwrap_err().to_string();
        assert!(error.contains(said), "{pattern}: {error}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    use Permission::{Allow, Deny};
    let acl = acl(vec![rule(Allow, "a/own/#"), rule(Deny, "a/#"), rule(Allow, "#")], None);
    let client = origin("c", None);
    let check = |action, topic, denied: bool| {
        assert_eq!(denial(&acl, &client, action, topic).is_some(), denied, "{action:?} {topic}");
    };
    check(Action::Subscribe, "a/own/x", false);
    check(Action::Subscribe, "a/own/#", false);
    check(Action::Subscribe, "a/+/x", true);
    check(Action::Subscribe, "#", true);
    check(Action::Subscribe, "b/#", false);
    check(Action::Subscribe, "$share/g/a/own/x", false);
    check(Action::Subscribe, "$share/g/a/x", true);
    check(Action::Subscribe, "$SYS/#", true);
    check(Action::Publish, "a/own/x", false);
    check(Action::Publish, "a/x", true);
    check(Action::Publish, "b", false);
}

#[test]
fn without_rules_everything_is_allowed_and_with_rules_the_rest_is_denied() {
    use Permission::{Allow, Deny};
    let client = origin("c", None);
    let denial = |acl: &Acl| denial(acl, &client, Action::Publish, "b");
    assert!(acl(Vec::new(), None).is_open());
    assert_eq!(denial(&acl(Vec::new(), None)), None);
    assert_eq!(denial(&acl(Vec::new(), Some(Deny))).as_deref(), Some("default"));
    assert_eq!(denial(&acl(vec![rule(Allow, "a")], None)).as_deref(), Some("default"));
    assert_eq!(denial(&acl(vec![rule(Deny, "a")], Some(Allow))), None);
    assert_eq!(denial(&acl(vec![rule(Deny, "b")], Some(Allow))).as_deref(), Some("r"));
}

#[test]
fn every_condition_of_a_rule_must_be_met() {
    let rule = AclRule {
        clients: vec!["meter-*".into()],
        users: vec!["ada".into(), "bob".into()],
        listeners: vec!["edge".into()],
        claims: vec![("role".to_owned(), "admin".to_owned())],
        action: AclAction::Publish,
        ..AclRule::new("r", Permission::Allow)
    };
    let acl = acl(vec![rule], None);
    let claims = serde_json::json!({"role": ["user", "admin"], "site": 7});
    let claims = Some(Arc::new(Claims::of(claims.as_object().unwrap())));
    let full = Origin { claims: claims.clone(), ..origin("meter-7", Some("bob")) };
    let may = |origin: &Origin, action| denial(&acl, origin, action, "x").is_none();
    assert!(may(&full, Action::Publish));
    assert!(!may(&full, Action::Subscribe));
    assert!(!may(&Origin { claims: None, ..full.clone() }, Action::Publish));
    assert!(!may(&Origin { user: None, ..full.clone() }, Action::Publish));
    assert!(!may(&Origin { user: Some("eve".into()), ..full.clone() }, Action::Publish));
    assert!(!may(&Origin { client_id: Some("meter".into()), ..full.clone() }, Action::Publish));
    assert!(!may(&Origin { listener: "other".into(), ..full.clone() }, Action::Publish));
    assert!(!may(&Origin { claims, ..origin("meter-7", None) }, Action::Publish));
    assert_eq!(full.claims.unwrap().one("site"), Some("7"));
}

#[test]
fn reasons_are_logged_once_and_bounded() {
    let denials = Denials::default();
    for n in 0..2000 {
        let client = origin(&format!("c{n}"), None);
        assert_eq!(denials.log("r", &client, Action::Publish, "x"), n < 1024, "{n}");
    }
    assert!(denials.log("r", &origin("c1", None), Action::Publish, "y"), "known");
    denials.clear();
    assert!(denials.log("r", &origin("c1999", None), Action::Publish, "y"));
}

fn denial(acl: &Acl, origin: &Origin, action: Action, topic: &str) -> Option<String> {
    match acl.judge(origin, action, topic, None) {
        Judgement::Allowed => None,
        Judgement::Denied(rule) => Some(rule.to_owned()),
        Judgement::Ask => panic!("nobody to ask"),
    }
}

#[test]
fn what_the_hook_allows_it_allows_within_its_topics_only() {
    let rule = |name: &str, permission, topic: &str| AclRule {
        topics: vec![topic.to_owned()],
        ..AclRule::new(name, permission)
    };
    let rules = vec![
        rule("asked", Permission::Ask, "a/b"),
        rule("closed", Permission::Deny, "a/c"),
        rule("open", Permission::Allow, "a/#"),
    ];
    let mut settings = settings::Acl { rules, ..settings::Acl::default() };
    let acl = Acl::new(&settings).unwrap();
    let client = origin("m1", None);
    let allow = Verdict::Allow(Default::default());
    let deny = Verdict::Deny(DenyReason::NotAuthorized, None);
    let judge = |acl: &Acl, topic: &str, said| match acl.judge(&client, Action::Subscribe, topic, said) {
        Judgement::Allowed => "allowed".to_owned(),
        Judgement::Denied(rule) => rule.to_owned(),
        Judgement::Ask => "ask".to_owned(),
    };
    for (topic, nobody, allowed, denied, not_mine) in [
        ("a/b", "ask", "allowed", "asked", "allowed"),
        ("$share/g/a/b", "ask", "allowed", "asked", "allowed"),
        // It touches what is asked and what is closed: the word on the one says nothing of the other.
        ("a/+", "ask", "closed", "asked", "closed"),
        ("a/c", "closed", "closed", "closed", "closed"),
        ("a/d", "allowed", "allowed", "allowed", "allowed"),
        ("x", "default", "default", "default", "default"),
    ] {
        let found = [None, Some(&allow), Some(&deny), Some(&Verdict::NotMine)];
        assert_eq!(
            found.map(|said| judge(&acl, topic, said)),
            [nobody, allowed, denied, not_mine],
            "{topic}"
        );
    }
    settings.default = Some(Permission::Ask);
    let acl = Acl::new(&settings).unwrap();
    let found = [None, Some(&allow), Some(&deny), Some(&Verdict::NotMine)];
    assert_eq!(found.map(|said| judge(&acl, "x", said)), ["ask", "allowed", "default", "default"]);
}
