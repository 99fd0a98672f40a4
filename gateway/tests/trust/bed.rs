//! A gateway configured as an operator would, and clients of several kinds.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Method;
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig as TlsConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Join},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_client::{
    CallRequest, Client, ClientCertificate, ClientConfig, ConnectionState, Security, Tls, Transports,
};
use towline_crypto::{ServerVerifier, shangmi::issue, x509::Certificate};
use towline_gateway::{
    control::{config, reload},
    demo::{self, Demo},
    gateway::Gateway,
    run::{self, Serving},
};

/// An authority for clients' certificates, beside the bed's own.
pub struct Authority {
    first: String,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Certificate and key of a client, PEM.
    pub fn client(&self, name: &str) -> (String, String) {
        client_of(&self.issuer, name)
    }
}

pub struct Bed {
    pub serving: Serving,
    folder: TempDir,
    clients: Issuer<'static, KeyPair>,
    _demo: Demo,
}

impl Bed {
    /// A listener `edge` with certificates of these kinds, TLS and QUIC.
    pub async fn start(kinds: &[&str], edge: &str) -> Self {
        let rest = "[[routes]]\nname = \"all\"\npath = \"/*\"\nbackend = \"demo\"\n";
        Self::with(kinds, edge, rest).await
    }

    pub async fn with(kinds: &[&str], edge: &str, routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_server_certificates(folder.path(), kinds);
        let (clients, pem) = authority("clients");
        std::fs::write(folder.path().join("clients.pem"), pem).unwrap();
        let demo = demo::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let text = configuration(kinds, edge, routes, demo.address);
        let settings = config::parse(&folder.path().join("towline.toml"), &text)
            .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, folder, clients, _demo: demo }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Certificate and key of a client, PEM.
    pub fn client(&self, name: &str) -> (String, String) {
        client_of(&self.clients, name)
    }

    /// Has the gateway take certificates of a second authority, too, which bears the name of the first.
    pub fn add_authority(&self) -> Authority {
        let (issuer, pem) = authority("clients");
        let authority =
            Authority { first: std::fs::read_to_string(self.path("clients.pem")).unwrap(), issuer, pem };
        std::fs::write(self.path("clients.pem"), format!("{}{}", authority.first, authority.pem)).unwrap();
        self.reload();
        authority
    }

    /// Takes the first authority out: the one that was added stays.
    pub fn take_first_authority_out(&self, added: &Authority) {
        std::fs::write(self.path("clients.pem"), &added.pem).unwrap();
        self.reload();
    }

    fn reload(&self) {
        let settings = self.serving.gateway.snapshot.load().settings.clone();
        reload::apply(&self.serving.gateway, settings).unwrap();
    }

    /// A client of the SDK that stays.
    pub fn client_with(&self, transports: Transports, certificate: &(String, String)) -> Client {
        let mut tls = Tls::new(std::fs::read(self.path("ca.pem")).unwrap());
        tls.certificate = Some(ClientCertificate::pem(&*certificate.0, &*certificate.1));
        let mut config = ClientConfig::new(vec![self.endpoint()], Vec::new());
        config.security = Security::Tls(tls);
        config.transports = transports;
        Client::start(config).unwrap()
    }

    /// One whose authority the gateway does not know.
    pub fn stranger(&self) -> (String, String) {
        client_of(&authority("strangers").0, "stranger")
    }

    /// GET /headers through the SDK: the header fields that the backend got, or why there is no answer.
    pub async fn call(
        &self,
        transports: Transports,
        change: impl FnOnce(&mut Tls),
    ) -> Result<String, String> {
        self.request(transports, CallRequest::http(Method::GET, "/headers", ""), change).await
    }

    pub async fn request(
        &self,
        transports: Transports,
        request: CallRequest,
        change: impl FnOnce(&mut Tls),
    ) -> Result<String, String> {
        let mut tls = Tls::new(std::fs::read(self.path("ca.pem")).unwrap());
        change(&mut tls);
        let mut config = ClientConfig::new(vec![self.endpoint()], Vec::new());
        config.security = Security::Tls(tls);
        config.transports = transports;
        answer(config, request).await
    }

    /// Two runs of an app, the second with what the first left on disk: how many tickets the gateway has opened.
    pub async fn twice(&self, transports: Transports, app: &str, change: impl FnOnce(&mut Tls)) -> u64 {
        let mut tls = Tls::new(std::fs::read(self.path("ca.pem")).unwrap());
        change(&mut tls);
        let mut config = ClientConfig::new(vec![self.endpoint()], Vec::new());
        config.security = Security::Tls(tls);
        config.transports = transports;
        config.identity_file = Some(self.path(app));
        let request = || CallRequest::http(Method::GET, "/headers", "");
        let tickets =
            || std::fs::read_dir(self.path(&format!("{app}.tickets"))).into_iter().flatten().count();
        let first = Client::start(config.clone()).unwrap();
        first.call(request()).await.unwrap();
        while tickets() < 2 {
            tokio::task::yield_now().await;
        }
        first.close().await;
        answer(config, request()).await.unwrap();
        self.serving.gateway.metrics.tls_tickets.with_label_values(&["opened"]).get()
    }

    pub async fn plaintext_call(&self, request: CallRequest) -> Result<String, String> {
        answer(ClientConfig::plaintext(vec![self.endpoint()]), request).await
    }

    /// A request of HTTP/1.1 on a connection of its own.
    pub async fn https(
        &self,
        identity: Option<(&str, &str)>,
        path: &str,
        headers: &str,
    ) -> std::io::Result<String> {
        let mut stream = self.tls(identity, Some(b"http/1.1")).await?;
        get(&mut stream, path, headers).await
    }

    pub async fn plaintext_http(&self, path: &str) -> String {
        get(&mut self.plaintext().await, path, "").await.unwrap()
    }

    pub async fn plaintext(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    pub async fn tls(
        &self,
        identity: Option<(&str, &str)>,
        alpn: Option<&[u8]>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.config(identity, alpn)));
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, self.plaintext().await).await
    }

    /// A stream of a QUIC connection, and what keeps it open.
    pub async fn quic(
        &self,
        identity: Option<(&str, &str)>,
        alpn: &[u8],
    ) -> std::io::Result<(Join<RecvStream, SendStream>, (Endpoint, Connection))> {
        let tls = QuicClientConfig::try_from(self.config(identity, Some(alpn))).unwrap();
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connection = endpoint.connect_with(config, self.address(), "localhost").unwrap().await?;
        let (send, recv) = connection.open_bi().await?;
        Ok((tokio::io::join(recv, send), (endpoint, connection)))
    }

    /// The kind of key in the certificate that a client of this ALPN gets.
    pub async fn certificate_kind(&self, alpn: Option<&[u8]>) -> &'static str {
        let stream = self.tls(None, alpn).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        Certificate::parse(&chain[0]).unwrap().key_kind().label()
    }

    fn config(&self, identity: Option<(&str, &str)>, alpn: Option<&[u8]>) -> TlsConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = ServerVerifier::new(Arc::new(roots), Vec::new(), &[Arc::clone(&provider)]).unwrap();
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
        let builder = TlsConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
        config
    }

    fn address(&self) -> SocketAddr {
        self.serving.address("edge").unwrap()
    }

    fn endpoint(&self) -> towline_client::Endpoint {
        format!("localhost:{}", self.address().port()).parse().unwrap()
    }
}

/// CONNECT of MQTT 5 without anything; the CONNACK.
pub async fn mqtt_connect<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Vec<u8> {
    mqtt_connect_as(stream, b"me").await
}

/// The same, by an id of two characters.
pub async fn mqtt_connect_as<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, id: &[u8; 2]) -> Vec<u8> {
    let connect = [b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02", &id[..]].concat();
    stream.write_all(&connect).await.unwrap();
    mqtt_packet(stream).await
}

/// PUBLISH with QoS 1; the PUBACK.
pub async fn mqtt_publish<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, topic: &str) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(b"\x00\x01\x00{}");
    let mut packet = vec![0x32, body.len() as u8];
    packet.append(&mut body);
    stream.write_all(&packet).await.unwrap();
    mqtt_packet(stream).await
}

/// Of less than 128 bytes.
pub async fn mqtt_packet<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut packet = vec![0; 2];
    stream.read_exact(&mut packet).await.unwrap();
    packet.resize(2 + usize::from(packet[1]), 0);
    stream.read_exact(&mut packet[2..]).await.unwrap();
    packet
}

/// The answer's body, or why there is none: the call's error, and what the connection failed of.
async fn answer(config: ClientConfig, request: CallRequest) -> Result<String, String> {
    let client = Client::start(config).unwrap();
    let mut states = client.states();
    let outcome = tokio::select! {
        outcome = client.call(request.deadline(Duration::from_secs(60))) => outcome,
        reason = ended(&mut states) => return Err(reason),
    };
    match outcome {
        Ok(answer) if answer.status == 200 => Ok(String::from_utf8_lossy(&answer.body()).into_owned()),
        Ok(answer) => Err(format!("{} {:?}", answer.status, answer.body())),
        Err(error) => Err(error.to_string()),
    }
}

/// Why the first attempt to connect failed.
async fn ended(states: &mut tokio::sync::watch::Receiver<ConnectionState>) -> String {
    loop {
        if let ConnectionState::Offline { reason } | ConnectionState::Closed { reason } =
            &*states.borrow_and_update()
            && reason != "starting"
        {
            return reason.clone();
        }
        if states.changed().await.is_err() {
            return "the client is gone".to_owned();
        }
    }
}

async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    path: &str,
    headers: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn configuration(kinds: &[&str], edge: &str, routes: &str, demo: SocketAddr) -> String {
    let certificates: Vec<_> =
        kinds.iter().map(|kind| format!("{{ chain = \"{kind}.pem\", key = \"{kind}.key\" }}")).collect();
    let authentication = if edge.contains("authentication") { "" } else { "authentication = \"none\"" };
    format!(
        "[[listeners]]\nname = \"edge\"\nbind = \"127.0.0.1:0\"\nquic = true\n{authentication}\n\
         certificate = [{}]\n{edge}\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [[backends]]\nname = \"demo\"\nkind = \"http1\"\naddress = \"{demo}\"\n{routes}",
        certificates.join(", ")
    )
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let params = authority_params(name);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

fn client_of(authority: &Issuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// `ca.pem` signs `ecdsa` and `rsa`; `sm2-ca.pem` signs `sm2`.
fn make_server_certificates(folder: &Path, kinds: &[&str]) {
    let (ca, pem) = authority("servers");
    std::fs::write(folder.join("ca.pem"), pem).unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    for kind in kinds {
        let (chain, key) = if *kind == "sm2" {
            let (ca_key, key) =
                (issue::Sm2KeyPair::generate().unwrap(), issue::Sm2KeyPair::generate().unwrap());
            let ca_params = authority_params("sm2");
            let ca = issue::self_signed(&ca_params, &ca_key).unwrap();
            std::fs::write(folder.join("sm2-ca.pem"), issue::to_pem(&ca).unwrap()).unwrap();
            let leaf = issue::signed_by(&params, &key, &Issuer::new(ca_params, ca_key)).unwrap();
            (issue::to_pem(&leaf).unwrap(), key.to_pem().unwrap().to_string())
        } else {
            let algorithm =
                if *kind == "rsa" { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
            let key = KeyPair::generate_for(algorithm).unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        std::fs::write(folder.join(format!("{kind}.pem")), chain).unwrap();
        std::fs::write(folder.join(format!("{kind}.key")), key).unwrap();
    }
}
