//! SCRAM-SHA-256 by AUTH packets.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use towline_gateway::{
    auth::{Scheme, password_line_by},
    control::reload,
    gateway::Gateway,
    settings::{AclRule, Authentication, Hook, Permission, Settings},
};
use towline_protocols::mqtt::*;

use crate::{
    mqtt_support::{scram::*, *},
    oracle::Oracle,
};

/// Users `ada` and `bob` with the password `pw`; `old` has no SCRAM line.
fn start() -> (Arc<Gateway>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let line = |user: &str, scheme| password_line_by(scheme, user, b"pw").unwrap();
    let lines = [line("ada", Scheme::Scram), line("bob", Scheme::Scram), line("old", Scheme::Pbkdf2)];
    let users = folder.path().join("users");
    std::fs::write(&users, lines.join("\n")).unwrap();
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.password_file = Some(users);
    let own =
        AclRule { topics: vec!["own/${username}".to_owned()], ..AclRule::new("own", Permission::Allow) };
    settings.acl.rules = vec![own];
    (gateway(settings), folder)
}

fn said(data: Option<&Secret>) -> String {
    String::from_utf8(data.unwrap().0.to_vec()).unwrap()
}

/// Follows a challenge: the next AUTH must be one.
async fn challenge(client: &mut Client) -> String {
    match client.receive().await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
            assert_eq!(auth.properties.authentication_method, Some(text(METHOD)));
            said(auth.properties.authentication_data.as_ref())
        }
        other => panic!("{other:?} instead of AUTH"),
    }
}

/// What CONNACK says at the end, and what it should say of the method.
async fn log_in(client: &mut Client, user: &str, password: &str) -> (Connack, String) {
    client.begin(connect_by(METHOD, "m1", &first(user))).await;
    let (last, proof) = answer(user, password, &challenge(client).await);
    client.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
    match client.receive().await {
        Some(Packet::Connack(connack)) => (*connack, proof),
        other => panic!("{other:?} instead of CONNACK"),
    }
}

async fn logged_in(gateway: &Arc<Gateway>) -> Client {
    let mut client = Client::open(gateway);
    let (connack, _) = log_in(&mut client, "ada", "pw").await;
    assert_eq!(connack.reason, ReasonCode::Success);
    client
}

#[tokio::test(start_paused = true)]
async fn a_password_is_proved_without_being_shown() {
    let (gateway, _folder) = start();
    let mut client = Client::open(&gateway);
    let (connack, proof) = log_in(&mut client, "ada", "pw").await;
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(connack.properties.authentication_method, Some(text(METHOD)));
    assert_eq!(said(connack.properties.authentication_data.as_ref()), proof, "the server proves itself too");
    assert_eq!(client.subscribe("own/ada", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    assert_eq!(client.subscribe("own/bob", QoS::AtLeastOnce).await, ReasonCode::NotAuthorized);
    // The same line takes the password itself.
    let mut plain = connect(Version::V311, "m2");
    plain.user_name = Some(text("ada"));
    plain.password = data("pw");
    Client::connect(&gateway, plain).await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_prove_it_learns_nothing() {
    let (gateway, _folder) = start();
    for (user, password) in [("ada", "wrong"), ("nobody", "pw"), ("old", "pw")] {
        let mut salts = Vec::new();
        for _ in 0..2 {
            let mut client = Client::open(&gateway);
            client.begin(connect_by(METHOD, "m1", &first(user))).await;
            let server_first = challenge(&mut client).await;
            salts.push(server_first.split(',').nth(1).unwrap().to_owned());
            let (last, _) = answer(user, password, &server_first);
            client.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
            match client.receive().await {
                Some(Packet::Connack(connack)) => {
                    assert_eq!(connack.reason, ReasonCode::NotAuthorized, "{user}")
                }
                other => panic!("{other:?} instead of CONNACK"),
            }
            assert_eq!(client.receive().await, None);
        }
        assert_eq!(salts[0], salts[1], "{user}");
    }
    assert_eq!(metric(&gateway, "towline_logins_total{listener=\"test\",outcome=\"refused\"}"), 6.0);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_none_ends_with_its_reason() {
    let (gateway, _folder) = start();
    for (method, message, expected) in [
        ("SCRAM-SHA-1", "n,,n=ada,r=x", ReasonCode::BadAuthenticationMethod),
        (METHOD, "n,,n=ada", ReasonCode::NotAuthorized),
        (METHOD, "", ReasonCode::NotAuthorized),
    ] {
        let connack = Client::open(&gateway).greet(connect_by(method, "m1", message)).await;
        assert_eq!(connack.reason, expected, "{method} {message}");
    }
    let nameless = Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: AuthProperties::default(),
    });
    for (packet, expected) in [
        (Packet::Pingreq, ReasonCode::ProtocolError),
        (auth(ReasonCode::ContinueAuthentication, "OTHER", "x"), ReasonCode::BadAuthenticationMethod),
        (nameless, ReasonCode::ProtocolError),
        (auth(ReasonCode::ContinueAuthentication, METHOD, "x"), ReasonCode::NotAuthorized),
    ] {
        let mut client = Client::open(&gateway);
        client.begin(connect_by(METHOD, "m1", &first("ada"))).await;
        challenge(&mut client).await;
        client.send(packet).await;
        match client.receive().await {
            Some(Packet::Connack(connack)) => assert_eq!(connack.reason, expected),
            other => panic!("{other:?} instead of CONNACK"),
        }
    }
    // Silence lasts no longer than CONNECT may.
    let mut client = Client::open(&gateway);
    client.begin(connect_by(METHOD, "m1", &first("ada"))).await;
    challenge(&mut client).await;
    pass(Duration::from_secs(11)).await;
    assert!(matches!(client.receive().await, Some(Packet::Connack(_))));
    assert_eq!(client.receive().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_proves_itself_again_while_it_is_connected() {
    let (gateway, _folder) = start();
    let mut client = logged_in(&gateway).await;
    client.send(auth(ReasonCode::ReAuthenticate, METHOD, &first("ada"))).await;
    let (last, proof) = answer("ada", "pw", &challenge(&mut client).await);
    client.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
    match client.receive().await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, ReasonCode::Success);
            assert_eq!(said(auth.properties.authentication_data.as_ref()), proof);
        }
        other => panic!("{other:?} instead of AUTH"),
    }
    client.expect_nothing().await;

    // Another user's proof is right, and not that of the session's user.
    client.send(auth(ReasonCode::ReAuthenticate, METHOD, &first("bob"))).await;
    let (last, _) = answer("bob", "pw", &challenge(&mut client).await);
    client.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
    client.expect_end(ReasonCode::NotAuthorized).await;

    let mut client = logged_in(&gateway).await;
    client.send(auth(ReasonCode::ReAuthenticate, METHOD, &first("ada"))).await;
    let (last, _) = answer("ada", "wrong", &challenge(&mut client).await);
    client.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
    client.expect_end(ReasonCode::NotAuthorized).await;

    let mut client = logged_in(&gateway).await;
    client.send(auth(ReasonCode::ReAuthenticate, "OTHER", "")).await;
    client.expect_end(ReasonCode::BadAuthenticationMethod).await;

    let mut client = logged_in(&gateway).await;
    client.send(auth(ReasonCode::ContinueAuthentication, METHOD, "")).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_round_a_hook_by_a_proof_that_it_is_not_shown() {
    let (gateway, _folder) = start();
    let mut begun = Client::open(&gateway);
    begun.begin(connect_by(METHOD, "m1", &first("ada"))).await;
    let (last, _) = answer("ada", "pw", &challenge(&mut begun).await);
    let mut settings = gateway.snapshot().settings.clone();
    let hook = Oracle::new(|_| serde_json::json!({ "verdict": "not_mine" })).within();
    settings.auth.hook = Some(Hook { path: "/hook".to_owned(), ..Hook::new(&hook.name) });
    settings.backends.push(hook);
    reload::apply(&gateway, settings).unwrap();
    begun.send(auth(ReasonCode::ContinueAuthentication, METHOD, &last)).await;
    match begun.receive().await {
        Some(Packet::Connack(connack)) => assert_eq!(connack.reason, ReasonCode::NotAuthorized),
        other => panic!("{other:?} instead of CONNACK"),
    }
    let connack = Client::open(&gateway).greet(connect_by(METHOD, "m1", &first("ada"))).await;
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
    // The password itself goes past the hook.
    let mut plain = connect(Version::V311, "m2");
    plain.user_name = Some(text("ada"));
    plain.password = data("pw");
    Client::connect(&gateway, plain).await;
}
