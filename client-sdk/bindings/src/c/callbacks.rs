//! The thread that calls the app back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{OnceLock, mpsc},
    thread,
};

use tokio::sync::oneshot;

use crate::TowlineError;

type Job = Box<dyn FnOnce() + Send>;

static CALLBACKS: OnceLock<Result<Callbacks, String>> = OnceLock::new();

/// Makes callbacks, one after the other. Whoever asks for one waits until it was made, so that no more wait than there
/// are calls, streams and listeners.
pub(super) struct Callbacks {
    jobs: mpsc::Sender<Job>,
}

impl Callbacks {
    /// The thread, which is started if it was not.
    pub(super) fn get() -> Result<&'static Self, TowlineError> {
        let callbacks = CALLBACKS.get_or_init(|| Self::start().map_err(|error| error.to_string()));
        callbacks.as_ref().map_err(|reason| TowlineError::Start { reason: format!("callbacks: {reason}") })
    }

    /// Makes a callback and waits until it has returned.
    pub(super) async fn make(&self, callback: impl FnOnce() + Send + 'static) {
        let (returned, wait) = oneshot::channel::<()>();
        let job = Box::new(move || {
            callback();
            drop(returned);
        });
        // The thread ends with the process.
        if self.jobs.send(job).is_ok() {
            let _ = wait.await;
        }
    }

    /// Makes a callback that nobody waits for.
    pub(super) fn tell(&self, callback: impl FnOnce() + Send + 'static) {
        // The thread ends with the process.
        let _ = self.jobs.send(Box::new(callback));
    }

    fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("towline-calls".to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                // What panics here is this library's side of the callback.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { jobs })
    }
}
