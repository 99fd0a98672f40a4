//! Several messages of one route as one call. A message is accepted when its batch is.
//!
//! ```text
//! publishers --Item--> queue --> gather: count, bytes, time --> call, attempts --> each is told
//! ```
//!
//! One batch of a route is under way at a time, so that a backend sees messages in the order in which they came. What
//! waits meanwhile is what publishers have sent and not been acknowledged: their receive maximum bounds it, and they
//! are not read from beyond that.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Attempts, Reply, calls};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    request::Origin,
    router::Route,
    settings::Batch,
};

/// Gathers the messages of one route.
pub struct Batcher {
    batch: Batch,
    queue: mpsc::UnboundedSender<Item>,
    /// Until the task runs, which the first message starts.
    waiting: Mutex<Option<mpsc::UnboundedReceiver<Item>>>,
}

/// A message that waits for its batch.
pub(super) struct Item {
    route: Arc<Route>,
    pub(super) origin: Arc<Origin>,
    pub(super) captures: Vec<String>,
    pub(super) message: Message,
    done: oneshot::Sender<Result<Option<Reply>, RpcError>>,
}

impl Batcher {
    /// Gathers nothing yet.
    pub fn new(batch: Batch) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        Self { batch, queue, waiting: Mutex::new(Some(waiting)) }
    }

    /// Waits until the backend has taken the message's batch. The place among others is taken at the first poll.
    pub(super) async fn hand_in(
        &self,
        gateway: &Arc<Gateway>,
        route: &Arc<Route>,
        captures: Vec<&str>,
        origin: &Arc<Origin>,
        message: &Message,
    ) -> Result<Option<Reply>, RpcError> {
        if let Some(waiting) = self.waiting.lock().take() {
            tokio::spawn(run(Arc::downgrade(gateway), self.batch, waiting));
        }
        let (done, outcome) = oneshot::channel();
        let item = Item {
            route: route.clone(),
            origin: origin.clone(),
            captures: captures.into_iter().map(str::to_owned).collect(),
            message: message.clone(),
            done,
        };
        let is_gone = self.queue.send(item).is_err();
        match outcome.await {
            Ok(outcome) if !is_gone => outcome,
            _ => Err(given_up(route)),
        }
    }
}

async fn run(gateway: Weak<Gateway>, batch: Batch, mut waiting: mpsc::UnboundedReceiver<Item>) {
    let mut held = None;
    while let Some(items) = gather(batch, &mut waiting, &mut held).await {
        // Who left will send it again.
        let items: Vec<_> = items.into_iter().filter(|item| !item.done.is_closed()).collect();
        let Some(gateway) = gateway.upgrade() else { return };
        send(&gateway, items).await;
    }
}

/// The next batch; `None` when its route is gone.
async fn gather(
    batch: Batch,
    waiting: &mut mpsc::UnboundedReceiver<Item>,
    held: &mut Option<Item>,
) -> Option<Vec<Item>> {
    let first = match held.take() {
        Some(item) => item,
        None => waiting.recv().await?,
    };
    let until = Instant::now() + batch.time_max;
    let mut bytes = first.bytes();
    let mut items = vec![first];
    while items.len() < batch.count_max && bytes < batch.bytes_max {
        let Ok(Some(item)) = timeout_at(until, waiting.recv()).await else { break };
        bytes += item.bytes();
        if bytes > batch.bytes_max {
            *held = Some(item);
            break;
        }
        items.push(item);
    }
    Some(items)
}

/// Sends a batch, and tells each publisher what became of it. What a backend refuses as a whole is tried message by
/// message: one that it cannot take must not cost the others.
async fn send(gateway: &Arc<Gateway>, items: Vec<Item>) {
    let Some(first) = items.first() else { return };
    let route = first.route.clone();
    match call(gateway, &route, &items).await {
        Ok(replies) => {
            for (item, reply) in items.into_iter().zip(replies) {
                item.finish(Ok(reply));
            }
        }
        Err(error) if items.len() > 1 && !super::is_temporary(&error) => {
            for item in items {
                let single = [item];
                let outcome = call(gateway, &route, &single).await.map(|replies| replies.into_iter().next());
                let [item] = single;
                item.finish(outcome.map(Option::flatten));
            }
        }
        Err(error) => items.into_iter().for_each(|item| item.finish(Err(error.clone()))),
    }
}

async fn call(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    items: &[Item],
) -> Result<Vec<Option<Reply>>, RpcError> {
    let batches = |outcome| gateway.metrics.publish_batches.with_label_values(&[&*route.name, outcome]).inc();
    let mut attempts = Attempts::new(route);
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    loop {
        let error = match calls::call_batch(route, &first.origin.without_client(), items).await {
            Ok(replies) => {
                batches("ok");
                return Ok(replies);
            }
            Err(error) => error,
        };
        batches("failed");
        attempts.pause(gateway, error).await?;
    }
}

impl Item {
    fn bytes(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }

    fn finish(self, outcome: Result<Option<Reply>, RpcError>) {
        // Whoever stopped waiting does not want to know.
        _ = self.done.send(outcome);
    }
}

fn given_up(route: &Route) -> RpcError {
    let message = format!("route {}: the gateway ended before the batch was sent", route.name);
    RpcError::new(RpcErrorKind::Draining, Execution::MayHaveRun, message)
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("batch", &self.batch).finish_non_exhaustive()
    }
}
