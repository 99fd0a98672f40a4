//! Byte streams and datagram sockets that the app makes itself: tunnels, and simulated networks.

#[cfg(feature = "quic")]
use std::net::SocketAddr;
use std::{future::Future, io, pin::Pin, sync::Arc};

#[cfg(feature = "quic")]
use quinn::AsyncUdpSocket;
use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::policy::Network;

use super::{ConnectError, FirstFlight, Wire, tcp::ByteStream};
use crate::{config::Endpoint, core::now, timeline::ConnectTimes};

/// Makes the byte streams that the link runs over, in place of TCP and TLS: whoever brings it answers for
/// encryption and for who is at the other end.
pub trait Dial: Send + Sync {
    /// A stream to `endpoint`. Where it can carry early data (RFC 8446, section 2.3), it may ask `flight` for it, once.
    fn dial(&self, endpoint: &Endpoint, flight: FirstFlight) -> Dialing;

    /// The same on `network`, which is the one in use, or one that has joined it ([`crate::Client::network_joined`]). This is
    /// what the client asks; whoever tells networks apart answers it.
    fn dial_on(&self, network: &Network, endpoint: &Endpoint, flight: FirstFlight) -> Dialing {
        let _ = network;
        self.dial(endpoint, flight)
    }

    /// Whether [`Dial::dial_http`] leads somewhere. Without it, calls do not go out over short connections.
    fn carries_http(&self) -> bool {
        false
    }

    /// A stream to `endpoint` on which HTTP/1.1 is spoken.
    fn dial_http(&self, endpoint: &Endpoint) -> Dialing {
        self.dial(endpoint, Arc::new(|| None))
    }

    /// The same on `network`, as [`Dial::dial_on`].
    fn dial_http_on(&self, network: &Network, endpoint: &Endpoint) -> Dialing {
        let _ = network;
        self.dial_http(endpoint)
    }
}

/// A stream, once it is established.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send>>;

/// What [`Dial`] made.
pub struct Dialed {
    /// The stream; the gateway has answered.
    pub stream: Box<dyn ByteIo>,
    /// Bytes of the first flight that the gateway has taken as early data; those behind it are sent on the
    /// stream.
    pub early: usize,
}

/// Any byte stream.
pub trait ByteIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteIo for S {}

/// Makes the sockets that QUIC runs over, in place of the operating system's.
#[cfg(feature = "quic")]
pub trait BindUdp: Send + Sync {
    /// A socket with a port of its own, from which `peer` can be reached. Each connection asks for one, and for
    /// another when the network changes under it.
    ///
    /// # Errors
    /// The connection is given up, and another is tried as the policy says.
    fn bind_udp(&self, peer: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The same on `network`, as [`Dial::dial_on`]; a connection that moves to another one names that.
    ///
    /// # Errors
    /// As of [`BindUdp::bind_udp`].
    fn bind_udp_on(&self, network: &Network, peer: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _ = network;
        self.bind_udp(peer)
    }
}

pub(super) async fn connect(
    dialer: &dyn Dial,
    network: &Network,
    endpoint: &Endpoint,
    flight: FirstFlight,
) -> Result<Wire, ConnectError> {
    let began = now();
    let dialed = dialer.dial_on(network, endpoint, flight).await;
    let Dialed { stream, early } = dialed.map_err(|error| ConnectError(error.to_string()))?;
    let times =
        ConnectTimes { connect: Some(now().saturating_duration_since(began)), ..ConnectTimes::default() };
    Ok(Wire::Tcp { stream: ByteStream::Own(stream), early, times })
}
