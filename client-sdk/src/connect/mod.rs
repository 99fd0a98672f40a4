//! From a list of gateways to one live wire: all ways to them race, the first handshake that completes wins, the others
//! are closed.

mod dial;
mod early;
mod http;
#[cfg(feature = "quic")]
mod quic;
#[cfg(not(feature = "quic"))]
#[path = "without_quic.rs"]
mod quic;
mod racing;
mod resolve;
mod sockets;
mod tcp;
mod tls;

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use towline_protocols::policy::{KeyExchange, Network, Transport as Kind, Way};

#[cfg(feature = "quic")]
pub use dial::BindUdp;
pub use dial::{ByteIo, Dial, Dialed, Dialing};
pub use early::FirstFlight;
pub(crate) use http::{HttpConnector, HttpVersion};
pub(crate) use quic::{Path, QuicWire};
pub(crate) use racing::{Choice, Racing, Reached};
pub use resolve::{Resolve, Resolving};
pub use sockets::{BindSocket, SocketHandle};
pub(crate) use tcp::ByteStream;

use crate::{
    bundled::Bundle,
    config::{ClientConfig, Endpoint, Limits, Security, Transports},
    error::StartError,
    state::Transport,
    tickets::Tickets,
    timeline::ConnectTimes,
};

/// An established connection: the gateway has answered.
pub(crate) enum Wire {
    /// TLS or plaintext over TCP.
    Tcp {
        /// What bytes go by.
        stream: ByteStream,
        /// Bytes of the first flight that the gateway has taken as early data.
        early: usize,
        /// How long it took.
        times: ConnectTimes,
    },
    /// QUIC. With early data the gateway may not have answered yet.
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "nobody makes one"))]
    Quic(QuicWire),
}

impl Wire {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } => Transport::Tcp,
            Self::Quic(_) => Transport::Quic,
        }
    }

    /// How long making it took.
    pub(crate) fn times(&self) -> ConnectTimes {
        match self {
            Self::Tcp { times, .. } | Self::Quic(QuicWire { times, .. }) => *times,
        }
    }

    fn found_after(mut self, dns: Option<Duration>) -> Self {
        match &mut self {
            Self::Tcp { times, .. } | Self::Quic(QuicWire { times, .. }) => times.dns = dns,
        }
        self
    }

    /// Whether it may be used although the gateway has not answered.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Quic(QuicWire { early: Some(_), .. }))
    }
}

/// What a connection has counted since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathCounts {
    /// Smoothed.
    pub(crate) round_trip: Duration,
    pub(crate) packets_sent: u64,
    pub(crate) packets_lost: u64,
    /// But for those that were lost.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// A socket that is being made for a connection that moves.
pub(crate) type Moves = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Why no wire came up: one line for each transport that was tried.
#[derive(Debug, Clone)]
pub(crate) struct ConnectError(pub(crate) String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What connecting needs, made once; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    transports: Transports,
    dialer: Option<Arc<dyn Dial>>,
    makers: sockets::Makers,
    /// `None` in plaintext.
    secured: Option<tls::Secured>,
    has_quic: bool,
    limits: Limits,
    lookups: resolve::Lookups,
}

/// How hands are to be shaken.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "only QUIC reads them"))]
struct Handshake {
    offer: KeyExchange,
    /// QUIC's connection may be used before the gateway has answered.
    flies: bool,
    /// What one is expected to take, if anything is known of it.
    round_trip: Option<Duration>,
    /// Behind so many of them a flight that nothing answers is sent again.
    repeat: Option<f64>,
}

/// What came of an attempt.
enum Made {
    /// The gateway has answered, or early data may be said.
    Wire(Wire),
    /// TCP is connected. TLS follows when the race says so.
    Tcp(tcp::Connected),
}

type Attempt = Pin<Box<dyn Future<Output = Result<Made, ConnectError>> + Send>>;

impl Connector {
    pub(crate) fn new(config: &ClientConfig, tickets: &Tickets) -> Result<Self, StartError> {
        let secured = match &config.security {
            Security::Plaintext => None,
            Security::Tls(security) => Some(tls::secured(security, config.early_data, tickets)?),
        };
        #[cfg(feature = "quic")]
        if let Some(secured) = &secured {
            secured.check_quic()?;
        }
        let dialer = config.dialer.clone();
        // Whoever has a way of its own for streams alone has none for datagrams; without datagrams, what was configured for
        // both goes by streams alone.
        #[cfg(feature = "quic")]
        let has_datagrams = dialer.is_none() || config.udp.is_some();
        #[cfg(not(feature = "quic"))]
        let has_datagrams = false;
        let has_quic = secured.is_some() && has_datagrams && config.transports != Transports::Tcp;
        let makers = sockets::Makers::of(config);
        let bundle = Bundle::new(&config.bundled_addresses);
        let lookups = resolve::Lookups::new(config.resolver.clone(), bundle);
        let limits = config.limits.clone();
        Ok(Self { transports: config.transports, dialer, makers, secured, has_quic, limits, lookups })
    }

    /// Whether names are to be looked up: a dialer finds gateways by itself.
    fn needs_addresses(&self) -> bool {
        self.dialer.is_none() || self.has_quic
    }

    /// All ways to a gateway that has these addresses and takes QUIC, TCP, or both.
    fn ways(&self, endpoint: &Endpoint, addresses: Vec<SocketAddr>, (quic, tcp): (bool, bool)) -> Vec<Way> {
        let gateway: Arc<str> = endpoint.to_string().into();
        let way = |address, transport| Way { gateway: Arc::clone(&gateway), address, transport };
        let mut ways = Vec::new();
        if self.has_quic && quic {
            ways.extend(addresses.iter().map(|&address| way(Some(address), Kind::Quic)));
        }
        // A dialer that is given nothing for QUIC stands for both.
        if tcp && (self.transports != Transports::Quic || !self.has_quic) {
            match self.dialer {
                Some(_) => ways.push(way(None, Kind::Tcp)),
                None => ways.extend(addresses.into_iter().map(|address| way(Some(address), Kind::Tcp))),
            }
        }
        ways
    }

    /// Tries one way on `network`, where the certificate has to name `name`. A stream that the app dials carries `flight`, if
    /// it can carry early data.
    fn attempt(
        self,
        network: Network,
        endpoint: Endpoint,
        name: String,
        way: Way,
        flight: FirstFlight,
        handshake: Handshake,
    ) -> Attempt {
        let sockets = self.makers.on(&network);
        Box::pin(async move {
            match (way.transport, way.address, self.dialer, self.secured) {
                (Kind::Quic, Some(address), _, Some(secured)) if self.has_quic => {
                    let server = quic::Server { address, name };
                    let quic = quic::connect(&secured, sockets, server, handshake, &self.limits);
                    quic.await.map(Made::Wire)
                }
                (Kind::Tcp, None, Some(dialer), _) => {
                    dial::connect(&*dialer, &network, &endpoint, flight).await.map(Made::Wire)
                }
                (Kind::Tcp, Some(address), ..) => tcp::connect(sockets, address).await.map(Made::Tcp),
                _ => Err(ConnectError(format!("{way}: nothing leads there"))),
            }
        })
    }

    /// Goes on from TCP, carrying `flight` where TLS takes early data.
    fn secure(
        self,
        name: String,
        connected: tcp::Connected,
        flight: FirstFlight,
        offer: KeyExchange,
    ) -> Attempt {
        Box::pin(async move { connected.secure(self.secured, offer, name, flight).await.map(Made::Wire) })
    }
}
