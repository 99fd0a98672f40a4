//! HTTP/2 with prior knowledge: a few connections per backend, each shared by many requests.

mod connection;
mod exchange;

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::Response;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::connection::{Connection, Lease};
use super::{
    Failed, Progress,
    dial::{overloaded, unavailable},
    outgoing::Outgoing,
};
use crate::{error::RpcError, request::Body, settings};

/// Another connection is opened for a thread that has none once every other carries this many requests: one serves a
/// thread well, and the more requests it carries, the more frames share a system call.
const STREAMS_SPREAD: usize = 64;
/// A connection is full soon when one in so many of its streams is left.
const STREAMS_SPARE: usize = 4;
/// Requests that wait for a stream of a full backend. More than this would only wait to time out.
const WAITERS_MAX: usize = 1024;
/// Attempts to find a connection; each has found one that broke before it could be used.
const ATTEMPTS_MAX: usize = 3;

/// The connections of one backend.
pub(super) struct Pool {
    settings: settings::Backend,
    state: Mutex<State>,
    /// A stream ended or a connection came up.
    changed: Notify,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    /// The one dial under way; all who need it wait for the same.
    dialing: Option<Dialing>,
    waiters: usize,
}

type Dialing = Shared<BoxFuture<'static, Result<(), RpcError>>>;

/// What to do for a request.
enum Choice {
    Use(Lease),
    Dial(Dialing),
    Wait,
}

impl Pool {
    pub(super) fn new(settings: settings::Backend) -> Self {
        Self { settings, state: Mutex::default(), changed: Notify::new() }
    }

    /// Sends a request and brings the head of the answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        outgoing: &mut Outgoing,
        progress: &Progress,
    ) -> Result<Response<Body>, Failed> {
        let lease = self.lease().await.map_err(Failed::finally)?;
        exchange::run(lease, &self.settings, outgoing, progress).await
    }

    /// A connection with a free stream, opened if need be. Bounded by the caller's deadline.
    async fn lease(self: &Arc<Self>) -> Result<Lease, RpcError> {
        let mut failures = 0;
        loop {
            match self.choose() {
                Choice::Use(lease) => return Ok(lease),
                Choice::Dial(dialing) => {
                    dialing.await?;
                    failures += 1;
                    if failures > ATTEMPTS_MAX {
                        return Err(unavailable(&self.settings, &"connections close at once"));
                    }
                }
                Choice::Wait => self.changes().await?,
            }
        }
    }

    /// Waits for a stream that ends or a connection that comes up; at once if there may be a free stream already.
    async fn changes(&self) -> Result<(), RpcError> {
        // Enabled before the look, so that what is freed in between is not missed.
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        if self.is_full() {
            let _waiter = Waiter::enter(self)?;
            changed.await;
        }
        Ok(())
    }

    fn choose(self: &Arc<Self>) -> Choice {
        let mut state = self.state.lock();
        let Some(connection) = free(&state) else {
            return if self.may_dial(&state) { Choice::Dial(self.dialing(&mut state)) } else { Choice::Wait };
        };
        if self.may_dial(&state) && is_crowded(&connection, state.connections.len()) {
            drop(self.dialing(&mut state));
        }
        Choice::Use(Lease::new(connection, self.clone()))
    }

    fn is_full(&self) -> bool {
        let state = self.state.lock();
        free(&state).is_none() && !self.may_dial(&state)
    }

    fn may_dial(&self, state: &State) -> bool {
        state.connections.len() < self.settings.connections_max
    }

    /// The dial under way, or a new one. It runs in its own task: a caller that gives up does not end it
    /// for the others.
    fn dialing(self: &Arc<Self>, state: &mut State) -> Dialing {
        if let Some(dialing) = &state.dialing {
            return dialing.clone();
        }
        let task = tokio::spawn(self.clone().open());
        let dialing = async move {
            match task.await {
                Ok(outcome) => outcome,
                Err(_shutdown) => Ok(()),
            }
        };
        let dialing = dialing.boxed().shared();
        state.dialing = Some(dialing.clone());
        dialing
    }

    async fn open(self: Arc<Self>) -> Result<(), RpcError> {
        let opened = connection::open(&self).await;
        let mut state = self.state.lock();
        state.dialing = None;
        let outcome = opened.map(|connection| state.connections.push(connection));
        drop(state);
        self.changed.notify_waiters();
        outcome
    }

    fn remove(&self, connection: &Arc<Connection>) {
        self.state.lock().connections.retain(|each| !Arc::ptr_eq(each, connection));
        self.changed.notify_waiters();
    }

    /// A stream ended.
    fn released(&self) {
        self.changed.notify_one();
    }

    fn idle_timeout(&self) -> Duration {
        self.settings.idle_timeout
    }
}

/// The connection with the fewest requests, if it takes one more.
fn free(state: &State) -> Option<Arc<Connection>> {
    let usable = state.connections.iter().filter(|each| each.is_usable());
    usable.min_by_key(|each| each.load()).filter(|least| least.load() < least.streams_max()).cloned()
}

/// Whether another connection should be there beside the `connections` of which this has the fewest requests.
fn is_crowded(least: &Connection, connections: usize) -> bool {
    let threads = || tokio::runtime::Handle::current().metrics().num_workers();
    let (load, streams_max) = (least.load(), least.streams_max());
    let is_full_soon = load >= streams_max - streams_max / STREAMS_SPARE;
    is_full_soon || (load >= STREAMS_SPREAD && connections < threads())
}

/// Counts a waiting request.
struct Waiter<'p>(&'p Pool);

impl<'p> Waiter<'p> {
    fn enter(pool: &'p Pool) -> Result<Self, RpcError> {
        let mut state = pool.state.lock();
        if state.waiters >= WAITERS_MAX {
            return Err(overloaded(&pool.settings));
        }
        state.waiters += 1;
        Ok(Self(pool))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiters -= 1;
    }
}
