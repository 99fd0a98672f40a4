//! HTTP/1.1: one request at a time on each connection, which is kept for the next.
//!
//! ```text
//!  Pool::call -> Place (one of connections_max) -> Connection::exchange -- head --> answer (body) -> back to the pool
//!                                                    Upload | head::take
//! ```

mod answer;
mod connection;
mod head;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Response};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use self::{
    connection::{Broken, Connection},
    upload::Upload,
};
use super::{
    Failed, Progress,
    dial::{connect, failed, overloaded, unavailable},
    outgoing::Outgoing,
};
use crate::{error::RpcError, request::Body, settings};

/// RFC 7301, section 6.
const ALPN: &[u8] = b"http/1.1";
/// Requests that wait for a connection. More than this would only wait to time out.
const WAITERS_MAX: usize = 1024;
/// How soon it is noticed at the latest that a backend has closed a connection that nobody uses.
const LOOK: Duration = Duration::from_secs(5);

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
    connection: Box<Connection>,
    since: Instant,
}

/// One request's place among those that may use a connection.
struct Place {
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
        outgoing: &mut Outgoing,
        progress: &Progress,
    ) -> Result<Response<Body>, Failed> {
        let place = self.place().await.map_err(Failed::finally)?;
        let connection = match self.unused() {
            Some(connection) => connection,
            // Boxed: most requests find a connection, and need not keep room for making one.
            None => Box::pin(self.open()).await.map_err(Failed::finally)?,
        };
        let is_head = outgoing.method == Method::HEAD;
        progress.sent();
        let answering = connection.exchange(Upload::new(outgoing), is_head).await;
        let answering = answering.map_err(|broken| self.failure(broken))?;
        Ok(answer::of(answering, place))
    }

    fn failure(&self, broken: Broken) -> Failed {
        match broken {
            Broken::Client(error) => Failed::finally(error),
            Broken::Unsent(error) => Failed::stale(unavailable(&self.settings, &error)),
            Broken::Lost(error) => Failed::stale(failed(&self.settings, &error)),
            Broken::Invalid(error) => Failed::finally(failed(&self.settings, &error)),
        }
    }

    async fn place(self: &Arc<Self>) -> Result<Place, RpcError> {
        let permit = self.permit().await?;
        Ok(Place { _permit: permit, pool: Arc::clone(self) })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, RpcError> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiter = Waiter::enter(self)?;
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_closed| unavailable(&self.settings, &"the pool is closed"))
    }

    /// The connection that was used last; those that are closed or too old are dropped on the way.
    fn unused(&self) -> Option<Box<Connection>> {
        loop {
            let mut idle = self.idle.lock().connections.pop()?;
            if idle.is_fit(self.settings.idle_timeout) {
                return Some(idle.connection);
            }
        }
    }

    async fn open(&self) -> Result<Box<Connection>, RpcError> {
        connect(&self.settings, ALPN).await.map(Connection::new)
    }
}

impl Place {
    /// Gives a connection back after a whole exchange.
    fn keep(self, connection: Box<Connection>) {
        let mut idle = self.pool.idle.lock();
        idle.connections.push(Idle { connection, since: Instant::now() });
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.pool), self.pool.settings.idle_timeout));
        }
    }
}

impl Idle {
    /// Whether it is neither closed nor unused for too long.
    fn is_fit(&mut self, idle_timeout: Duration) -> bool {
        self.since.elapsed() < idle_timeout && self.connection.is_fit()
    }
}

/// Closes connections that nobody used for a while, and those that the backend has closed; ends when there are none.
async fn sweep(pool: std::sync::Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(LOOK.min(idle_timeout / 2)).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut idle = pool.idle.lock();
        idle.connections.retain_mut(|each| each.is_fit(idle_timeout));
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
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
