//! A client that makes TLS handshakes and nothing else, as fast as its threads can. It verifies nothing,
//! so that one core of it keeps one core of server busy.

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, SupportedKxGroup},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use towline_crypto::{International, Provider};

use super::tickets::Tickets;
use crate::clock;

/// A server that says nothing for so long is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A broken server must not be asked in a tight loop.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// What handshakes are made with.
#[derive(Clone, Debug)]
pub(in crate::beside) struct Offer {
    pub(in crate::beside) address: SocketAddr,
    pub(in crate::beside) alpn: &'static [u8],
    pub(in crate::beside) provider: Arc<CryptoProvider>,
    pub(in crate::beside) resume: bool,
    /// Offer early data with tickets that allow it.
    pub(in crate::beside) early: bool,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub(in crate::beside) struct Made {
    pub(in crate::beside) full: u64,
    pub(in crate::beside) resumed: u64,
    pub(in crate::beside) failed: u64,
    /// The first failure's words.
    pub(in crate::beside) failure: Option<String>,
    /// What the last handshake agreed on.
    pub(in crate::beside) group: Option<NamedGroup>,
    pub(in crate::beside) scheme: Option<SignatureScheme>,
    pub(in crate::beside) suite: Option<CipherSuite>,
}

impl Made {
    fn count(&mut self, session: &ClientConnection) {
        match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => self.resumed += 1,
            _ => self.full += 1,
        }
        self.group = session.negotiated_key_exchange_group().map(|group| group.name()).or(self.group);
        self.suite = session.negotiated_cipher_suite().map(|suite| suite.suite()).or(self.suite);
    }

    /// Adds another thread's or round's.
    pub(in crate::beside) fn merge(&mut self, other: Self) {
        self.full += other.full;
        self.resumed += other.resumed;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.group = other.group.or(self.group);
        self.scheme = other.scheme.or(self.scheme);
        self.suite = other.suite.or(self.suite);
    }
}

/// What Towline's own clients offer, with these key exchange groups alone.
pub(in crate::beside) fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    let crypto = CryptoProvider::clone(&International::default().crypto());
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..crypto })
}

/// Clients that make handshakes side by side and keep their tickets from round to round.
pub(in crate::beside) struct Crowd(Vec<Shaker>);

impl Crowd {
    /// `clients` of them, each with a thread of its own while it works.
    pub(in crate::beside) fn new(offer: &Offer, clients: usize) -> Result<Self, String> {
        (0..clients).map(|_| Shaker::new(offer)).collect::<Result<_, _>>().map(Self)
    }

    /// Makes handshakes until `until` ([`clock::now`]).
    pub(in crate::beside) fn run(&self, until: u64) -> Result<Made, String> {
        let mut all = Made::default();
        let parts: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = self.0.iter().map(|client| scope.spawn(|| client.run(until))).collect();
            running.into_iter().map(|thread| thread.join()).collect()
        });
        for part in parts {
            all.merge(part.map_err(|_| "a client thread ended early".to_owned())?);
        }
        Ok(all)
    }
}

/// One thread's client.
pub(in crate::beside) struct Shaker {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
    verifier: Arc<Trusting>,
}

impl Shaker {
    pub(in crate::beside) fn new(offer: &Offer) -> Result<Self, String> {
        let tickets = Arc::new(Tickets::new(offer.resume));
        let verifier = Arc::new(Trusting { provider: offer.provider.clone(), scheme: AtomicU16::new(0) });
        let mut config = ClientConfig::builder_with_provider(offer.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        config.resumption = Resumption::store(tickets.clone());
        // Offered where a ticket allows it; sent only by who asks the session to.
        config.enable_early_data = offer.early;
        config.alpn_protocols = vec![offer.alpn.to_vec()];
        Ok(Self { address: offer.address, config: Arc::new(config), tickets, verifier })
    }

    /// Makes handshakes, one after another, until `until` ([`clock::now`]).
    pub(in crate::beside) fn run(&self, until: u64) -> Made {
        let mut made = Made::default();
        while clock::now() < until {
            match self.connect() {
                Ok((_, session)) => made.count(&session),
                Err(error) => {
                    made.failed += 1;
                    made.failure.get_or_insert(error.to_string());
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
        made.scheme = self.verifier.seen();
        made
    }

    /// A fresh connection and a session that has not sent anything.
    pub(in crate::beside) fn begin(&self) -> io::Result<(TcpStream, ClientConnection)> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok((socket, session))
    }

    /// A connection after its handshake and the first ticket: the server has read and answered everything.
    pub(in crate::beside) fn connect(&self) -> io::Result<(TcpStream, ClientConnection)> {
        let (mut socket, mut session) = self.begin()?;
        let tickets = self.tickets.received();
        while session.is_handshaking() || self.tickets.received() == tickets {
            while session.wants_write() {
                session.write_tls(&mut socket)?;
            }
            read_some(&mut socket, &mut session)?;
        }
        Ok((socket, session))
    }
}

fn read_some(socket: &mut impl Read, session: &mut ClientConnection) -> io::Result<()> {
    if session.read_tls(socket)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    session.process_new_packets().map_err(io::Error::other)?;
    Ok(())
}

/// Believes every certificate and notes the signature's scheme.
#[derive(Debug)]
struct Trusting {
    provider: Arc<CryptoProvider>,
    scheme: AtomicU16,
}

impl Trusting {
    fn seen(&self) -> Option<SignatureScheme> {
        Some(self.scheme.load(Relaxed)).filter(|scheme| *scheme != 0).map(SignatureScheme::from)
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.scheme.store(u16::from(signature.scheme), Relaxed);
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
