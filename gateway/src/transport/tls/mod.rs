//! TLS configurations from certificate files.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::ProducesTickets,
    sign::CertifiedKey,
};

use crate::{
    gateway::StartError,
    settings::{CertificateFiles, ListenerProtocol},
};

/// ALPN of the link protocol.
pub const ALPN_LINK: &[u8] = b"towline/1";
/// ALPN of HTTP/2 (RFC 9113, section 3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of MQTT, as IANA lists it.
pub const ALPN_MQTT: &[u8] = b"mqtt";

/// TLS 1.3 sessions that can be resumed per full handshake: rustls sends each client this many tickets.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// The keys that session tickets are sealed with. One for the life of a gateway, so that a reload of
/// certificates does not cost its clients their sessions.
#[derive(Clone, Debug)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// Fresh keys; they are rotated every few hours.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, StartError> {
        let ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| StartError::Settings(format!("no key for TLS session tickets: {error}")))?;
        Ok(Self(ticketer))
    }
}

/// Reads a chain and its key, and checks that they belong together.
///
/// # Errors
/// Names the file, what is wrong with it and what it should hold.
pub fn read_certificate(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, StartError> {
    let chain = read_certificates(&files.chain)?;
    let key = read_key(&files.key)?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("is not the key of the first certificate in {}", files.chain.display())
            }
            other => format!("cannot be used: {other}; write an RSA, ECDSA P-256/P-384 or Ed25519 key"),
        };
        StartError::Certificate { path: files.key.clone(), problem }
    })?;
    Ok(Arc::new(certified))
}

/// TLS 1.2 and 1.3 over TCP, for the protocols that a listener admits.
///
/// # Errors
/// The crypto provider supports none of the versions.
pub fn server_config(
    certificate: Arc<CertifiedKey>,
    protocols: &[ListenerProtocol],
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, StartError> {
    let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let mut config = config(certificate, versions, tickets)?;
    config.alpn_protocols = protocols.iter().flat_map(|protocol| alpn(*protocol)).collect();
    Ok(Arc::new(config))
}

/// TLS 1.3 inside QUIC, which carries the link alone.
///
/// # Errors
/// The crypto provider supports none of the versions.
pub fn quic_config(certificate: Arc<CertifiedKey>, tickets: &Tickets) -> Result<ServerConfig, StartError> {
    let mut config = config(certificate, &[&rustls::version::TLS13], tickets)?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    Ok(config)
}

fn config(
    certificate: Arc<CertifiedKey>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    tickets: &Tickets,
) -> Result<ServerConfig, StartError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| StartError::Settings(format!("TLS: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)));
    config.ticketer = Arc::clone(&tickets.0);
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// In the order of preference: a client that offers several is served by the first of them.
fn alpn(protocol: ListenerProtocol) -> Vec<Vec<u8>> {
    match protocol {
        ListenerProtocol::Link => vec![ALPN_LINK.to_vec()],
        ListenerProtocol::Http => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
        ListenerProtocol::Mqtt => vec![ALPN_MQTT.to_vec()],
    }
}

/// Every certificate of a PEM file, in its order; at least one.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = read(path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            let problem =
                "holds no certificate; write a PEM file with -----BEGIN CERTIFICATE-----, leaf first";
            Err(StartError::Certificate { path: path.into(), problem: problem.into() })
        }
        Ok(chain) => Ok(chain),
        Err(error) => {
            Err(StartError::Certificate { path: path.into(), problem: format!("is not a PEM file: {error}") })
        }
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, StartError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound => {
                "holds no private key; write a PEM file with an unencrypted PKCS#8, SEC1 or PKCS#1 key"
                    .to_owned()
            }
            other => format!("is not a PEM file: {other}"),
        };
        StartError::Certificate { path: path.into(), problem }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| StartError::File { path: path.into(), source })
}
