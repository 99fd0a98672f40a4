//! QUIC by quinn. Each connection has an endpoint (and so a port) of its own: a NAT that lost the old
//! binding then sees a new flow, and the endpoint goes away with its connection.

mod flights;

use std::{
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use quinn::{AsyncUdpSocket, ConnectionError, Endpoint, EndpointConfig, TokioRuntime};
use rustls::pki_types::ServerName;
use towline_protocols::policy::{KeyExchange, Network};

use self::flights::Flights;
use super::{ConnectError, Handshake, Moves, PathCounts, Wire, sockets::Sockets, tls::Secured};
use crate::{config::Limits, core::now, tickets::Transport, timeline::ConnectTimes};

/// After the address changed, the gateway has three round trips and this long to be heard on the new one.
const MOVE_GRACE: Duration = Duration::from_secs(1);

/// A QUIC connection and what it stands on.
pub(crate) struct QuicWire {
    pub(crate) connection: quinn::Connection,
    pub(crate) path: Path,
    /// Resolves with whether the gateway took what was said before it answered; `None` where it has answered.
    pub(crate) early: Option<quinn::ZeroRttAccepted>,
    /// How long it took; of one that may be used before the gateway has answered, nothing is known.
    pub(crate) times: ConnectTimes,
}

/// The socket of a connection, which may change under it (RFC 9000, section 9).
#[derive(Clone)]
pub(crate) struct Path {
    sockets: Sockets,
    endpoint: Endpoint,
    connection: quinn::Connection,
    /// What the first socket keeps of the handshake.
    flights: Option<Weak<Flights>>,
    moving: Option<Moving>,
}

/// The connection has moved, and nothing was heard since.
#[derive(Clone)]
struct Moving {
    due: Instant,
    /// Datagrams received before.
    heard: u64,
}

impl Path {
    /// Goes on from a new socket, of that network: the old one may be bound to an interface that is gone, or to a NAT's
    /// binding that is. The gateway is asked for a sign of life at once.
    pub(crate) fn move_on(&self, network: &Network) -> Moves {
        let (sockets, endpoint) = (self.sockets.on(network), self.endpoint.clone());
        let peer = self.connection.remote_address();
        Box::pin(async move { endpoint.rebind_abstract(sockets.udp(peer).await?) })
    }

    /// It goes on from there: the gateway should be heard soon.
    pub(crate) fn moved(&mut self, now: Instant) {
        let due = now + 3 * self.connection.rtt() + MOVE_GRACE;
        self.moving = Some(Moving { due, heard: self.heard() });
    }

    /// The gateway has answered what was said behind the handshake.
    pub(crate) fn welcomed(&self) {
        if let Some(flights) = self.flights.as_ref().and_then(Weak::upgrade) {
            flights.end();
        }
    }

    /// When to look whether the gateway was heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.moving.as_ref().map(|moving| moving.due)
    }

    /// Whether the gateway should have been heard by now, and was not.
    pub(crate) fn is_lost(&mut self, now: Instant) -> bool {
        let Some(moving) = self.moving.take_if(|moving| moving.due <= now) else { return false };
        self.heard() == moving.heard
    }

    /// What is counted of its packets.
    pub(crate) fn counts(&self) -> PathCounts {
        let stats = self.connection.stats();
        PathCounts {
            round_trip: stats.path.rtt,
            packets_sent: stats.path.sent_packets,
            packets_lost: stats.path.lost_packets,
            bytes_sent: stats.udp_tx.bytes.saturating_sub(stats.path.lost_bytes),
            bytes_received: stats.udp_rx.bytes,
        }
    }

    /// Datagrams that have come.
    pub(crate) fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }
}

/// Whom a connection leads to.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// What its certificate has to name.
    pub(super) name: String,
}

/// What a gateway refuses of a handshake with X25519 alone is made anew as a hybrid one; where the connection is in use
/// already, the next one is that.
pub(super) async fn connect(
    secured: &Secured,
    sockets: Sockets,
    server: Server,
    handshake: Handshake,
    limits: &Limits,
) -> Result<Wire, ConnectError> {
    let Server { address, name } = server;
    let failed = |error: &dyn std::fmt::Display| ConnectError(format!("QUIC {address}: {error}"));
    let name = ServerName::try_from(name).map_err(|error| failed(&error))?;
    let began = now();
    let made = secured.quic(&name, handshake, limits).map_err(|error| failed(&error))?;
    let shaken = match shake_hands(made.config, sockets.clone(), &name, address, handshake).await {
        Err(Failed::Tls(error)) if made.is_classical => {
            tracing::debug!(error, "a hybrid handshake instead");
            secured.resuming.refused(Transport::Quic, &name);
            let hybrid = Handshake { offer: KeyExchange::Hybrid, ..handshake };
            let made = secured.quic(&name, hybrid, limits).map_err(|error| failed(&error))?;
            shake_hands(made.config, sockets, &name, address, hybrid).await
        }
        shaken => shaken,
    };
    let (path, early) = shaken.map_err(|error| failed(&error))?;
    let connect = early.is_none().then(|| now().saturating_duration_since(began));
    let times = ConnectTimes { connect, ..ConnectTimes::default() };
    Ok(Wire::Quic(QuicWire { connection: path.connection.clone(), path, early, times }))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    /// One of both sides has ended the handshake.
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Other(ConnectionError),
}

/// Alerts of TLS as errors of QUIC (RFC 9001, section 4.8).
const CRYPTO_ERRORS: RangeInclusive<u64> = 0x100..=0x1ff;

impl From<ConnectionError> for Failed {
    fn from(error: ConnectionError) -> Self {
        let code = match &error {
            ConnectionError::TransportError(error) => Some(u64::from(error.code)),
            ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
            _ => None,
        };
        match code {
            Some(code) if CRYPTO_ERRORS.contains(&code) => Self::Tls(error.to_string()),
            _ => Self::Other(error),
        }
    }
}

async fn shake_hands(
    config: quinn::ClientConfig,
    sockets: Sockets,
    name: &ServerName<'static>,
    address: SocketAddr,
    handshake: Handshake,
) -> Result<(Path, Option<quinn::ZeroRttAccepted>), Failed> {
    let (endpoint, flights) = endpoint(&sockets, address, handshake.repeat).await?;
    let connecting = endpoint.connect_with(config, address, &name.to_str())?;
    // Without a ticket for early data there is nothing to say yet.
    let connecting = match handshake.flies {
        true => connecting.into_0rtt(),
        false => Err(connecting),
    };
    let (connection, early) = match connecting {
        Ok((connection, accepted)) => (connection, Some(accepted)),
        Err(connecting) => (connecting.await?, None),
    };
    Ok((Path { sockets, endpoint, connection, flights, moving: None }, early))
}

async fn endpoint(
    sockets: &Sockets,
    peer: SocketAddr,
    repeat: Option<f64>,
) -> io::Result<(Endpoint, Option<Weak<Flights>>)> {
    let socket = sockets.udp(peer).await?;
    let flights = repeat.map(|share| Flights::over(Arc::clone(&socket), share));
    let kept = flights.as_ref().map(Arc::downgrade);
    let socket = flights.map_or(socket, |flights| flights as Arc<dyn AsyncUdpSocket>);
    let runtime = Arc::new(TokioRuntime);
    let made = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime);
    made.map(|endpoint| (endpoint, kept))
}
