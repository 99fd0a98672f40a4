//! Which request goes where: the table of routes, and the one road that every request takes through it
//! whatever front it came in by.

mod never_indexed;
mod path;
mod road;
mod table;
mod topic;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::uri::PathAndQuery;
use prometheus::{Histogram, IntCounter};

pub(crate) use self::road::{admit, kind_name, observe};
pub use self::{
    road::{carry, find},
    table::{RouteError, RouteTable},
    topic::{InvalidFilter, TopicFilter},
};
use crate::{
    backend::{Backend, Batcher},
    dictionaries::Sampling,
    metrics::Metrics,
    settings::Delivery,
    transport::tls::PeerIdentity,
};

/// One rule of the table, with its backend at hand.
#[derive(Debug)]
pub struct Route {
    /// Unique name, used in metrics.
    pub name: Arc<str>,
    /// Where its requests or messages go. Shared by all routes to the same backend.
    pub backend: Arc<Backend>,
    /// Topic routes to a gRPC or HTTP backend: the path that is called.
    pub call: Option<PathAndQuery>,
    /// Bound on the time to the answer's head; `None` takes the backend's.
    pub timeout: Option<Duration>,
    /// The name that the client's certificate must bear; `None` asks for none.
    pub client_certificate: Option<String>,
    /// Refuses what came over an unencrypted transport.
    pub encrypted_only: bool,
    /// Running it twice does no harm.
    pub idempotent: bool,
    /// Which of its bodies are kept to train dictionaries on.
    pub sampling: Sampling,
    /// HTTP clients may be answered with dictionaries (RFC 9842).
    pub dcz: bool,
    /// What is kept of a link request outlives the gateway's process.
    pub durable: bool,
    /// How messages reach the backend.
    pub delivery: Delivery,
    /// Gathers them, if they go in batches.
    pub batcher: Option<Batcher>,
    /// Found once, not by name for every request.
    meters: OnceLock<Meters>,
}

/// A route's counters of the usual case.
#[derive(Debug)]
struct Meters {
    ok: IntCounter,
    seconds: Histogram,
}

impl Route {
    /// One of the gateway's own, which no request matches: calls that do no harm when they are run twice.
    pub(crate) fn of_gateway(
        name: &str,
        backend: &Arc<Backend>,
        call: PathAndQuery,
        timeout: Duration,
    ) -> Self {
        Self {
            name: name.into(),
            backend: Arc::clone(backend),
            call: Some(call),
            timeout: Some(timeout),
            client_certificate: None,
            encrypted_only: false,
            idempotent: true,
            sampling: Sampling::default(),
            dcz: false,
            durable: false,
            delivery: Delivery::default(),
            batcher: None,
            meters: OnceLock::new(),
        }
    }

    /// The time that the backend has to begin its answer.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(self.backend.settings().timeout)
    }

    /// Whether the client's certificate is one that the route is for.
    fn is_for(&self, identity: Option<&PeerIdentity>) -> bool {
        let Some(pattern) = &self.client_certificate else { return true };
        identity.is_some_and(|identity| identity.is_named(pattern))
    }

    fn meters(&self, metrics: &Metrics) -> &Meters {
        self.meters.get_or_init(|| Meters {
            ok: metrics.requests.with_label_values(&[&*self.name, "ok"]),
            seconds: metrics.request_seconds.with_label_values(&[&*self.name]),
        })
    }
}
