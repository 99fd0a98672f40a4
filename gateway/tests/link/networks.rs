//! Sockets are made for networks: each is asked for, or handed to the app to be bound, with the network that it is meant
//! for.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use socket2::{SockRef, Type};
use tokio::{net::TcpStream, sync::watch};
use towline_client::{
    BindSocket, BindUdp, Client, ClientConfig, ConnectionState, Dial, Dialed, Dialing, Endpoint, FirstFlight,
    Network, NetworkKind, ShortCalls, SocketHandle, Transport, Transports,
};

use crate::{
    bed::{BOTH, Bed, answer, call, endpoint, online, state},
    chaos::Chaos,
    transports::{Udp, online_by},
    waits::until,
};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Http,
}

/// Makes sockets, or binds them, and writes down what each was for. Networks of some names are not to be had, and others
/// are long in coming.
#[derive(Clone)]
struct Phone(Arc<Inner>);

struct Inner {
    asked: Mutex<Vec<(Kind, String)>>,
    gone: Mutex<Vec<String>>,
    /// Sockets of this network wait.
    slow: watch::Sender<Option<String>>,
}

impl Phone {
    fn new() -> Self {
        let (asked, gone, slow) = (Mutex::default(), Mutex::default(), watch::Sender::new(None));
        Self(Arc::new(Inner { asked, gone, slow }))
    }

    fn note(&self, kind: Kind, network: &Network) -> io::Result<()> {
        self.0.asked.lock().push((kind, network.key.clone()));
        match self.0.gone.lock().contains(&network.key) {
            true => Err(io::Error::new(io::ErrorKind::NetworkDown, format!("{} is gone", network.key))),
            false => Ok(()),
        }
    }

    /// What was asked for since this was asked last.
    fn asked(&self) -> Vec<(Kind, String)> {
        std::mem::take(&mut self.0.asked.lock())
    }

    /// How much that is.
    fn asked_count(&self) -> usize {
        self.0.asked.lock().len()
    }

    fn is_slow(&self, network: &str) {
        self.0.slow.send_replace(Some(network.to_owned()));
    }

    fn is_quick(&self) {
        self.0.slow.send_replace(None);
    }

    fn loses(&self, networks: &[&str]) {
        *self.0.gone.lock() = networks.iter().map(ToString::to_string).collect();
    }

    async fn stream(self, kind: Kind, network: Network, endpoint: Endpoint) -> io::Result<Dialed> {
        self.note(kind, &network)?;
        let is_there = |slow: &Option<String>| slow.as_ref() != Some(&network.key);
        self.0.slow.subscribe().wait_for(is_there).await.map_err(io::Error::other)?;
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        Ok(Dialed { stream: Box::new(stream), early: 0 })
    }
}

impl Dial for Phone {
    fn dial(&self, _: &Endpoint, _: FirstFlight) -> Dialing {
        panic!("asked without a network")
    }

    fn dial_on(&self, network: &Network, endpoint: &Endpoint, _: FirstFlight) -> Dialing {
        Box::pin(self.clone().stream(Kind::Tcp, network.clone(), endpoint.clone()))
    }

    fn carries_http(&self) -> bool {
        true
    }

    fn dial_http_on(&self, network: &Network, endpoint: &Endpoint) -> Dialing {
        Box::pin(self.clone().stream(Kind::Http, network.clone(), endpoint.clone()))
    }
}

impl BindUdp for Phone {
    fn bind_udp(&self, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        panic!("asked without a network")
    }

    fn bind_udp_on(&self, network: &Network, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.note(Kind::Udp, network)?;
        TokioRuntime.wrap_udp_socket(std::net::UdpSocket::bind("127.0.0.1:0")?)
    }
}

impl BindSocket for Phone {
    fn bind_socket(&self, socket: SocketHandle<'_>, peer: SocketAddr, network: &Network) -> io::Result<()> {
        let socket = SockRef::from(&socket);
        assert!(peer.ip().is_loopback() && socket.peer_addr().is_err(), "it is connected already");
        let kind = if socket.r#type()? == Type::DGRAM { Kind::Udp } else { Kind::Tcp };
        // The test's runtime waits for this thread, also where the test has failed.
        let is_slow = || self.0.slow.borrow().as_ref() == Some(&network.key);
        for _ in (0..1000).take_while(|_| is_slow()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.note(kind, network)
    }
}

fn place(key: &str) -> Network {
    Network::new(NetworkKind::Wifi, key)
}

fn named(kind: Kind, key: &str) -> (Kind, String) {
    (kind, key.to_owned())
}

/// A client whose sockets the phone binds, online at home.
async fn bound(bed: &Bed, phone: &Phone, transports: Transports, posts: ShortCalls) -> Client {
    let mut config = bed.config(transports);
    config.binder = Some(Arc::new(phone.clone()));
    at_home(config, posts).await
}

/// The same in plaintext, whose streams the phone makes.
async fn dialed(bed: &Bed, phone: &Phone, posts: ShortCalls) -> Client {
    let mut config = bed.plain(bed.address("plain"));
    config.dialer = Some(Arc::new(phone.clone()));
    at_home(config, posts).await
}

async fn at_home(mut config: ClientConfig, posts: ShortCalls) -> Client {
    config.short_calls = posts;
    config.strategies.liveness.enabled = false;
    config.strategies.handover.check_gap = Duration::from_millis(100);
    let client = Client::start(config).unwrap();
    // Nothing has run yet: the first socket is for it.
    client.network_changed(place("home"));
    online(&client).await;
    answer(&client, "Echo", "before").await;
    client
}

async fn arrives(client: &Client, wanted: &Network) {
    until("the line to move", || client.network() == *wanted).await;
    online(client).await;
}

/// The link's first connection, those that find out whether a network that joined is any good, and the one that takes over.
#[tokio::test]
async fn every_socket_of_the_link_is_bound_to_the_network_that_it_is_for() {
    for transports in BOTH {
        let kind = Kind::of(transports);
        let (bed, phone) = (Bed::start().await, Phone::new());
        let client = bound(&bed, &phone, transports, ShortCalls::Off).await;
        assert_eq!(phone.asked(), [named(kind, "home")], "{transports:?}");
        client.network_joined(place("street"));
        arrives(&client, &place("street")).await;
        answer(&client, "Echo", "after").await;
        assert_eq!(phone.asked(), [named(kind, "street"), named(kind, "street")], "{transports:?}");
        client.reconnect();
        until("another connection", || !phone.0.asked.lock().is_empty()).await;
        assert_eq!(phone.asked()[0], named(kind, "street"), "{transports:?}");
    }
}

/// QUIC, which no datagram answers, and TCP beside it.
#[tokio::test]
async fn both_ways_of_a_race_on_a_network_that_joined_name_it() {
    let (bed, phone) = (Bed::start().await, Phone::new());
    let network = Chaos::start(bed.address("edge")).await;
    let _udp = Udp::start(network.address(), bed.address("edge"), false).await;
    let mut config = bed.config(Transports::QuicAndTcp);
    config.endpoints = vec![endpoint(network.address())];
    config.binder = Some(Arc::new(phone.clone()));
    let client = at_home(config, ShortCalls::Off).await;
    let both = |key: &str| [named(Kind::Udp, key), named(Kind::Tcp, key)];
    assert_eq!(phone.asked(), both("home"));
    client.network_joined(place("street"));
    arrives(&client, &place("street")).await;
    let joined = phone.asked();
    assert!(joined.starts_with(&both("street")), "{joined:?}");
    assert!(joined.iter().all(|(_, key)| key == "street"), "{joined:?}");
}

/// While a network is being tried beside the one in use, whatever else is opened is opened on that one.
#[tokio::test]
async fn a_post_beside_a_network_that_joins_goes_by_the_one_in_use_and_then_by_the_other() {
    let (bed, phone) = (Bed::start().await, Phone::new());
    let client = dialed(&bed, &phone, ShortCalls::Always).await;
    let before = phone.asked();
    assert!(before.contains(&named(Kind::Tcp, "home")) && before.contains(&named(Kind::Http, "home")));
    phone.is_slow("street");
    client.network_joined(place("street"));
    until("a connection there", || phone.0.asked.lock().contains(&named(Kind::Tcp, "street"))).await;
    phone.asked();
    // What is there carries one call at a time.
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(call("Hold", "pay")).await })
        })
        .collect();
    bed.backend.wait("Hold", |counts| counts.started == 2).await;
    assert_eq!(phone.asked(), [named(Kind::Http, "home")]);
    bed.backend.release();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().timeline.transport, Some(Transport::Post));
    }
    phone.is_quick();
    arrives(&client, &place("street")).await;
    phone.asked();
    // Connections that wait for a POST are of the network that was left.
    answer(&client, "Echo", "after").await;
    assert_eq!(phone.asked(), [named(Kind::Http, "street")]);
}

/// The SDK's own connections for POSTs are bound as the link's are.
#[tokio::test]
async fn a_post_over_tls_is_bound_to_the_network_in_use() {
    let (bed, phone) = (Bed::start().await, Phone::new());
    let client = bound(&bed, &phone, Transports::Tcp, ShortCalls::Always).await;
    assert_eq!(phone.asked(), vec![named(Kind::Tcp, "home"); 2], "the link and the POST");
    client.network_joined(place("street"));
    arrives(&client, &place("street")).await;
    let response = client.call(call("Echo", "after")).await.unwrap();
    assert_eq!(response.timeline.transport, Some(Transport::Post));
    assert_eq!(phone.asked(), vec![named(Kind::Tcp, "street"); 3], "two connections, and the POST");
}

/// The app's own datagram sockets, at first and where the connection moves.
#[tokio::test]
async fn a_quic_connection_that_moves_asks_for_a_socket_of_the_network_that_it_moves_to() {
    for is_own in [true, false] {
        let (bed, phone) = (Bed::start().await, Phone::new());
        let mut config = bed.config(Transports::Quic);
        match is_own {
            true => config.udp = Some(Arc::new(phone.clone())),
            false => config.binder = Some(Arc::new(phone.clone())),
        }
        let client = at_home(config, ShortCalls::Off).await;
        let gateway_sees = bed.gateway().metrics.handshakes.with_label_values(&["edge", "ok"]);
        let handshakes = gateway_sees.get();
        client.network_changed(place("train"));
        // Until there is a socket, calls go on over the one before.
        until("a socket of that network", || phone.asked_count() == 2).await;
        answer(&client, "Echo", "moved").await;
        let asked = [named(Kind::Udp, "home"), named(Kind::Udp, "train")];
        assert_eq!((phone.asked(), gateway_sees.get()), (asked.to_vec(), handshakes), "own: {is_own}");
    }
}

/// Where the app takes its time with a socket, the connection goes on over the one that it has.
#[tokio::test]
async fn a_quic_connection_does_not_wait_for_the_app_to_bind_its_next_socket() {
    let (bed, phone) = (Bed::start().await, Phone::new());
    let client = bound(&bed, &phone, Transports::Quic, ShortCalls::Off).await;
    phone.asked();
    phone.is_slow("train");
    client.network_changed(place("train"));
    for _ in 0..3 {
        answer(&client, "Echo", "meanwhile").await;
    }
    assert_eq!(phone.asked(), []);
    phone.is_quick();
    until("the socket to be bound", || !phone.0.asked.lock().is_empty()).await;
    answer(&client, "Echo", "moved").await;
    assert_eq!(phone.asked(), [named(Kind::Udp, "train")]);
    assert_eq!(bed.gateway().metrics.handshakes.with_label_values(&["edge", "ok"]).get(), 1);
}

#[tokio::test]
async fn a_network_that_cannot_be_bound_is_an_error_of_each_attempt_and_the_line_comes_back_with_it() {
    for transports in BOTH {
        let (bed, phone) = (Bed::start().await, Phone::new());
        let client = bound(&bed, &phone, transports, ShortCalls::Off).await;
        phone.loses(&["cellar"]);
        // One that joins in vain leaves the line where it is.
        client.network_joined(place("cellar"));
        until("it to be tried", || phone.0.asked.lock().contains(&named(Kind::of(transports), "cellar")))
            .await;
        answer(&client, "Echo", "at home").await;
        assert_eq!(client.network(), place("home"));
        client.network_changed(place("cellar"));
        let offline = |state: &ConnectionState| match state {
            ConnectionState::Offline { reason } => reason.contains("cellar is gone"),
            _ => false,
        };
        state(&client, offline).await;
        phone.loses(&[]);
        client.network_changed(place("street"));
        online_by(&client, if transports == Transports::Quic { Transport::Quic } else { Transport::Tcp })
            .await;
        answer(&client, "Echo", "up again").await;
    }
}

impl Kind {
    fn of(transports: Transports) -> Self {
        if transports == Transports::Quic { Self::Udp } else { Self::Tcp }
    }
}
