//! The way of a message: to the backend of its topic's route, if there is one, and to its subscribers.

use std::sync::Arc;

use towline_protocols::mqtt::ReasonCode;

use super::{client::Will, message};
use crate::{
    access::Action,
    backend::{self, Reply},
    error::{RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::{Fanout, Message},
    request::Origin,
    store::Write,
};

/// Whether the message has to be accepted by a backend first.
pub(super) fn has_route(gateway: &Gateway, origin: &Origin, topic: &str) -> bool {
    gateway.snapshot().routes.match_topic(topic, origin.identity.as_deref()).is_some()
}

/// Whether its publisher may publish it. A message with a route also speaks for what its backend answers, which is
/// published to the response topic.
pub(super) fn is_permitted(gateway: &Gateway, origin: &Origin, message: &Message, has_route: bool) -> bool {
    let response_topic = message.response_topic.as_deref().filter(|_| has_route);
    let mut topics = std::iter::once(&*message.topic).chain(response_topic);
    topics.all(|topic| gateway.permits(origin, Action::Publish, topic))
}

/// Whether the message has to be accepted by a backend first, and whether in a batch with others.
pub(super) fn way(gateway: &Gateway, origin: &Origin, topic: &str) -> (bool, bool) {
    let snapshot = gateway.snapshot();
    match snapshot.routes.match_topic(topic, origin.identity.as_deref()) {
        None => (false, false),
        Some((route, _)) => (true, route.batcher.is_some()),
    }
}

/// Takes a message to the backend of its route; what that answers goes to the response topic.
///
/// # Errors
/// The backend did not accept it: what its publisher is told.
pub(super) async fn forward(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    message: Arc<Message>,
) -> Result<(), ReasonCode> {
    match backend::publish(&gateway, &origin, &message).await {
        Ok(reply) => {
            gateway.mqtt.counters.forwarded.inc();
            let topic = message.response_topic.as_ref().filter(|topic| !super::is_reserved(topic));
            if let (Some(reply), Some(topic)) = (reply, topic) {
                distribute(&gateway, &Arc::new(response(&message, topic, reply)), None);
            }
            Ok(())
        }
        Err(error) => {
            gateway.mqtt.counters.refused.inc();
            tracing::debug!(topic = %message.topic, %error, "a backend did not take a message");
            Err(reason(&error))
        }
    }
}

/// Retains a message if asked.
///
/// # Errors
/// There is no room for it: what its publisher is told.
pub(super) fn retain(gateway: &Gateway, message: &Arc<Message>) -> Result<(), ReasonCode> {
    if !message.retain {
        return Ok(());
    }
    gateway.mqtt.retained.retain(message, super::now()).map_err(|full| {
        gateway.metrics.limit_hit(full.0);
        ReasonCode::QuotaExceeded
    })
}

/// Hands a message to its subscribers, together with a mark of its publisher's session.
pub(super) fn distribute(gateway: &Gateway, message: &Arc<Message>, mark: Option<Write>) -> Fanout {
    let fanout = gateway.hub.publish_with(message, mark.map(|mark| (&gateway.store, mark)));
    gateway.mqtt.counters.published.inc();
    fanout
}

/// A message of the gateway's own, to its subscribers.
pub(crate) fn publish_locally(gateway: &Gateway, message: &Arc<Message>) -> Fanout {
    distribute(gateway, message, None)
}

/// A message that an upstream broker brought: through its route if it has one, and to its subscribers. Says whether
/// some of that is on its way to the store.
pub(crate) async fn publish_from_upstream(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    message: &Arc<Message>,
) -> bool {
    if has_route(gateway, origin, &message.topic) {
        // What a backend does not take is counted there; the broker can do nothing about it.
        _ = forward(gateway.clone(), origin.clone(), message.clone()).await;
    }
    // Counted if there is no room for it; its subscribers need not miss it.
    _ = retain(gateway, message);
    let fanout = distribute(gateway, message, None);
    fanout.to_write > 0 || (message.retain && gateway.mqtt.retained.is_lasting())
}

/// Publishes a will, through its route if it has one; nobody waits for that.
pub(super) fn publish_will(gateway: &Arc<Gateway>, will: Will) {
    let Will { message, expiry, origin, .. } = will;
    if super::is_reserved(&message.topic) {
        return;
    }
    let expires = message::expires(expiry, super::now());
    let message = Arc::new(Message { expires, ..message });
    let has_route = has_route(gateway, &origin, &message.topic);
    // The rules of this moment: its client may have been away for long.
    if !is_permitted(gateway, &origin, &message, has_route) {
        gateway.mqtt.counters.refused.inc();
        return;
    }
    // Counted if there is no room for it; its subscribers need not miss it.
    _ = retain(gateway, &message);
    distribute(gateway, &message, None);
    // Without a runtime the process is ending, and its backends with it.
    if let (true, Ok(runtime)) = (has_route, tokio::runtime::Handle::try_current()) {
        // A failure is counted and logged there; a will has no publisher to be told.
        runtime.spawn(forward(gateway.clone(), origin, message));
    }
}

fn response(request: &Message, topic: &Arc<str>, reply: Reply) -> Message {
    Message {
        topic: topic.clone(),
        payload: reply.payload,
        qos: request.qos,
        priority: request.priority,
        content_type: reply.content_type,
        correlation_data: request.correlation_data.clone(),
        ..Message::default()
    }
}

fn reason(error: &RpcError) -> ReasonCode {
    match error.kind {
        RpcErrorKind::PermissionDenied | RpcErrorKind::EncryptionRequired => ReasonCode::NotAuthorized,
        RpcErrorKind::LimitExceeded => ReasonCode::QuotaExceeded,
        RpcErrorKind::Malformed => ReasonCode::PayloadFormatInvalid,
        _ => ReasonCode::UnspecifiedError,
    }
}
