//! What a listener offers in TLS: one configuration for each kind of cryptography that it speaks, and the
//! choice among them by the ClientHello.

mod accept;
mod authorities;
mod buffers;
mod certificates;
mod delegated;
pub mod early;
mod established;
mod handshake;
mod identity;
mod kept;
mod keys;
mod offload;
mod record;
mod secrets;
mod stream;
mod tickets;
mod zero_rtt;

use std::{sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{self, SHA256};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::CertificateDer,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use towline_crypto::{Offer, Provider, Providers, x509::KeyKind};
use towline_protocols::tls::ClientHello;

pub use self::{
    accept::{Accepted, HandshakeError, Hello},
    authorities::Authority,
    certificates::{Certificate, read_authorities, read_certificates},
    identity::{Expired, PeerIdentity},
    stream::{IdleTls, TlsStream},
    tickets::{TicketKeys, Tickets},
};
use self::{authorities::Authorities, certificates::Chooser, delegated::Delegated};
use crate::{
    gateway::StartError,
    settings::{ClientCertificates, Listener, ListenerProtocol},
    transport::{quic, tlcp},
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

/// What one listener offers in TLS over TCP and in QUIC. Immutable but for the delegated certificates, which
/// are renewed in place; a reload makes another.
pub struct ServerTls {
    /// In the listener's order of preference; never empty.
    families: Vec<Family>,
    certificates: Vec<Arc<Certificate>>,
    /// Of clients' certificates.
    authorities: Authorities,
}

/// One kind of cryptography.
struct Family {
    provider: Arc<dyn Provider>,
    chooser: Arc<Chooser>,
    tcp: Arc<ServerConfig>,
    /// `None` if the listener has no QUIC.
    quic: Option<Arc<ServerConfig>>,
}

/// The facts of a ClientHello that tell one kind of cryptography from another, by IANA's numbers.
#[derive(Clone, Debug, Default)]
pub struct HelloFacts {
    /// Cipher suites that the client offers.
    pub cipher_suites: Vec<u16>,
    /// Its `supported_groups`; empty if it sent none.
    pub named_groups: Vec<u16>,
    /// Its `signature_algorithms`; empty if it sent none.
    pub signature_schemes: Vec<u16>,
}

/// The client offers no cryptography that the listener speaks. The alert for it is `handshake_failure`
/// (RFC 8446, section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client offers no cryptography of this listener")]
pub struct NoOverlap;

impl ServerTls {
    /// Everything that `listener` offers. Reads the files that it names.
    ///
    /// # Errors
    /// A file or the cryptography cannot be used.
    pub fn new(
        listener: &Listener,
        providers: &Providers,
        keys: &Arc<TicketKeys>,
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let providers = chosen(listener, providers)?;
        let certificates: Vec<Arc<Certificate>> = listener
            .certificates
            .iter()
            .map(|files| Certificate::read(files, &providers).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let authorities = listener.client_ca.as_deref().map(read_authorities).transpose()?;
        let authorities = Authorities::new(authorities.unwrap_or_else(RootCertStore::empty));
        let mut families = Vec::new();
        for provider in providers {
            let own: Vec<_> =
                certificates.iter().filter(|each| *each.provider == *provider.name()).cloned().collect();
            let delegate = |certificate: &Arc<Certificate>| delegate(listener, certificate, now);
            let chooser = Chooser::new(&own, delegate)?.ok_or_else(|| {
                settings_error(listener, format_args!("no certificate is for crypto \"{}\"", provider.name()))
            })?;
            families.push(Family::new(listener, provider, Arc::new(chooser), &authorities.store, keys)?);
        }
        Ok(Self { families, certificates, authorities })
    }

    /// The configuration for TLS over TCP that suits a client. With one kind of cryptography there is no
    /// choice, and rustls says what the client lacks.
    ///
    /// # Errors
    /// None does.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Result<Arc<ServerConfig>, NoOverlap> {
        self.choose_by(&HelloFacts::of(hello))
    }

    /// As [`ServerTls::choose`], by the facts alone.
    ///
    /// # Errors
    /// None does.
    pub fn choose_by(&self, facts: &HelloFacts) -> Result<Arc<ServerConfig>, NoOverlap> {
        self.family(facts).map(|family| Arc::clone(&family.tcp))
    }

    /// The configuration for QUIC that suits a client.
    ///
    /// # Errors
    /// None does, or the listener has no QUIC.
    pub fn choose_quic(&self, hello: &ClientHello<'_>) -> Result<Arc<ServerConfig>, NoOverlap> {
        self.family(&HelloFacts::of(hello))?.quic.clone().ok_or(NoOverlap)
    }

    /// What protects packets before any choice; `None` if the listener has no QUIC.
    pub fn quic_initial(&self) -> Option<Arc<QuicServerConfig>> {
        let initial = |family: &Family| {
            let config = Arc::clone(family.quic.as_ref()?);
            QuicServerConfig::with_initial(config, family.provider.quic_initial()?).ok().map(Arc::new)
        };
        self.families.iter().find_map(initial)
    }

    /// Which authority stands behind a client's chain that was verified; `None` if it is none of the listener's any more.
    pub fn authority_behind(&self, chain: &[CertificateDer<'_>]) -> Option<&Authority> {
        self.authorities.behind(chain, self.families.iter().map(|family| &family.provider))
    }

    /// Whether clients' certificates of that authority are taken.
    pub fn trusts(&self, authority: &Authority) -> bool {
        self.authorities.has(authority)
    }

    /// Whether `later` takes the certificates of all authorities that this one does.
    pub fn is_trusted_within(&self, later: &Self) -> bool {
        self.authorities.are_within(&later.authorities)
    }

    /// Every certificate, as configured.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.iter()
    }

    /// Renews what is due of the delegated certificates.
    ///
    /// # Errors
    /// Says why one could not be renewed; it stays in force until its end.
    pub fn tend(&self, now: SystemTime) -> Result<(), String> {
        self.families
            .iter()
            .flat_map(|family| family.chooser.delegated())
            .try_for_each(|delegated| delegated.tend(now))
    }

    fn family(&self, facts: &HelloFacts) -> Result<&Family, NoOverlap> {
        if let [only] = &self.families[..] {
            return Ok(only);
        }
        let offer = Offer {
            cipher_suites: &facts.cipher_suites,
            groups: &facts.named_groups,
            signature_schemes: &facts.signature_schemes,
        };
        self.families.iter().find(|family| family.provider.serves(&offer)).ok_or(NoOverlap)
    }
}

impl HelloFacts {
    /// Of a ClientHello.
    pub fn of(hello: &ClientHello<'_>) -> Self {
        Self {
            cipher_suites: hello.cipher_suites().collect(),
            named_groups: hello.named_groups().collect(),
            signature_schemes: hello.signature_schemes().collect(),
        }
    }
}

impl Family {
    fn new(
        listener: &Listener,
        provider: Arc<dyn Provider>,
        chooser: Arc<Chooser>,
        authorities: &Arc<RootCertStore>,
        keys: &Arc<TicketKeys>,
    ) -> Result<Self, StartError> {
        let verifier = verifier(listener, &provider, authorities)?;
        let tickets = Tickets::new(keys, &context(listener, &provider, authorities));
        let config = |versions: &[&'static SupportedProtocolVersion]| {
            let mut config = ServerConfig::builder_with_provider(provider.crypto())
                .with_protocol_versions(versions)
                .map_err(|error| settings_error(listener, error))?
                .with_client_cert_verifier(Arc::clone(&verifier))
                .with_cert_resolver(Arc::clone(&chooser) as _);
            config.ticketer = early::ticketer(Arc::new(tickets.clone()));
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
            Ok::<_, StartError>(config)
        };
        let mut tcp = config(provider.versions())?;
        tcp.alpn_protocols = alpn_protocols(&listener.protocols);
        early::prepare(&mut tcp, listener.early_data_bytes_max);
        let mut quic = None;
        if listener.quic && provider.quic_initial().is_some() {
            let mut inner = config(&[&rustls::version::TLS13])?;
            inner.alpn_protocols =
                listener.protocols.iter().filter_map(|protocol| quic_alpn(*protocol)).collect();
            // Before the handshake is over, nobody has shown a certificate.
            if listener.early_data_bytes_max > 0 && listener.client_certificates == ClientCertificates::Off {
                inner.max_early_data_size = quic::EARLY_DATA_BYTES;
            }
            quic = Some(Arc::new(inner));
        }
        Ok(Self { provider, chooser, tcp: Arc::new(tcp), quic })
    }
}

/// The listener's `crypto`, by name.
fn chosen(listener: &Listener, providers: &Providers) -> Result<Vec<Arc<dyn Provider>>, StartError> {
    let find = |name: &Arc<str>| {
        providers.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = providers.names().collect();
            settings_error(listener, format_args!("crypto \"{name}\" is not known; known: {known:?}"))
        })
    };
    // TLCP is no provider of TLS; it has its own certificates.
    listener.crypto.iter().filter(|name| &***name != tlcp::NAME).map(find).collect()
}

/// The delegated certificate of an RSA certificate, where link clients are served.
fn delegate(
    listener: &Listener,
    certificate: &Certificate,
    now: SystemTime,
) -> Result<Option<Arc<Delegated>>, StartError> {
    let wanted = listener.delegated_ecdsa && listener.protocols.contains(&ListenerProtocol::Link);
    if !wanted || certificate.kind != KeyKind::Rsa {
        return Ok(None);
    }
    match Delegated::new(Arc::clone(&certificate.key), listener.delegated_life, now) {
        Ok(delegated) => Ok(Some(Arc::new(delegated))),
        Err(why) => {
            // It is a saving, not a need: clients get the RSA certificate.
            tracing::warn!(
                listener = &*listener.name,
                name = &*certificate.name,
                "no delegated certificate: {why}"
            );
            Ok(None)
        }
    }
}

fn verifier(
    listener: &Listener,
    provider: &Arc<dyn Provider>,
    authorities: &Arc<RootCertStore>,
) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    if listener.client_certificates == ClientCertificates::Off {
        return Ok(Arc::new(NoClientAuth));
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider.crypto());
    if listener.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| settings_error(listener, format_args!("client_ca: {error}")))
}

/// A resumed session was verified under the policy of the listener that began it: what tickets are bound to.
fn context(listener: &Listener, provider: &Arc<dyn Provider>, authorities: &RootCertStore) -> Vec<u8> {
    let mut hash = digest::Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(provider.name().as_bytes());
    add(format!("{:?}", listener.client_certificates).as_bytes());
    for authority in &authorities.roots {
        add(&authority.subject);
        add(&authority.subject_public_key_info);
    }
    hash.finish().as_ref().to_vec()
}

fn settings_error(listener: &Listener, problem: impl std::fmt::Display) -> StartError {
    StartError::Settings(format!("listener \"{}\": {problem}", listener.name))
}

/// The ALPN names of what a listener admits.
pub fn alpn_protocols(protocols: &[ListenerProtocol]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for name in protocols.iter().flat_map(|protocol| alpn(*protocol)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn quic_alpn(protocol: ListenerProtocol) -> Option<Vec<u8>> {
    match protocol {
        ListenerProtocol::Link => Some(ALPN_LINK.to_vec()),
        ListenerProtocol::Http => Some(ALPN_HTTP3.to_vec()),
        ListenerProtocol::Mqtt => Some(ALPN_MQTT.to_vec()),
        ListenerProtocol::WebSocket => None,
    }
}

/// In the order of preference: a client that offers several is served by the first of them.
fn alpn(protocol: ListenerProtocol) -> Vec<Vec<u8>> {
    match protocol {
        ListenerProtocol::Link => vec![ALPN_LINK.to_vec()],
        ListenerProtocol::Http | ListenerProtocol::WebSocket => {
            vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()]
        }
        ListenerProtocol::Mqtt => vec![ALPN_MQTT.to_vec()],
    }
}

#[cfg(test)]
mod tests;
