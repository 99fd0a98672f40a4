//! A backend that says who clients are.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use towline_gateway::{
    auth,
    cli::development_certificates,
    gateway::Gateway,
    settings::{AclRule, Authentication, Backend, BackendKind, BackendTls, Hook, Permission, Settings},
};
use towline_protocols::mqtt::*;

use crate::{
    mqtt_support::*,
    oracle::{Oracle, backend},
};

pub const KINDS: [BackendKind; 3] = [BackendKind::Http1, BackendKind::Http2, BackendKind::Grpc];

pub fn settings_with(backend: Backend) -> Settings {
    let path = "/hook/".to_owned();
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.hook = Some(Hook { path, ..Hook::new(&backend.name) });
    settings.backends.push(backend);
    settings
}

fn hook(settings: &mut Settings) -> &mut Hook {
    settings.auth.hook.as_mut().unwrap()
}

/// With `asked/#` left to the hook, `rooms/ROOM/+` open, and all else closed.
pub fn with_rules(settings: &mut Settings) {
    let rule = |name: &str, permission, topic: &str| AclRule {
        topics: vec![topic.to_owned()],
        ..AclRule::new(name, permission)
    };
    settings.acl.rules = vec![
        rule("asked", Permission::Ask, "asked/#"),
        rule("rooms", Permission::Allow, "rooms/${claim.room}/+"),
    ];
}

pub fn connect_as(version: Version, id: &str, user: &str, password: &str) -> Connect {
    let mut connect = connect(version, id);
    connect.user_name = Some(text(user));
    connect.password = Some(Secret(Binary::new(password.to_owned()).unwrap()));
    connect
}

pub async fn greet(gateway: &Arc<Gateway>, connect: Connect) -> ReasonCode {
    Client::open(gateway).greet(connect).await.reason
}

pub fn questions(gateway: &Gateway, question: &str, outcome: &str) -> f64 {
    metric(gateway, &format!("towline_hook_questions_total{{outcome=\"{outcome}\",question=\"{question}\"}}"))
}

/// Ada's password is `right`; topics that end in `no` are nobody's.
pub fn accounts(question: &Value) -> Value {
    if question["question"] == "access" {
        let topic = question["topic"].as_str().unwrap();
        return json!({ "verdict": if topic.ends_with("no") { "deny" } else { "allow" } });
    }
    match question["password"].as_str() {
        Some("right") => json!({ "verdict": "allow", "user": "ada", "claims": { "room": "r7" } }),
        Some("banned") => json!({ "verdict": "deny", "reason": "banned", "text": "you know why" }),
        Some("busy") => json!({ "verdict": "deny", "reason": "busy" }),
        Some("id") => json!({ "verdict": "deny", "reason": "client_id" }),
        Some("elsewhere") => json!({ "verdict": "deny", "reason": "not_authorized" }),
        Some("local") => json!({ "verdict": "not_mine" }),
        Some("nonsense") => json!({ "verdict": "certainly" }),
        Some("broken") => Value::Null,
        _ => json!({ "verdict": "deny" }),
    }
}

#[tokio::test]
async fn the_hook_says_who_clients_are_and_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, auth::password_line("lovelace", b"local").unwrap()).unwrap();
    for kind in KINDS {
        let oracle = Oracle::new(accounts);
        let mut settings = settings_with(oracle.serve(kind).await);
        with_rules(&mut settings);
        settings.auth.password_file = Some(users.clone());
        let gateway = gateway(settings);
        let (mut client, _) = Client::connect(&gateway, connect_as(Version::V5, "m1", "a@b", "right")).await;
        let expected = json!({
            "question": "connect", "client_id": "m1", "user": "a@b", "password": "right", "listener": LISTENER,
            "protocol": "mqtt", "peer_address": "127.0.0.1", "encrypted": false,
        });
        assert_eq!(oracle.asked(), [expected], "{kind:?}");
        assert_eq!(client.subscribe("rooms/r7/x", QoS::AtMostOnce).await, ReasonCode::Success);
        assert_eq!(client.subscribe("rooms/r8/x", QoS::AtMostOnce).await, ReasonCode::NotAuthorized);
        for (password, v5, v311) in [
            ("wrong", ReasonCode::BadUserNameOrPassword, ReasonCode::NotAuthorized),
            ("banned", ReasonCode::Banned, ReasonCode::NotAuthorized),
            ("busy", ReasonCode::ServerBusy, ReasonCode::ServerUnavailable),
            ("id", ReasonCode::ClientIdentifierNotValid, ReasonCode::ClientIdentifierNotValid),
            ("elsewhere", ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
            ("nonsense", ReasonCode::ServerUnavailable, ReasonCode::ServerUnavailable),
            ("broken", ReasonCode::ServerUnavailable, ReasonCode::ServerUnavailable),
        ] {
            let found = greet(&gateway, connect_as(Version::V5, "m2", "ada", password)).await;
            assert_eq!(found, v5, "{kind:?} {password}");
            let found = greet(&gateway, connect_as(Version::V311, "m2", "ada", password)).await;
            assert_eq!(found, v311, "{kind:?} {password}");
        }
        let banned = connect_as(Version::V5, "m2", "ada", "banned");
        let connack = Client::open(&gateway).greet(banned.clone()).await;
        assert_eq!(connack.properties.reason_string, Some(text("you know why")));
        let mut narrow = banned;
        narrow.properties.packet_bytes_max = std::num::NonZeroU32::new(64);
        assert_eq!(Client::open(&gateway).greet(narrow).await.properties.reason_string, None);
        // The password file decides then.
        assert_eq!(
            greet(&gateway, connect_as(Version::V5, "m3", "lovelace", "local")).await,
            ReasonCode::Success
        );
        let other = greet(&gateway, connect_as(Version::V5, "m3", "ada", "local")).await;
        assert_eq!(other, ReasonCode::BadUserNameOrPassword);
        assert_eq!(questions(&gateway, "connect", "failed"), 4.0, "no failure is kept");
        assert_eq!(questions(&gateway, "connect", "deny"), 5.0, "each once, then from the cache");
        assert_eq!(questions(&gateway, "connect", "hit"), 7.0);
    }
}

#[tokio::test]
async fn nobody_is_admitted_while_the_hook_is_away() {
    // Bound and closed again: nobody is there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Takes connections and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for kind in KINDS {
        for address in [gone, mute.local_addr().unwrap()] {
            let mut settings = settings_with(backend(kind, address));
            hook(&mut settings).deadline = Duration::from_millis(100);
            let gateway = gateway(settings);
            for (version, expected) in
                [(Version::V5, ReasonCode::ServerUnavailable), (Version::V311, ReasonCode::ServerUnavailable)]
            {
                let found = greet(&gateway, connect_as(version, "m1", "ada", "right")).await;
                assert_eq!(found, expected, "{kind:?} {address}");
            }
            assert_eq!(questions(&gateway, "connect", "failed"), 2.0);
            let logins = format!("towline_logins_total{{listener=\"{LISTENER}\",outcome=\"unavailable\"}}");
            assert_eq!(metric(&gateway, &logins), 2.0);
        }
    }
}

#[tokio::test]
async fn a_hook_is_asked_by_tls_if_it_is_the_one_that_its_certificate_names() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [files, others] = folders.each_ref().map(|it| development_certificates(it.path()).unwrap());
    let (good, gone) = (ReasonCode::Success, ReasonCode::ServerUnavailable);
    for kind in KINDS {
        let is_http1 = kind == BackendKind::Http1;
        let alpn = if is_http1 { &[&b"http/1.1"[..]] } else { &[&b"h2"[..]] };
        for (ca, server_name, alpn, expected) in [
            (&files.ca, None, &alpn[..], good),
            (&files.ca, Some("localhost"), alpn, good),
            (&files.ca, Some("elsewhere.example"), alpn, gone),
            (&others.ca, None, alpn, gone),
            (&files.ca, None, &[&b"other"[..]], gone),
            // Whoever does not say that it speaks HTTP/2 is spoken to in HTTP/1.1.
            (&files.ca, None, &[][..], if is_http1 { good } else { gone }),
        ] {
            let oracle = Oracle::new(accounts);
            let mut backend = oracle.serve_by_tls(kind, &files.chain, &files.key, alpn).await;
            let server_name = server_name.map(str::to_owned);
            backend.tls = Some(BackendTls { ca: ca.clone(), server_name, certificate: None });
            let gateway = gateway(settings_with(backend));
            let found = greet(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
            assert_eq!(found, expected, "{kind:?} {alpn:?} {}", ca.display());
            assert_eq!(oracle.asked().len(), usize::from(expected == good), "no password goes elsewhere");
        }
        // In plaintext it hears nothing that it could read.
        let oracle = Oracle::new(accounts);
        let backend = oracle.serve_by_tls(kind, &files.chain, &files.key, alpn).await;
        let gateway = gateway(settings_with(backend));
        assert_eq!(greet(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await, gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_proves_itself_again_is_judged_by_the_hook() {
    let oracle = Oracle::new(|question| match question["password"].as_str() {
        Some("bob") => json!({ "verdict": "allow", "user": "bob" }),
        Some("withdrawn") => json!({ "verdict": "deny", "reason": "banned" }),
        Some("broken") => Value::Null,
        Some(room) => json!({ "verdict": "allow", "user": "ada", "claims": { "room": room } }),
        None => json!({ "verdict": "deny" }),
    });
    let mut settings = settings_with(oracle.within());
    with_rules(&mut settings);
    let gateway = gateway(settings);
    let properties = |token: &str| AuthProperties {
        authentication_method: Some(text("OAUTH2-JWT")),
        authentication_data: Some(Secret(Binary::new(token.to_owned()).unwrap())),
        ..Default::default()
    };
    let again = |token: &str| {
        Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, properties: properties(token) })
    };
    for (token, expected) in [
        ("bob", ReasonCode::NotAuthorized),
        ("withdrawn", ReasonCode::NotAuthorized),
        ("broken", ReasonCode::ServerBusy),
    ] {
        let mut connect = connect(Version::V5, "m1");
        connect.properties.authentication_method = properties("").authentication_method;
        connect.properties.authentication_data = properties("r1").authentication_data;
        let (mut client, _) = Client::connect(&gateway, connect).await;
        assert_eq!(client.subscribe("rooms/r2/x", QoS::AtMostOnce).await, ReasonCode::NotAuthorized);
        client.send(again("r2")).await;
        // What comes behind it is judged by what it has shown.
        client.publish("rooms/r2/x", "1", QoS::AtMostOnce).await;
        assert!(
            matches!(client.receive().await, Some(Packet::Auth(auth)) if auth.reason == ReasonCode::Success)
        );
        assert_eq!(client.subscribe("rooms/r2/x", QoS::AtMostOnce).await, ReasonCode::Success);
        client.send(again(token)).await;
        client.expect_end(expected).await;
    }
    let asked: Vec<_> = oracle.asked().iter().map(|question| question["password"].clone()).collect();
    assert_eq!(asked, ["r1", "r2", "bob", "withdrawn", "broken"]);
}

#[tokio::test(start_paused = true)]
async fn answers_are_kept_for_a_while_and_equal_questions_are_one() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    // All may be wrong, as far as is known while there is no answer.
    settings.auth.guesses.failures_max = 12;
    let gateway = gateway(settings);
    oracle.open(false);
    let greeting = |id: &'static str, password: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { greet(&gateway, connect_as(Version::V5, id, "ada", password)).await })
    };
    let same: Vec<_> = (0..10).map(|_| greeting("m1", "right")).collect();
    let others = [greeting("m2", "right"), greeting("m1", "wrong")];
    oracle.is_asked(3).await;
    while questions(&gateway, "connect", "shared") < 9.0 {
        tokio::task::yield_now().await;
    }
    oracle.open(true);
    for each in same {
        assert_eq!(each.await.unwrap(), ReasonCode::Success);
    }
    for (other, expected) in others.into_iter().zip([ReasonCode::Success, ReasonCode::BadUserNameOrPassword])
    {
        assert_eq!(other.await.unwrap(), expected);
    }
    assert_eq!(oracle.asked().len(), 3);
    for (seconds, id, password, asked) in [
        (4, "m1", "right", 3),
        (0, "m1", "wrong", 3),
        (2, "m1", "wrong", 4),
        (53, "m1", "right", 4),
        (2, "m1", "right", 5),
    ] {
        pass(Duration::from_secs(seconds)).await;
        _ = greet(&gateway, connect_as(Version::V5, id, "ada", password)).await;
        assert_eq!(oracle.asked().len(), asked, "{id} {password}");
    }
}

#[tokio::test(start_paused = true)]
async fn questions_under_way_are_bounded() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    (hook(&mut settings).questions_max, hook(&mut settings).waiting_max) = (1, 1);
    let gateway = gateway(settings);
    oracle.open(false);
    let greeting = |id: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { greet(&gateway, connect_as(Version::V5, id, "ada", "right")).await })
    };
    let first = greeting("m1");
    oracle.is_asked(1).await;
    let second = greeting("m2");
    let limit =
        |name: &str| metric(&gateway, &format!("towline_limit_hits_total{{limit=\"auth.hook.{name}\"}}"));
    while limit("questions_max") < 1.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(greeting("m3").await.unwrap(), ReasonCode::ServerUnavailable);
    assert_eq!((oracle.asked().len(), limit("waiting_max")), (1, 1.0));
    oracle.open(true);
    assert_eq!(first.await.unwrap(), ReasonCode::Success);
    assert_eq!(second.await.unwrap(), ReasonCode::Success);
    assert_eq!(greeting("m3").await.unwrap(), ReasonCode::Success);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_the_hook_said_that_it_would() {
    let oracle = Oracle::new(|_| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({ "verdict": "allow", "expires_at_s": now + 600 })
    });
    let gateway = gateway(settings_with(oracle.within()));
    let mut connect = connect_as(Version::V5, "m1", "ada", "right");
    connect.keep_alive = 0;
    let (mut client, _) = Client::connect(&gateway, connect.clone()).await;
    pass(Duration::from_secs(590)).await;
    client.expect_nothing().await;
    pass(Duration::from_secs(20)).await;
    client.expect_end(ReasonCode::MaximumConnectTime).await;
    // What is over already admits nobody.
    oracle.now_says(|_| json!({ "verdict": "allow", "expires_at_s": 1 }));
    pass(Duration::from_secs(60)).await;
    assert_eq!(greet(&gateway, connect).await, ReasonCode::BadUserNameOrPassword);
}

#[tokio::test]
async fn a_reload_that_changes_nothing_of_the_hook_keeps_its_answers() {
    let oracle = Oracle::new(accounts);
    let settings = settings_with(oracle.serve(BackendKind::Http1).await);
    let gateway = gateway(settings.clone());
    for (settings, asked) in [
        (settings.clone(), 1),
        (settings.clone(), 1),
        (
            {
                let mut changed = settings;
                hook(&mut changed).denied_for = Duration::ZERO;
                changed
            },
            2,
        ),
    ] {
        towline_gateway::control::reload::apply(&gateway, settings).unwrap();
        let found = greet(&gateway, connect_as(Version::V5, "m1", "ada", "right")).await;
        assert_eq!((found, oracle.asked().len()), (ReasonCode::Success, asked));
    }
}
