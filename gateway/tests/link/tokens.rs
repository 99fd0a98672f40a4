//! Session tokens in place of passwords, from end to end.

use towline_client::{Client, ConnectionState, Credentials, ShortCalls};
use towline_gateway::{auth, control::reload, gateway::Gateway};

use crate::{
    bed::{Bed, USER, answer, closed, endpoint, online, state},
    waits::until,
};

fn config(bed: &Bed, password: &str) -> towline_client::ClientConfig {
    let mut config = bed.plain(bed.address("door"));
    config.credentials = Some(Credentials { user: USER.0.into(), password: password.into() });
    config
}

fn counted(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metrics.session_tokens.with_label_values(&[outcome]).get()
}

fn logins(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metrics.logins.with_label_values(&["door", outcome]).get()
}

/// Makes the client connect again, and waits until it has.
async fn again(client: &Client) {
    client.reconnect();
    state(client, |state| !matches!(state, ConnectionState::Online { .. })).await;
    online(client).await;
}

/// Replaces the password file.
fn users(bed: &Bed, line: &str) {
    let settings = bed.gateway().snapshot().settings.clone();
    std::fs::write(settings.auth.password_file.as_ref().unwrap(), line).unwrap();
    reload::apply(bed.gateway(), settings).unwrap();
}

#[tokio::test]
async fn the_password_is_checked_once_and_the_token_opens_from_then_on() {
    let bed = Bed::start().await;
    let client = Client::start(config(&bed, USER.1)).unwrap();
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    for _ in 0..3 {
        again(&client).await;
    }
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let gateway = bed.gateway();
    assert_eq!((counted(gateway, "issued"), counted(gateway, "opened")), (1, 3));
    assert_eq!((logins(gateway, "ok"), logins(gateway, "refused")), (4, 0));
    let rendered = gateway.metrics.render();
    assert!(rendered.contains("towline_session_tokens_total{outcome=\"opened\"} 3"), "{rendered}");
}

#[tokio::test]
async fn a_changed_line_of_the_user_voids_the_token_and_the_client_shows_its_password() {
    let bed = Bed::start().await;
    let client = Client::start(config(&bed, USER.1)).unwrap();
    online(&client).await;
    users(&bed, &auth::password_line(USER.0, USER.1.as_bytes()).unwrap());
    again(&client).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let gateway = bed.gateway();
    assert_eq!(
        (counted(gateway, "revoked"), counted(gateway, "issued"), counted(gateway, "opened")),
        (1, 2, 0)
    );
    assert_eq!((logins(gateway, "ok"), logins(gateway, "refused")), (2, 1));
    again(&client).await;
    assert_eq!((counted(gateway, "revoked"), counted(gateway, "opened")), (1, 1));
}

#[tokio::test]
async fn a_client_whose_password_was_changed_is_closed_though_it_has_a_token() {
    let bed = Bed::start().await;
    let client = Client::start(config(&bed, USER.1)).unwrap();
    online(&client).await;
    users(&bed, &auth::password_line(USER.0, b"another").unwrap());
    client.reconnect();
    assert!(closed(&client).await.contains("wrong password"));
    assert_eq!(logins(bed.gateway(), "refused"), 2, "the token, then the password");
}

#[tokio::test]
async fn a_gateway_with_the_same_keys_takes_the_token() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), towline_gateway::key_ring::key_line().unwrap().as_str()).unwrap();
    let line = auth::password_line(USER.0, USER.1.as_bytes()).unwrap();
    let (path, of_both) = (keys.path().to_owned(), line.clone());
    let share = move |settings: &mut towline_gateway::settings::Settings| {
        settings.tls.ticket_keys = Some(path.clone());
        std::fs::write(settings.auth.password_file.as_ref().unwrap(), &of_both).unwrap();
    };
    let (a, b) = (Bed::with(share.clone()).await, Bed::with(share).await);
    let client = Client::start(towline_client::ClientConfig {
        endpoints: vec![endpoint(a.address("door"))],
        ..config(&a, USER.1)
    })
    .unwrap();
    online(&client).await;
    // Sent elsewhere, it shows the token beside its password, and the token alone the next time.
    let mut settings = a.gateway().snapshot().settings.clone();
    settings.drain_endpoints = vec![b.address("door").to_string()];
    settings.drain_spread = std::time::Duration::ZERO;
    reload::apply(a.gateway(), settings).unwrap();
    a.serving.drain().await;
    online(&client).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    assert_eq!((counted(b.gateway(), "opened"), counted(b.gateway(), "issued")), (1, 0));
    assert_eq!(b.backend.counts("Echo").started, 1);
}

#[tokio::test]
async fn an_app_that_starts_again_shows_its_token_on_the_link_and_by_post() {
    let bed = Bed::start().await;
    let identity = bed.folder.path().join("identity");
    let start = |short_calls| {
        let mut config = config(&bed, USER.1);
        (config.identity_file, config.short_calls) = (Some(identity.clone()), short_calls);
        Client::start(config).unwrap()
    };
    let first = start(ShortCalls::Off);
    online(&first).await;
    until("the token to be kept", || bed.folder.path().join("identity.tokens").exists()).await;
    first.close().await;
    for short_calls in [ShortCalls::Off, ShortCalls::Always] {
        let client = start(short_calls);
        assert_eq!(answer(&client, "Echo", "x").await, "x");
        client.close().await;
    }
    let gateway = bed.gateway();
    assert_eq!((counted(gateway, "issued"), logins(gateway, "refused")), (1, 0));
    assert!(counted(gateway, "opened") >= 2);
}
