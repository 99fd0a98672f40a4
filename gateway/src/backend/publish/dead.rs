//! Messages that a backend would not take: kept in a queue of the store for an operator to look at and to send again,
//! and published under a topic, as the route says.

use std::sync::Arc;

use super::{Reply, calls};
use crate::{
    backend::Connections,
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    mqtt,
    outbox::{Names, Outbox},
    request::{Origin, Protocol},
    router::{Route, kind_name},
};

static NAMES: Names = Names {
    count: "routes.dead_letters.count",
    bytes: "routes.dead_letters.bytes",
    age: "routes.dead_letters.age",
};
/// Queues of dead letters are called so, and their route.
const PREFIX: &str = "dead.";
/// User property that says why.
const REASON: &str = "towline-reason";

pub(super) fn is_kept(route: &Route) -> bool {
    route.delivery.dead_letters.is_some() || route.delivery.dead_letter_topic.is_some()
}

/// Keeps what the backend did not take; its publisher may forget it then.
///
/// # Errors
/// It could not be kept: the backend's own error.
pub(super) async fn keep(
    gateway: &Arc<Gateway>,
    route: &Route,
    origin: &Origin,
    message: &Message,
    error: RpcError,
) -> Result<(), RpcError> {
    let reason: Arc<str> = format!("{}: {}", kind_name(error.kind), error.message).into();
    let mut is_kept = false;
    if let Some(bounds) = route.delivery.dead_letters {
        let outbox = gateway.outboxes.get(&format!("{PREFIX}{}", route.name));
        outbox.set_bounds(bounds, &NAMES);
        let (message, user) = (Arc::new(message.clone()), origin.user.clone());
        is_kept |= outbox.push(message, user, Some(reason.clone()), true).is_ok();
    }
    if let Some(topic) = &route.delivery.dead_letter_topic {
        let mut user_properties = message.user_properties.clone();
        user_properties.push((REASON.into(), reason));
        let topic = format!("{topic}/{}", message.topic).into();
        let letter = Message { topic, retain: false, user_properties, ..message.clone() };
        // Nobody who listens is nobody who has it.
        is_kept |= mqtt::publish_locally(gateway, &Arc::new(letter)).total() > 0;
    }
    if !is_kept || gateway.store.barrier().await.is_err() {
        return Err(error);
    }
    tracing::debug!(route = %route.name, topic = %message.topic, %error, "a message is a dead letter");
    Ok(())
}

/// What came of sending dead letters again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Taken by the backend now.
    pub taken: usize,
    /// Still in the queue.
    pub left: usize,
    /// Why no more were sent.
    pub error: Option<String>,
}

/// Sends up to `most` letters of a queue again, in their order, until the backend does not take one. `None` when the
/// queue is not one of dead letters, or its route is gone.
pub async fn replay(gateway: &Arc<Gateway>, outbox: &Outbox, most: usize) -> Option<Replayed> {
    let name = outbox.name().strip_prefix(PREFIX)?;
    let route = gateway.snapshot().routes.topic_route(name)?.clone();
    let mut replayed = Replayed::default();
    for letter in outbox.list(0, most) {
        match send_again(gateway, &route, letter.user, &letter.message).await {
            Ok(_) => {
                outbox.remove(letter.number);
                replayed.taken += 1;
            }
            Err(error) => {
                replayed.error = Some(error.to_string());
                break;
            }
        }
    }
    replayed.left = outbox.size().0;
    Some(replayed)
}

async fn send_again(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    user: Option<Arc<str>>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let nobody = ([0, 0, 0, 0], 0).into();
    let origin = Origin::new("replay".into(), nobody, Protocol::Mqtt, false);
    let origin = Arc::new(Origin { user, client_id: message.publisher.clone(), ..origin });
    let captures = gateway.snapshot().routes.captures(route, &message.topic).ok_or_else(|| {
        let message = format!("route {} no longer matches the topic {}", route.name, message.topic);
        RpcError::new(RpcErrorKind::NoRoute, Execution::NotRun, message)
    })?;
    let captures: Vec<_> = captures.iter().map(String::as_str).collect();
    if matches!(route.backend.connections, Connections::Mqtt) {
        return super::attempt(gateway, route, &captures, &origin, message).await;
    }
    match &route.batcher {
        Some(batcher) => batcher.hand_in(gateway, route, captures, &origin, message).await,
        None => calls::call_one(route, &captures, &origin, message).await,
    }
}
