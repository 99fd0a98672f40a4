//! What begins on one transport goes on over the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use towline_client::{Client, ConnectionState, Transport, Transports};

use crate::{
    backend::noise,
    bed::{Bed, call, endpoint, state},
    chaos::Chaos,
};

const COUNT: usize = 300;
const MESSAGE_BYTES: usize = 1000;

/// A relay of datagrams for one client, on the port of a TCP proxy; while it is shut they are lost.
pub struct Udp {
    open: Arc<AtomicBool>,
}

impl Udp {
    pub async fn start(address: SocketAddr, gateway: SocketAddr, open: bool) -> Self {
        let inside = Arc::new(UdpSocket::bind(address).await.unwrap());
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (open, client) = (Arc::new(AtomicBool::new(open)), Arc::new(Mutex::new(address)));
        let (there, back) = (Arc::clone(&inside), Arc::clone(&outside));
        let (passes, from) = (Arc::clone(&open), Arc::clone(&client));
        tokio::spawn(async move {
            let mut datagram = vec![0; 65536];
            while let Ok((length, peer)) = there.recv_from(&mut datagram).await {
                *from.lock() = peer;
                if passes.load(Ordering::SeqCst) {
                    let _ = back.send_to(&datagram[..length], gateway).await;
                }
            }
        });
        let passes = Arc::clone(&open);
        tokio::spawn(async move {
            let mut datagram = vec![0; 65536];
            while let Ok((length, _)) = outside.recv_from(&mut datagram).await {
                let peer = *client.lock();
                if passes.load(Ordering::SeqCst) {
                    let _ = inside.send_to(&datagram[..length], peer).await;
                }
            }
        });
        Self { open }
    }

    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }
}

pub async fn online_by(client: &Client, wanted: Transport) {
    state(client, |state| matches!(state, ConnectionState::Online { transport, .. } if *transport == wanted))
        .await;
}

/// A request whose backend works, an answer of which a part has arrived, and a request of which a part was sent
/// change over.
async fn change_over(first: Transport, second: Transport) {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("edge")).await;
    let udp = Udp::start(network.address(), bed.address("edge"), first == Transport::Quic).await;
    let mut config = bed.config(Transports::QuicAndTcp);
    config.endpoints = vec![endpoint(network.address())];
    config.early_data = false;
    // Long enough for QUIC to win wherever it passes.
    config.policy.fallback_delay = Duration::from_secs(2);
    config.strategies.race.warm = false;
    let client = Client::start(config).unwrap();
    online_by(&client, first).await;

    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    let number = |value: usize| HeaderValue::from_str(&value.to_string()).unwrap();
    let flood = call("Flood", "")
        .header(HeaderName::from_static("x-count"), number(COUNT))
        .header(HeaderName::from_static("x-bytes"), number(MESSAGE_BYTES));
    let (mut sender, mut receiver) = client.stream(flood);
    sender.finish().await.unwrap();
    for _ in 0..10 {
        assert_eq!(receiver.message().await.unwrap().unwrap(), noise(MESSAGE_BYTES));
    }

    let (mut upload, mut echo) = client.stream(call("Echo", ""));
    let letters: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; 3000]).collect();
    for letter in &letters[..30] {
        upload.send(letter.clone()).await.unwrap();
    }
    bed.backend.wait("Echo", |counts| counts.started == 1).await;

    udp.set(second == Transport::Quic);
    // What was learnt about QUIC on the old network says nothing of the new one.
    client.network_changed(towline_client::Network::default());
    client.reconnect();
    network.cut();
    online_by(&client, second).await;
    for letter in &letters[30..] {
        upload.send(letter.clone()).await.unwrap();
    }
    upload.finish().await.unwrap();
    for letter in &letters {
        assert_eq!(&echo.message().await.unwrap().unwrap(), letter);
    }
    assert_eq!(echo.message().await.unwrap(), None);
    assert_eq!(bed.backend.counts("Echo").started, 1);
    bed.backend.release();
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay");
    let mut received = 10;
    while let Some(message) = receiver.message().await.unwrap() {
        assert_eq!(message, noise(MESSAGE_BYTES));
        received += 1;
    }
    assert_eq!(received, COUNT, "none is missing, none came twice");
    assert_eq!((bed.backend.counts("Hold").started, bed.backend.counts("Flood").started), (1, 1));
}

#[tokio::test]
async fn what_began_on_tcp_ends_on_quic() {
    change_over(Transport::Tcp, Transport::Quic).await;
}

#[tokio::test]
async fn what_began_on_quic_ends_on_tcp() {
    change_over(Transport::Quic, Transport::Tcp).await;
}
