//! A gateway with the demo backend behind it, on an address of the test's choice.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use prost::Message as _;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use towline_client::{CallRequest, Client, ClientConfig, Transports};
use towline_gateway::{
    demo::{self, Demo},
    gateway::Gateway,
    proto::demo::{EchoReply, EchoRequest},
    run::{self, Serving},
    settings::{Backend, BackendKind, CertificateFiles, Listener, Route, Settings, TlsMode},
};

pub struct Bed {
    pub serving: Serving,
    pub ca: Vec<u8>,
    _demo: Demo,
    _folder: TempDir,
}

impl Bed {
    /// A gateway that listens on `ip`.
    pub async fn on(ip: IpAddr, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (files, ca) = certificate(&folder, ip);
        let demo = demo::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let edge = Listener {
            quic: true,
            tls: TlsMode::Required,
            certificates: vec![files],
            open_to_network: true,
            ..Listener::plain("edge", SocketAddr::new(ip, 0))
        };
        let mut settings = Settings {
            listeners: vec![edge],
            backends: vec![Backend::new("demo", BackendKind::Grpc, demo.address.to_string())],
            routes: vec![Route::new("all", "demo")],
            ..Settings::side_by_side()
        };
        change(&mut settings);
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, ca, _demo: demo, _folder: folder }
    }

    pub async fn on_loopback(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on([127, 0, 0, 1].into(), change).await
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.serving.gateway
    }

    /// Waits until so many handshakes took too long.
    pub async fn timed_out(&self, count: u64) {
        let timeouts = self.gateway().metrics.handshakes.with_label_values(&["edge", "timeout"]);
        while timeouts.get() < count {
            tokio::task::yield_now().await;
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.serving.address("edge").unwrap()
    }
}

fn certificate(folder: &TempDir, ip: IpAddr) -> (CertificateFiles, Vec<u8>) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![ip.to_string()]).unwrap().signed_by(&key, &ca).unwrap();
    let (chain, private) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, leaf.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    (CertificateFiles::pem(&chain, &private), ca.pem().into_bytes())
}

/// An SDK client on QUIC alone.
pub fn client(address: SocketAddr, ca: Vec<u8>) -> Client {
    Client::start(config(address, ca)).unwrap()
}

/// Its configuration.
pub fn config(address: SocketAddr, ca: Vec<u8>) -> ClientConfig {
    let mut config = ClientConfig::new(vec![address.to_string().parse().unwrap()], ca);
    config.transports = Transports::Quic;
    config.seed = Some(7);
    config
}

/// Asks for an echo that takes so long.
pub async fn echo(client: &Client, text: &str, delay_ms: u32) -> String {
    let request = EchoRequest { text: text.to_owned(), delay_ms, ..EchoRequest::default() };
    let call = CallRequest::grpc("/towline.demo.v1.Echo/Unary", request.encode_to_vec());
    let answer = client.call(call).await.unwrap().into_grpc().unwrap();
    EchoReply::decode(answer).unwrap().text
}
