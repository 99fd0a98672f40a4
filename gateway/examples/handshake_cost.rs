//! What a full handshake costs the server: an RSA certificate, the delegated ECDSA certificate that link clients get
//! in its place, and an ECDSA certificate of its own, in one run.
//!
//!     cargo run --release -p towline-gateway --example handshake_cost [HANDSHAKES]
//!
//! Both ends are in memory and on one thread; only the server's turns are timed, by the thread's CPU clock.

use std::{
    env,
    error::Error,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use towline_crypto::{Providers, ServerVerifier, x509::Certificate};
use towline_gateway::{
    metrics::Metrics,
    settings::{CertificateFiles, Listener, Tls},
    transport::tls::{ALPN_HTTP2, ALPN_LINK, HelloFacts, ServerTls, TicketKeys},
};

const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let handshakes: usize = env::args().nth(1).map_or(Ok(2000), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let rsa = authority.serve(folder.path(), "rsa", &rcgen::PKCS_RSA_SHA256)?;
    let ecdsa = authority.serve(folder.path(), "ecdsa", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let kinds = [
        Kind { name: "RSA-2048", server: Arc::clone(&rsa), client: authority.client(ALPN_HTTP2)? },
        Kind { name: "delegated ECDSA P-256", server: rsa, client: authority.client(ALPN_LINK)? },
        Kind { name: "ECDSA P-256", server: ecdsa, client: authority.client(ALPN_HTTP2)? },
    ];
    let mut spent = [Duration::ZERO; 3];
    // In turns, so that what the machine does beside falls on all alike; the first round warms up.
    let each = handshakes.div_ceil(ROUNDS);
    for round in 0..=ROUNDS {
        for (kind, spent) in kinds.iter().zip(&mut spent) {
            let time = (0..each).map(|_| kind.handshake()).sum::<Result<Duration, _>>()?;
            *spent += if round > 0 { time } else { Duration::ZERO };
        }
    }
    println!("server CPU per full TLS 1.3 handshake, X25519MLKEM768, {} handshakes each", each * ROUNDS);
    for (kind, spent) in kinds.iter().zip(spent) {
        let microseconds = spent.as_secs_f64() * 1e6 / (each * ROUNDS) as f64;
        println!("{:<24} {microseconds:>7.1} us   (client saw: {})", kind.name, kind.certificate()?);
    }
    Ok(())
}

struct Kind {
    name: &'static str,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Kind {
    /// The server's time for one handshake.
    fn handshake(&self) -> Result<Duration, rustls::Error> {
        self.run().map(|(spent, _)| spent)
    }

    fn certificate(&self) -> Result<&'static str, Box<dyn Error>> {
        let (_, client) = self.run()?;
        let leaf = client.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
        Ok(Certificate::parse(leaf)?.key_kind().label())
    }

    fn run(&self) -> Result<(Duration, ClientConnection), rustls::Error> {
        let name = ServerName::try_from("edge.example").map_err(general)?;
        let mut client = ClientConnection::new(Arc::clone(&self.client), name)?;
        let (mut server, mut spent) = (None, Duration::ZERO);
        while client.is_handshaking()
            || server.as_ref().is_some_and(|server: &ServerConnection| server.is_handshaking())
        {
            let sent = written(|out| client.write_tls(out))?;
            let before = cpu_time();
            if server.is_none() {
                server = Some(ServerConnection::new(Arc::clone(&self.server))?);
            }
            let Some(server) = &mut server else { break };
            server.read_tls(&mut &sent[..]).map_err(general)?;
            server.process_new_packets()?;
            let answer = written(|out| server.write_tls(out))?;
            spent += cpu_time().saturating_sub(before);
            let mut rest = &answer[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).map_err(general)?;
                client.process_new_packets()?;
            }
        }
        Ok((spent, client))
    }
}

fn general(error: impl std::fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

/// Everything that an end has to send.
fn written(mut write: impl FnMut(&mut Vec<u8>) -> io::Result<usize>) -> Result<Vec<u8>, rustls::Error> {
    let mut bytes = Vec::new();
    while write(&mut bytes).map_err(general)? > 0 {}
    Ok(bytes)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Authority");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// What a listener with a certificate of this kind does over TCP.
    fn serve(
        &self,
        folder: &Path,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
    ) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
        let key = KeyPair::generate_for(algorithm)?;
        let params = CertificateParams::new(vec!["edge.example".to_owned()])?;
        let (chain, key_path) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        let mut listener = Listener::plain(name, ([127, 0, 0, 1], 0).into());
        listener.certificates = vec![CertificateFiles::pem(chain, key_path)];
        let now = SystemTime::now();
        let keys = Arc::new(TicketKeys::new(&Tls::default(), Metrics::new().tls_tickets, now)?);
        let tls = ServerTls::new(&listener, &Providers::default(), &keys, now)?;
        Ok(tls.choose_by(&HelloFacts::default())?)
    }

    fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = ServerVerifier::new(Arc::new(roots), Vec::new(), &[Arc::clone(&provider)])?;
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}
