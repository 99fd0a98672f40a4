//! Where quiet connections wait without a task.
//!
//! A task, its futures and its place in tokio's reactor are most of what an idle connection costs. A
//! connection with nothing to do gives them up: what is left of it is one compact value in a [`Lot`], which
//! watches all sockets with an epoll instance of its own, and all deadlines in one ordered set. Whatever
//! concerns the connection makes a task of it again.
//!
//! ```text
//!  task --park--> Place --+-- its socket has bytes, or its end --+
//!    ^                    +-- its session has something for it --+--> called --+
//!    |                    +-- its deadline has passed -----------+             |
//!    |                    +-- the gateway drains ----------------+             |
//!    +------------------------- spawned by the lot's task ---------------------+
//! ```

mod lot;
mod place;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    os::fd::BorrowedFd,
    sync::{Arc, OnceLock, Weak},
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use self::{
    lot::{Attended, Inner},
    place::{Arrival, Place},
};
use crate::{drain::DrainWatch, metrics::Metrics};

/// A connection that can wait without a task.
pub trait Idle: Send + Sized + 'static {
    /// Readable when the peer has sent something or has gone.
    fn socket(&self) -> BorrowedFd<'_>;

    /// When it has to act of itself.
    fn deadline(&self) -> Option<Instant>;

    /// Tells its session whom to wake from now on. False when the session has something for it already: then
    /// it does not park. Both are decided under the session's own lock, so that nothing falls between.
    fn settle(&self, waker: &Waker) -> bool;

    /// Whether the beginning of a drain concerns it.
    fn hears_drain(&self) -> bool;

    /// Serves it, after it was parked for so long. The first thing it does is to look at everything that may
    /// have called it.
    fn resume(self, patience: Patience, stay: Duration) -> impl Future<Output = ()> + Send + 'static;
}

/// How long a connection has to be quiet before it parks.
///
/// Soon at first, since most have nothing to say once they have come, and what their tasks took then serves
/// those that come next. One that is called back sooner than `park_after` waits longer the next time, up to
/// `park_after` itself: it has more to say than parking saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience(u8);

impl Patience {
    /// What `park_after` is divided by, one time after the other.
    const SHARES: [u32; 4] = [1024, 64, 8, 1];

    /// The time to wait now; `None` never parks.
    pub fn wait(self, park_after: Duration) -> Option<Duration> {
        let share = Self::SHARES.get(usize::from(self.0)).unwrap_or(&1);
        (!park_after.is_zero()).then(|| park_after / *share)
    }

    /// What follows a stay of that length.
    #[must_use]
    pub fn after(self, stay: Duration, park_after: Duration) -> Self {
        if stay < park_after { Self((self.0 + 1).min(Self::SHARES.len() as u8 - 1)) } else { Self::default() }
    }
}

/// The parked connections of one gateway.
pub struct Lot<T: Idle> {
    /// Owned by the lot's task, which starts with the first connection and ends with the drain or the
    /// runtime; what is parked then is dropped.
    inner: OnceLock<Weak<Inner<T>>>,
}

impl<T: Idle> Lot<T> {
    /// Parks a connection, or gives it back if it has something to do, or if there is no place.
    pub fn park(
        &self,
        connection: T,
        patience: Patience,
        drain: DrainWatch,
        metrics: &Metrics,
    ) -> Result<(), T> {
        let Some(inner) = self.inner(drain, metrics) else { return Err(connection) };
        let place = Arc::new(Place::new(Arc::downgrade(&inner)));
        if !connection.settle(&Waker::from(place.clone())) {
            return Err(connection);
        }
        let arrival = Arrival { patience, since_ms: inner.now_ms() };
        place.commit(connection, arrival, |connection| inner.admit(&place, connection))
    }

    fn inner(&self, drain: DrainWatch, metrics: &Metrics) -> Option<Arc<Inner<T>>> {
        let mut begun = None;
        let inner = self.inner.get_or_init(|| {
            begun = Inner::new(drain, metrics).map(Arc::new).ok();
            begun.as_ref().map(Arc::downgrade).unwrap_or_default()
        });
        if let Some(begun) = &begun {
            tokio::spawn(lot::attend(Attended(begun.clone())));
        }
        begun.or_else(|| inner.upgrade())
    }
}

impl<T: Idle> Default for Lot<T> {
    fn default() -> Self {
        Self { inner: OnceLock::new() }
    }
}
