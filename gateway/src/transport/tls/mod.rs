//! What a listener offers in TLS: one configuration for each kind of cryptography that it speaks, and the
//! choice among them by the ClientHello.

mod accept;
mod buffers;
mod certificates;
pub mod early;
mod established;
mod handshake;
mod kept;
mod keys;
mod offload;
mod record;
mod secrets;
mod stream;
mod tickets;
mod zero_rtt;

use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};

pub use self::{
    accept::{Accepted, HandshakeError, Hello},
    certificates::{read_certificate, read_certificates},
    stream::{IdleTls, TlsStream},
    tickets::{TicketKeys, Tickets},
};
use crate::{
    gateway::StartError,
    settings::{Listener, ListenerProtocol},
};

/// ALPN of the link protocol.
pub const ALPN_LINK: &[u8] = b"towline/1";
/// ALPN of HTTP/2 (RFC 9113, section 3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// ALPN of HTTP/3 (RFC 9114, section 3.1).
pub const ALPN_HTTP3: &[u8] = b"h3";
/// ALPN of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of MQTT, as IANA lists it.
pub const ALPN_MQTT: &[u8] = b"mqtt";

/// TLS 1.3 sessions that can be resumed per full handshake: rustls sends each client this many tickets.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// What one listener offers in TLS over TCP and in QUIC. Immutable; a reload makes another.
pub struct ServerTls {
    /// In the listener's order of preference; never empty.
    offers: Vec<Offer>,
}

/// One kind of cryptography.
struct Offer {
    /// Cipher suites, as the ClientHello numbers them.
    suites: Vec<u16>,
    /// Key exchange groups, as `supported_groups` numbers them.
    groups: Vec<u16>,
    tcp: Arc<ServerConfig>,
    /// `None` if the listener has no QUIC.
    quic: Option<Arc<QuicServerConfig>>,
}

/// The facts of a ClientHello that tell one kind of cryptography from another.
#[derive(Clone, Copy, Debug)]
pub struct HelloFacts<'a> {
    /// Cipher suites that the client offers.
    pub cipher_suites: &'a [u16],
    /// Its `supported_groups`; empty if it sent none.
    pub named_groups: &'a [u16],
}

/// The client offers no cryptography that the listener speaks. The alert for it is `handshake_failure`
/// (RFC 8446, section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client offers no cipher suite and group of this listener")]
pub struct NoOverlap;

impl ServerTls {
    /// Everything that `listener` offers with its certificate.
    ///
    /// # Errors
    /// The certificate or the cryptography cannot be used.
    pub fn new(
        listener: &Listener,
        certificate: &Arc<CertifiedKey>,
        keys: &Arc<TicketKeys>,
    ) -> Result<Self, StartError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tickets = Tickets::new(keys, b"");
        let tcp = tcp_config(&provider, certificate, listener, &tickets)?;
        let quic = listener
            .quic
            .then(|| quic_config(&provider, certificate, &listener.protocols, &tickets))
            .transpose()?
            .map(Arc::new);
        let suites = provider.cipher_suites.iter().map(|suite| u16::from(suite.suite())).collect();
        let groups = provider.kx_groups.iter().map(|group| u16::from(group.name())).collect();
        Ok(Self { offers: vec![Offer { suites, groups, tcp: Arc::new(tcp), quic }] })
    }

    /// The configuration for TLS over TCP that suits a client.
    ///
    /// # Errors
    /// None does.
    pub fn choose(&self, hello: &HelloFacts<'_>) -> Result<Arc<ServerConfig>, NoOverlap> {
        self.offer(hello).map(|offer| Arc::clone(&offer.tcp))
    }

    /// The configuration for QUIC that suits a client.
    ///
    /// # Errors
    /// None does, or the listener has no QUIC.
    pub fn choose_quic(&self, hello: &HelloFacts<'_>) -> Result<Arc<QuicServerConfig>, NoOverlap> {
        self.offer(hello)?.quic.clone().ok_or(NoOverlap)
    }

    /// The configuration for QUIC that the listener prefers.
    pub fn preferred_quic(&self) -> Option<Arc<QuicServerConfig>> {
        self.offers.first()?.quic.clone()
    }

    fn offer(&self, hello: &HelloFacts<'_>) -> Result<&Offer, NoOverlap> {
        self.offers.iter().find(|offer| offer.suits(hello)).ok_or(NoOverlap)
    }
}

impl Offer {
    /// A client that sends no groups leaves the choice to the server (RFC 8422, section 4).
    fn suits(&self, hello: &HelloFacts<'_>) -> bool {
        let shared = |ours: &[u16], theirs: &[u16]| theirs.iter().any(|id| ours.contains(id));
        shared(&self.suites, hello.cipher_suites)
            && (hello.named_groups.is_empty() || shared(&self.groups, hello.named_groups))
    }
}

/// TLS 1.2 and 1.3 over TCP, for the protocols that a listener admits.
fn tcp_config(
    provider: &Arc<CryptoProvider>,
    certificate: &Arc<CertifiedKey>,
    listener: &Listener,
    tickets: &Tickets,
) -> Result<ServerConfig, StartError> {
    let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let mut config = config(provider, certificate, versions, tickets)?;
    config.alpn_protocols = alpn_protocols(&listener.protocols);
    early::prepare(&mut config, listener.early_data_bytes_max);
    Ok(config)
}

/// TLS 1.3 inside QUIC, which carries the link and HTTP/3.
fn quic_config(
    provider: &Arc<CryptoProvider>,
    certificate: &Arc<CertifiedKey>,
    protocols: &[ListenerProtocol],
    tickets: &Tickets,
) -> Result<QuicServerConfig, StartError> {
    let mut config = config(provider, certificate, &[&rustls::version::TLS13], tickets)?;
    config.alpn_protocols = protocols.iter().filter_map(|protocol| quic_alpn(*protocol)).collect();
    QuicServerConfig::try_from(config).map_err(|error| StartError::Settings(format!("QUIC: {error}")))
}

fn config(
    provider: &Arc<CryptoProvider>,
    certificate: &Arc<CertifiedKey>,
    versions: &[&'static SupportedProtocolVersion],
    tickets: &Tickets,
) -> Result<ServerConfig, StartError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| StartError::Settings(format!("TLS: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(certificate))));
    config.ticketer = early::ticketer(Arc::new(tickets.clone()));
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    Ok(config)
}

/// The ALPN names of what a listener admits.
pub fn alpn_protocols(protocols: &[ListenerProtocol]) -> Vec<Vec<u8>> {
    protocols.iter().flat_map(|protocol| alpn(*protocol)).collect()
}

fn quic_alpn(protocol: ListenerProtocol) -> Option<Vec<u8>> {
    match protocol {
        ListenerProtocol::Link => Some(ALPN_LINK.to_vec()),
        ListenerProtocol::Http => Some(ALPN_HTTP3.to_vec()),
        // Devices that speak it over QUIC do not agree on how.
        ListenerProtocol::Mqtt => None,
    }
}

/// In the order of preference: a client that offers several is served by the first of them.
fn alpn(protocol: ListenerProtocol) -> Vec<Vec<u8>> {
    match protocol {
        ListenerProtocol::Link => vec![ALPN_LINK.to_vec()],
        ListenerProtocol::Http => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
        ListenerProtocol::Mqtt => vec![ALPN_MQTT.to_vec()],
    }
}
