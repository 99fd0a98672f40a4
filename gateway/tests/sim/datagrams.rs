//! A network of datagrams, which are lost, late, doubled, and overtake each other. QUIC itself runs over it:
//! quinn and its TLS on both sides, of whose randomness only lengths could show, and those are fixed.

use std::{
    collections::BTreeMap,
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::network::Quality;

/// Where every life of a gateway listens.
pub(crate) const GATEWAYS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 443),
];
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
/// What waits for a slow network before it is dropped.
const QUEUE_MAX: Duration = Duration::from_secs(2);
/// How late the second of a doubled datagram may be.
const TWIN_LATE_MAX: Duration = Duration::from_secs(4);

/// The network.
pub(crate) struct Datagrams {
    quality: Quality,
    state: Mutex<State>,
}

struct State {
    chance: fastrand::Rng,
    ports: BTreeMap<SocketAddr, Port>,
    sockets_made: u64,
    /// Nothing passes, as where a firewall knows only TCP.
    blocked: bool,
    /// None is lost or doubled any more.
    at_peace: bool,
}

/// What an address holds.
struct Port {
    /// Which socket it belongs to.
    socket: u64,
    /// Nothing comes or goes any more.
    cut: bool,
    /// When the network has taken what was sent so far.
    idle_at: Instant,
    /// On its way to it.
    arriving: BTreeMap<(Instant, u64), (SocketAddr, Bytes)>,
    arrivals: u64,
    waker: Option<Waker>,
}

impl Datagrams {
    pub(crate) fn new(quality: Quality, chance: fastrand::Rng) -> Arc<Self> {
        let state =
            State { chance, ports: BTreeMap::new(), sockets_made: 0, blocked: false, at_peace: false };
        Arc::new(Self { quality, state: Mutex::new(state) })
    }

    /// A gateway's socket; one of an earlier life is cut off.
    pub(crate) fn bind_gateway(self: &Arc<Self>, gateway: usize) -> Arc<Socket> {
        self.bind(GATEWAYS[gateway])
    }

    /// A client's, at a port that no other has had.
    pub(crate) fn bind_client(self: &Arc<Self>) -> Arc<Socket> {
        let made = lock(&self.state).sockets_made;
        self.bind(SocketAddr::new(CLIENT, 1024 + (made % 60_000) as u16))
    }

    /// Clients' sockets reach nobody any more; what is under way is lost.
    pub(crate) fn cut_clients(&self) {
        let mut state = lock(&self.state);
        for (_, port) in state.ports.iter_mut().filter(|(address, _)| !GATEWAYS.contains(address)) {
            port.cut = true;
            port.arriving.clear();
        }
    }

    /// From one moment to the next, nothing comes to that gateway or from it.
    pub(crate) fn cut_gateway(&self, gateway: usize) {
        lock(&self.state).ports.remove(&GATEWAYS[gateway]);
    }

    pub(crate) fn block(&self, blocked: bool) {
        lock(&self.state).blocked = blocked;
    }

    pub(crate) fn make_peace(&self) {
        let mut state = lock(&self.state);
        (state.blocked, state.at_peace) = (false, true);
    }

    fn bind(self: &Arc<Self>, address: SocketAddr) -> Arc<Socket> {
        let mut state = lock(&self.state);
        state.sockets_made += 1;
        let port = Port {
            socket: state.sockets_made,
            cut: false,
            idle_at: Instant::now(),
            arriving: BTreeMap::new(),
            arrivals: 0,
            waker: None,
        };
        let id = port.socket;
        state.ports.insert(address, port);
        Arc::new(Socket { network: Arc::clone(self), address, id, due: Mutex::new(None) })
    }

    fn send(&self, socket: &Socket, to: SocketAddr, content: &[u8]) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let Some(sender) = state.port(socket).filter(|port| !port.cut) else { return };
        let taken = sender.idle_at.max(now)
            + Duration::from_secs_f64(content.len() as f64 / self.quality.bytes_per_s);
        if taken > now + QUEUE_MAX {
            return;
        }
        sender.idle_at = taken;
        let mut arrivals = vec![taken + self.late(&mut state.chance)];
        let happens = |state: &mut State, odds: f64| state.chance.f64() < odds && !state.at_peace;
        if happens(&mut state, self.quality.doubled) {
            arrivals.push(taken + TWIN_LATE_MAX.mul_f64(state.chance.f64()));
        }
        if state.blocked || happens(&mut state, self.quality.lost) {
            arrivals.remove(0);
        }
        let Some(receiver) = state.ports.get_mut(&to).filter(|port| !port.cut) else { return };
        for at in arrivals {
            receiver.arrivals += 1;
            let place = (at, receiver.arrivals);
            receiver.arriving.insert(place, (socket.address, Bytes::copy_from_slice(content)));
        }
        receiver.waker.take().into_iter().for_each(Waker::wake);
    }

    fn late(&self, chance: &mut fastrand::Rng) -> Duration {
        self.quality.delay + self.quality.jitter.mul_f64(chance.f64())
    }
}

impl State {
    /// What the socket's address holds, while it is the socket's.
    fn port(&mut self, socket: &Socket) -> Option<&mut Port> {
        self.ports.get_mut(&socket.address).filter(|port| port.socket == socket.id)
    }
}

/// An end of the network.
pub(crate) struct Socket {
    network: Arc<Datagrams>,
    address: SocketAddr,
    id: u64,
    due: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.send(self, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.network.state);
        let Some(port) = state.port(self) else { return Poll::Pending };
        let now = Instant::now();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(arrived) = port.arriving.first_entry().filter(|entry| entry.key().0 <= now) else {
                break;
            };
            let (from, content) = arrived.remove();
            buffer[..content.len()].copy_from_slice(&content);
            let (len, stride) = (content.len(), content.len());
            *meta = RecvMeta { addr: from, len, stride, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        port.waker = Some(cx.waker().clone());
        if let Some(((at, _), _)) = port.arriving.first_key_value() {
            let mut due = lock(&self.due);
            let due = due.get_or_insert_with(|| Box::pin(sleep_until(*at)));
            due.as_mut().reset(*at);
            _ = due.as_mut().poll(cx);
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = lock(&self.network.state);
        if state.port(self).is_some() {
            state.ports.remove(&self.address);
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
