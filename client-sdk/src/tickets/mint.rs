//! A session of rustls', made of a ticket that an earlier run of the app was given.
//!
//! rustls makes sessions of NewSessionTicket alone, on a connection whose handshake is complete. So this plays one to
//! itself, with a server that is a few constant bytes, and has it handle the message that was kept:
//!
//! ```text
//!  rustls' client                          constants
//!    | ClientHello: one suite, no key exchange |
//!    |---------------------------------------->|
//!    |   ServerHello .. Finished, unencrypted  |
//!    |<----------------------------------------|
//!    | NewSessionTicket, as it was kept        |
//!    |<----------------------------------------|   HKDF answers with the key that was kept
//!    v the store: a session
//! ```
//!
//! Nothing in it is secret or random, and no byte of it leaves this function. While it runs, and on its thread alone,
//! the suite of [`super::capture`] decrypts nothing and signs Finished with zeros, and [`Gate`] takes the one
//! certificate that is no certificate. The session belongs to the verifier and the client's certificate that it is made
//! with, as rustls demands; who may use it, the file that it comes from says.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme, SupportedCipherSuite,
    Tls13CipherSuite,
    client::{
        ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        UnbufferedClientConnection,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
        cipher::{InboundOpaqueMessage, InboundPlainMessage, MessageDecrypter},
        hmac::Tag,
        tls13::OkmBlock,
    },
    ffdhe_groups::FfdheGroup,
    pki_types::{CertificateDer, ServerName, UnixTime},
    time_provider::TimeProvider,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use zeroize::Zeroizing;

use super::record::Record;

thread_local! {
    /// The key that HKDF answers with: a session is minted on this thread.
    static MINTING: RefCell<Option<Zeroizing<Vec<u8>>>> = const { RefCell::new(None) };
}

pub(super) fn is_minting() -> bool {
    MINTING.with_borrow(Option::is_some)
}

/// In place of a ticket's key that is derived.
pub(super) fn psk(bytes: usize) -> Option<OkmBlock> {
    let of_length = |psk: &Zeroizing<Vec<u8>>| (psk.len() == bytes).then(|| OkmBlock::new(psk));
    MINTING.with_borrow(|psk| psk.as_ref().and_then(of_length))
}

/// In place of what proves that a handshake was whole.
pub(super) fn finished(bytes: usize) -> Option<Tag> {
    is_minting().then(|| Tag::new(&vec![0; bytes]))
}

/// What one configuration mints with.
#[derive(Debug)]
pub(super) struct Mint {
    crypto: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    credentials: Arc<dyn ResolvesClientCert>,
}

impl Mint {
    /// The parts of a configuration: its sessions are used by those who have the same ones.
    pub(super) fn new(
        crypto: Arc<CryptoProvider>,
        verifier: Arc<dyn ServerCertVerifier>,
        credentials: Arc<dyn ResolvesClientCert>,
    ) -> Self {
        Self { crypto, verifier, credentials }
    }

    /// The session of a record that was kept for `name`. `None` if its suite is offered no more, or rustls does not
    /// take the message.
    pub(super) fn session(
        &self,
        name: &ServerName<'static>,
        kept: &Record,
    ) -> Option<Tls13ClientSessionValue> {
        let suite = self.suite(kept)?;
        let minted = Arc::new(Minted::default());
        let config = self.config(suite, kept.received, &minted)?;
        let _minting = Minting::of(&kept.psk);
        let mut connection = UnbufferedClientConnection::new(Arc::new(config), name.clone()).ok()?;
        shake_hands(&mut connection, &flight(suite))?;
        let (_secrets, mut kernel) = connection.dangerous_into_kernel_connection().ok()?;
        kernel.handle_new_session_ticket(&kept.message).ok()?;
        let mut session = minted.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if !kept.quic_parameters.is_empty() {
            session.set_quic_params(&kept.quic_parameters);
        }
        Some(session)
    }

    fn suite(&self, kept: &Record) -> Option<&'static Tls13CipherSuite> {
        let suites = self.crypto.cipher_suites.iter().filter_map(SupportedCipherSuite::tls13);
        let suite = suites.clone().find(|suite| u16::from(suite.common.suite) == kept.suite)?;
        (suite.common.hash_provider.output_len() == kept.psk.len()).then_some(suite)
    }

    fn config(
        &self,
        suite: &'static Tls13CipherSuite,
        received: Duration,
        minted: &Arc<Minted>,
    ) -> Option<ClientConfig> {
        let crypto = CryptoProvider {
            cipher_suites: vec![SupportedCipherSuite::Tls13(suite)],
            kx_groups: vec![&NoExchange],
            signature_verification_algorithms: self.crypto.signature_verification_algorithms,
            secure_random: &NoRandomness,
            key_provider: self.crypto.key_provider,
        };
        let at_receipt = Arc::new(At(UnixTime::since_unix_epoch(received)));
        let builder = ClientConfig::builder_with_details(Arc::new(crypto), at_receipt);
        let mut config = builder
            .with_protocol_versions(&[&rustls::version::TLS13])
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier))
            .with_client_cert_resolver(Arc::clone(&self.credentials));
        config.enable_secret_extraction = true;
        config.resumption = Resumption::store(Arc::clone(minted) as _);
        Some(config)
    }
}

/// Ends, with its key, when the session is there, or none is to be.
struct Minting;

impl Minting {
    fn of(psk: &[u8]) -> Self {
        MINTING.set(Some(Zeroizing::new(psk.to_vec())));
        Self
    }
}

impl Drop for Minting {
    fn drop(&mut self) {
        MINTING.set(None);
    }
}

/// Completes the handshake; what the client says is not read.
fn shake_hands(connection: &mut UnbufferedClientConnection, flight: &[u8]) -> Option<()> {
    let (mut incoming, mut used, mut answers) = (Vec::new(), 0, 0);
    let mut said = vec![0; 2048];
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(&mut incoming[used..]);
        let is_waiting = match state.ok()? {
            ConnectionState::EncodeTlsData(mut data) => match data.encode(&mut said) {
                Ok(_) => false,
                Err(EncodeError::InsufficientSize(size)) => {
                    said.resize(size.required_size, 0);
                    data.encode(&mut said).ok()?;
                    false
                }
                Err(EncodeError::AlreadyEncoded) => return None,
            },
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            ConnectionState::BlockedHandshake => true,
            ConnectionState::WriteTraffic(_) => return Some(()),
            _ => return None,
        };
        used += discard;
        if is_waiting {
            answers += 1;
            // There is one flight, and nothing behind it.
            (answers == 1).then(|| incoming.extend_from_slice(flight))?;
        }
    }
}

/// ServerHello .. Finished (RFC 8446, section 4).
fn flight(suite: &Tls13CipherSuite) -> Vec<u8> {
    let random = [1; 32];
    let suite_id = u16::from(suite.common.suite).to_be_bytes();
    let group = u16::from(NoExchange.name()).to_be_bytes();
    let versions = [0, 43, 0, 2, 3, 4];
    let key_share = [&[0, 51, 0, 5][..], &group, &[0, 1, SHARE]].concat();
    let extensions = vector(2, &[&versions[..], &key_share].concat());
    let session_id = vector(1, &[NoRandomness::OCTET; 32]);
    let hello = [&[3, 3][..], &random, &session_id, &suite_id, &[0], &extensions].concat();
    let certificate = [&[0][..], &vector(3, &[&vector(3, CERTIFICATE)[..], &[0, 0]].concat())].concat();
    let scheme = u16::from(SignatureScheme::ECDSA_NISTP256_SHA256).to_be_bytes();
    let proof = [&scheme[..], &vector(2, &[0])].concat();
    let zeros = vec![0; suite.common.hash_provider.output_len()];
    let sealed = [
        handshake(8, &[0, 0]),
        handshake(11, &certificate),
        handshake(15, &proof),
        handshake(20, &zeros),
        vec![HANDSHAKE],
    ];
    [record(HANDSHAKE, &handshake(2, &hello)), record(APPLICATION_DATA, &sealed.concat())].concat()
}

const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// What is sent and taken in place of a public key.
const SHARE: u8 = 1;
/// What [`Gate`] takes while a session is minted.
const CERTIFICATE: &[u8] = b"minted here";

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vector(2, content)].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &vector(3, body)].concat()
}

/// Behind its length in so many bytes.
fn vector(length_bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[length.len() - length_bytes..], content].concat()
}

/// Takes records as they are; the content's type stands at their end.
pub(super) struct Plain;

impl MessageDecrypter for Plain {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        _sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        message.into_tls13_unpadded_message()
    }
}

#[derive(Debug)]
struct NoExchange;

impl SupportedKxGroup for NoExchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        // Of those for private use (RFC 8446, section 4.2.7).
        NamedGroup::Unknown(0xfe00)
    }
}

impl ActiveKeyExchange for NoExchange {
    fn complete(self: Box<Self>, _share: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[0; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[SHARE]
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        self.name()
    }
}

#[derive(Debug)]
struct NoRandomness;

impl NoRandomness {
    const OCTET: u8 = 2;
}

impl SecureRandom for NoRandomness {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        bytes.fill(Self::OCTET);
        Ok(())
    }
}

#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// Takes the one session.
#[derive(Debug, Default)]
struct Minted(Mutex<Option<Tls13ClientSessionValue>>);

impl ClientSessionStore for Minted {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// A verifier that minting passes, and nothing else that `inner` does not let pass.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Gate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match is_minted(end_entity) {
            true => Ok(ServerCertVerified::assertion()),
            false => {
                self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match is_minted(certificate) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => self.inner.verify_tls13_signature(message, certificate, signature),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_minted(certificate: &CertificateDer<'_>) -> bool {
    is_minting() && **certificate == *CERTIFICATE
}
