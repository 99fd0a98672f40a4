//! Why a connection ended before a protocol served it.

use std::{io, net::SocketAddr, time::Instant};

use tracing::{debug, info};

use towline_protocols::proxy::ProxyError;

use crate::{gateway::Gateway, transport::tls::HandshakeError};

/// Why a connection ended before a protocol served it. None of these is worth a warning: peers cause them.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A bound on connections was met.
    #[error("{0} is met")]
    Full(&'static str),
    /// A reload removed the listener while the connection waited.
    #[error("the listener is gone")]
    NoListener,
    /// The gateway is on its way out.
    #[error("the gateway is draining")]
    Draining,
    /// The peer closed, or the network did, before it said anything that could be served.
    #[error("closed by the peer")]
    Closed,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// Not in the networks that may connect to a listener behind load balancers.
    #[error("the peer is in none of the listener's proxy_protocol networks")]
    NotAProxy,
    /// A load balancer did not say whose connection it is.
    #[error("{0}")]
    ProxyHeader(#[from] ProxyError),
    /// The first bytes did not come within `first_message_timeout`.
    #[error("no recognisable protocol within first_message_timeout")]
    FirstMessageTimeout,
    /// The handshake did not end within `handshake_timeout`.
    #[error("no complete handshake within handshake_timeout")]
    HandshakeTimeout,
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    /// Plaintext on a listener that demands TLS.
    #[error("plaintext on a listener with tls = \"required\"")]
    Plaintext,
    /// TLS on a listener that does not speak it.
    #[error("TLS on a listener with tls = \"off\" or without a certificate")]
    Tls,
    /// TLCP on a listener that does not speak it.
    #[error("TLCP on a listener without tlcp_certificate")]
    Tlcp,
    /// The first bytes belong to no protocol that Towline knows.
    #[error("unknown protocol")]
    UnknownProtocol,
    /// A protocol that the listener does not admit.
    #[error("{0} is not among the listener's protocols")]
    NotAdmitted(&'static str),
}

impl Refusal {
    /// The metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::NoListener => "no_listener",
            Self::Draining => "draining",
            Self::Closed => "closed",
            Self::Io(_) => "io",
            Self::NotAProxy => "not_a_proxy",
            Self::ProxyHeader(_) => "proxy_header",
            Self::FirstMessageTimeout => "first_message_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake(_) => "handshake",
            Self::Plaintext => "plaintext",
            Self::Tls => "tls",
            Self::Tlcp => "tlcp",
            Self::UnknownProtocol => "unknown_protocol",
            Self::NotAdmitted(_) => "not_admitted",
        }
    }
}

/// Counts a refusal, and logs it where that does not flood.
pub(crate) fn report(gateway: &Gateway, listener: &str, peer: SocketAddr, refusal: &Refusal) {
    gateway.metrics.connections_refused.with_label_values(&[listener, refusal.reason()]).inc();
    // Load balancers look so whether the server is there, every other second.
    let is_reset = matches!(refusal, Refusal::Io(error) if error.kind() == io::ErrorKind::ConnectionReset);
    if is_reset || matches!(refusal, Refusal::Closed | Refusal::Draining) {
        debug!(listener, %peer, "connection refused: {refusal}");
    } else if let Some(held_back) = gateway.refusals.pass(Instant::now()) {
        info!(listener, %peer, held_back, "connection refused: {refusal}");
    }
}
