//! Connections whose handshake a test completes when it likes. What reaches the router is counted there; no
//! backend answers.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Handle,
    task::spawn_blocking,
    time::sleep,
};
use towline_protocols::{
    hpack::HeaderField,
    link::{
        self, CloseCode, Connection, Event, Execution, Filter, Hello, Publish, RequestHead, RpcErrorKind,
        Subscribe, Waiting, Welcome,
    },
};

use crate::{
    auth,
    gateway::Gateway,
    link::{
        driver::{Binding, Driver},
        requests::TcpRequests,
    },
    request::{Origin, Protocol},
    settings::{AclRule, Authentication, Backend, BackendKind, Listener, Permission, Route, Settings},
    transport::{Completion, Handshake},
};

const LISTENER: &str = "edge";

fn gateway(change: impl FnOnce(&mut Settings)) -> Arc<Gateway> {
    let mut settings = Settings {
        listeners: vec![Listener::plain(LISTENER, ([127, 0, 0, 1], 0).into())],
        // Nobody listens there.
        backends: vec![Backend::new("none", BackendKind::Http1, "127.0.0.1:9")],
        routes: vec![Route { path: Some("/*".into()), ..Route::new("all", "none") }],
        ..Settings::default()
    };
    change(&mut settings);
    Gateway::build(settings).unwrap()
}

/// Requests that went on to the router.
fn routed(gateway: &Gateway) -> u64 {
    let outcomes = ["ok", "backend_unavailable", "deadline_exceeded", "backend_failed"];
    outcomes.iter().map(|it| gateway.metrics.requests.with_label_values(&["all", it]).get()).sum()
}

fn early_data(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metrics.early_data.with_label_values(&[LISTENER, outcome]).get()
}

/// A client's end of one connection.
struct Client {
    machine: Connection,
    stream: DuplexStream,
    /// Everything sent, to be sent again.
    sent: Vec<u8>,
    /// The handshake, while it is under way.
    handshake: Option<Completion>,
    input: BytesMut,
    events: Vec<Event>,
}

impl Client {
    /// A connection whose handshake is complete.
    fn connected(gateway: &Arc<Gateway>, hello: Hello) -> Self {
        Self::on(gateway, hello, None, Handshake::complete())
    }

    /// A connection whose handshake is under way.
    fn early(gateway: &Arc<Gateway>, hello: Hello) -> Self {
        let (completion, handshake) = Handshake::pending();
        Self::on(gateway, hello, Some(completion), handshake)
    }

    fn on(
        gateway: &Arc<Gateway>,
        hello: Hello,
        completion: Option<Completion>,
        handshake: Handshake,
    ) -> Self {
        let (stream, far) = tokio::io::duplex(1 << 20);
        let origin = Origin::new(LISTENER.into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, true);
        let origin = Arc::new(Origin { handshake, ..origin });
        let machine = Connection::server(Arc::clone(&gateway.snapshot().link), crate::link::now());
        let binding = Binding::Tcp(Box::new(TcpRequests::new(machine)));
        let mut driver = Driver::new(Arc::clone(gateway), origin, far, binding, BytesMut::new(), None);
        tokio::spawn(async move { driver.drive().await });
        let machine = Connection::client(Arc::new(link::Config::default()), hello, crate::link::now());
        let (sent, input, events) = (Vec::new(), BytesMut::new(), Vec::new());
        Self { machine, stream, sent, handshake: completion, input, events }
    }

    fn request(&mut self, seq: u64, end: bool) {
        self.machine.send_request(seq, Self::head(), end).unwrap();
    }

    fn head() -> RequestHead {
        let fields =
            vec![HeaderField::from_static(":method", "POST"), HeaderField::from_static(":path", "/r")];
        RequestHead { fields, ..RequestHead::default() }
    }

    /// Sends what the machine has to say, and takes in what the gateway has.
    async fn settle(&mut self) {
        let mut out = BytesMut::new();
        self.machine.poll_transmit(crate::link::now(), &mut out, usize::MAX);
        self.send(&out).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        // A gateway that has closed takes nothing.
        let _ = self.stream.write_all(bytes).await;
        // Time passes when there is nothing left to do.
        sleep(Duration::from_millis(1)).await;
        while let Some(Ok(1..)) = self.stream.read_buf(&mut self.input).now_or_never() {}
        self.machine.handle_bytes(crate::link::now(), &mut self.input).unwrap();
        self.events.extend(std::iter::from_fn(|| self.machine.poll_event()));
    }

    async fn complete(&mut self) {
        self.handshake.take().unwrap().complete();
        self.settle().await;
    }

    fn welcome(&self) -> Option<&Welcome> {
        self.events.iter().find_map(|event| match event {
            Event::Welcome(welcome) => Some(&**welcome),
            _ => None,
        })
    }

    fn is_answered(&self, seq: u64) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Reset { seq: reset, .. } if *reset == seq))
    }

    fn close(&self) -> Option<CloseCode> {
        self.events.iter().find_map(|event| match event {
            Event::Close { code, .. } => Some(*code),
            _ => None,
        })
    }
}

fn hello(epoch: u64, session_id: u64) -> Hello {
    let session_secret = Bytes::from_static(&[7; 16]);
    Hello { client_id: "phone".to_owned(), session_secret, epoch, session_id, ..Hello::default() }
}

/// A client that has been here at epoch 1: its connection and its session's id.
async fn known(gateway: &Arc<Gateway>) -> (Client, u64) {
    let mut client = Client::connected(gateway, hello(1, 0));
    client.settle().await;
    let session_id = client.welcome().unwrap().session_id;
    (client, session_id)
}

#[tokio::test(start_paused = true)]
async fn a_new_request_of_a_known_session_runs_and_is_answered_before_the_handshake_is_complete() {
    let gateway = gateway(|_| {});
    let (away, id) = known(&gateway).await;
    drop(away);
    let mut client = Client::early(&gateway, hello(2, id));
    client.request(1, true);
    client.settle().await;
    assert!(
        client
            .welcome()
            .is_some_and(|welcome| welcome.resumed && welcome.visiting && welcome.session_id == id)
    );
    assert!(client.is_answered(1));
    assert_eq!((routed(&gateway), early_data(&gateway, "served")), (1, 1));
    client.complete().await;
    client.request(2, true);
    client.settle().await;
    assert!(client.is_answered(2));
    assert_eq!((client.close(), early_data(&gateway, "waited")), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_known_waits_and_is_not_even_made() {
    let gateway = gateway(|_| {});
    let mut client = Client::early(&gateway, hello(1, 0));
    client.request(1, true);
    client.settle().await;
    assert_eq!((client.events.len(), routed(&gateway), gateway.sessions.len()), (0, 0, 0));
    client.complete().await;
    assert!(client.welcome().is_some_and(|welcome| !welcome.visiting) && client.is_answered(1));
    assert_eq!((routed(&gateway), early_data(&gateway, "waited")), (1, 1));
}

/// Its client may have been led here while another gateway holds the session that it knows.
#[tokio::test(start_paused = true)]
async fn behind_a_hello_that_names_another_session_nothing_runs_before_welcome_is_read() {
    let gateway = gateway(|_| {});
    let mut client = Client::connected(&gateway, hello(1, 99));
    client.request(1, true);
    let idempotent = RequestHead { idempotent: true, ..Client::head() };
    client.machine.send_request(2, idempotent, true).unwrap();
    client.settle().await;
    assert!(client.welcome().is_some_and(|welcome| !welcome.resumed));
    let refused = client.events.iter().any(|event| {
        matches!(event, Event::Reset { seq: 1, error }
            if error.kind == RpcErrorKind::SessionLost && error.execution == Execution::NotNow)
    });
    assert!(refused, "{:?}", client.events);
    assert_eq!(routed(&gateway), 1, "the idempotent one");
    client.request(3, true);
    client.settle().await;
    assert!(client.is_answered(3));
    assert_eq!(routed(&gateway), 2);
}

/// The session goes on for a client that has not heard of it; another gateway may hold the one that it names.
#[tokio::test(start_paused = true)]
async fn nor_where_the_session_is_resumed_under_an_earlier_name() {
    let gateway = gateway(|_| {});
    Client::connected(&gateway, hello(1, 99)).settle().await;
    let waiting = vec![Waiting { seq: 1, ..Waiting::default() }];
    let mut client = Client::connected(&gateway, Hello { waiting, ..hello(2, 99) });
    client.request(2, true);
    client.settle().await;
    assert!(client.welcome().is_some_and(|welcome| welcome.resumed && welcome.session_id != 99));
    assert_eq!(routed(&gateway), 0);
    client.request(3, true);
    client.settle().await;
    assert!(client.is_answered(3));
    assert_eq!(routed(&gateway), 1);
}

#[tokio::test(start_paused = true)]
async fn a_live_connection_is_not_disturbed_before_the_handshake_is_complete() {
    let gateway = gateway(|_| {});
    let (mut live, id) = known(&gateway).await;
    let mut client = Client::early(&gateway, hello(2, id));
    client.request(1, true);
    client.settle().await;
    live.request(2, true);
    live.settle().await;
    assert!(client.is_answered(1) && live.is_answered(2));
    assert_eq!((live.close(), routed(&gateway)), (None, 2));
    client.complete().await;
    live.settle().await;
    assert_eq!(live.close(), Some(CloseCode::TakenOver));
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_is_sent_again_runs_nothing_twice() {
    let gateway = gateway(|_| {});
    let (mut live, id) = known(&gateway).await;
    let mut first = Client::early(&gateway, hello(2, id));
    first.request(1, true);
    first.settle().await;
    let flight = first.sent.clone();
    // While the first one is under way, when it is complete, and when it is gone.
    for stage in 0..3 {
        let mut copy = Client::early(&gateway, hello(2, id));
        copy.send(&flight).await;
        assert_eq!(routed(&gateway), 1, "stage {stage}");
        assert!(!copy.is_answered(1));
        live.settle().await;
        assert_eq!(live.close().is_some(), stage > 0, "only the first one takes the session over");
        match stage {
            0 => first.complete().await,
            1 => drop(std::mem::replace(&mut first, Client::early(&gateway, hello(9, 9)))),
            _ => {}
        }
        copy.handshake = None;
        copy.settle().await;
    }
    // The copy that came first was sent away by the take-over already.
    assert_eq!((routed(&gateway), early_data(&gateway, "broken")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_session_has_seen_waits() {
    let gateway = gateway(|_| {});
    let (mut live, id) = known(&gateway).await;
    live.request(1, true);
    live.settle().await;
    let waiting = vec![Waiting { seq: 1, ..Waiting::default() }];
    let mut client = Client::early(&gateway, Hello { waiting, ..hello(2, id) });
    client.settle().await;
    assert!(client.welcome().is_some_and(|welcome| welcome.unknown.is_empty()) && !client.is_answered(1));
    client.complete().await;
    assert!(client.is_answered(1), "its recorded outcome");
    assert_eq!(routed(&gateway), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_not_arrived_whole_waits_for_its_end() {
    let gateway = gateway(|_| {});
    let (away, id) = known(&gateway).await;
    drop(away);
    let mut client = Client::early(&gateway, hello(2, id));
    client.request(1, false);
    client.machine.send_message(1, Bytes::from_static(b"half"), false).unwrap();
    client.settle().await;
    assert_eq!((routed(&gateway), client.welcome().is_some()), (0, true));
    client.machine.send_end(1).unwrap();
    client.settle().await;
    assert!(client.is_answered(1));
    let mut client = Client::early(&gateway, hello(3, id));
    client.request(2, false);
    client.settle().await;
    assert_eq!(routed(&gateway), 1);
    client.complete().await;
    assert_eq!(routed(&gateway), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_waits_in_its_order() {
    let gateway = gateway(|_| {});
    let (away, id) = known(&gateway).await;
    drop(away);
    let mut client = Client::early(&gateway, hello(2, id));
    client.settle().await;
    let control = client.machine.control();
    let filter = Filter { filter: "a".to_owned(), qos: 1 };
    control.subscribe(Subscribe { add: vec![filter], remove: vec![] });
    let (topic, payload) = (Bytes::from_static(b"a"), Bytes::from_static(b"x"));
    control.publish(&Publish { id: 1, qos: 1, topic, payload }).unwrap();
    client.settle().await;
    assert!(gateway.hub.subscriptions("phone").is_empty());
    let told = |client: &Client| {
        let told = client.events.iter();
        told.filter(|it| matches!(it, Event::Subscribed(_) | Event::Published { .. } | Event::Push(_)))
            .count()
    };
    assert_eq!(told(&client), 0);
    client.complete().await;
    // A publish of quality 1 is answered when the store has what it brings, which a thread of its own does. Simulated
    // time stands still while a task blocks.
    let (store, runtime) = (gateway.store.clone(), Handle::current());
    spawn_blocking(move || runtime.block_on(store.barrier())).await.unwrap().unwrap();
    client.settle().await;
    assert_eq!(told(&client), 3, "SUBSCRIBED, PUBLISHED, and its own message as a push");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_breaks_takes_along_what_waited_for_it() {
    let gateway = gateway(|_| {});
    let mut client = Client::early(&gateway, hello(1, 0));
    client.request(1, true);
    client.settle().await;
    client.handshake = None;
    client.settle().await;
    assert_eq!((routed(&gateway), gateway.sessions.len(), early_data(&gateway, "broken")), (0, 0, 1));
    assert_eq!(client.stream.read(&mut [0; 1]).await.unwrap(), 0, "the connection is closed");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_given_up_in_time() {
    let gateway = gateway(|_| {});
    let mut client = Client::early(&gateway, hello(1, 0));
    client.settle().await;
    sleep(gateway.snapshot().settings.limits.handshake_timeout).await;
    client.settle().await;
    assert_eq!(client.close(), Some(CloseCode::LimitExceeded));
    let hits = gateway.metrics.limit_hits.with_label_values(&["limits.handshake_timeout"]).get();
    assert_eq!((hits, gateway.sessions.len(), early_data(&gateway, "broken")), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn early_data_of_very_many_frames_is_refused() {
    let gateway = gateway(|_| {});
    let mut client = Client::early(&gateway, hello(1, 0));
    client.settle().await;
    let ack = [9, 1, 1];
    client.send(&ack.repeat(513)).await;
    assert_eq!(client.close(), Some(CloseCode::LimitExceeded));
    assert_eq!(gateway.metrics.limit_hits.with_label_values(&["early_events_max"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_came_early_subscribes_to_no_more_than_it_may() {
    let gateway = gateway(|settings| {
        let topics = vec!["secret/#".to_owned()];
        settings.acl.rules = vec![AclRule { topics, ..AclRule::new("closed", Permission::Deny) }];
        settings.acl.default = Some(Permission::Allow);
    });
    let (away, id) = known(&gateway).await;
    drop(away);
    let topics = ["secret/x", "open"].map(|filter| Filter { filter: filter.to_owned(), qos: 1 });
    let mut client = Client::early(&gateway, Hello { topics: topics.to_vec(), ..hello(2, id) });
    client.settle().await;
    client.complete().await;
    let held = gateway.hub.subscriptions("phone").into_iter().map(|(filter, _)| filter);
    assert_eq!(held.collect::<Vec<_>>(), ["open"]);
    let told = client.events.iter().find_map(|event| match event {
        Event::Subscribed(told) => Some(told.results.iter().map(|it| it.error.is_empty()).collect()),
        _ => None,
    });
    assert_eq!(told, Some(vec![false, true]));
}

/// A gateway that asks for passwords: the user ada's is "right".
struct Guarded {
    gateway: Arc<Gateway>,
    folder: TempDir,
}

impl Guarded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        std::fs::write(&users, auth::password_line("ada", b"right").unwrap()).unwrap();
        let gateway = gateway(|settings| {
            settings.listeners[0].authentication = Authentication::Password;
            settings.auth.password_file = Some(users);
        });
        Self { gateway, folder }
    }

    /// What a client is told that logs in at epoch 1.
    async fn logged_in(&self) -> (Client, Welcome) {
        let mut client = Client::connected(&self.gateway, login(1, 0, "right"));
        while client.welcome().is_none() {
            client.settle().await;
        }
        let welcome = client.welcome().unwrap().clone();
        (client, welcome)
    }

    fn change_password(&self) {
        let users = self.folder.path().join("users");
        std::fs::write(users, auth::password_line("ada", b"changed").unwrap()).unwrap();
    }

    fn reload(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.gateway.snapshot().settings.clone();
        change(&mut settings);
        let reloaded = self.gateway.snapshot().rebuild(settings).unwrap().install();
        self.gateway.snapshot.store(Arc::new(reloaded));
    }
}

fn login(epoch: u64, session_id: u64, password: &str) -> Hello {
    Hello { user: "ada".to_owned(), password: password.to_owned(), ..hello(epoch, session_id) }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_checked_after_the_handshake_unless_the_same_was_found_right() {
    let guarded = Guarded::new();
    let gateway = &guarded.gateway;
    let logins = |outcome| gateway.metrics.logins.with_label_values(&[LISTENER, outcome]).get();
    let (_first, welcome) = guarded.logged_in().await;
    let id = welcome.session_id;
    let mut known = Client::early(gateway, login(2, id, "right"));
    let mut wrong = Client::early(gateway, login(2, id, "wrong"));
    known.settle().await;
    wrong.settle().await;
    assert!(known.welcome().is_some() && wrong.events.is_empty());
    assert_eq!((logins("ok"), logins("refused")), (1, 0), "none was checked");
    guarded.reload(|_| {});
    let mut known = Client::early(gateway, login(3, id, "right"));
    known.settle().await;
    assert!(known.events.is_empty(), "the users may have changed");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_checked_before_the_handshake_and_one_that_is_refused_waits_for_it() {
    let guarded = Guarded::new();
    let gateway = &guarded.gateway;
    let (_first, welcome) = guarded.logged_in().await;
    assert_eq!((welcome.token.is_empty(), welcome.token_life_s), (false, 12 * 3600));
    let shown = |epoch| Hello { token: welcome.token.clone(), ..hello(epoch, welcome.session_id) };

    let mut known = Client::early(gateway, shown(2));
    known.request(1, true);
    known.settle().await;
    let again = known.welcome().unwrap();
    assert_eq!(again.token, "", "the one that it has is fresh");
    assert!((12 * 3600 - 60..=12 * 3600).contains(&again.token_life_s));
    assert!(known.is_answered(1));
    let mut thief = Client::early(gateway, Hello { client_id: "other".to_owned(), ..shown(3) });
    thief.settle().await;
    assert!(thief.events.is_empty());

    // Another line of the same user.
    guarded.change_password();
    guarded.reload(|_| {});
    let mut late = Client::early(gateway, shown(4));
    late.settle().await;
    assert!(late.events.is_empty());
    late.complete().await;
    assert_eq!(late.close(), Some(CloseCode::Unauthorized));
    let tokens = |outcome| gateway.metrics.session_tokens.with_label_values(&[outcome]).get();
    assert_eq!((tokens("issued"), tokens("opened"), tokens("forged")), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_no_certificate_and_no_empty_password() {
    let guarded = Guarded::new();
    let gateway = &guarded.gateway;
    let (_first, welcome) = guarded.logged_in().await;
    let (token, id) = (welcome.token, welcome.session_id);
    let mut second = Client::connected(gateway, Hello { token: token.clone(), ..hello(2, id) });
    second.settle().await;
    assert!(second.welcome().is_some());
    // What was shown with the token proves nothing without it.
    let mut bare = Client::early(gateway, Hello { user: "ada".to_owned(), ..hello(3, id) });
    bare.settle().await;
    assert!(bare.events.is_empty());

    guarded.reload(|settings| settings.listeners[0].authentication = Authentication::Certificate);
    let mut nameless = Client::connected(gateway, Hello { token, ..hello(4, id) });
    nameless.settle().await;
    assert_eq!(nameless.close(), Some(CloseCode::Unauthorized));
}
