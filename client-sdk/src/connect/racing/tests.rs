//! Races over a dialer of the test's own in simulated time, and over loopback where names matter.

mod joined;
#[cfg(feature = "quic")]
mod late;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::Instant};
use towline_crypto::signing::SigningKey;
use towline_protocols::{endpoints::ListedEndpoint, link::RequestHead};

use super::*;
use crate::{
    BundledAddresses, Client, ClientConfig, Dial, Dialed, Dialing, FirstFlight, Network, NetworkKind,
    Resolve,
    connect::{ByteStream, resolve::Resolving},
    core::Outgoing,
    endpoints::tests::{entry, expire, signed},
    supervisor::{Greeting, Supervisor},
};

/// What happens to a connection that is dialed.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answers,
    Refused,
    Silent,
}

/// A network by the ports of gateways, which answer if nothing else is said.
#[derive(Clone, Default)]
struct World {
    fates: Arc<Mutex<HashMap<u16, Fate>>>,
    dialed: Arc<Mutex<Vec<u16>>>,
    networks: Arc<Mutex<Vec<Network>>>,
}

impl World {
    fn with(fates: &[(u16, Fate)]) -> Self {
        let world = Self::default();
        world.fates.lock().extend(fates.iter().copied());
        world
    }

    /// The ports that were dialed since this was asked last.
    fn dialed(&self) -> Vec<u16> {
        std::mem::take(&mut self.dialed.lock())
    }

    /// The networks that they were to be dialed on.
    fn networks(&self) -> Vec<Network> {
        std::mem::take(&mut self.networks.lock())
    }
}

impl Dial for World {
    fn dial_on(&self, network: &Network, endpoint: &Endpoint, flight: FirstFlight) -> Dialing {
        self.networks.lock().push(network.clone());
        self.dial(endpoint, flight)
    }

    fn dial(&self, endpoint: &Endpoint, _: FirstFlight) -> Dialing {
        self.dialed.lock().push(endpoint.port);
        let fate = self.fates.lock().get(&endpoint.port).copied().unwrap_or(Fate::Answers);
        Box::pin(async move {
            match fate {
                Fate::Answers => Ok(Dialed { stream: Box::new(tokio::io::duplex(64).0), early: 0 }),
                Fate::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                Fate::Silent => std::future::pending().await,
            }
        })
    }
}

/// A client without its supervisor.
struct Rig {
    config: ClientConfig,
    connector: Connector,
    shared: Arc<Shared>,
}

impl Rig {
    fn new(config: ClientConfig) -> Self {
        let shared = Arc::new(Shared::new(&config).unwrap().0);
        Self { connector: Connector::new(&config, &shared.tickets).unwrap(), config, shared }
    }

    fn race(&self) -> Racing {
        self.race_on(self.shared.with(|core| core.network.clone()))
    }

    fn race_on(&self, network: Network) -> Racing {
        let greeting = Greeting::new(Arc::clone(&self.shared), self.config.clone());
        let opening = Opening::new(Arc::new(greeting), 0.0, true);
        let (connector, gateways) = (self.connector.clone(), self.config.endpoints.clone());
        Racing::begin(network, connector, &self.shared, &opening, gateways, Duration::from_secs(10))
    }

    /// The port of the gateway that is reached, and after how long.
    async fn reach(&self) -> Result<(u16, Duration), String> {
        let began = Instant::now();
        match self.race().next().await {
            Ok(made) => Ok((made.gateway.port, began.elapsed())),
            Err(error) => Err(error.0),
        }
    }

    /// A gateway may be running a call.
    fn runs_a_call(&self) {
        let (deadline, message) = (now() + Duration::from_secs(60), Some(Bytes::from_static(b"pay")));
        let outgoing = Outgoing { head: RequestHead::default(), deadline, message, bodiless: false };
        self.shared.with(|core| {
            let key = core.open(outgoing, now()).unwrap();
            core.call(key).unwrap().attempts = 1;
        });
    }

    fn last(&self) -> Option<String> {
        let network = self.shared.with(|core| core.network.place());
        self.shared.routes.last_gateway(&self.config.strategies.race, network, now())
    }
}

fn dialed(world: &World) -> ClientConfig {
    let endpoints = (1..=3).map(|port| Endpoint { host: "edge".into(), port }).collect();
    let mut config = ClientConfig::plaintext(endpoints);
    config.dialer = Some(Arc::new(world.clone()));
    config
}

#[tokio::test(start_paused = true)]
async fn one_dead_gateway_of_three_costs_a_delay_and_a_refused_one_nothing() {
    let world = World::with(&[(1, Fate::Silent)]);
    let rig = Rig::new(dialed(&world));
    let fallback = rig.config.policy.fallback_delay;
    let turn = fallback * rig.config.strategies.race.gateway_staggers;
    assert_eq!(rig.reach().await, Ok((2, turn)));
    assert_eq!(rig.last(), Some("edge:2".to_owned()));
    assert_eq!(world.dialed(), [1, 2]);

    world.fates.lock().insert(1, Fate::Refused);
    assert_eq!(rig.reach().await, Ok((2, Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_all_are_tried_and_all_reasons_are_told() {
    let world = World::with(&[(1, Fate::Refused), (2, Fate::Silent), (3, Fate::Refused)]);
    let rig = Rig::new(dialed(&world));
    let error = rig.reach().await.unwrap_err();
    assert_eq!(world.dialed(), [1, 2, 3]);
    for part in ["edge:1: connection refused", "edge:3: connection refused", "no answer within 10s"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(rig.last(), None);
}

#[tokio::test(start_paused = true)]
async fn switched_off_one_gateway_is_tried_and_nothing_remembered() {
    let world = World::with(&[(1, Fate::Refused)]);
    let mut config = dialed(&world);
    config.strategies.race.enabled = false;
    let rig = Rig::new(config);
    assert!(rig.reach().await.is_err());
    world.fates.lock().insert(1, Fate::Answers);
    assert_eq!(rig.reach().await, Ok((1, Duration::ZERO)));
    assert_eq!((world.dialed(), rig.last()), (vec![1, 1], None));
}

/// The session's own gateway has half of an attempt to itself while it may be running a call, and all others have a turn in the
/// rest.
#[tokio::test(start_paused = true)]
async fn where_a_call_may_be_running_a_third_gateway_has_a_turn_in_the_attempt() {
    for (gateways, staggers) in [(3, 6), (4, 6), (3, 12)] {
        let world = World::with(&(1..gateways).map(|port| (port, Fate::Silent)).collect::<Vec<_>>());
        let mut config = dialed(&world);
        config.endpoints = (1..=gateways).map(|port| Endpoint { host: "edge".into(), port }).collect();
        config.strategies.race.gateway_staggers = staggers;
        let rig = Rig::new(config);
        rig.runs_a_call();
        let (reached, after) = rig.reach().await.unwrap();
        assert_eq!(reached, gateways);
        let half = Duration::from_secs(5);
        assert!(after > half && after < 2 * half, "{gateways} gateways: {after:?}");
    }
}

/// A list that leads nowhere costs an attempt, also where nobody else has a turn in it.
#[tokio::test(start_paused = true)]
async fn behind_a_list_that_leads_nowhere_the_apps_own_gateways_are_tried() {
    for enabled in [true, false] {
        let (world, key) = (World::with(&[(9, Fate::Silent)]), SigningKey::generate().unwrap());
        let mut config = dialed(&world);
        config.endpoint_lists.keys = vec![key.public()];
        config.strategies.race.enabled = enabled;
        config.strategies.race.gateway_staggers = 100;
        let rig = Rig::new(config.clone());
        let nowhere = ListedEndpoint { port: 9, name: None, ..entry("edge") };
        rig.shared.listed.take(&signed(&key, 1, 0, vec![nowhere]));
        let supervisor = Supervisor::new(Arc::clone(&rig.shared), config).unwrap();
        tokio::spawn(supervisor.run());
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(world.dialed(), [9]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let next = world.dialed().first().copied();
        assert!(next.is_some_and(|port| port != 9), "{enabled}: {next:?}");
    }
}

/// Not even for a call that may be running there.
#[tokio::test(start_paused = true)]
async fn behind_a_lists_expiry_the_gateway_that_has_the_session_is_left_unless_somebody_else_named_it() {
    for (has_expired, is_advised) in [(false, false), (true, false), (true, true)] {
        let (world, key) = (World::default(), SigningKey::generate().unwrap());
        let mut config = dialed(&world);
        config.endpoint_lists.keys = vec![key.public()];
        let rig = Rig::new(config.clone());
        let home = ListedEndpoint { port: 9, name: None, ..entry("edge") };
        rig.shared.listed.take(&signed(&key, 1, 0, vec![home]));
        rig.runs_a_call();
        let home = Endpoint { host: "edge".into(), port: 9 };
        rig.shared.with(|core| core.link.home = Some(home.clone()));
        if has_expired {
            expire(&rig.shared.listed);
        }
        if is_advised {
            rig.shared.listed.on_advice(&[home]);
        }
        let supervisor = Supervisor::new(Arc::clone(&rig.shared), config).unwrap();
        tokio::spawn(supervisor.run());
        tokio::time::sleep(Duration::from_millis(1)).await;
        let first = world.dialed()[0];
        assert_eq!(first == 9, !has_expired || is_advised, "{has_expired} {is_advised}: {first}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_gateway_that_was_reached_is_first_for_the_next_run_on_that_network_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(&[(1, Fate::Refused), (2, Fate::Refused)]);
    let mut config = dialed(&world);
    config.identity_file = Some(folder.path().join("identity"));
    let rig = Rig::new(config.clone());
    let home = Network::new(NetworkKind::Wifi, "home");
    rig.shared.with(|core| core.network = home.clone());
    assert_eq!(rig.reach().await.unwrap().0, 3);
    drop(rig);
    let file = folder.path().join("identity.routes");
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let rig = Rig::new(config);
    assert_eq!(rig.last(), None);
    rig.shared.with(|core| core.network = home);
    assert_eq!(rig.last(), Some("edge:3".to_owned()));
}

/// Attempts that hang in a network that is left are not waited for.
#[tokio::test(start_paused = true)]
async fn another_network_begins_another_race_at_once() {
    let world = World::with(&[1, 2, 3].map(|port| (port, Fate::Silent)));
    let mut config = dialed(&world);
    config.seed = Some(1);
    let client = Client::start(config).unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.dialed().len(), 1);
    client.network_changed(Network::new(NetworkKind::Wifi, "home"));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.dialed().len(), 1);
}

/// What a name leads to.
type Found = Result<Vec<IpAddr>, io::ErrorKind>;

/// What DNS says, name by name; without an entry, nothing ever.
#[derive(Clone, Default)]
struct Dns(Arc<Mutex<HashMap<String, Found>>>);

impl Dns {
    fn set(&self, host: &str, answer: Option<Result<Vec<IpAddr>, io::ErrorKind>>) {
        match answer {
            Some(answer) => self.0.lock().insert(host.to_owned(), answer),
            None => self.0.lock().remove(host),
        };
    }
}

impl Resolve for Dns {
    fn resolve(&self, host: &str) -> Resolving {
        let answer = self.0.lock().get(host).cloned();
        Box::pin(async move {
            match answer {
                Some(answer) => answer.map_err(io::Error::from),
                None => std::future::pending().await,
            }
        })
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A client of `edge`, and who listens there.
async fn named(dns: &Dns) -> (ClientConfig, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = ClientConfig::plaintext(vec![Endpoint { host: "edge".into(), port }]);
    config.resolver = Some(Arc::new(dns.clone()));
    config.strategies.race.names_fresh = Duration::ZERO;
    (config, listener)
}

#[tokio::test]
async fn what_dns_said_once_is_used_while_it_is_silent_or_denies_the_name() {
    let dns = Dns::default();
    let (config, _listener) = named(&dns).await;
    let rig = Rig::new(config);
    for answer in [Some(Ok(vec![HERE])), None, Some(Err(io::ErrorKind::NotFound)), Some(Ok(Vec::new()))] {
        dns.set("edge", answer.clone());
        assert!(rig.reach().await.is_ok(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_start_without_dns_sends_nothing_and_recovers_with_it() {
    let dns = Dns::default();
    let (config, _listener) = named(&dns).await;
    let rig = Rig::new(config);
    dns.set("edge", Some(Err(io::ErrorKind::NotFound)));
    let mut race = rig.race();
    let error = race.next().await.map(|made| made.gateway).unwrap_err();
    assert!(error.0.contains("DNS: ") && !race.has_tried(), "{error}");
    dns.set("edge", Some(Ok(vec![HERE])));
    assert!(rig.reach().await.is_ok());
}

#[tokio::test]
async fn an_address_that_is_known_does_not_wait_for_another_gateways_name() {
    let dns = Dns::default();
    let (mut config, listener) = named(&dns).await;
    let port = listener.local_addr().unwrap().port();
    config.endpoints.push(Endpoint { host: "127.0.0.1".into(), port });
    config.policy.fallback_delay = Duration::ZERO;
    config.strategies.race.gateway_staggers = 1;
    let made = Rig::new(config).race().next().await.map_err(|error| error.0).unwrap();
    assert_eq!(made.gateway.host, "127.0.0.1");
}

/// An address that DNS found meanwhile takes part in the race that runs over one that is dead.
#[tokio::test]
async fn a_fresh_answer_joins_the_race_over_stale_ones() {
    let dns = Dns::default();
    let (config, listener) = named(&dns).await;
    let rig = Rig::new(config);
    // On loopback nobody listens at the other address: the attempt fails at once.
    let stale = vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99))];
    rig.shared.routes.found(rig.shared.with(|core| core.network.place()), "edge", stale, now());
    dns.set("edge", Some(Ok(vec![HERE])));
    assert!(rig.reach().await.is_ok());
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn one_question_is_asked_for_all_who_wait_for_its_answer_and_few_at_one_time() {
    let dns = Dns::default();
    let (config, _listener) = named(&dns).await;
    let rig = Rig::new(config);
    let ask = |host: String, network| {
        let find = rig.connector.lookups.clone().find(Arc::clone(&rig.shared), host, network);
        async move { tokio::time::timeout(Duration::ZERO, find).await }
    };
    let network = rig.shared.with(|core| core.network.clone());
    for _ in 0..100 {
        assert!(ask("edge".to_owned(), network.clone()).await.is_err(), "it waits");
    }
    for number in 0..100 {
        if let Ok(refused) = ask(format!("edge-{number}"), network.clone()).await {
            assert_eq!(number, 15, "fifteen beside the first");
            assert!(refused.unwrap_err().contains("16 names are being looked up"));
            return;
        }
    }
    panic!("any number of names is looked up");
}

/// A host of the loopback network at which nobody listens.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));

fn bundling(mut config: ClientConfig, addresses: &[IpAddr]) -> Rig {
    config.bundled_addresses = vec![BundledAddresses { host: "edge".into(), addresses: addresses.to_vec() }];
    config.strategies.race.names_fresh = Duration::from_secs(60);
    config.validate().unwrap();
    Rig::new(config)
}

fn known(rig: &Rig) -> Option<towline_protocols::policy::Found> {
    let network = rig.shared.with(|core| core.network.place());
    rig.shared.routes.addresses(&rig.config.strategies.race, network, "edge", now())
}

#[tokio::test]
async fn what_the_app_brings_along_does_not_wait_for_dns_whose_answer_is_remembered_alone() {
    let dns = Dns::default();
    let (config, _listener) = named(&dns).await;
    let rig = bundling(config.clone(), &[HERE]);
    assert!(rig.reach().await.is_ok(), "DNS is silent");
    assert_eq!(known(&rig), None);

    let rig = bundling(config, &[NOBODY]);
    dns.set("edge", Some(Ok(vec![HERE])));
    assert!(rig.reach().await.is_ok(), "what DNS said joins the race");
    assert_eq!(known(&rig).map(|known| (known.addresses, known.is_doubted)), Some((vec![HERE], false)));
}

#[tokio::test]
async fn what_the_app_brings_along_is_left_once_dns_has_said_something_else() {
    let dns = Dns::default();
    let (config, listener) = named(&dns).await;
    let port = listener.local_addr().unwrap().port();
    let moved = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 98), port)).await.unwrap();
    let rig = bundling(config, &[HERE]);
    dns.set("edge", Some(Ok(vec![moved.local_addr().unwrap().ip()])));
    while known(&rig).is_none() {
        assert!(rig.reach().await.is_ok());
    }
    let made = rig.race().next().await.map_err(|error| error.0).unwrap();
    let Wire::Tcp { stream: ByteStream::Plain(stream), .. } = made.wire else { panic!("not in plaintext") };
    assert_eq!(stream.peer_addr().unwrap(), moved.local_addr().unwrap());
}

/// As behind a captive portal, whose DNS names the portal for everything.
#[tokio::test]
async fn an_answer_of_dns_that_leads_nowhere_costs_no_connection_and_is_doubted() {
    let dns = Dns::default();
    let (config, _listener) = named(&dns).await;
    let rig = bundling(config, &[HERE]);
    let network = rig.shared.with(|core| core.network.place());
    rig.shared.routes.found(network, "edge", vec![NOBODY], now());
    assert!(rig.reach().await.is_ok());
    assert!(known(&rig).is_some_and(|known| known.is_doubted && known.addresses == [NOBODY]));
    assert!(rig.reach().await.is_ok());
}

#[tokio::test]
async fn short_connections_find_what_the_app_brings_along_too() {
    let dns = Dns::default();
    let (config, listener) = named(&dns).await;
    let rig = bundling(config, &[HERE]);
    let endpoint = rig.config.endpoints[0].clone();
    let network = rig.shared.with(|core| core.network.clone());
    let addresses = rig.connector.lookups.addresses(&rig.shared, &network, &endpoint).await;
    assert_eq!(addresses.map_err(|error| error.0), Ok(vec![listener.local_addr().unwrap()]));
}
