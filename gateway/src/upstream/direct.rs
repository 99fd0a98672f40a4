//! Messages for a broker without a buffer: each waits for the broker's PUBACK, and nothing is kept.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::Shared;
use crate::{
    backend::{failed, overloaded, unavailable},
    error::{Execution, RpcError, RpcErrorKind},
    hub::Message,
    settings,
};

/// Messages that wait to be sent; more would only wait to time out.
pub(super) const QUEUE_MAX: usize = 1024;

pub(super) struct Job {
    pub(super) message: Arc<Message>,
    /// The broker may have seen it.
    sent: Arc<AtomicBool>,
    done: oneshot::Sender<Result<(), RpcError>>,
}

/// Hands a message to the broker; `Ok` when the broker has it.
pub(super) async fn publish(
    shared: &Shared,
    jobs: &mpsc::Sender<Job>,
    message: &Message,
    within: Duration,
) -> Result<(), RpcError> {
    let backend = &shared.settings;
    let sent = Arc::new(AtomicBool::new(false));
    let (done, outcome) = oneshot::channel();
    let job = Job { message: Arc::new(message.clone()), sent: sent.clone(), done };
    jobs.try_send(job).map_err(|_full| overloaded(backend))?;
    match timeout(within, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_dropped)) => Err(unavailable(backend, &"the connection was shut down")),
        Err(_elapsed) => Err(too_late(backend, sent.load(Ordering::Relaxed))),
    }
}

impl Job {
    /// Whether its publisher gave up while it waited.
    pub(super) fn is_over(&self) -> bool {
        self.done.is_closed()
    }

    pub(super) fn note_sent(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    pub(super) fn finish(self, outcome: Result<(), RpcError>) {
        // Whoever stopped waiting does not want to know.
        _ = self.done.send(outcome);
    }

    /// The connection broke under it.
    pub(super) fn fail(self, backend: &settings::Backend, why: &dyn Display) {
        let error = match self.sent.load(Ordering::Relaxed) {
            true => failed(backend, why),
            false => unavailable(backend, why),
        };
        self.finish(Err(error));
    }
}

fn too_late(backend: &settings::Backend, sent: bool) -> RpcError {
    let (execution, what) = match sent {
        true => (Execution::MayHaveRun, "did not acknowledge the message in time"),
        false => (Execution::NotRun, "could not be sent the message in time"),
    };
    let message = format!("backend {}: the broker {what}", backend.name);
    RpcError::new(RpcErrorKind::DeadlineExceeded, execution, message)
}
