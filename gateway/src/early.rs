//! What came as early data and has to wait until its connection's handshake is complete.
//!
//! Early data is what a resuming client sends in its first flight (RFC 8446, section 2.3). Whoever saw it can
//! send it again, to this node or another, so it may cause nothing that must not happen twice. The fronts
//! decide what that is; what they hold back waits here, bounded in number and time.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{gateway::Gateway, request::Origin};

/// Connections and requests that wait at one time. On TCP each holds what a listener's `early_data_bytes_max`
/// admits, 16 KiB unless configured: 64 MiB in all.
const WAITING_MAX: usize = 4096;

/// The places of those that wait.
#[derive(Clone, Debug)]
pub struct WaitingRoom(Arc<Semaphore>);

impl WaitingRoom {
    /// With all places free.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_MAX)))
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.0.available_permits()
    }
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self::new()
    }
}

/// A wait for the end of a connection's handshake.
pub(crate) struct Wait {
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    due: Instant,
    _place: OwnedSemaphorePermit,
}

/// Why a wait was in vain. Nothing of what waited has reached a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InVain {
    /// The connection ended.
    #[error("the connection ended before its handshake was complete")]
    Broken,
    /// The handshake took too long.
    #[error("the handshake was not complete within handshake_timeout")]
    Late,
    /// Too many wait.
    #[error("too much early data waits for handshakes (early_waiting_max)")]
    Full,
}

impl Wait {
    /// Takes a place, for at most `limits.handshake_timeout` from now.
    ///
    /// # Errors
    /// [`InVain::Full`], counted.
    pub(crate) fn begin(gateway: &Arc<Gateway>, origin: &Arc<Origin>) -> Result<Self, InVain> {
        let Ok(place) = Arc::clone(&gateway.early.0).try_acquire_owned() else {
            gateway.metrics.limit_hit("early_waiting_max");
            count(gateway, origin, "refused");
            return Err(InVain::Full);
        };
        let limit = gateway.snapshot().settings.limits.handshake_timeout;
        let due = Instant::now() + limit.min(WAIT_MAX);
        let (gateway, origin) = (Arc::clone(gateway), Arc::clone(origin));
        Ok(Self { gateway, origin, due, _place: place })
    }

    /// Waits until the handshake is complete. Counts where it will not be.
    ///
    /// # Errors
    /// It never will be, or not in time.
    pub(crate) async fn over(self) -> Result<(), InVain> {
        let why = match timeout_at(self.due, self.origin.handshake.completed()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => InVain::Broken,
            Err(_) => {
                self.gateway.metrics.limit_hit("limits.handshake_timeout");
                InVain::Late
            }
        };
        count(&self.gateway, &self.origin, "broken");
        Err(why)
    }
}

/// Waits until the handshake of a connection is complete, if it is not.
///
/// # Errors
/// It never will be, or not in time, or there is no place to wait.
pub(crate) async fn wait(gateway: &Arc<Gateway>, origin: &Arc<Origin>) -> Result<(), InVain> {
    if origin.handshake.is_complete() {
        return Ok(());
    }
    Wait::begin(gateway, origin)?.over().await?;
    count(gateway, origin, "waited");
    Ok(())
}

/// Counts what became of early data.
pub(crate) fn count(gateway: &Gateway, origin: &Origin, outcome: &str) {
    gateway.metrics.early_data.with_label_values(&[&*origin.listener, outcome]).inc();
}

/// Keeps `Instant` from overflowing, whatever is configured.
const WAIT_MAX: Duration = Duration::from_secs(3600);
