//! Clients that are wrong with passwords again and again.

use std::time::Duration;

use towline_gateway::{
    auth::{self, Scheme},
    settings::{Authentication, Guesses, Settings},
};
use towline_protocols::mqtt::*;

use crate::mqtt_support::*;

fn settings_with(users: &std::path::Path, guesses: Guesses) -> Settings {
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.password_file = Some(users.to_owned());
    settings.auth.guesses = guesses;
    settings
}

#[tokio::test(start_paused = true)]
async fn who_guesses_is_refused_for_a_while_whatever_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let lines = ["ada", "bob"].map(|user| auth::password_line(user, b"right").unwrap()).join("\n");
    std::fs::write(&users, lines).unwrap();
    let gateway = gateway(settings_with(&users, Guesses { failures_max: 3, ..Guesses::default() }));
    let greet = async |version, user, password: &'static str| {
        let mut connect = connect(version, "m1");
        connect.user_name = Some(text(user));
        connect.password = Some(Secret(Binary::new(password).unwrap()));
        Client::open(&gateway).greet(connect).await.reason
    };
    for round in 0..2 {
        for _ in 0..3 {
            assert_eq!(greet(Version::V5, "ada", "wrong").await, ReasonCode::BadUserNameOrPassword);
        }
        for password in ["wrong", "right"] {
            assert_eq!(
                greet(Version::V5, "ada", password).await,
                ReasonCode::ServerBusy,
                "{round} {password}"
            );
            assert_eq!(greet(Version::V311, "ada", password).await, ReasonCode::ServerUnavailable);
        }
        assert_eq!(greet(Version::V5, "bob", "right").await, ReasonCode::Success);
        pass(Duration::from_secs(60)).await;
    }
    let met = metric(&gateway, "towline_limit_hits_total{limit=\"auth.guesses.failures_max\"}");
    assert_eq!(met, 2.0);
    // Mistakes between right passwords are no guesses.
    for _ in 0..5 {
        assert_eq!(greet(Version::V5, "ada", "wrong").await, ReasonCode::BadUserNameOrPassword);
        assert_eq!(greet(Version::V5, "ada", "right").await, ReasonCode::Success);
    }
}

#[tokio::test(start_paused = true)]
async fn guesses_by_scram_count_too() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, auth::password_line_by(Scheme::Scram, "ada", b"right").unwrap()).unwrap();
    let gateway = gateway(settings_with(&users, Guesses { failures_max: 2, ..Guesses::default() }));
    let data = |text: &str| Some(Secret(Binary::new(text.to_owned()).unwrap()));
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let mut connect = connect(Version::V5, "m1");
        connect.properties.authentication_method = Some(text("SCRAM-SHA-256"));
        connect.properties.authentication_data = data("n,,n=ada,r=abc");
        let mut client = Client::open(&gateway);
        client.begin(connect).await;
        let challenge = match client.receive().await.unwrap() {
            Packet::Auth(auth) => auth.properties.authentication_data.unwrap(),
            Packet::Connack(connack) => {
                reasons.push(connack.reason);
                continue;
            }
            other => panic!("{other:?}"),
        };
        let challenge = String::from_utf8(challenge.0.to_vec()).unwrap();
        let nonce = challenge.split(',').next().unwrap();
        let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let properties = AuthProperties {
            authentication_method: Some(text("SCRAM-SHA-256")),
            authentication_data: data(&format!("c=biws,{nonce},p={proof}")),
            ..Default::default()
        };
        client.send(Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties })).await;
        match client.receive().await.unwrap() {
            Packet::Connack(connack) => reasons.push(connack.reason),
            other => panic!("{other:?}"),
        }
    }
    let wrong = ReasonCode::NotAuthorized;
    assert_eq!(reasons, [wrong, wrong, ReasonCode::ServerBusy]);
}
