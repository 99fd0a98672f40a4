//! Where sockets come from: the operating system, unless the app makes them. Each is made for one network, and the app may
//! bind it there before it says anything.

#[cfg(feature = "quic")]
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

#[cfg(feature = "quic")]
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};
use towline_protocols::policy::Network;

#[cfg(feature = "quic")]
use super::BindUdp;
use crate::{config::ClientConfig, work};

/// A socket that belongs to the client.
#[cfg(unix)]
pub type SocketHandle<'a> = std::os::fd::BorrowedFd<'a>;
/// A socket that belongs to the client.
#[cfg(windows)]
pub type SocketHandle<'a> = std::os::windows::io::BorrowedSocket<'a>;

/// Binds the sockets that the client makes to the networks that they are for, as `SO_BINDTODEVICE`, Apple's `IP_BOUND_IF` and
/// Android's `Network.bindSocket` do. Without it they follow the routes of the system, which leave a network that has joined
/// ([`crate::Client::network_joined`]) unused until it is the default.
pub trait BindSocket: Send + Sync {
    /// Called for each socket of the link, of second connections and of POSTs before it connects, or sends where it is one of
    /// UDP. `network` is one that the app has told of; where it told of none, the default one. It runs on a thread where it
    /// may block, and several may run at one time.
    ///
    /// # Errors
    /// The attempt fails, as it does behind five seconds, and another is made as the policy says.
    fn bind_socket(&self, socket: SocketHandle<'_>, peer: SocketAddr, network: &Network) -> io::Result<()>;
}

/// How long the app has. One that hangs must not keep an attempt for good.
const BIND_MAX: Duration = Duration::from_secs(5);
/// Sockets that are being bound at one time: one that hangs holds a thread, and others have need of threads too.
const BINDS_MAX: usize = 4;

/// Who makes sockets, and who binds them.
#[derive(Clone, Default)]
pub(super) struct Makers {
    #[cfg(feature = "quic")]
    udp: Option<Arc<dyn BindUdp>>,
    binder: Option<Binder>,
}

impl Makers {
    pub(super) fn of(config: &ClientConfig) -> Self {
        Self {
            #[cfg(feature = "quic")]
            udp: config.udp.clone(),
            binder: config.binder.clone().map(Binder::new),
        }
    }

    /// For sockets of that network.
    pub(super) fn on(&self, network: &Network) -> Sockets {
        Sockets { makers: self.clone(), network: Arc::new(network.clone()) }
    }
}

/// Makes the sockets of one network.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    makers: Makers,
    network: Arc<Network>,
}

impl Sockets {
    /// The same of another network.
    #[cfg(feature = "quic")]
    pub(super) fn on(&self, network: &Network) -> Self {
        self.makers.on(network)
    }

    /// A connection to `peer`.
    pub(super) async fn tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        let stream = match &self.makers.binder {
            None => TcpStream::connect(peer).await?,
            Some(binder) => {
                let socket = match peer {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                binder.bind(socket, peer, &self.network).await?.connect(peer).await?
            }
        };
        // Frames are written whole; waiting for more would only delay them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A socket from which `peer` can be reached.
    #[cfg(feature = "quic")]
    pub(super) async fn udp(&self, peer: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        if let Some(own) = &self.makers.udp {
            return own.bind_udp_on(&self.network, peer);
        }
        let socket = UdpSocket::bind(unspecified(peer))?;
        let socket = match &self.makers.binder {
            None => socket,
            Some(binder) => binder.bind(socket, peer, &self.network).await?,
        };
        TokioRuntime.wrap_udp_socket(socket)
    }
}

/// The app's way of binding.
#[derive(Clone)]
struct Binder {
    app: Arc<dyn BindSocket>,
    turns: Arc<Semaphore>,
}

impl Binder {
    fn new(app: Arc<dyn BindSocket>) -> Self {
        Self { app, turns: Arc::new(Semaphore::new(BINDS_MAX)) }
    }

    /// The socket, bound. One that is given up while the app has it is closed once that is done.
    async fn bind<S: Handle>(&self, socket: S, peer: SocketAddr, network: &Arc<Network>) -> io::Result<S> {
        let (app, network) = (Arc::clone(&self.app), Arc::clone(network));
        let bound = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
            let work = move || {
                let bound = app.bind_socket(socket.handle(), peer, &network).map(|()| socket);
                drop(turn);
                bound
            };
            spawn_blocking(work::blocking(work)).await.map_err(io::Error::other)?
        };
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("the app did not bind the socket to its network: {error}"))
        };
        match timeout(BIND_MAX, bound).await {
            Ok(bound) => bound.map_err(failed),
            Err(_) => {
                let text = format!("the app did not bind the socket to its network within {BIND_MAX:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

/// What the app gets of a socket.
trait Handle: Send + 'static {
    fn handle(&self) -> SocketHandle<'_>;
}

#[cfg(unix)]
impl<S: std::os::fd::AsFd + Send + 'static> Handle for S {
    fn handle(&self) -> SocketHandle<'_> {
        self.as_fd()
    }
}

#[cfg(windows)]
impl<S: std::os::windows::io::AsSocket + Send + 'static> Handle for S {
    fn handle(&self) -> SocketHandle<'_> {
        self.as_socket()
    }
}

#[cfg(feature = "quic")]
fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
#[cfg(feature = "quic")]
mod tests;
