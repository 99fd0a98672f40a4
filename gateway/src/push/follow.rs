//! A backend that follows its receipts.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, future, stream};
use tonic::{Status, Streaming};

use crate::{
    proto::push::{Receipt, ReceiptsRequest},
    receipts::{self, NAME_BYTES_MAX, Queue},
};

/// What a backend is sent: what waits, then each receipt as it comes.
pub(super) type Receipts = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

/// Says what to write instead of a name that is none.
pub(super) fn check_queue(name: &str) -> Result<(), String> {
    let is_printable = name.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && is_printable {
        return Ok(());
    }
    Err(format!("write 1 to {NAME_BYTES_MAX} printable ASCII characters without spaces"))
}

/// Follows the queue that the first request names.
pub(super) async fn follow(
    receipts: &receipts::Receipts,
    mut requests: Streaming<ReceiptsRequest>,
) -> Result<Receipts, Status> {
    let first = requests.message().await?;
    let first = first.ok_or_else(|| Status::invalid_argument("the first request names the queue"))?;
    check_queue(&first.queue).map_err(|what| Status::invalid_argument(format!("queue: {what}")))?;
    let queue = receipts.queue(&first.queue).map_err(|full| Status::resource_exhausted(full.to_string()))?;
    queue.taken(first.taken);
    let taking = take(queue.clone(), requests);
    let waiting = stream::unfold((queue, first.taken), |(queue, after)| async move {
        let receipt = queue.next_after(after).await;
        let number = receipt.number;
        Some((Ok(to_wire(receipt)), (queue, number)))
    });
    let silent = stream::once(taking).filter_map(|()| future::ready(None));
    Ok(stream::select(waiting, silent).boxed())
}

/// Forgets what the backend says that it has taken, as long as it says so.
async fn take(queue: Arc<Queue>, mut requests: Streaming<ReceiptsRequest>) {
    while let Ok(Some(request)) = requests.message().await {
        queue.taken(request.taken);
    }
}

fn to_wire(receipt: receipts::Receipt) -> Receipt {
    let receipts::Receipt { number, push_id, client_id, state, reason, unix_ms, lost } = receipt;
    Receipt {
        number,
        push_id: push_id.to_string(),
        client_id: client_id.to_string(),
        state: state.into(),
        reason: reason.to_string(),
        time_ms: unix_ms,
        lost,
    }
}
