//! Where requests and messages end: named backends with their connections.
//!
//! ```text
//! Backend::call -> outgoing (headers, body) -> http1 | http2 (pool, exchange) -> answer (body, deadline)
//! backend::publish -> the same, with the message as a call; or -> upstream (MQTT brokers, a room of their own)
//! ```

mod answer;
mod dial;
mod headers;
mod http1;
mod http2;
mod length;
mod outgoing;
mod publish;
mod service;
mod tls;
mod turn;
mod wire;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Response};

use self::outgoing::Outgoing;
pub(crate) use self::publish::{framed, grpc_headers, unframed};
pub(crate) use self::{
    dial::{dial, failed, overloaded, unavailable},
    headers::is_grpc,
    tls::{client_config, connect as connect_by_tls},
    turn::{CLIENT_TURNS, TurnsLater, pass_turn, turns},
};
pub use self::{
    publish::{Batcher, Replayed, Reply, publish, replay},
    service::{Answer, Answering, Service},
    tls::check as check_tls,
};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    request::{Body, Request},
    router::Route,
    settings::{self, BackendKind},
    throttle::Throttle,
};

/// Tokio's clock, by which deadlines towards backends are kept, so that tests can move it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// One configured backend and its connections. Made once, shared by its routes, kept over reloads that
/// do not change it.
pub struct Backend {
    settings: settings::Backend,
    connections: Connections,
    failures: Throttle,
}

/// Failures of one backend are logged once per this.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(10);

enum Connections {
    Http1(Arc<http1::Pool>),
    Http2(Arc<http2::Pool>),
    /// The room `upstream` has the connection.
    Mqtt,
    Service(Service),
}

/// What is known of a running call, for the error when it is given up.
#[derive(Default)]
pub(crate) struct Progress {
    sent: AtomicBool,
}

impl Backend {
    /// Makes no connection yet.
    pub fn new(settings: settings::Backend) -> Self {
        let connections = match (settings.kind, settings.service.clone()) {
            (_, Some(service)) => Connections::Service(service),
            (BackendKind::Http1, None) => Connections::Http1(Arc::new(http1::Pool::new(settings.clone()))),
            (BackendKind::Http2 | BackendKind::Grpc, None) => {
                Connections::Http2(Arc::new(http2::Pool::new(settings.clone())))
            }
            (BackendKind::Mqtt, None) => Connections::Mqtt,
        };
        Self { settings, connections, failures: Throttle::new(FAILURE_LOG_PERIOD) }
    }

    /// As configured.
    pub fn settings(&self) -> &settings::Backend {
        &self.settings
    }

    /// Takes a request to the backend and brings the head of the answer back; its body streams.
    pub(crate) fn call(
        &self,
        route: &Route,
        request: Box<Request>,
    ) -> impl Future<Output = Result<Response<Body>, RpcError>> + Send {
        self.call_with(route, request, HeaderMap::new())
    }

    /// [`Backend::call`] with headers of the gateway's own.
    ///
    /// Not an `async fn`: that would keep room for its arguments, and requests pass many hands here. So they are
    /// boxed, too.
    pub(crate) fn call_with(
        &self,
        route: &Route,
        request: Box<Request>,
        own: HeaderMap,
    ) -> impl Future<Output = Result<Response<Body>, RpcError>> + Send {
        let caller = request.deadline;
        // By the clock that the wait below goes by.
        let latest = now() + route.timeout();
        let head_by = caller.map_or(latest, |caller| caller.min(latest));
        let repeatable = route.idempotent || request.idempotent || is_safe(request.http.method());
        let outgoing = Outgoing::prepare(*request, own, &self.settings);
        async move {
            let progress = Progress::default();
            let exchange = self.exchange(outgoing?, repeatable, &progress);
            let error = match tokio::time::timeout_at(head_by.into(), exchange).await {
                Ok(Ok(answer)) => return Ok(answer::with_deadline(answer, caller)),
                Ok(Err(error)) => error,
                Err(_elapsed) => self.too_late(progress.execution()),
            };
            self.log(&error);
            Err(error)
        }
    }

    /// At most two attempts: the second only if the first did not run, or running twice does no harm,
    /// and the body is still at hand.
    async fn exchange(
        &self,
        mut outgoing: Box<Outgoing>,
        repeatable: bool,
        progress: &Progress,
    ) -> Result<Response<Body>, RpcError> {
        let at_hand = outgoing.is_whole();
        let first = match self.attempt(&mut outgoing, progress).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match at_hand && first.again(repeatable) {
            true => self.attempt(&mut outgoing, progress).await.map_err(|second| second.after(&first)),
            false => Err(first.error),
        }
    }

    /// Leaves the request as it was, but for a body that comes bit by bit.
    async fn attempt(&self, outgoing: &mut Outgoing, progress: &Progress) -> Result<Response<Body>, Failed> {
        match &self.connections {
            Connections::Http1(pool) => pool.call(outgoing, progress).await,
            Connections::Http2(pool) => pool.call(outgoing, progress).await,
            Connections::Service(service) => service.call(outgoing, progress).await,
            Connections::Mqtt => Err(Failed::finally(RpcError::new(
                RpcErrorKind::NoRoute,
                Execution::NotRun,
                format!("backend {} is an MQTT broker and takes no requests", self.settings.name),
            ))),
        }
    }

    /// Tells the operator of a failure, and where the backend is, which callers are not told.
    fn log(&self, error: &RpcError) {
        let is_backends = matches!(
            error.kind,
            RpcErrorKind::BackendUnavailable | RpcErrorKind::BackendFailed | RpcErrorKind::DeadlineExceeded
        );
        if is_backends && let Some(held_back) = self.failures.pass(now()) {
            tracing::warn!(address = self.settings.address, held_back, "a request failed: {error}");
        }
    }

    fn too_late(&self, execution: Execution) -> RpcError {
        let message = match execution {
            Execution::NotRun => "no connection came free in time",
            Execution::MayHaveRun | Execution::Ran | Execution::NotNow => "did not begin its answer in time",
        };
        let message = format!("backend {}: {message}", self.settings.name);
        RpcError::new(RpcErrorKind::DeadlineExceeded, execution, message)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Progress {
    /// From here on the backend may see the request.
    pub(crate) fn sent(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    fn execution(&self) -> Execution {
        match self.sent.load(Ordering::Relaxed) {
            true => Execution::MayHaveRun,
            false => Execution::NotRun,
        }
    }
}

/// A failed attempt.
pub(crate) struct Failed {
    pub(crate) error: RpcError,
    /// The connection was to blame, not the backend's state: a fresh one may do better.
    pub(crate) stale: bool,
}

impl Failed {
    /// Another attempt would fail in the same way.
    pub(crate) fn finally(error: RpcError) -> Self {
        Self { error, stale: false }
    }

    /// The connection broke under the request.
    pub(crate) fn stale(error: RpcError) -> Self {
        Self { error, stale: true }
    }

    /// The error of this attempt, which came behind another one.
    fn after(self, first: &Self) -> RpcError {
        match (first.error.execution, self.error.execution) {
            (Execution::NotRun, _) | (_, Execution::Ran) => self.error,
            _ => RpcError { execution: Execution::MayHaveRun, ..self.error },
        }
    }

    fn again(&self, repeatable: bool) -> bool {
        self.stale && (self.error.execution == Execution::NotRun || repeatable)
    }
}

/// Methods that ask for no change (RFC 9110, section 9.2.1): repeated without being told that it is safe.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
