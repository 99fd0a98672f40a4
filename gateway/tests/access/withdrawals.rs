//! What becomes of connections when what vouched for their clients is withdrawn.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use towline_gateway::{
    auth,
    control::reload,
    gateway::Gateway,
    settings::{Authentication, Settings},
};
use towline_protocols::mqtt::*;

use crate::{
    hooks::{accounts, connect_as, greet, settings_with},
    mqtt_support::*,
    oracle::Oracle,
};

fn forget(gateway: &Arc<Gateway>, user: Option<&str>) -> usize {
    let snapshot = gateway.snapshot.load_full();
    let hook = snapshot.hook.as_ref().unwrap();
    hook.forget(user);
    gateway.withdraw_forgotten(hook, user)
}

fn ended(gateway: &Gateway, reason: &str) -> f64 {
    let labels = format!("protocol=\"mqtt\",reason=\"{reason}\"");
    metric(gateway, &format!("towline_connections_withdrawn_total{{{labels}}}"))
}

/// A device that never speaks of itself.
fn silent(version: Version, id: &str, user: &str, password: &str) -> Connect {
    let mut connect = connect_as(version, id, user, password);
    connect.keep_alive = 0;
    connect
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_forgotten_user_end_and_come_back_if_they_may() {
    for version in [Version::V5, Version::V311] {
        let oracle = Oracle::new(accounts);
        let gateway = gateway(settings_with(oracle.within()));
        let ada = silent(version, "m1", "a@b", "right");
        for named in ["ada", "a@b"] {
            let (mut client, _) = Client::connect(&gateway, ada.clone()).await;
            oracle.now_says(|_| json!({ "verdict": "allow" }));
            let (mut other, _) = Client::connect(&gateway, silent(version, "m2", "bob", "pw")).await;
            oracle.now_says(accounts);
            assert_eq!(forget(&gateway, Some("nobody")), 0);
            assert_eq!(forget(&gateway, Some(named)), 1, "{named}");
            client.expect_end(ReasonCode::AdministrativeAction).await;
            other.expect_nothing().await;
            other.leave().await;
        }
        assert_eq!(ended(&gateway, "forgotten"), 2.0);
        assert_eq!(greet(&gateway, ada.clone()).await, ReasonCode::Success, "it still may");
        oracle.now_says(|_| json!({ "verdict": "deny", "reason": "banned" }));
        forget(&gateway, None);
        assert_ne!(greet(&gateway, ada).await, ReasonCode::Success);
    }
}

#[tokio::test(start_paused = true)]
async fn all_do_not_come_back_at_once() {
    let oracle = Oracle::new(accounts);
    let mut settings = settings_with(oracle.within());
    settings.auth.ends_per_second_max = 50;
    let gateway = gateway(settings);
    let mut clients = Vec::new();
    for index in 0..60 {
        let connect = silent(Version::V5, &format!("m{index}"), "ada", "right");
        clients.push(Client::connect(&gateway, connect).await.0);
    }
    let connected = || (0..60).filter(|n| gateway.hub.is_connected(&format!("m{n}")) == Some(true)).count();
    assert_eq!(forget(&gateway, None), 60);
    assert_eq!(forget(&gateway, Some("ada")), 60, "they wait already");
    let step = Duration::from_millis(100);
    tokio::time::sleep(step / 2).await;
    assert_eq!(connected(), 55, "a tenth of a second's");
    tokio::time::sleep(step * 5).await;
    assert_eq!(connected(), 30);
    tokio::time::sleep(step * 20).await;
    assert_eq!(connected(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_login_by_what_is_withdrawn_meanwhile_ends() {
    let oracle = Oracle::new(accounts);
    let gateway = gateway(settings_with(oracle.within()));
    oracle.open(false);
    let mut client = Client::open(&gateway);
    client.begin(silent(Version::V5, "m1", "ada", "right")).await;
    oracle.is_asked(1).await;
    assert_eq!(forget(&gateway, Some("ada")), 0, "it is not in yet");
    oracle.open(true);
    assert!(matches!(client.receive().await, Some(Packet::Connack(_))));
    client.expect_end(ReasonCode::AdministrativeAction).await;
}

#[tokio::test(start_paused = true)]
async fn users_whose_lines_change_have_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let line = |user, password: &str| auth::password_line(user, password.as_bytes()).unwrap() + "\n";
    let (ada, bob) = (line("ada", "a"), line("bob", "b"));
    std::fs::write(&users, format!("{ada}{bob}{}", line("eve", "e"))).unwrap();
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.password_file = Some(users.clone());
    let gateway = gateway(settings.clone());
    let mut come = Vec::new();
    for (user, password) in [("ada", "a"), ("bob", "b"), ("eve", "e")] {
        come.push(Client::connect(&gateway, silent(Version::V5, user, user, password)).await.0);
    }
    let [mut first, mut second, mut third]: [Client; 3] = come.try_into().ok().unwrap();
    std::fs::write(&users, format!("{ada}{}", line("bob", "changed"))).unwrap();
    reload::apply(&gateway, settings.clone()).unwrap();
    second.expect_end(ReasonCode::AdministrativeAction).await;
    third.expect_end(ReasonCode::AdministrativeAction).await;
    first.expect_nothing().await;
    assert_eq!(ended(&gateway, "reload"), 2.0);
    // A hook has its say before the file from now on.
    let oracle = Oracle::new(|_| json!({ "verdict": "not_mine" }));
    let hooked = settings_with(oracle.within());
    settings.backends = hooked.backends;
    settings.auth.hook = hooked.auth.hook;
    reload::apply(&gateway, settings.clone()).unwrap();
    first.expect_end(ReasonCode::AdministrativeAction).await;
    let (mut first, _) = Client::connect(&gateway, silent(Version::V5, "ada", "ada", "a")).await;
    reload::apply(&gateway, settings).unwrap();
    first.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_showed_nothing_has_to_once_the_listener_asks() {
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::None));
    let gateway = gateway(settings.clone());
    let (mut client, _) = Client::connect(&gateway, silent(Version::V5, "m1", "", "")).await;
    settings.listeners[0].authentication = Authentication::Password;
    reload::apply(&gateway, settings.clone()).unwrap();
    client.expect_end(ReasonCode::AdministrativeAction).await;
    // Whoever is known stays where nobody asks any more.
    settings.listeners[0].authentication = Authentication::None;
    reload::apply(&gateway, settings).unwrap();
}
