//! Races on a network that has joined the one in use: they know where they are, and keep the pace of that.

use std::{
    io::IoSliceMut,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::time::timeout;

use super::*;
use crate::{BindUdp, Transports};

/// A round trip of an earlier stay.
const SLOW: Duration = Duration::from_millis(300);

fn street() -> Network {
    Network::new(NetworkKind::Cellular2g, "street")
}

fn home() -> Network {
    Network::new(NetworkKind::Wifi, "home")
}

/// A network of a quick kind, which was not quick when the device was there.
fn cafe() -> Network {
    Network::new(NetworkKind::Wifi, "cafe")
}

/// A client that is on `in_use`, and was at the café.
fn rig(config: ClientConfig, in_use: &Network) -> Rig {
    let rig = Rig::new(config);
    rig.shared.is_on(cafe());
    for _ in 0..10 {
        rig.shared.quality.on(Event::RoundTrip(SLOW));
    }
    rig.shared.is_on(in_use.clone());
    rig
}

/// When the second gateway takes part in a race on `network`, while the device is on `in_use`.
async fn second_turn(in_use: &Network, network: &Network) -> Duration {
    let world = World::with(&[(1, Fate::Silent)]);
    let mut config = dialed(&world);
    // On 2G the second would come behind the end of the race.
    config.strategies.race.gateway_staggers = 1;
    let rig = rig(config, in_use);
    let (mut race, began) = (rig.race_on(network.clone()), Instant::now());
    assert_eq!(race.next().await.map(|made| made.gateway.port).map_err(|error| error.0), Ok(2));
    assert_eq!(world.dialed(), [1, 2]);
    assert_eq!(world.networks(), [network.clone(), network.clone()]);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_race_keeps_the_pace_of_the_network_that_it_runs_on() {
    let networks = [home(), street(), cafe()];
    let mut turns = Vec::new();
    for network in &networks {
        turns.push(second_turn(network, network).await);
    }
    assert!(2 * turns[0] < turns[2] && turns[2] < turns[1], "{turns:?}");
    for (joined, turn) in networks.iter().zip(&turns) {
        for in_use in networks.iter().filter(|it| *it != joined) {
            assert_eq!(second_turn(in_use, joined).await, *turn, "{joined:?} joins {in_use:?}");
        }
    }
}

/// When datagrams were sent.
#[derive(Debug)]
struct Silence {
    began: Instant,
    sent: Mutex<Vec<Duration>>,
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Silence {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        self.sent.lock().push(self.began.elapsed());
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 1).into())
    }
}

/// Makes a socket that nobody answers, for one network.
struct Udp {
    network: Network,
    silence: Arc<Silence>,
}

impl BindUdp for Udp {
    fn bind_udp(&self, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::other("asked without a network"))
    }

    fn bind_udp_on(&self, network: &Network, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        match *network == self.network {
            true => Ok(Arc::clone(&self.silence) as Arc<dyn AsyncUdpSocket>),
            false => Err(io::Error::other(format!("of another network: {network:?}"))),
        }
    }
}

/// When QUIC's first packet is sent again on `network`, while the device is on `in_use`.
async fn sent_again(in_use: &Network, network: &Network) -> Duration {
    let silence = Arc::new(Silence { began: Instant::now(), sent: Mutex::default() });
    let authority = rcgen::generate_simple_self_signed(vec!["edge".into()]).unwrap().cert.pem();
    let gateway = Endpoint { host: "192.0.2.1".into(), port: 443 };
    let mut config = ClientConfig::new(vec![gateway], authority);
    config.transports = Transports::Quic;
    config.udp = Some(Arc::new(Udp { network: network.clone(), silence: Arc::clone(&silence) }));
    let rig = rig(config, in_use);
    let mut race = rig.race_on(network.clone());
    assert!(timeout(Duration::from_secs(9), race.next()).await.is_err(), "somebody answered");
    let sent = silence.sent.lock();
    // ClientHello may take more than one datagram.
    *sent.iter().find(|at| **at > Duration::from_millis(1)).unwrap()
}

/// The guess of a round trip that is behind it decides how long a lost packet costs.
#[tokio::test(start_paused = true)]
async fn quic_says_again_what_was_lost_at_the_pace_of_the_network_that_it_is_on() {
    let (quick, slow) = (sent_again(&home(), &home()).await, sent_again(&street(), &street()).await);
    assert!(2 * quick < slow, "{quick:?} {slow:?}");
    assert_eq!(sent_again(&street(), &home()).await, quick);
    assert_eq!(sent_again(&home(), &street()).await, slow);
    let known = sent_again(&street(), &cafe()).await;
    assert!(2 * quick < known && known < slow, "{quick:?} {known:?} {slow:?}");
    assert_eq!(sent_again(&cafe(), &cafe()).await, known);
}
