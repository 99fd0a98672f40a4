//! The stream against rustls' client and against clients that break the rules, over real sockets.

mod early;
mod flow;
mod hello;
mod rogue;
mod wire;

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};
use tokio_rustls::TlsConnector;
use towline_protocols::tls::RecordSizes;

use super::*;
use crate::transport::tls::{
    accept::{Accepted, HandshakeError, Hello},
    early as early_data,
};

/// A server's configuration, and what its clients trust.
#[derive(Clone)]
struct Scene {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    sizes: RecordSizes,
}

impl Scene {
    fn new() -> Self {
        Self::with(aws_lc_rs::default_provider(), |_, _| {})
    }

    fn with(provider: CryptoProvider, change: impl FnOnce(&mut ServerConfig, &mut ClientConfig)) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        server.ticketer = early_data::ticketer(aws_lc_rs::Ticketer::new().unwrap());
        server.alpn_protocols = vec![ALPN_LINK.to_vec()];
        early_data::prepare(&mut server, 16 * 1024);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN_LINK.to_vec()];
        client.enable_early_data = true;
        change(&mut server, &mut client);
        Self { server: Arc::new(server), client: Arc::new(client), sizes: RecordSizes::default() }
    }

    /// Only TLS 1.2, which stays with rustls.
    fn tls12() -> Self {
        let mut scene = Self::new();
        let mut client = ClientConfig::builder_with_provider(scene.client.crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN_LINK.to_vec()];
        scene.client = Arc::new(client);
        scene
    }

    async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeError> {
        let hello = Hello::read(tcp, b"").await?;
        hello.accept(Arc::clone(&self.server), self.sizes, deadline()).await
    }

    /// Both ends of a connection whose handshake is over.
    async fn established(&self) -> (tokio_rustls::client::TlsStream<TcpStream>, TlsStream) {
        let (near, far) = sockets().await;
        let connecting = TlsConnector::from(Arc::clone(&self.client)).connect(name(), far);
        let (client, server) = tokio::join!(connecting, self.accept(near));
        (client.unwrap(), server.unwrap().stream)
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    far.set_nodelay(true).unwrap();
    (listener.accept().await.unwrap().0, far)
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Established>() <= 192, "{}", size_of::<Established>());
    assert!(size_of::<IdleTls>() <= 24, "{}", size_of::<IdleTls>());
    assert!(size_of::<TlsStream>() <= 64, "{}", size_of::<TlsStream>());
}
