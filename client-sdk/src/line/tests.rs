//! A client on links that die without a word, in simulated time.

mod beside;
mod signs;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, split},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use towline_protocols::{
    hpack::HeaderField,
    link::{self, Connection, Event, Welcome},
};

use crate::{
    ByteIo, CallRequest, CallResponse, Client, ClientConfig, ConnectionState, Dial, Dialed, Dialing,
    Endpoint, FailedCall, FirstFlight, NetworkKind, ShortCalls, core::now,
};

/// What the network does, and what it saw.
struct World {
    round_trip: Duration,
    /// A connection on which nothing passed for so long is forgotten.
    forgets_after: Option<Duration>,
    /// Connections up to this one carry nothing any more.
    dead: usize,
    /// A dead connection takes no bytes, as a socket whose buffer is full; otherwise they vanish.
    blocks: bool,
    /// When each connection was asked for.
    dialed: Vec<Instant>,
    /// When the gateway said WELCOME.
    welcomed: Vec<Instant>,
    /// Bursts that clients sent, and the bytes in them.
    sent: Vec<(Instant, usize)>,
    runs: BTreeMap<u64, u32>,
    /// The gateway works so long on a call.
    work: Duration,
    /// The silence that others' connections outlive, as the gateway says, seconds.
    silence_kept_s: u32,
    /// What the gateway sends behind the next answer of a call.
    policy: Option<link::Policy>,
    /// What the gateway says behind the answers that follow, the last one first.
    goaways: Vec<link::GoAway>,
    /// A dictionary that the gateway offers behind WELCOME.
    offers: Option<Bytes>,
    /// When each FETCH came.
    fetches: Vec<Instant>,
    /// The network takes no new connection.
    refuses: bool,
    reports: Vec<link::Report>,
}

#[derive(Clone)]
struct Network(Arc<Mutex<World>>);

impl Network {
    fn new(round_trip: Duration) -> Self {
        Self(Arc::new(Mutex::new(World {
            round_trip,
            forgets_after: None,
            dead: 0,
            blocks: false,
            dialed: Vec::new(),
            welcomed: Vec::new(),
            sent: Vec::new(),
            runs: BTreeMap::new(),
            work: Duration::ZERO,
            silence_kept_s: 0,
            policy: None,
            goaways: Vec::new(),
            offers: None,
            fetches: Vec::new(),
            refuses: false,
            reports: Vec::new(),
        })))
    }

    fn with<T>(&self, step: impl FnOnce(&mut World) -> T) -> T {
        step(&mut self.0.lock())
    }

    fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = ClientConfig::plaintext(vec!["edge:443".parse().unwrap()]);
        config.seed = Some(3);
        config.short_calls = ShortCalls::Off;
        config.dialer = Some(Arc::new(self.clone()));
        change(&mut config);
        Client::start(config).unwrap()
    }

    /// Whatever connections there are carry nothing any more.
    fn dies(&self) {
        self.with(|world| world.dead = world.dialed.len());
    }

    fn connections(&self) -> usize {
        self.with(|world| world.dialed.len())
    }
}

impl Dial for Network {
    fn dial(&self, _: &Endpoint, _: FirstFlight) -> Dialing {
        let network = self.clone();
        Box::pin(async move {
            let number = network.with(|world| {
                world.dialed.push(Instant::now());
                world.dialed.len()
            });
            sleep(network.with(|world| world.round_trip)).await;
            if network.with(|world| world.refuses) {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(4096);
            let (up, down) = split(theirs);
            let road = Arc::new(Road { network, number, moved: Mutex::new(Instant::now()) });
            let (to_gateway, from_client) = mpsc::unbounded_channel();
            let (to_client, from_gateway) = mpsc::unbounded_channel();
            tokio::spawn(Arc::clone(&road).carry_up(up, to_gateway));
            tokio::spawn(Arc::clone(&road).carry_down(down, from_gateway));
            tokio::spawn(gateway(road, from_client, to_client));
            Ok(Dialed { stream: Box::new(ours) as Box<dyn ByteIo>, early: 0 })
        })
    }
}

type Timed = (Instant, Bytes);

/// The way of one connection.
struct Road {
    network: Network,
    number: usize,
    /// When anything passed last.
    moved: Mutex<Instant>,
}

impl Road {
    fn is_dead(&self) -> bool {
        self.network.with(|world| self.number <= world.dead)
    }

    /// Whether bytes pass now; those that come after a long silence do not.
    fn passes(&self) -> bool {
        let forgets_after = self.network.with(|world| world.forgets_after);
        let quiet = std::mem::replace(&mut *self.moved.lock(), Instant::now()).elapsed();
        if forgets_after.is_some_and(|after| quiet > after) {
            self.network.with(|world| world.dead = world.dead.max(self.number));
        }
        !self.is_dead()
    }

    async fn carry_up(self: Arc<Self>, mut from: ReadHalf<DuplexStream>, to: mpsc::UnboundedSender<Timed>) {
        let mut buffer = [0; 2048];
        loop {
            while self.is_dead() && self.network.with(|world| world.blocks) {
                sleep(Duration::from_millis(10)).await;
            }
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            let half = self.network.with(|world| {
                world.sent.push((Instant::now(), count));
                world.round_trip / 2
            });
            if self.passes() {
                to.send((Instant::now() + half, Bytes::copy_from_slice(&buffer[..count]))).ok();
            }
        }
    }

    async fn carry_down(
        self: Arc<Self>,
        mut to: WriteHalf<DuplexStream>,
        mut from: mpsc::UnboundedReceiver<Timed>,
    ) {
        while let Some((at, bytes)) = from.recv().await {
            sleep_until(at).await;
            if self.passes() && to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A gateway that goes from a dead connection is not heard either.
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

/// Answers each call with what it brought, once.
async fn gateway(
    road: Arc<Road>,
    mut from: mpsc::UnboundedReceiver<Timed>,
    to: mpsc::UnboundedSender<Timed>,
) {
    let config = link::Config { heartbeat_max: Duration::from_secs(600), ..link::Config::default() };
    let mut machine = Connection::server(Arc::new(config), now());
    let (mut input, mut bodies) = (BytesMut::new(), BTreeMap::<u64, BytesMut>::new());
    let mut due: Vec<(Instant, u64)> = Vec::new();
    loop {
        let next = due.first().map(|(at, _)| *at);
        tokio::select! {
            came = from.recv() => {
                let Some((at, bytes)) = came else { return };
                sleep_until(at).await;
                input.extend_from_slice(&bytes);
                machine.handle_bytes(now(), &mut input).unwrap();
            }
            () = async { sleep_until(next.unwrap()).await }, if next.is_some() => {
                let (_, seq) = due.remove(0);
                let body = bodies.remove(&seq).unwrap_or_default().freeze();
                let status = vec![HeaderField::from_static(":status", "200")];
                machine.send_response(seq, status, false).ok();
                machine.send_message(seq, body, true).ok();
                if let Some(policy) = road.network.with(|world| world.policy.take()) {
                    machine.control().policy(policy);
                }
                if let Some(goaway) = road.network.with(|world| world.goaways.pop()) {
                    machine.control().goaway(goaway);
                }
            }
        }
        while let Some(event) = machine.poll_event() {
            match event {
                Event::Hello(hello) => {
                    let unknown = hello.waiting.iter().map(|waiting| waiting.seq).collect();
                    let resumed = hello.session_id == 7;
                    let silence_kept_s = road.network.with(|world| {
                        world.welcomed.push(Instant::now());
                        world.silence_kept_s
                    });
                    let welcome =
                        Welcome { session_id: 7, push_line: 1, resumed, unknown, ..Welcome::default() };
                    let welcome = Welcome { silence_kept_s, ..welcome };
                    machine.control().welcome(welcome);
                    if let Some(file) = road.network.with(|world| world.offers.clone()) {
                        machine.control().offer(offer(&file));
                    }
                }
                Event::MessagePart { seq, bytes, end, .. } => {
                    machine.credit(seq, bytes.len());
                    bodies.entry(seq).or_default().extend_from_slice(&bytes);
                    if end {
                        let work = road.network.with(|world| {
                            *world.runs.entry(seq).or_default() += 1;
                            world.work
                        });
                        due.push((Instant::now() + work, seq));
                    }
                }
                Event::Fetch(fetch) if !fetch.held => {
                    let file = road.network.with(|world| {
                        world.fetches.push(Instant::now());
                        world.offers.clone().unwrap()
                    });
                    let from = fetch.offset as usize;
                    let bytes = file.slice(from..file.len().min(from + PIECE_BYTES));
                    machine.control().piece(link::Piece { hash: fetch.hash, offset: fetch.offset, bytes });
                }
                Event::Publish(publish) => machine.control().published(publish.id, None),
                Event::Subscribe(subscribe) => {
                    let results = subscribe.add.into_iter().map(|it| link::proto::subscribed::Result {
                        filter: it.filter,
                        ..Default::default()
                    });
                    machine.control().subscribed(link::Subscribed { results: results.collect() });
                }
                Event::Report(report) => road.network.with(|world| world.reports.push(*report)),
                Event::Close { .. } => return,
                _ => {}
            }
        }
        let mut out = BytesMut::new();
        machine.poll_transmit(now(), &mut out, usize::MAX);
        let half = road.network.with(|world| world.round_trip / 2);
        if !out.is_empty() {
            to.send((Instant::now() + half, out.freeze())).ok();
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// What the gateway sends of a dictionary at a time.
const PIECE_BYTES: usize = 1000;

fn offer(file: &Bytes) -> link::Offer {
    let offered = link::OfferedDictionary {
        hash: towline_dictionaries::sha256(file).to_vec().into(),
        kind: link::DictionaryKind::Payload.into(),
        bytes: file.len() as u32,
        ..link::OfferedDictionary::default()
    };
    link::Offer { dictionaries: vec![offered] }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn online(client: &Client) {
    client.states().wait_for(|state| matches!(state, ConnectionState::Online { .. })).await.unwrap();
}

async fn call(client: &Client, body: impl Into<Bytes>) -> Result<CallResponse, FailedCall> {
    client.call(CallRequest::http(http::Method::POST, "/echo", body).deadline(5 * MINUTE)).await
}

#[tokio::test(start_paused = true)]
async fn a_call_into_a_dead_link_moves_to_another_within_three_round_trips_and_a_second() {
    for blocks in [false, true] {
        for round_trip in [50, 300, 1000, 3000].map(ms) {
            let network = Network::new(round_trip);
            network.with(|world| world.blocks = blocks);
            let client = network.client(|_| {});
            online(&client).await;
            for _ in 0..3 {
                call(&client, "x").await.unwrap();
                sleep(ms(5000)).await;
            }
            network.dies();
            let began = Instant::now();
            // Larger than what the connection takes: its writer is stuck.
            let body = vec![7; if blocks { 64 << 10 } else { 100 }];
            let answer = call(&client, body.clone()).await.unwrap();
            assert_eq!(answer.messages.concat(), body);
            let noticed = network.with(|world| world.dialed[1] - began);
            assert!(noticed < 3 * round_trip + ms(1000), "{round_trip:?}, blocks {blocks}: {noticed:?}");
            assert!(network.with(|world| world.runs.values().all(|runs| *runs == 1)));
            assert_eq!(network.connections(), 2, "{round_trip:?}");
        }
    }
}

/// A gateway that takes connections and says nothing is left in the time that the network leads to expect.
#[tokio::test(start_paused = true)]
async fn a_welcome_is_waited_for_as_long_as_the_network_leads_to_expect() {
    let network = Network::new(ms(100));
    let client = network.client(|_| {});
    for _ in 0..4 {
        online(&client).await;
        let mut states = client.states();
        states.mark_unchanged();
        client.reconnect();
        states.changed().await.unwrap();
    }
    online(&client).await;
    network.with(|world| world.dead = world.dialed.len() + 1);
    client.reconnect();
    let state =
        client.states().wait_for(|state| state.to_string().contains("WELCOME")).await.unwrap().clone();
    assert!(state.to_string().contains("WELCOME within 4s"), "{state}");
    online(&client).await;
}

#[tokio::test(start_paused = true)]
async fn somebody_who_looks_at_the_app_finds_a_dead_link_without_a_call() {
    let network = Network::new(ms(200));
    let client = network.client(|_| {});
    online(&client).await;
    sleep(ms(10_000)).await;
    network.dies();
    let began = Instant::now();
    client.foreground();
    sleep(ms(2000)).await;
    assert_eq!(network.connections(), 2);
    assert!(network.with(|world| world.dialed[1] - began) < ms(1600));
    online(&client).await;
    // One that lives is kept.
    client.foreground();
    sleep(ms(10_000)).await;
    assert_eq!(network.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_works_long_is_waited_for() {
    let network = Network::new(ms(100));
    network.with(|world| world.work = 2 * MINUTE);
    let client = network.client(|_| {});
    online(&client).await;
    call(&client, "x").await.unwrap();
    assert_eq!(network.connections(), 1);
    assert_eq!(network.with(|world| world.runs.clone()), BTreeMap::from([(1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn switched_off_a_dead_link_is_noticed_by_the_pong_time_out() {
    let network = Network::new(ms(50));
    let client = network.client(|config| config.strategies.liveness.enabled = false);
    online(&client).await;
    sleep(ms(1000)).await;
    network.dies();
    let began = Instant::now();
    call(&client, "x").await.unwrap();
    let noticed = network.with(|world| world.dialed[1] - began);
    assert!(noticed >= ms(10_000) && noticed < ms(20_000), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn beats_come_near_the_time_out_of_the_nat_and_what_was_learnt_outlives_the_app() {
    let folder = tempfile::tempdir().unwrap();
    let identity: PathBuf = folder.path().join("identity");
    let network = Network::new(ms(80));
    network.with(|world| world.forgets_after = Some(Duration::from_secs(200)));
    let with_identity = |config: &mut ClientConfig| config.identity_file = Some(identity.clone());
    let client = network.client(with_identity);
    client.network_changed(crate::Network::new(NetworkKind::Wifi, "home"));
    sleep(4 * 60 * MINUTE).await;
    let learning = network.connections();
    assert!((2..=9).contains(&learning), "{learning} connections");
    let beats = |network: &Network| network.with(|world| std::mem::take(&mut world.sent).len());
    beats(&network);
    sleep(10 * 60 * MINUTE).await;
    assert_eq!(network.connections(), learning, "what was found is kept");
    let count = beats(&network);
    // The least is one for each time-out.
    assert!((180..=205).contains(&count), "{count} in ten hours");
    client.close().await;
    let again = network.client(with_identity);
    again.network_changed(crate::Network::new(NetworkKind::Wifi, "home"));
    sleep(MINUTE).await;
    let learnt = network.connections();
    beats(&network);
    sleep(10 * 60 * MINUTE).await;
    assert_eq!(network.connections(), learnt);
    assert!((180..=205).contains(&beats(&network)));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_begins_below_what_others_have_found() {
    let network = Network::new(ms(100));
    network.with(|world| world.silence_kept_s = 300);
    let client = network.client(|_| {});
    online(&client).await;
    sleep(MINUTE).await;
    network.with(|world| world.sent.clear());
    sleep(4 * MINUTE).await;
    let (first, welcomed) = network.with(|world| (world.sent[0].0, world.welcomed[0]));
    let quiet = (first - welcomed).as_secs();
    assert!((265..=275).contains(&quiet), "{quiet} s");
}

#[tokio::test(start_paused = true)]
async fn switched_off_beats_keep_the_policys_interval() {
    let network = Network::new(ms(80));
    let client = network.client(|config| config.strategies.heartbeat.enabled = false);
    online(&client).await;
    sleep(MINUTE).await;
    network.with(|world| world.sent.clear());
    sleep(60 * MINUTE).await;
    assert_eq!(network.with(|world| world.sent.len()), 120);
    let at: HashSet<u64> =
        network.with(|world| world.sent.iter().map(|(at, _)| at.elapsed().as_secs() % 30).collect());
    assert_eq!(at.len(), 1, "{at:?}");
    drop(client);
}

/// An idle line asks at once, one that always has a call open for a piece a minute.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_always_busy_fetches_what_is_offered_all_the_same() {
    let samples: Vec<_> = (0..300).map(towline_dictionaries::demo::message).collect();
    let options = towline_dictionaries::TrainOptions { size: 2 * PIECE_BYTES };
    let file = towline_dictionaries::train(&samples, options).unwrap().bytes().clone();
    let pieces = file.len().div_ceil(PIECE_BYTES);
    for is_busy in [false, true] {
        let network = Network::new(ms(50));
        network.with(|world| (world.offers, world.work) = (Some(file.clone()), ms(3000)));
        let client = network.client(|_| {});
        let calls = (0..2).filter(|_| is_busy).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                sleep(ms(1500 * number)).await;
                loop {
                    call(&client, "x").await.unwrap();
                }
            })
        });
        let calls: Vec<_> = calls.collect();
        online(&client).await;
        let began = Instant::now();
        sleep(10 * MINUTE).await;
        let fetches: Vec<_> =
            network.with(|world| world.fetches.iter().map(|at| (*at - began).as_secs()).collect());
        let expected: Vec<u64> =
            (1..=pieces as u64).map(|piece| if is_busy { 60 * piece } else { 0 }).collect();
        assert_eq!(fetches, expected, "busy: {is_busy}");
        calls.iter().for_each(|call| call.abort());
    }
}
