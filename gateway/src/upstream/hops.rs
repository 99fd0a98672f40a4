//! Which gateways a message has passed: one user property for each, so that bridges cannot lead it in circles.

use std::sync::Arc;

use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    hub::Message,
    settings,
};

/// The user property's name; its value is a gateway.
pub(super) const HOP: &str = "towline-via";

/// Whether the message has passed this gateway.
pub(super) fn has_passed(node: &str, message: &Message) -> bool {
    hops(message).any(|hop| hop == node)
}

/// Whether it may go to one more broker.
pub(super) fn check(node: &str, message: &Message, backend: &settings::Backend) -> Result<(), RpcError> {
    let refused = |what: String| {
        let message = format!("backend {}: {what}", backend.name);
        Err(RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message))
    };
    if has_passed(node, message) && message.upstream.is_none() {
        return refused(
            "the message was forwarded by this gateway before; its broker leads back here".to_owned(),
        );
    }
    let passed = hops(message).count();
    if passed > backend.upstream.hops_max {
        return refused(format!(
            "the message has passed {passed} gateways, more than backends.upstream.hops_max"
        ));
    }
    Ok(())
}

/// Whether a message that a broker brings may be published here.
pub(super) fn is_welcome(node: &str, message: &Message, hops_max: usize) -> bool {
    !has_passed(node, message) && hops(message).count() < hops_max
}

/// One more gateway that the message has passed.
pub(super) fn hop(node: &Arc<str>) -> (Arc<str>, Arc<str>) {
    (HOP.into(), node.clone())
}

fn hops(message: &Message) -> impl Iterator<Item = &str> {
    message.user_properties.iter().filter(|(name, _)| &**name == HOP).map(|(_, value)| &**value)
}
