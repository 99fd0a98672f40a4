//! `[[backends]]` and `[[routes]]`: who answers, and what goes there.

use std::{sync::Arc, time::Duration};

use super::{BackendTls, Delivery, Upstream};
use crate::dictionaries::Sampling;

/// A named place that answers requests or takes messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique name.
    pub name: Arc<str>,
    /// What it speaks.
    pub kind: BackendKind,
    /// `host:port`, resolved at connect time.
    pub address: String,
    /// Bound on connection establishment.
    pub connect_timeout: Duration,
    /// Bound on the time to the answer's head, unless the route or the caller says less.
    pub timeout: Duration,
    /// Connections kept at the most (HTTP/1.1: also requests at one time; more wait).
    pub connections_max: usize,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// TLS to what takes requests; `None` speaks plaintext.
    pub tls: Option<BackendTls>,
    /// MQTT upstream only: prefix of topics at the broker.
    pub topic_prefix: String,
    /// MQTT upstream only: what it is beside its address.
    pub upstream: Upstream,
    /// Answers in place of what is at `address`; no part of the file.
    pub service: Option<crate::backend::Service>,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// HTTP/1.1 with a connection pool.
    Http1,
    /// HTTP/2: in plaintext with prior knowledge, by TLS with ALPN.
    Http2,
    /// gRPC: HTTP/2 whose errors are gRPC statuses.
    Grpc,
    /// An upstream MQTT broker; takes publishes only.
    Mqtt,
}

/// One rule of the router. All that is set must match.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique name, used in metrics.
    pub name: Arc<str>,
    /// Exact path, or a prefix when it ends in `*`.
    pub path: Option<String>,
    /// Host without port, or `*.suffix`.
    pub host: Option<String>,
    /// Header name (lower case) and exact value.
    pub header: Option<(String, String)>,
    /// MQTT topic filter; such a route takes publishes, not requests.
    pub topic: Option<String>,
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Topic routes to a gRPC or HTTP backend: the method path that is called.
    pub call: Option<String>,
    /// Bound on the time to the answer's head; `None` takes the backend's.
    pub timeout: Option<Duration>,
    /// Name that the client's certificate bears, exactly or as `*.suffix`; `*` takes every certificate.
    pub client_certificate: Option<String>,
    /// Refuse requests that came over an unencrypted transport.
    pub encrypted_only: bool,
    /// Running it twice does no harm: it may be retried.
    pub idempotent: bool,
    /// Which of its bodies and header lists are kept to train dictionaries on.
    pub sampling: Sampling,
    /// HTTP clients may be answered with dictionaries (RFC 9842).
    pub dcz: bool,
    /// What is kept of a link request outlives the gateway's process.
    pub durable: bool,
    /// Topic routes: how messages reach the backend.
    pub delivery: Delivery,
}

impl Backend {
    /// A backend with the default bounds.
    pub fn new(name: &str, kind: BackendKind, address: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            address: address.into(),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
            connections_max: 64,
            idle_timeout: Duration::from_secs(60),
            tls: None,
            topic_prefix: String::new(),
            upstream: Upstream::default(),
            service: None,
        }
    }
}

impl Route {
    /// A route that matches everything.
    pub fn new(name: &str, backend: &str) -> Self {
        Self {
            name: name.into(),
            path: None,
            host: None,
            header: None,
            topic: None,
            backend: backend.into(),
            call: None,
            timeout: None,
            client_certificate: None,
            encrypted_only: false,
            idempotent: false,
            sampling: Sampling::default(),
            dcz: false,
            durable: false,
            delivery: Delivery::default(),
        }
    }
}
