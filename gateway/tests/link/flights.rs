//! Flights of QUIC's handshake that are lost.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::UdpSocket, time::sleep};
use towline_client::{Client, Transports};

use crate::bed::{Bed, answer, endpoint};

/// What a datagram takes from one end to the other: long beside what this machine does meanwhile.
const DELAY: Duration = Duration::from_millis(100);

/// A relay that loses what the client says behind the gateway's first word, until the client says a datagram of it again.
struct Loses {
    address: SocketAddr,
    said_again: Arc<AtomicBool>,
}

impl Loses {
    async fn start(gateway: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = inside.local_addr().unwrap();
        let (said_again, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let client = Arc::new(Mutex::new(address));
        let (there, back, from) = (Arc::clone(&inside), Arc::clone(&outside), Arc::clone(&client));
        let (is_open, is_answered) = (Arc::clone(&said_again), Arc::clone(&answered));
        tokio::spawn(async move {
            let (mut datagram, mut lost) = (vec![0; 65536], HashSet::new());
            while let Ok((length, peer)) = there.recv_from(&mut datagram).await {
                *from.lock() = peer;
                let datagram = datagram[..length].to_vec();
                if is_answered.load(Ordering::SeqCst) && !is_open.load(Ordering::SeqCst) {
                    if lost.insert(datagram.clone()) {
                        continue;
                    }
                    is_open.store(true, Ordering::SeqCst);
                }
                later(&back, datagram, gateway);
            }
        });
        tokio::spawn(async move {
            let mut datagram = vec![0; 65536];
            while let Ok((length, _)) = outside.recv_from(&mut datagram).await {
                answered.store(true, Ordering::SeqCst);
                later(&inside, datagram[..length].to_vec(), *client.lock());
            }
        });
        Self { address, said_again }
    }
}

fn later(socket: &Arc<UdpSocket>, datagram: Vec<u8>, to: SocketAddr) {
    let socket = Arc::clone(socket);
    tokio::spawn(async move {
        sleep(DELAY).await;
        let _ = socket.send_to(&datagram, to).await;
    });
}

/// Finished and the first call are lost together: QUIC alone would say something else next, and never the same again.
#[tokio::test]
async fn a_second_flight_that_is_lost_is_said_again_with_the_call_that_was_in_it() {
    let bed = Bed::start().await;
    let relay = Loses::start(bed.address("edge")).await;
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(relay.address)];
    let client = Client::start(config).unwrap();
    assert_eq!(answer(&client, "Echo", "x").await, "x");
    assert!(relay.said_again.load(Ordering::SeqCst));
    assert_eq!(bed.backend.counts("Echo").started, 1);
}
