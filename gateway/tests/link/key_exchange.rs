//! What ClientHellos cost of a slow network's uplink, and what they offer there, on real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use towline_client::{Client, ClientConfig, Network, NetworkKind, ShortCalls, Transport, Transports};

use crate::{
    bed::{Bed, answer, call, endpoint, online},
    tape::Tape,
    waits::until,
};

const X25519: u16 = 29;
const X25519_MLKEM768: u16 = 0x11ec;
const KEY_SHARE: u16 = 51;
const PRE_SHARED_KEY: u16 = 41;
const ALPN: u16 = 16;
/// The random that makes a ServerHello a HelloRetryRequest (RFC 8446, section 4.1.3).
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// A client on a network of that kind, from its first packet on.
fn start(mut config: ClientConfig, kind: NetworkKind, change: impl FnOnce(&mut ClientConfig)) -> Client {
    change(&mut config);
    let client = Client::start(config).unwrap();
    client.network_changed(Network::new(kind, "street"));
    client
}

/// What a flight's ClientHello says: its octets with the record's, the groups of its key shares, and whether it shows a
/// session.
fn hello(flight: &[u8]) -> (usize, Vec<u16>, bool) {
    let mut shares = extension(flight, KEY_SHARE).and_then(|list| list.get(2..)).unwrap_or_default();
    let mut groups = Vec::new();
    while shares.len() >= 4 {
        groups.push(short(shares, 0));
        shares = &shares[4 + usize::from(short(shares, 2))..];
    }
    (hello_length(flight), groups, extension(flight, PRE_SHARED_KEY).is_some())
}

/// What an extension of the ClientHello says.
fn extension(flight: &[u8], kind: u16) -> Option<&[u8]> {
    // Record, header, version and random.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(flight[at]);
    at += 2 + usize::from(short(flight, at));
    at += 1 + usize::from(flight[at]) + 2;
    while at < hello_length(flight) {
        let end = at + 4 + usize::from(short(flight, at + 2));
        if short(flight, at) == kind {
            return Some(&flight[at + 4..end]);
        }
        at = end;
    }
    None
}

/// With the record's header.
fn hello_length(flight: &[u8]) -> usize {
    5 + usize::from(short(flight, 3))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The hello of connection `place`, which the gateway answers at once.
async fn said(tape: &Tape, place: usize) -> (usize, Vec<u16>, bool) {
    let answer = tape.answer(place).await;
    assert!(answer[0] == 22 && answer[5] == 2 && answer[11..15] != RETRY, "a ServerHello");
    hello(&tape.flight(place).await)
}

/// The next connection, on which a call is answered.
async fn again(client: &Client) {
    let mut states = client.states();
    states.mark_unchanged();
    client.reconnect();
    states.changed().await.unwrap();
    online(client).await;
    assert_eq!(answer(client, "Echo", "x").await, "x");
}

#[tokio::test]
async fn on_a_slow_network_what_began_with_the_hybrid_is_resumed_without() {
    let bed = Bed::start().await;
    let tape = Tape::start(bed.address("edge")).await;
    let mut config = bed.config(Transports::Tcp);
    config.endpoints = vec![endpoint(tape.address())];
    let hybrid = vec![X25519_MLKEM768, X25519];

    let client = start(config.clone(), NetworkKind::Cellular2g, |_| {});
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let (whole, groups, resumes) = said(&tape, 0).await;
    assert_eq!((groups, resumes), (hybrid.clone(), false), "the first handshake");
    again(&client).await;
    let (slow, groups, resumes) = said(&tape, 1).await;
    assert_eq!((groups, resumes), (vec![X25519], true), "resumed");
    again(&client).await;
    assert_eq!(said(&tape, 2).await.1, vec![X25519], "resumed from what was resumed so");
    // The device comes to a network that is not slow.
    let mut states = client.states();
    states.mark_unchanged();
    client.network_changed(Network::new(NetworkKind::Wifi, "home"));
    states.changed().await.unwrap();
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let (quick, groups, resumes) = said(&tape, 3).await;
    assert_eq!((groups, resumes), (hybrid, true), "from what was resumed with X25519");
    assert!(whole > 1300 && quick > slow + 1150, "{whole} {slow} {quick}");
    let early = bed.gateway().metrics.early_data.with_label_values(&["edge", "accepted"]).get();
    assert_eq!(early, 3, "whatever is offered");
}

#[tokio::test]
async fn an_operator_may_forbid_it_and_may_have_it_from_the_first_handshake_on() {
    let bed = Bed::start().await;
    let tape = Tape::start(bed.address("edge")).await;
    let mut config = bed.config(Transports::Tcp);
    config.endpoints = vec![endpoint(tape.address())];
    let kind = NetworkKind::Cellular2g;
    let client = start(config.clone(), kind, |config| config.strategies.handshake.enabled = false);
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    again(&client).await;
    for place in 0..2 {
        assert_eq!(said(&tape, place).await.1, [X25519_MLKEM768, X25519], "{place}");
    }
    client.close().await;

    let client = start(config, kind, |config| config.strategies.handshake.whole = true);
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    let (bytes, groups, resumes) = said(&tape, 2).await;
    assert_eq!((groups, resumes), (vec![X25519], false));
    assert!(bytes < 300, "{bytes}");
}

/// The groups that connections for POSTs offer, one after the other, and whether each shows a session.
async fn posts(tape: &Tape) -> Vec<(Vec<u16>, bool)> {
    let mut posts = Vec::new();
    for place in 0..tape.connections() {
        let flight = tape.flight(place).await;
        let protocols = extension(&flight, ALPN).unwrap();
        if protocols.windows(3).any(|name| name == b"\x02h2") {
            let (_, groups, resumes) = said(tape, place).await;
            posts.push((groups, resumes));
        }
    }
    posts
}

/// Connections for POSTs have sessions of their own, and are judged as the link's are.
#[tokio::test]
async fn posts_on_a_slow_network_resume_without_the_hybrid_as_the_link_does() {
    let (hybrid, classical): (&[u16], &[u16]) = (&[X25519_MLKEM768, X25519], &[X25519]);
    let slow = NetworkKind::Cellular2g;
    for (kind, enabled, always, [whole, resumed]) in [
        (slow, true, false, [hybrid, classical]),
        (NetworkKind::Wifi, true, false, [hybrid, hybrid]),
        (slow, false, false, [hybrid, hybrid]),
        (slow, true, true, [classical, classical]),
    ] {
        let bed = Bed::start().await;
        let tape = Tape::start(bed.address("edge")).await;
        let mut config = bed.config(Transports::Tcp);
        config.endpoints = vec![endpoint(tape.address())];
        config.short_calls = ShortCalls::Always;
        let client = start(config, kind, |config| {
            config.strategies.handshake.enabled = enabled;
            config.strategies.handshake.whole = always;
        });
        let mut states = client.states();
        for n in 1..=2 {
            // What is known of the change of the network is known to all then.
            online(&client).await;
            let response = client.call(call("Echo", "x")).await.unwrap();
            assert_eq!(response.timeline.transport, Some(Transport::Post));
            assert_eq!(posts(&tape).await.len(), n, "{kind:?}");
            // The same network with another address: connections for POSTs are made anew.
            states.mark_unchanged();
            client.network_changed(Network::new(kind, "street"));
            states.changed().await.unwrap();
        }
        assert_eq!(posts(&tape).await, [(whole.to_vec(), false), (resumed.to_vec(), true)], "{kind:?}");
        assert_eq!(bed.backend.counts("Echo").started, 2);
    }
}

/// A connection that is made beside the line's own offers what the network is good for that it is made on, whichever is in
/// use.
#[tokio::test]
async fn second_connections_offer_what_suits_the_network_that_joins() {
    let hybrid: &[u16] = &[X25519_MLKEM768, X25519];
    for (in_use, joins, offered) in [
        (NetworkKind::Wifi, NetworkKind::Cellular2g, &[X25519][..]),
        (NetworkKind::Cellular2g, NetworkKind::Wifi, hybrid),
    ] {
        let bed = Bed::start().await;
        let tape = Tape::start(bed.address("edge")).await;
        let mut config = bed.config(Transports::Tcp);
        config.endpoints = vec![endpoint(tape.address())];
        let client = start(config, in_use, |config| {
            config.short_calls = ShortCalls::Off;
            config.strategies.liveness.enabled = false;
            config.strategies.handover.check_gap = Duration::from_millis(100);
        });
        assert_eq!(answer(&client, "Echo", "x").await, "x");
        assert_eq!(said(&tape, 0).await.1, hybrid, "the first handshake");
        let joined = Network::new(joins, "there");
        client.network_joined(joined.clone());
        until("the line to move", || client.network() == joined).await;
        online(&client).await;
        assert_eq!(answer(&client, "Echo", "y").await, "y");
        for place in [1, 2] {
            let (_, groups, resumes) = said(&tape, place).await;
            assert_eq!((&groups[..], resumes), (offered, true), "{joins:?} joins {in_use:?}: {place}");
        }
        assert_eq!(tape.connections(), 3);
    }
}

/// At a gateway that goes, the next one is greeted as the network in use asks for. It keeps no session of the client's, and
/// gets a hybrid handshake.
#[tokio::test]
async fn a_second_connection_to_a_gateway_that_knows_no_session_is_hybrid_also_on_a_slow_network() {
    let next = Bed::start().await;
    let tape = Tape::start(next.address("edge")).await;
    let first = next.twin(Duration::from_secs(1), tape.address()).await;
    let client = start(first.config(Transports::Tcp), NetworkKind::Cellular2g, |config| {
        config.short_calls = ShortCalls::Off;
        config.strategies.liveness.enabled = false;
    });
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    first.gateway().drain.begin(tokio::time::Instant::now() + Duration::from_secs(3600));
    until("the line to move", || tape.connections() == 2).await;
    assert_eq!(hello(&tape.flight(0).await).1, [X25519]);
    assert_eq!(said(&tape, 1).await.1, [X25519_MLKEM768, X25519]);
    until("the line to be there", || {
        next.gateway().metrics.handshakes.with_label_values(&["edge", "ok"]).get() > 0
    })
    .await;
}

/// A relay of datagrams that counts those that each port of a client says before it is answered.
struct Counter {
    address: SocketAddr,
    flights: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Counter {
    async fn start(gateway: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, flights) = (inside.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let counted = Arc::clone(&flights);
        tokio::spawn(async move {
            let mut known: Vec<(SocketAddr, Arc<UdpSocket>, Arc<Mutex<bool>>)> = Vec::new();
            let mut datagram = vec![0; 65536];
            while let Ok((length, peer)) = inside.recv_from(&mut datagram).await {
                if !known.iter().any(|(of, ..)| *of == peer) {
                    let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    let is_answered = Arc::new(Mutex::new(false));
                    known.push((peer, Arc::clone(&outside), Arc::clone(&is_answered)));
                    counted.lock().push((0, 0));
                    tokio::spawn(back(outside, Arc::clone(&inside), peer, is_answered));
                }
                let place = known.iter().position(|(of, ..)| *of == peer).unwrap();
                let (_, outside, is_answered) = &known[place];
                if !*is_answered.lock() {
                    let flight = &mut counted.lock()[place];
                    *flight = (flight.0 + 1, flight.1 + length);
                }
                let _ = outside.send_to(&datagram[..length], gateway).await;
            }
        });
        Self { address, flights }
    }

    /// Datagrams and bytes of the first flight of connection `place`.
    fn flight(&self, place: usize) -> (usize, usize) {
        self.flights.lock()[place]
    }
}

async fn back(from: Arc<UdpSocket>, to: Arc<UdpSocket>, peer: SocketAddr, is_answered: Arc<Mutex<bool>>) {
    let mut datagram = vec![0; 65536];
    while let Ok((length, _)) = from.recv_from(&mut datagram).await {
        *is_answered.lock() = true;
        let _ = to.send_to(&datagram[..length], peer).await;
    }
}

/// Nothing goes early here, so that ClientHello is all that is said at first; on a network this slow nobody says it again
/// before it is answered.
#[tokio::test]
async fn on_quic_a_hello_without_the_hybrid_is_one_datagram() {
    let bed = Bed::start().await;
    let relay = Counter::start(bed.address("edge")).await;
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(relay.address)];
    config.early_data = false;
    let kind = NetworkKind::Cellular2g;
    let client = start(config.clone(), kind, |_| {});
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    again(&client).await;
    client.close().await;
    let whole = start(config.clone(), kind, |config| config.strategies.handshake.whole = true);
    assert_eq!(answer(&whole, "Echo", "x").await, "x");
    whole.close().await;
    let hybrid = start(config, kind, |config| config.strategies.handshake.enabled = false);
    assert_eq!(answer(&hybrid, "Echo", "x").await, "x");
    again(&hybrid).await;
    let flights = [0, 1, 2, 3, 4].map(|place| relay.flight(place));
    assert_eq!(flights.map(|(datagrams, _)| datagrams), [2, 1, 1, 2, 2], "{flights:?}");
    assert!(flights.iter().all(|(datagrams, bytes)| *bytes == datagrams * 1200), "{flights:?}");
}
