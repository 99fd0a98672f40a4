//! A gateway with one listener for each transport, and clients for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use towline_client::{CallRequest, Client, ClientConfig, ConnectionState, Endpoint, Transports};
use towline_gateway::{
    auth,
    gateway::Gateway,
    hub::Message,
    run::{self, Serving},
    settings::{
        Authentication, Backend as BackendSettings, BackendKind, CertificateFiles, Listener, Route, Settings,
        TlsMode,
    },
};

use crate::backend::Backend;

/// The user that the listener `door` admits.
pub const USER: (&str, &str) = ("ada", "correct horse");

pub struct Bed {
    pub serving: Serving,
    pub backend: Backend,
    pub folder: TempDir,
    pub ca: Vec<u8>,
    pub certificates: CertificateFiles,
}

impl Bed {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A gateway whose settings differ from the defaults.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = towline_gateway::cli::development_certificates(folder.path()).unwrap();
        let backend = Backend::start().await;
        let address = backend.address().to_string();
        let files = CertificateFiles::pem(&certificates.chain, &certificates.key);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let edge = Listener {
            quic: true,
            tls: TlsMode::Required,
            certificates: vec![files.clone()],
            ..Listener::plain("edge", loopback)
        };
        let door = Listener { authentication: Authentication::Password, ..Listener::plain("door", loopback) };
        let users = folder.path().join("users");
        std::fs::write(&users, auth::password_line(USER.0, USER.1.as_bytes()).unwrap()).unwrap();
        let mut settings = Settings {
            listeners: vec![edge, Listener::plain("plain", loopback), door],
            backends: vec![BackendSettings::new("test", BackendKind::Grpc, address)],
            routes: vec![Route { path: Some("/test/*".into()), ..Route::new("test", "test") }],
            ..Settings::side_by_side()
        };
        settings.auth.password_file = Some(users);
        settings.limits.park_after = crate::PARK_AFTER;
        change(&mut settings);
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        let ca = std::fs::read(&certificates.ca).unwrap();
        Self { serving, backend, folder, ca, certificates: files }
    }

    /// Another gateway with the same certificate, which sends its clients to `address` when it goes.
    pub async fn twin(&self, spread: Duration, address: SocketAddr) -> Self {
        let mut twin = Self::with(|settings| {
            (settings.drain_spread, settings.drain_timeout) = (spread, Duration::from_secs(3600));
            settings.drain_endpoints = vec![address.to_string()];
            let edge = settings.listeners.iter_mut().filter(|listener| &*listener.name == "edge");
            edge.for_each(|listener| listener.certificates = vec![self.certificates.clone()]);
        })
        .await;
        twin.ca.clone_from(&self.ca);
        twin
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.serving.gateway
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.serving.address(listener).unwrap()
    }

    /// A client's configuration over TLS or QUIC.
    pub fn config(&self, transports: Transports) -> ClientConfig {
        let mut config = ClientConfig::new(vec![endpoint(self.address("edge"))], self.ca.clone());
        config.transports = transports;
        config.seed = Some(7);
        config
    }

    pub fn client(&self, transports: Transports) -> Client {
        Client::start(self.config(transports)).unwrap()
    }

    /// A client in plaintext, by way of `address`.
    pub fn plain(&self, address: SocketAddr) -> ClientConfig {
        ClientConfig { seed: Some(7), ..ClientConfig::plaintext(vec![endpoint(address)]) }
    }

    /// Sends a push of quality 1 to a client.
    pub fn push(&self, client: &str, payload: &str) {
        let pushed = self.gateway().hub.push_to_client(client, &message("news/today", payload));
        assert!(pushed.is_some(), "{client} is known");
    }
}

/// Both transports, for scenarios that must read the same on each.
pub const BOTH: [Transports; 2] = [Transports::Tcp, Transports::Quic];

pub fn message(topic: &str, payload: &str) -> Arc<Message> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Arc::new(Message { topic: topic.into(), payload, qos: 1, ..Message::default() })
}

pub fn call(method: &str, message: impl Into<Bytes>) -> CallRequest {
    CallRequest::grpc(format!("/test/{method}"), message)
}

/// The answer of a unary method.
pub async fn answer(client: &Client, method: &str, message: impl Into<Bytes>) -> Bytes {
    client.call(call(method, message)).await.unwrap().into_grpc().unwrap()
}

/// Waits until the client's state is as wanted.
pub async fn state(client: &Client, wanted: impl FnMut(&ConnectionState) -> bool) -> ConnectionState {
    client.states().wait_for(wanted).await.unwrap().clone()
}

pub async fn online(client: &Client) {
    state(client, |state| matches!(state, ConnectionState::Online { .. })).await;
}

pub async fn closed(client: &Client) -> String {
    match state(client, |state| matches!(state, ConnectionState::Closed { .. })).await {
        ConnectionState::Closed { reason } => reason,
        other => unreachable!("{other}"),
    }
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    address.to_string().parse().unwrap()
}
