//! `[backends.upstream]`: what a backend of kind `mqtt` is beside its address.

use std::{path::PathBuf, time::Duration};

/// A bridge to an upstream MQTT broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Taken off topics that are forwarded, put before topics that come.
    pub local_prefix: String,
    /// Topic filters to subscribe to, behind the backend's `topic_prefix`; what they bring is published here.
    pub subscribe: Vec<String>,
    /// The quality of service to subscribe with, 0 or 1.
    pub subscribe_qos: u8,
    /// Client id at the broker; `None`: one of the gateway's own, which a restart does not change.
    pub client_id: Option<String>,
    /// User name at the broker.
    pub user: Option<String>,
    /// A file with the password as its first line.
    pub password_file: Option<PathBuf>,
    /// TLS; `None` speaks plaintext.
    pub tls: Option<BackendTls>,
    /// Time between beats.
    pub keep_alive: Duration,
    /// How long the broker keeps what is subscribed while the gateway is away.
    pub session_expiry: Duration,
    /// Where the broker is told, retained, whether the gateway is there: `1` or `0`.
    pub status_topic: Option<String>,
    /// First reconnect delay; doubles with full jitter.
    pub backoff_min: Duration,
    /// Longest reconnect delay.
    pub backoff_max: Duration,
    /// How often a message in the buffer is sent that the broker refuses for reasons that may pass.
    pub refused_tries_max: usize,
    /// Where messages of the buffer are published, with their topic behind it, that the broker refuses for good.
    pub dead_letter_topic: Option<String>,
    /// Gateways that a message may have passed before.
    pub hops_max: usize,
    /// Whether messages are acknowledged when they are on disk; otherwise when the broker has them.
    pub buffer: bool,
    /// Messages that wait for the broker.
    pub bounds: QueueBounds,
}

/// TLS towards a backend or an upstream broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// PEM file of the authorities that sign its certificate.
    pub ca: PathBuf,
    /// The name in it; `None`: the host of the backend's address.
    pub server_name: Option<String>,
    /// PEM files of the gateway's own certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Bounds of a queue in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages.
    pub count_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// How long each may wait; zero: for ever.
    pub age_max: Duration,
    /// What goes when there is no room.
    pub policy: DropPolicy,
}

/// What goes when a queue in the store is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropPolicy {
    /// What has waited longest.
    Oldest,
    /// What comes: its publisher is told.
    Newest,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            local_prefix: String::new(),
            subscribe: Vec::new(),
            subscribe_qos: 1,
            client_id: None,
            user: None,
            password_file: None,
            tls: None,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::from_secs(86_400),
            status_topic: None,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            refused_tries_max: 10,
            dead_letter_topic: None,
            hops_max: 8,
            buffer: true,
            bounds: QueueBounds::default(),
        }
    }
}

impl Default for QueueBounds {
    fn default() -> Self {
        Self {
            count_max: 100_000,
            bytes_max: 64 << 20,
            age_max: Duration::from_secs(7 * 86_400),
            policy: DropPolicy::Newest,
        }
    }
}
