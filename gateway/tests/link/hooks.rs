//! A backend that says who apps are and what they may do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use serde_json::{Value, json};
use towline_client::{Client, ClientConfig, ConnectionState, Credentials, ShortCalls};
use towline_gateway::settings::{AclRule, BackendKind, Hook, Jwt, Permission, Settings};

use crate::{
    bed::{Bed, USER, answer, closed, online, state},
    oracle::Oracle,
};

const KINDS: [BackendKind; 2] = [BackendKind::Http2, BackendKind::Grpc];

async fn bed_with(oracle: &Oracle, kind: BackendKind, change: impl FnOnce(&mut Settings)) -> Bed {
    let backend = oracle.serve(kind).await;
    Bed::with(|settings| {
        settings.auth.hook = Some(Hook { path: "/hook".to_owned(), ..Hook::new("accounts") });
        settings.backends.push(backend);
        change(settings);
    })
    .await
}

fn config(bed: &Bed, id: &str, user: &str, password: &str) -> ClientConfig {
    let mut config = bed.plain(bed.address("door"));
    config.client_id = Some(id.into());
    config.credentials = Some(Credentials { user: user.into(), password: password.into() });
    config
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn count(oracle: &Oracle, question: &str) -> usize {
    oracle.asked().iter().filter(|asked| asked["question"] == question).count()
}

fn accounts(question: &Value) -> Value {
    if question["question"] == "access" {
        let topic = question["topic"].as_str().unwrap();
        return json!({ "verdict": if topic.ends_with("no") { "deny" } else { "allow" } });
    }
    match question["password"].as_str() {
        Some("right") => json!({ "verdict": "allow" }),
        Some(password) if password == USER.1 => json!({ "verdict": "not_mine" }),
        _ => json!({ "verdict": "deny", "reason": "banned", "text": "you know why" }),
    }
}

#[tokio::test]
async fn an_app_is_admitted_or_told_why_not() {
    for kind in KINDS {
        let oracle = Oracle::new(accounts);
        let bed = bed_with(&oracle, kind, |_| {}).await;
        let client = Client::start(config(&bed, "a", "ada@home", "right")).unwrap();
        assert_eq!(answer(&client, "Echo", "x").await, "x");
        let asked = oracle.asked().remove(0);
        assert_eq!((&asked["client_id"], &asked["user"]), (&json!("a"), &json!("ada@home")));
        assert_eq!((&asked["protocol"], &asked["listener"]), (&json!("link_tcp"), &json!("door")));
        let refused = Client::start(config(&bed, "b", "ada", "wrong")).unwrap();
        assert!(closed(&refused).await.contains("you know why"));
        let local = Client::start(config(&bed, "c", USER.0, USER.1)).unwrap();
        assert_eq!(answer(&local, "Echo", "x").await, "x");
        for (password, reaches) in [("right", true), ("wrong", false)] {
            let mut config = config(&bed, "d", "ada", password);
            config.short_calls = ShortCalls::Always;
            let client = Client::start(config).unwrap();
            let called = client.call(crate::bed::call("Echo", "x").deadline(Duration::from_secs(5))).await;
            assert_eq!(called.is_ok(), reaches, "{kind:?} {password}");
        }
    }
}

#[tokio::test]
async fn an_app_comes_back_when_the_hook_does() {
    let oracle = Oracle::new(|_| Value::Null);
    let bed = bed_with(&oracle, BackendKind::Grpc, |_| {}).await;
    let client = Client::start(config(&bed, "a", "ada", "right")).unwrap();
    oracle.is_asked(2).await;
    assert!(!matches!(&*client.states().borrow(), ConnectionState::Closed { .. }), "it may come again");
    oracle.now_says(accounts);
    online(&client).await;
}

#[tokio::test]
async fn a_connection_ends_and_its_app_comes_again_when_the_hook_said_so() {
    let oracle = Oracle::new(|_| json!({ "verdict": "allow", "keep_s": 0, "expires_at_s": now_s() + 2 }));
    let bed = bed_with(&oracle, BackendKind::Http1, |_| {}).await;
    let client = Client::start(config(&bed, "a", "ada", "right")).unwrap();
    online(&client).await;
    state(&client, |state| !matches!(state, ConnectionState::Online { .. })).await;
    online(&client).await;
    assert!(count(&oracle, "connect") >= 2);
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let secret = [7; 32];
    let encode = |value: Value| BASE64_URL.encode(value.to_string());
    let claims = encode(json!({ "sub": "ada", "exp": now_s() + 2 }));
    let signed = format!("{}.{claims}", encode(json!({ "alg": "HS256" })));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
    let token = format!("{signed}.{}", BASE64_URL.encode(tag));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), secret).unwrap();
    let bed = Bed::with(|settings| {
        settings.auth.jwt = Some(Jwt {
            hmac_secret_file: Some(file.path().to_owned()),
            algorithms: vec![towline_gateway::auth::jwt::Algorithm::Hs256],
            leeway: Duration::ZERO,
            ..Jwt::default()
        });
    })
    .await;
    let client = Client::start(config(&bed, "a", "ada", &token)).unwrap();
    online(&client).await;
    assert!(closed(&client).await.contains("expired"), "the same token would not help");
}

#[tokio::test]
async fn a_forgotten_app_is_asked_about_again() {
    let oracle = Oracle::new(accounts);
    let bed = bed_with(&oracle, BackendKind::Http1, |_| {}).await;
    let client = Client::start(config(&bed, "a", "ada", "right")).unwrap();
    let other = Client::start(config(&bed, "b", "bob", "right")).unwrap();
    online(&client).await;
    online(&other).await;
    let forget = || {
        let snapshot = bed.gateway().snapshot.load_full();
        let hook = snapshot.hook.as_ref().unwrap();
        assert_eq!(hook.forget(Some("ada")), 1);
        bed.gateway().withdraw_forgotten(hook, Some("ada"))
    };
    assert_eq!(forget(), 1);
    oracle.is_asked(3).await;
    online(&client).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x", "its session goes on");
    oracle.now_says(|_| json!({ "verdict": "deny", "reason": "banned", "text": "you know why" }));
    assert_eq!(forget(), 1);
    assert!(closed(&client).await.contains("you know why"));
    online(&other).await;
    assert_eq!(count(&oracle, "connect"), 4);
}

#[tokio::test]
async fn an_app_has_the_topics_that_the_hook_gives_it() {
    for kind in KINDS {
        let oracle = Oracle::new(accounts);
        let bed = bed_with(&oracle, kind, |settings| settings.acl.default = Some(Permission::Ask)).await;
        let mut config = config(&bed, "a", "ada", "right");
        config.topics = vec!["first".into(), "first/no".into()];
        let client = Client::start(config).unwrap();
        online(&client).await;
        let held = || {
            let held = bed.gateway().hub.subscriptions("a").into_iter().map(|(filter, _)| filter);
            held.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(held(), ["first".to_owned()].into(), "what HELLO asked for");
        let mut pushes = client.pushes();
        client.subscribe("news").await.unwrap();
        assert!(client.subscribe("news/no").await.unwrap_err().to_string().contains("not permitted"));
        assert!(client.publish("news/no", "x").await.unwrap_err().to_string().contains("not permitted"));
        client.publish("news", "rain").await.unwrap();
        assert_eq!(&pushes.next().await.unwrap().payload[..], b"rain");
        assert_eq!(held(), ["first".to_owned(), "news".to_owned()].into());
        oracle.now_says(|_| json!("gibberish"));
        assert!(client.subscribe("other").await.unwrap_err().to_string().contains("try again later"));
        assert!(client.publish("other", "x").await.is_err());
    }
}

#[tokio::test]
async fn a_rule_may_leave_some_topics_to_the_hook() {
    let oracle = Oracle::new(accounts);
    let bed = bed_with(&oracle, BackendKind::Http1, |settings| {
        let rule = |name: &str, permission, topic: &str| AclRule {
            topics: vec![topic.to_owned()],
            ..AclRule::new(name, permission)
        };
        settings.acl.rules =
            vec![rule("asked", Permission::Ask, "asked/+"), rule("open", Permission::Allow, "open")];
    })
    .await;
    let client = Client::start(config(&bed, "a", "ada", "right")).unwrap();
    client.subscribe("open").await.unwrap();
    assert_eq!(count(&oracle, "access"), 0);
    client.subscribe("asked/a").await.unwrap();
    assert!(client.subscribe("asked/no").await.is_err());
    assert_eq!(count(&oracle, "access"), 2);
}
