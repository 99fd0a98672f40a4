//! Ways to the gateway that are dead while others pass.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use towline_client::{
    Client, ClientConfig, ConnectionState, Endpoint, Network, NetworkKind, Resolve, Resolving, ShortCalls,
    Transport, Transports,
};

use crate::{
    bed::{Bed, answer, call, endpoint, online, state},
    chaos::{Chaos, Weather},
    transports::{Udp, online_by},
    waits::until,
};

/// Takes connections and datagrams, and says nothing.
async fn silent(address: IpAddr, port: u16) -> (SocketAddr, TcpListener, UdpSocket) {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, listener, UdpSocket::bind(address).await.unwrap())
}

/// A client whose network has a name, by way of `address`.
fn config(bed: &Bed, address: SocketAddr) -> ClientConfig {
    let mut config = bed.config(Transports::QuicAndTcp);
    config.endpoints = vec![endpoint(address)];
    config
}

#[tokio::test]
async fn quic_that_was_blocked_carries_the_line_where_tcp_that_had_won_is_dead() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("edge")).await;
    let udp = Udp::start(network.address(), bed.address("edge"), false).await;
    let client = Client::start(config(&bed, network.address())).unwrap();
    client.network_changed(Network::new(NetworkKind::Wifi, "office"));
    online_by(&client, Transport::Tcp).await;
    udp.set(true);
    network.set(Weather::Tunnel);
    client.reconnect();
    online_by(&client, Transport::Quic).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x");
}

/// A call that left as early data on QUIC, where no datagram passes any more, is answered over TCP, and runs once.
#[tokio::test]
async fn early_data_on_quic_that_is_not_answered_is_overtaken() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("edge")).await;
    let udp = Udp::start(network.address(), bed.address("edge"), true).await;
    let mut config = config(&bed, network.address());
    // Long enough for QUIC to win wherever it passes, at first and once its pace is known.
    config.policy.fallback_delay = Duration::from_secs(20);
    config.strategies.race.warm = false;
    config.strategies.race.stagger_min = Duration::from_secs(1);
    let client = Client::start(config).unwrap();
    online_by(&client, Transport::Quic).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    udp.set(false);
    client.reconnect();
    let caller = client.clone();
    let calling = tokio::spawn(async move { caller.call(call("Echo", "y")).await });
    online_by(&client, Transport::Tcp).await;
    assert_eq!(calling.await.unwrap().unwrap().into_grpc().unwrap(), "y");
    assert_eq!(bed.backend.counts("Echo").started, 2);
}

/// The same where the line has moved on to another network by then: what gets through on the one before is left there.
#[tokio::test]
async fn early_data_on_quic_that_has_moved_is_not_overtaken_by_the_network_that_it_came_from() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("edge")).await;
    let udp = Udp::start(network.address(), bed.address("edge"), true).await;
    let mut config = config(&bed, network.address());
    config.policy.fallback_delay = Duration::from_secs(20);
    config.strategies.race.warm = false;
    config.strategies.race.stagger_min = Duration::from_secs(1);
    let client = Client::start(config).unwrap();
    client.network_changed(Network::new(NetworkKind::Wifi, "home"));
    online_by(&client, Transport::Quic).await;
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let handshakes = bed.gateway().metrics.handshakes.with_label_values(&["edge", "ok"]);
    let (before, connections) = (handshakes.get(), network.accepted());
    udp.set(false);
    network.set(Weather::Tunnel);
    client.reconnect();
    until("TCP behind QUIC", || network.accepted() > connections).await;
    client.network_changed(Network::new(NetworkKind::Wifi, "train"));
    network.set(Weather::Clear);
    until("TCP to be through", || handshakes.get() > before).await;
    udp.set(true);
    let online = state(&client, |state| matches!(state, ConnectionState::Online { .. })).await;
    assert!(matches!(online, ConnectionState::Online { transport: Transport::Quic, .. }), "{online}");
    assert_eq!(answer(&client, "Echo", "y").await, "y");
}

/// TCP is refused and QUIC is silent; the attempt lasts longer than the call.
#[tokio::test]
async fn a_call_that_gives_up_before_there_is_a_connection_says_what_failed() {
    let bed = Bed::start().await;
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&bed, nobody.local_addr().unwrap());
    config.short_calls = ShortCalls::Off;
    let client = Client::start(config).unwrap();
    let mut request = call("Echo", "x");
    request.deadline = Some(Duration::from_secs(2));
    let error = client.call(request).await.unwrap_err().error.to_string();
    let start = "DeadlineExceeded (not run): the deadline passed before there was a connection: ";
    assert!(error.starts_with(start) && error.contains("TCP") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn one_gateway_of_three_is_enough() {
    let bed = Bed::start().await;
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (silent, _listener, _socket) = silent(here, 0).await;
    let gone = TcpListener::bind((here, 0)).await.unwrap().local_addr().unwrap();
    for order in [[0, 1, 2], [1, 0, 2], [2, 0, 1]] {
        let mut config = bed.config(Transports::QuicAndTcp);
        let all = [silent, gone, bed.address("edge")];
        config.endpoints = order.map(|place| endpoint(all[place])).to_vec();
        let client = Client::start(config).unwrap();
        online(&client).await;
        assert_eq!(answer(&client, "Echo", "x").await, "x");
    }
}

/// The same addresses for every name, or none yet.
#[derive(Clone, Default)]
struct Dns(Arc<Mutex<Vec<IpAddr>>>);

impl Resolve for Dns {
    fn resolve(&self, _: &str) -> Resolving {
        let addresses = self.0.lock().clone();
        Box::pin(async move {
            match addresses.is_empty() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(addresses),
            }
        })
    }
}

fn named(bed: &Bed, transports: Transports, dns: &Dns) -> ClientConfig {
    let mut config = bed.config(transports);
    config.endpoints = vec![Endpoint { host: "localhost".into(), port: bed.address("edge").port() }];
    config.resolver = Some(Arc::new(dns.clone()));
    config
}

#[tokio::test]
async fn a_broken_family_is_passed_by_on_each_transport() {
    let bed = Bed::start().await;
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let (_, _listener, _socket) = silent(six, bed.address("edge").port()).await;
    let dns = Dns::default();
    *dns.0.lock() = vec![six, IpAddr::V4(Ipv4Addr::LOCALHOST)];
    for transports in [Transports::Tcp, Transports::Quic, Transports::QuicAndTcp] {
        let client = Client::start(named(&bed, transports, &dns)).unwrap();
        assert_eq!(answer(&client, "Echo", "x").await, "x");
    }
}

#[tokio::test]
async fn a_client_that_was_started_without_dns_comes_up_with_it_though_nobody_tells_it() {
    let bed = Bed::start().await;
    let dns = Dns::default();
    let mut config = named(&bed, Transports::QuicAndTcp, &dns);
    // Behind so many failures a gateway would be asked once in an hour.
    (config.policy.backoff_min, config.policy.backoff_max) =
        (Duration::from_millis(10), Duration::from_secs(3600));
    let client = Client::start(config).unwrap();
    let mut states = client.states();
    for _ in 0..3 {
        states.changed().await.unwrap();
    }
    dns.0.lock().push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(answer(&client, "Echo", "x").await, "x");
}
