//! An explicit handle by which an app takes back what it asked for.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::TowlineError;

/// Why a cancelled call failed.
pub(crate) const CANCELLED: &str = "cancelled by the app";

/// Cancels the calls that it was given to, running and later ones. Where the language's own tasks are cancelled
/// (Kotlin, Python), a call ends with its task and needs none of this; Swift's tasks need it.
#[derive(Debug, uniffi::Object)]
pub struct Cancellation {
    is_cancelled: watch::Sender<bool>,
}

#[uniffi::export]
impl Cancellation {
    /// One that is not cancelled yet.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { is_cancelled: watch::Sender::new(false) })
    }

    /// Cancels; again does nothing. The backend is told too.
    pub fn cancel(&self) {
        self.is_cancelled.send_replace(true);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        *self.is_cancelled.borrow()
    }
}

impl Cancellation {
    /// Resolves when it is cancelled.
    pub(crate) async fn cancelled(&self) {
        // The sender is `self`, so waiting cannot fail.
        let _ = self.is_cancelled.subscribe().wait_for(|is_cancelled| *is_cancelled).await;
    }

    /// `work`, unless it is cancelled before.
    pub(crate) async fn or<T>(
        self: Arc<Self>,
        work: impl Future<Output = Result<T, TowlineError>>,
    ) -> Result<T, TowlineError> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(TowlineError::cancelled(CANCELLED)),
            outcome = work => outcome,
        }
    }
}
