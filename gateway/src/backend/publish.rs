//! A published message on its way to a backend.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    request::Origin,
    router,
};

/// What a backend wants published to the message's response topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Payload, opaque.
    pub payload: Bytes,
    /// MQTT's content type, or the link's.
    pub content_type: Option<Arc<str>>,
}

/// Takes a message to the backend of the first route whose topic filter matches; `Ok(None)` without a
/// reply, and at once if no route matches. `Ok` only after the backend accepted the message, so that
/// QoS 1 can be acknowledged then.
///
/// # Errors
/// Says why the backend did not take it; leave the message unacknowledged.
pub async fn publish(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let route = match gateway.snapshot().routes.match_topic(&message.topic) {
        None => return Ok(None),
        Some((route, _)) => route.clone(),
    };
    router::admit(&route, origin)?;
    let message = format!("backend {} is not connected", route.backend.settings().name);
    Err(RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, message))
}
