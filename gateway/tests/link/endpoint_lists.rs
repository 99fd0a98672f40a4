//! Signed endpoint lists: a gateway passes one on, and its clients go where the operator says, and nowhere else.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use towline_client::{Client, ClientConfig, ShortCalls, Transports};
use towline_crypto::signing::SigningKey;
use towline_gateway::{
    control::reload,
    settings::{EndpointList as Settings, Settings as All},
};
use towline_protocols::endpoints::{EndpointList, ListSignature, ListedEndpoint};

use crate::{
    bed::{BOTH, Bed, answer, call, online},
    waits::until,
};

/// An operator's desk.
struct Desk {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() }
    }

    /// The configuration of a gateway that passes a list of these places on.
    fn publish(&self, serial: u64, places: &[ListedEndpoint]) -> Option<Settings> {
        let issued_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (expires_s, entries) = (issued_s + 3600, places.to_vec());
        let text = EndpointList { serial, issued_s, expires_s, entries }.text();
        let signature = ListSignature { key: self.key.public().id(), bytes: self.key.sign(text.as_bytes()) };
        let file = self.file(serial);
        std::fs::write(&file, text + &signature.line()).unwrap();
        Some(Settings { file, keys: vec![self.key.public()] })
    }

    fn file(&self, serial: u64) -> PathBuf {
        self.folder.path().join(format!("{serial}.signed"))
    }

    /// A client of `bed` that trusts this desk and the authority of `other`.
    fn config(&self, bed: &Bed, other: &Bed, transports: Transports) -> ClientConfig {
        let mut config = bed.config(transports);
        let towline_client::Security::Tls(tls) = &mut config.security else { unreachable!() };
        tls.roots_pem.extend_from_slice(&other.ca);
        config.endpoint_lists.keys = vec![self.key.public()];
        config
    }
}

fn place(port: u16) -> ListedEndpoint {
    let (host, name, region) = ("127.0.0.1".to_owned(), None, None);
    ListedEndpoint { host, port, quic: true, tcp: true, priority: 0, weight: 1, name, region }
}

fn port(bed: &Bed) -> u16 {
    bed.address("edge").port()
}

/// A port where nobody is.
fn nowhere() -> ListedEndpoint {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place(socket.local_addr().unwrap().port())
}

fn reload(bed: &Bed, change: impl FnOnce(&mut All)) {
    let mut settings = bed.gateway().snapshot().settings.clone();
    change(&mut settings);
    reload::apply(bed.gateway(), settings).unwrap();
}

/// Waits until the client holds that list.
async fn holds(client: &Client, serial: u64) {
    until("a list", || client.endpoint_list().is_some_and(|list| list.serial == serial)).await;
}

fn counted(bed: &Bed, outcome: &str) -> u64 {
    bed.gateway().metrics.endpoint_lists.with_label_values(&[outcome]).get()
}

async fn connect_again(client: &Client) {
    let mut states = client.states();
    states.mark_unchanged();
    client.reconnect();
    // It may be back before anybody has looked.
    states.changed().await.unwrap();
    online(client).await;
}

async fn pair() -> (Bed, Bed) {
    (Bed::start().await, Bed::start().await)
}

/// Short connections that the gateway has answered.
fn posts(bed: &Bed) -> u64 {
    bed.gateway().metrics.short_connections.with_label_values(&["edge", "answered"]).get()
}

fn reached(bed: &Bed) -> usize {
    bed.backend.counts("Echo").started
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_to_a_listed_place_from_its_next_connection_on() {
    for transports in BOTH {
        let (first, second) = pair().await;
        let desk = Desk::new();
        reload(&first, |settings| settings.endpoint_list = desk.publish(7, &[place(port(&second))]));
        let identity = first.folder.path().join("a.identity");
        let mut config = desk.config(&first, &second, transports);
        config.identity_file = Some(identity);
        let client = Client::start(config.clone()).unwrap();
        holds(&client, 7).await;
        answer(&client, "Echo", "here").await;
        assert_eq!((reached(&first), reached(&second)), (1, 0), "{transports:?}: the connection goes on");
        connect_again(&client).await;
        answer(&client, "Echo", "there").await;
        assert_eq!((reached(&first), reached(&second)), (1, 1), "{transports:?}");
        client.close().await;
        // The next run of the app knows it from the beginning, and is not told again.
        let next = Client::start(config).unwrap();
        answer(&next, "Echo", "there").await;
        assert_eq!((reached(&first), reached(&second)), (1, 2), "{transports:?}");
        assert_eq!((counted(&first, "offered"), counted(&first, "fetched")), (1, 1), "{transports:?}");
        next.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_place_that_takes_quic_alone_is_given_no_posts() {
    let (first, second) = pair().await;
    let desk = Desk::new();
    let there = ListedEndpoint { tcp: false, ..place(port(&second)) };
    reload(&first, |settings| settings.endpoint_list = desk.publish(7, &[there]));
    let mut config = desk.config(&first, &second, Transports::Quic);
    config.short_calls = ShortCalls::Always;
    let client = Client::start(config).unwrap();
    holds(&client, 7).await;
    connect_again(&client).await;
    let begun = posts(&first);
    let patience = tokio::time::Instant::now() + Duration::from_secs(20);
    // No POST may be begun of a call that the link has answered.
    while posts(&first) == begun && tokio::time::Instant::now() < patience {
        client.call(call("Echo", "x").idempotent()).await.unwrap();
    }
    assert!(posts(&first) > begun);
    let is_there = || second.gateway().hub.is_connected(client.client_id()) == Some(true);
    until("the link to be there", is_there).await;
    assert_eq!(posts(&second), 0);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_tells_connected_clients_of_a_newer_list_and_an_older_one_is_not_taken() {
    let (first, second) = pair().await;
    let desk = Desk::new();
    reload(&first, |settings| settings.endpoint_list = desk.publish(7, &[nowhere()]));
    let client = Client::start(desk.config(&first, &second, Transports::Tcp)).unwrap();
    holds(&client, 7).await;
    reload(&first, |settings| settings.endpoint_list = desk.publish(8, &[place(port(&second))]));
    // The next call wakes the connection, which tells of it.
    answer(&client, "Echo", "x").await;
    holds(&client, 8).await;
    reload(&first, |settings| settings.endpoint_list.as_mut().unwrap().file = desk.file(7));
    answer(&client, "Echo", "x").await;
    assert_eq!(counted(&first, "offered"), 3);
    connect_again(&client).await;
    answer(&client, "Echo", "there").await;
    assert_eq!((reached(&second), counted(&first, "fetched")), (1, 2), "the old one was not asked for");
    assert_eq!(client.endpoint_list().unwrap().serial, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_another_key_leads_nowhere_and_is_fetched_once() {
    let (first, second) = pair().await;
    let (desk, other) = (Desk::new(), Desk::new());
    reload(&first, |settings| settings.endpoint_list = other.publish(7, &[place(port(&second))]));
    let client = Client::start(desk.config(&first, &second, Transports::Tcp)).unwrap();
    until("a list to be fetched", || counted(&first, "fetched") == 1).await;
    for _ in 0..2 {
        connect_again(&client).await;
        answer(&client, "Echo", "here").await;
    }
    assert_eq!((reached(&first), reached(&second)), (2, 0));
    assert_eq!((client.endpoint_list(), counted(&first, "fetched")), (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_keys_are_told_nothing() {
    let (first, second) = pair().await;
    let desk = Desk::new();
    reload(&first, |settings| settings.endpoint_list = desk.publish(7, &[place(port(&second))]));
    let client = first.client(Transports::Tcp);
    answer(&client, "Echo", "here").await;
    connect_again(&client).await;
    answer(&client, "Echo", "here").await;
    assert_eq!((counted(&first, "offered"), client.endpoint_list()), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_listed_places_are_dead_or_not_who_they_should_be_the_apps_own_are_reached() {
    for transports in BOTH {
        let (first, second) = pair().await;
        let desk = Desk::new();
        let stranger = Bed::start().await;
        let named = ListedEndpoint { name: Some("edge.example".into()), ..place(port(&second)) };
        // Nobody is there; whose authority the app does not trust; whose name it does not.
        let places = [nowhere(), place(port(&stranger)), named];
        reload(&first, |settings| settings.endpoint_list = desk.publish(7, &places));
        let client = Client::start(desk.config(&first, &second, transports)).unwrap();
        holds(&client, 7).await;
        assert_eq!(client.endpoint_list().unwrap().left_out, 1);
        for _ in 0..3 {
            connect_again(&client).await;
            answer(&client, "Echo", "here").await;
        }
        let all = [reached(&first), reached(&second), reached(&stranger)];
        assert_eq!(all, [3, 0, 0], "{transports:?}");
    }
}

/// A gateway that is started with a list whose time is over serves, and offers it to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_has_expired_is_not_offered() {
    let (first, second) = pair().await;
    let desk = Desk::new();
    let settings = desk.publish(7, &[place(port(&second))]);
    let entries = vec![place(port(&second))];
    let text = EndpointList { serial: 7, issued_s: 1_790_000_000, expires_s: 1_790_000_001, entries }.text();
    let signature = ListSignature { key: desk.key.public().id(), bytes: desk.key.sign(text.as_bytes()) };
    std::fs::write(desk.file(7), text + &signature.line()).unwrap();
    reload(&first, |all| all.endpoint_list = settings);
    let client = Client::start(desk.config(&first, &second, Transports::Tcp)).unwrap();
    answer(&client, "Echo", "here").await;
    assert_eq!((counted(&first, "offered"), client.endpoint_list()), (0, None));
}
