//! The configuration as the data path reads it: plain values, already validated. `control::config`
//! makes them from TOML; nothing here parses.

mod access;
mod auth;
mod backends;
mod delivery;
mod mqtt;
mod rates;
mod session;
mod topics;
mod upstream;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use towline_crypto::{International, KeyReference, Providers, signing::PublicKey};
use towline_dictionaries::headers::{CLIENTS_MIN_DEFAULT, HEADER_FIELDS_DEFAULT, HEADER_SIZE_DEFAULT};

pub use self::{
    access::{Acl, AclAction, AclRule, Mqtt3Denied, Permission},
    auth::{Auth, Guesses, Hook, Jwks, Jwt},
    backends::{Backend, BackendKind, Route},
    delivery::{Batch, Delivery, Retry},
    mqtt::Mqtt,
    rates::Rates,
    session::{Session, Short},
    topics::{Delayed, Presence, Rewrite, Shadow},
    upstream::{BackendTls, DropPolicy, QueueBounds, Upstream},
};
pub use crate::hub::ShareStrategy;
use crate::network::Network;
pub use towline_protocols::mqtt::session::QueuePolicy;
use towline_protocols::{hpack::NeverIndexed, tls::RecordSizes};

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where certificates of the `dev` start and the embedded store live.
    pub data_dir: PathBuf,
    /// How long a drain waits for running requests before it closes what is left.
    pub drain_timeout: Duration,
    /// Over how long clients are asked to spread their reconnects when the gateway drains.
    pub drain_spread: Duration,
    /// Endpoints (`host:port`) that GOAWAY names.
    pub drain_endpoints: Vec<String>,
    /// Sockets and what may be spoken on them.
    pub listeners: Vec<Listener>,
    /// Where requests may go.
    pub backends: Vec<Backend>,
    /// Which request goes where; the first match wins.
    pub routes: Vec<Route>,
    /// What listeners with TLS share.
    pub tls: Tls,
    /// Who may connect.
    pub auth: Auth,
    /// Who may publish and subscribe to what.
    pub acl: Acl,
    /// Admin listener.
    pub admin: Admin,
    /// Bounds of what a peer may use.
    pub limits: Limits,
    /// Link sessions.
    pub session: Session,
    /// Short connections of the link.
    pub short: Short,
    /// The push API.
    pub push: Push,
    /// MQTT.
    pub mqtt: Mqtt,
    /// Events of clients that come and go.
    pub presence: Presence,
    /// Messages that are to be published later.
    pub delayed: Delayed,
    /// Device shadows.
    pub shadow: Shadow,
    /// Other names for topics; the first that matches is taken.
    pub rewrites: Vec<Rewrite>,
    /// What SDK clients are told to do.
    pub client_policy: ClientPolicy,
    /// Payload compression on the link.
    pub compression: Compression,
    /// Dictionaries that the gateway trains and publishes.
    pub dictionaries: Dictionaries,
    /// Where clients are to knock; `None`: as their apps say.
    pub endpoint_list: Option<EndpointList>,
    /// Log output.
    pub log: Log,
    /// Kinds of cryptography that listeners may name; no part of the file.
    pub providers: Providers,
}

/// One address, one port number, TCP or UDP or both.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique name, used in logs and metrics.
    pub name: Arc<str>,
    /// Address of the TCP socket and of the UDP socket.
    pub bind: SocketAddr,
    /// Accept TCP connections.
    pub tcp: bool,
    /// Accept QUIC connections on UDP.
    pub quic: bool,
    /// Protocols admitted, found by ALPN and first bytes.
    pub protocols: Vec<ListenerProtocol>,
    /// Whether TLS is demanded on TCP.
    pub tls: TlsMode,
    /// Certificates, the default first; needed unless `tls = off` and no QUIC.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// PEM file of the authorities that sign clients' certificates; needed unless `client_certificates = off`.
    pub client_ca: Option<PathBuf>,
    /// Whether backends get a client's certificate in the header field `Client-Cert` (RFC 9440).
    pub forward_client_certificate: bool,
    /// Names of providers of cryptography, in the order of preference; at least one.
    pub crypto: Vec<Arc<str>>,
    /// Whether link clients get a delegated ECDSA certificate in place of an RSA certificate.
    pub delegated_ecdsa: bool,
    /// How long a delegated certificate lives.
    pub delegated_life: Duration,
    /// The two certificates of TLCP, if the listener speaks it.
    pub tlcp_certificate: Option<TlcpCertificate>,
    /// Networks of load balancers, which must begin every TCP connection with a PROXY protocol header; nobody else may
    /// connect then. Empty: clients connect themselves, and no header is believed.
    pub proxy_protocol: Vec<Network>,
    /// How clients prove who they are.
    pub authentication: Authentication,
    /// The path at which MQTT over WebSocket is served.
    pub websocket_path: String,
    /// Web pages that may connect by WebSocket, by their origins; `*` is all. `None`: all where a password is asked
    /// for, and the server's own elsewhere. Most clients that are no browsers name no origin.
    pub websocket_origins: Option<Vec<String>>,
    /// The operator's word that `authentication = none` may listen beyond loopback.
    pub open_to_network: bool,
    /// The UDP port at which HTTP/1.1 and HTTP/2 clients are told to find HTTP/3 (RFC 7838); `None` is the
    /// port of `bind`, 0 tells them nothing.
    pub alt_svc_port: Option<u16>,
    /// Connections at one time on this listener.
    pub connections_max: usize,
    /// How fast its clients may be.
    pub rate: Rates,
    /// Early data (0-RTT) accepted on a TLS connection, octets; 0 is none.
    pub early_data_bytes_max: u32,
    /// How TLS records grow with a flow.
    pub record_size: RecordSizes,
}

/// A protocol that a listener may admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// `towline/1`.
    Link,
    /// HTTP/1.1 and HTTP/2; HTTP/3 where QUIC is accepted.
    Http,
    /// MQTT.
    Mqtt,
    /// MQTT in a WebSocket.
    WebSocket,
}

/// Whether a TCP listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plaintext is refused.
    Required,
    /// The first bytes decide.
    Optional,
    /// TLS is refused.
    Off,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file of the chain, leaf first.
    pub chain: PathBuf,
    /// PEM file with a PKCS#8, SEC1 or PKCS#1 key, or a URI that the provider knows.
    pub key: KeyReference,
}

impl CertificateFiles {
    /// Both in PEM files.
    pub fn pem(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: KeyReference::File(key.into()) }
    }

    /// What to name when the key is at fault.
    pub fn key_path(&self) -> PathBuf {
        match &self.key {
            KeyReference::File(path) => path.clone(),
            other => Path::new(&format!("{other:?}")).into(),
        }
    }
}

/// Whether a listener's clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked, and may have none.
    Optional,
    /// Who has none is refused.
    Required,
}

/// What listeners with TLS share.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Keys of session tickets and session tokens that several nodes share; without it the gateway has its own.
    pub ticket_keys: Option<PathBuf>,
    /// How long a ticket resumes a session.
    pub ticket_life: Duration,
    /// From how long before a certificate's end on the log warns of it.
    pub expiry_warning: Duration,
}

/// TLCP signs with one key and decrypts with another (GB/T 38636, section 6.4.5.3).
#[derive(Clone, Debug)]
pub struct TlcpCertificate {
    /// Its certificate's key usage is digitalSignature.
    pub sign: CertificateFiles,
    /// Its certificate's key usage is keyEncipherment, dataEncipherment or keyAgreement.
    pub encrypt: CertificateFiles,
}

/// How a listener's clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Everybody is admitted, without a user.
    None,
    /// User and password: HELLO, HTTP Basic, MQTT CONNECT.
    Password,
    /// The client's certificate, whose name is the user.
    Certificate,
}

/// Admin listener: metrics, health, push API. It admits without authentication.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Loopback unless `open_to_network`.
    pub bind: SocketAddr,
    /// The operator's word that it may listen beyond loopback.
    pub open_to_network: bool,
}

/// Bounds of what a peer may use. Every one is counted in a metric when it is hit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time from accept to the end of the TLS or QUIC handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at one time, all listeners.
    pub handshakes_max: usize,
    /// Time from the end of the handshake to a recognised protocol and its first message.
    pub first_message_timeout: Duration,
    /// Connections at one time, all listeners.
    pub connections_max: usize,
    /// One frame's payload on the link, bytes.
    pub frame_bytes_max: usize,
    /// The largest UDP payload that QUIC looks for on a path, bytes; 1200 looks for none.
    pub quic_payload_max: usize,
    /// One header list, bytes as RFC 7541 section 4.1 counts (name + value + 32).
    pub header_list_bytes_max: usize,
    /// One message after decompression, bytes; also an HTTP request body without a stream's end.
    pub message_bytes_max: usize,
    /// Running requests of one connection.
    pub streams_max: usize,
    /// Link sessions kept, live or away. Those that are there when it is lowered, by a reload or over a restart, stay
    /// until they expire; new clients are refused meanwhile.
    pub sessions_max: usize,
    /// A TCP connection without any byte for this long is closed (HTTP only; link and MQTT promise beats).
    pub idle_timeout: Duration,
    /// Unacknowledged bytes older than this end a TCP connection (TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
    /// A peer that takes no byte of what is queued for it for this long is closed.
    pub write_timeout: Duration,
    /// A link or MQTT connection over TCP that was quiet for this long gives its task back; zero: never.
    pub park_after: Duration,
}

/// The push API.
#[derive(Clone, Debug)]
pub struct Push {
    /// Queues of receipts.
    pub receipt_queues_max: usize,
    /// Receipts kept per queue.
    pub receipts_max: usize,
    /// How long a receipt is kept.
    pub receipt_age_max: Duration,
}

/// What SDK clients are told to do; sent as POLICY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPolicy {
    /// Time between beats on a quiet connection.
    pub heartbeat: Duration,
    /// How long a client waits for QUIC at the most before it tries TCP beside it, on a network of which it does not know
    /// how long connecting takes.
    pub fallback_delay: Duration,
    /// Bound on one connection attempt.
    pub connect_timeout: Duration,
    /// First reconnect delay; doubles with full jitter.
    pub backoff_min: Duration,
    /// Longest reconnect delay.
    pub backoff_max: Duration,
}

/// Payload compression on the link.
#[derive(Clone, Debug)]
pub struct Compression {
    /// Whether answers may be compressed.
    pub enabled: bool,
    /// zstd level.
    pub level: i32,
    /// Messages below this many bytes are sent as they are.
    pub bytes_min: usize,
    /// Dictionary files beside the built-in one.
    pub dictionaries: Vec<PathBuf>,
}

/// A signed list of endpoints that clients are offered (PROTOCOL.md, section 22).
#[derive(Clone, Debug)]
pub struct EndpointList {
    /// As `towline endpoints sign` writes it.
    pub file: PathBuf,
    /// Of those who sign it, as apps have them; at least one.
    pub keys: Vec<PublicKey>,
}

/// Dictionaries that the gateway trains and publishes.
#[derive(Clone, Debug)]
pub struct Dictionaries {
    /// Time between trainings on what was sampled; zero never trains.
    pub retrain: Duration,
    /// A new dictionary is published if it saves so much of what the current one takes, percent.
    pub gain_percent_min: u8,
    /// The share of clients that a dictionary trained here is for at first, percent.
    pub rollout_percent: u8,
    /// The most bytes of a dictionary trained here.
    pub size: usize,
    /// Versions of each kind that are kept.
    pub versions_max: usize,
    /// Samples that are kept, bytes.
    pub samples_bytes_max: usize,
    /// The most bytes of a header dictionary trained here.
    pub header_bytes_max: usize,
    /// The most fields of one.
    pub header_fields_max: usize,
    /// Clients that must have shown a value before a header dictionary shows it to all.
    pub header_clients_min: usize,
    /// Header lists that are kept, bytes.
    pub header_samples_bytes_max: usize,
    /// Names of header fields that are in no sample, beside secret ones.
    pub header_names_left_out: NeverIndexed,
    /// Hashes (or their first digits) of published dictionaries that are not to be used.
    pub withdrawn: Vec<String>,
}

/// Log output.
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter as tracing-subscriber's `EnvFilter` reads it.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Settings {
    /// No listener, no backend, no route; every bound as in `towline.example.toml`.
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("towline-data"),
            drain_timeout: Duration::from_secs(30),
            drain_spread: Duration::from_secs(10),
            drain_endpoints: Vec::new(),
            listeners: Vec::new(),
            backends: Vec::new(),
            routes: Vec::new(),
            tls: Tls::default(),
            auth: Auth::default(),
            acl: Acl::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            session: Session::default(),
            short: Short::default(),
            push: Push::default(),
            mqtt: Mqtt::default(),
            presence: Presence::default(),
            delayed: Delayed::default(),
            shadow: Shadow::default(),
            rewrites: Vec::new(),
            client_policy: ClientPolicy::default(),
            compression: Compression::default(),
            dictionaries: Dictionaries::default(),
            endpoint_list: None,
            log: Log::default(),
            providers: Providers::default(),
        }
    }
}

impl Settings {
    /// The defaults with the admin listener on a free port: several such gateways run side by side.
    pub fn side_by_side() -> Self {
        Self {
            admin: Admin { bind: SocketAddr::from(([127, 0, 0, 1], 0)), open_to_network: false },
            ..Self::default()
        }
    }
}

impl Listener {
    /// A listener on `bind` that admits every protocol over TCP, in plaintext, without authentication.
    pub fn plain(name: &str, bind: SocketAddr) -> Self {
        Self {
            name: name.into(),
            bind,
            tcp: true,
            quic: false,
            protocols: vec![
                ListenerProtocol::Link,
                ListenerProtocol::Http,
                ListenerProtocol::Mqtt,
                ListenerProtocol::WebSocket,
            ],
            tls: TlsMode::Off,
            certificates: Vec::new(),
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            forward_client_certificate: false,
            crypto: vec![International::NAME.into()],
            delegated_ecdsa: true,
            delegated_life: Duration::from_secs(86_400),
            tlcp_certificate: None,
            proxy_protocol: Vec::new(),
            authentication: Authentication::None,
            websocket_path: "/mqtt".into(),
            websocket_origins: None,
            open_to_network: false,
            alt_svc_port: None,
            connections_max: 100_000,
            rate: Rates::default(),
            early_data_bytes_max: 16 * 1024,
            record_size: RecordSizes::default(),
        }
    }
}

impl Listener {
    /// Whether a browser's page of that origin may connect by WebSocket.
    pub fn admits_web_origin(&self, origin: &str) -> bool {
        match &self.websocket_origins {
            Some(origins) => {
                origins.iter().any(|admitted| admitted == "*" || admitted.eq_ignore_ascii_case(origin))
            }
            // What opens these the browser brings along for any page: a certificate, its place in the network.
            None => !matches!(self.authentication, Authentication::None | Authentication::Certificate),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ticket_keys: None,
            ticket_life: Duration::from_secs(12 * 3600),
            expiry_warning: Duration::from_secs(30 * 86_400),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 7900)), open_to_network: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 512,
            first_message_timeout: Duration::from_secs(10),
            connections_max: 200_000,
            frame_bytes_max: 16 * 1024 + 256,
            quic_payload_max: 1452,
            header_list_bytes_max: 64 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            streams_max: 128,
            sessions_max: 500_000,
            idle_timeout: Duration::from_secs(75),
            tcp_user_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            park_after: Duration::from_secs(2),
        }
    }
}

impl Default for Push {
    fn default() -> Self {
        Self { receipt_queues_max: 64, receipts_max: 65_536, receipt_age_max: Duration::from_secs(86_400) }
    }
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(60),
            fallback_delay: Duration::from_millis(400),
            connect_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self { enabled: true, level: 3, bytes_min: 64, dictionaries: Vec::new() }
    }
}

impl Default for Dictionaries {
    fn default() -> Self {
        Self {
            retrain: Duration::ZERO,
            gain_percent_min: 3,
            rollout_percent: 10,
            size: 64 << 10,
            versions_max: 4,
            samples_bytes_max: 8 << 20,
            header_bytes_max: HEADER_SIZE_DEFAULT,
            header_fields_max: HEADER_FIELDS_DEFAULT,
            header_clients_min: CLIENTS_MIN_DEFAULT,
            header_samples_bytes_max: 1 << 20,
            header_names_left_out: NeverIndexed::default(),
            withdrawn: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}
