//! HTTP/1.1: one request at a time on each connection, which is kept for the next.

mod answer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Response, StatusCode};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{
    Failed, Progress,
    dial::{connect, failed, overloaded, unavailable},
    outgoing::{Outgoing, Payload},
};
use crate::{error::RpcError, request::Body, settings};

/// RFC 7301, section 6.
const ALPN: &[u8] = b"http/1.1";
/// Requests that wait for a connection. More than this would only wait to time out.
const WAITERS_MAX: usize = 1024;
/// One connection's read buffer, which also bounds an answer's head.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// A connection that was just given back may still be finishing its last exchange.
const SETTLE: Duration = Duration::from_millis(5);

/// The connections of one backend.
pub(super) struct Pool {
    settings: settings::Backend,
    /// One permit per connection in use.
    permits: Arc<Semaphore>,
    waiters: AtomicUsize,
    idle: Mutex<IdleList>,
}

#[derive(Default)]
struct IdleList {
    /// The longest unused first.
    connections: Vec<Idle>,
    swept: bool,
}

struct Idle {
    sender: SendRequest<Payload>,
    since: Instant,
}

/// A connection in use by one request.
pub(super) struct Lease {
    sender: SendRequest<Payload>,
    _permit: OwnedSemaphorePermit,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(settings: settings::Backend) -> Self {
        let permits = settings.connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            settings,
            permits: Arc::new(Semaphore::new(permits)),
            waiters: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// Sends a request and brings the head of the answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        outgoing: Box<Outgoing>,
        progress: &Progress,
    ) -> Result<Response<Body>, Failed> {
        let mut lease = self.lease().await.map_err(Failed::finally)?;
        let bodiless_answer = outgoing.method == Method::HEAD;
        let request = outgoing.into_http1();
        progress.sent();
        let answer = lease.sender.try_send_request(request).await;
        let answer = answer.map_err(|mut error| match error.take_message() {
            Some(_unsent) => Failed::stale(unavailable(&self.settings, error.error())),
            None => self.broken(error.into_error()),
        })?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // The connection speaks something else now, and ends with the lease.
            return Err(Failed::finally(failed(&self.settings, &"switched protocols unasked")));
        }
        Ok(answer::wrap(answer, lease, bodiless_answer))
    }

    fn broken(&self, error: hyper::Error) -> Failed {
        // The client's half failed: it gets its own error.
        let source = std::error::Error::source(&error);
        if let Some(own) = source.and_then(|source| source.downcast_ref::<RpcError>()) {
            return Failed::finally(own.clone());
        }
        let io = source.is_some_and(|source| source.is::<std::io::Error>());
        let gone = io || error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        let failure = failed(&self.settings, &describe(&error));
        match gone {
            true => Failed::stale(failure),
            false => Failed::finally(failure),
        }
    }

    /// A connection for one request: an unused one, or a new one within the bound.
    async fn lease(self: &Arc<Self>) -> Result<Lease, RpcError> {
        let permit = self.permit().await?;
        let sender = match self.unused().await {
            Some(sender) => sender,
            // Boxed: most requests find a connection, and need not keep room for making one.
            None => Box::pin(self.open()).await?,
        };
        Ok(Lease { sender, _permit: permit, pool: self.clone() })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, RpcError> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiter = Waiter::enter(self)?;
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_closed| unavailable(&self.settings, &"the pool is closed"))
    }

    /// The connection that was used last; those that are broken or too old are dropped on the way.
    async fn unused(&self) -> Option<SendRequest<Payload>> {
        loop {
            let mut idle = self.idle.lock().connections.pop()?;
            if idle.sender.is_closed() || idle.since.elapsed() >= self.settings.idle_timeout {
                continue;
            }
            if idle.sender.is_ready() || matches!(timeout(SETTLE, idle.sender.ready()).await, Ok(Ok(()))) {
                return Some(idle.sender);
            }
        }
    }

    async fn open(&self) -> Result<SendRequest<Payload>, RpcError> {
        let socket = connect(&self.settings, ALPN).await?;
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER_BYTES_MAX);
        let connected = builder.handshake(TokioIo::new(socket)).await;
        let (sender, driver) = connected.map_err(|error| unavailable(&self.settings, &error))?;
        tokio::spawn(driver);
        Ok(sender)
    }

    fn keep(self: &Arc<Self>, sender: SendRequest<Payload>) {
        let mut idle = self.idle.lock();
        idle.connections.push(Idle { sender, since: Instant::now() });
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }
}

impl Lease {
    /// Gives the connection back after a whole exchange.
    fn keep(self) {
        if !self.sender.is_closed() {
            self.pool.keep(self.sender);
        }
    }
}

/// Closes connections that nobody used for a while; ends when there are none.
async fn sweep(pool: std::sync::Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 2).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut idle = pool.idle.lock();
        idle.connections.retain(|each| !each.sender.is_closed() && each.since.elapsed() < idle_timeout);
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

/// hyper's message and its cause.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Counts a waiting request.
struct Waiter<'p>(&'p Pool);

impl<'p> Waiter<'p> {
    fn enter(pool: &'p Pool) -> Result<Self, RpcError> {
        let waiter = Self(pool);
        let waiting = pool.waiters.fetch_add(1, Ordering::Relaxed);
        if waiting >= WAITERS_MAX {
            return Err(overloaded(&pool.settings));
        }
        Ok(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answer = Response<Incoming>;
