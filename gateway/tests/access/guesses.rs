//! Clients that are wrong with passwords again and again.

use std::time::Duration;

use serde_json::{Value, json};
use towline_gateway::{
    auth::{self, Scheme},
    settings::{Authentication, Guesses, Hook, Settings},
};
use towline_protocols::mqtt::*;

use crate::{mqtt_support::*, oracle::Oracle};

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

fn data(text: &str) -> Option<Secret> {
    Some(Secret(Binary::new(text.to_owned()).unwrap()))
}

/// Begins an exchange as `ada`; the challenge, or what CONNACK says instead.
async fn begin_scram(client: &mut Client, id: &str) -> Result<String, ReasonCode> {
    let mut connect = connect(Version::V5, id);
    connect.properties.authentication_method = Some(text("SCRAM-SHA-256"));
    connect.properties.authentication_data = data("n,,n=ada,r=abc");
    client.begin(connect).await;
    match client.receive().await.unwrap() {
        Packet::Auth(auth) => {
            let challenge = auth.properties.authentication_data.unwrap();
            Ok(String::from_utf8(challenge.0.to_vec()).unwrap())
        }
        Packet::Connack(connack) => Err(connack.reason),
        other => panic!("{other:?}"),
    }
}

/// Answers a challenge with a proof that is none.
async fn guess_scram(client: &mut Client, challenge: &str) -> ReasonCode {
    let nonce = challenge.split(',').next().unwrap();
    let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let properties = AuthProperties {
        authentication_method: Some(text("SCRAM-SHA-256")),
        authentication_data: data(&format!("c=biws,{nonce},p={proof}")),
        ..Default::default()
    };
    client.send(Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties })).await;
    match client.receive().await.unwrap() {
        Packet::Connack(connack) => connack.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn guesses_by_scram_count_too() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, auth::password_line_by(Scheme::Scram, "ada", b"right").unwrap()).unwrap();
    let settings = || settings_with(&users, Guesses { failures_max: 2, ..Guesses::default() });
    let (wrong, busy) = (ReasonCode::NotAuthorized, ReasonCode::ServerBusy);
    let (one_by_one, at_one_time) = (gateway(settings()), gateway(settings()));
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(&one_by_one);
        reasons.push(match begin_scram(&mut client, "m1").await {
            Ok(challenge) => guess_scram(&mut client, &challenge).await,
            Err(reason) => reason,
        });
    }
    assert_eq!(reasons, [wrong, wrong, busy]);
    // Whoever has all challenges before the first proof proves no more with them.
    let mut begun = Vec::new();
    for id in ["m1", "m2", "m3", "m4"] {
        let mut client = Client::open(&at_one_time);
        let challenge = begin_scram(&mut client, id).await.unwrap();
        begun.push((client, challenge));
    }
    let mut reasons = Vec::new();
    for (mut client, challenge) in begun {
        reasons.push(guess_scram(&mut client, &challenge).await);
    }
    assert_eq!(reasons, [wrong, wrong, busy, busy]);
}

/// With a hook that knows one password.
fn settings_with_hook(oracle: &Oracle, guesses: Guesses) -> Settings {
    let backend = oracle.within();
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.hook = Some(Hook { path: "/hook".to_owned(), ..Hook::new(&backend.name) });
    settings.auth.guesses = guesses;
    settings.backends.push(backend);
    settings
}

fn knows_one(question: &Value) -> Value {
    let is_right = question["password"] == "right";
    json!({ "verdict": if is_right { "allow" } else { "deny" } })
}

#[tokio::test(start_paused = true)]
async fn guesses_at_one_time_find_out_no_more_than_guesses_after_each_other() {
    let oracle = Oracle::new(knows_one);
    let settings = settings_with_hook(&oracle, Guesses { failures_max: 3, ..Guesses::default() });
    let gateway = gateway(settings);
    let greeting = |id: i32, password: String, user: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let mut connect = connect(Version::V5, &format!("m{id}"));
            connect.user_name = Some(text(user));
            connect.password = data(&password);
            Client::open(&gateway).greet(connect).await.reason
        })
    };
    oracle.takes(Duration::from_secs(1));
    let guesses: Vec<_> = (0..20).map(|at| greeting(at, format!("p{at}"), "ada")).collect();
    let mut reasons = Vec::new();
    for guess in guesses {
        reasons.push(guess.await.unwrap());
    }
    let count = |wanted| reasons.iter().filter(|reason| **reason == wanted).count();
    assert_eq!((count(ReasonCode::BadUserNameOrPassword), count(ReasonCode::ServerBusy)), (3, 17));
    assert_eq!(oracle.asked().len(), 3, "nobody has looked at the others");
    // A fleet with one user and the right password only waits.
    let fleet: Vec<_> = (0..20).map(|at| greeting(at, "right".to_owned(), "bob")).collect();
    for device in fleet {
        assert_eq!(device.await.unwrap(), ReasonCode::Success);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_name_no_user_do_not_lock_each_other_out() {
    let oracle = Oracle::new(knows_one);
    let guesses = Guesses { failures_max: 2, address_failures_max: 8, ..Guesses::default() };
    let gateway = gateway(settings_with_hook(&oracle, guesses));
    let greet = async |password: &str| {
        let mut connect = connect(Version::V5, "m1");
        connect.password = data(password);
        Client::open(&gateway).greet(connect).await.reason
    };
    for at in 0..7 {
        assert_eq!(greet(&format!("token {at}")).await, ReasonCode::BadUserNameOrPassword);
    }
    assert_eq!(greet("right").await, ReasonCode::Success);
    assert_eq!(greet("token 7").await, ReasonCode::BadUserNameOrPassword);
    assert_eq!(greet("right").await, ReasonCode::ServerBusy, "the address itself has a bound");
}
