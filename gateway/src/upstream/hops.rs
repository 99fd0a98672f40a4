//! Which gateways a message has passed: one user property for each, so that bridges cannot lead it in circles.
//!
//! A gateway names itself on what it forwards. What others fetch from it by a subscription goes to them as to any
//! subscriber, so it is they who name it: they say in CONNECT that they are gateways, and CONNACK tells them its name.

use std::sync::Arc;

use rumqttc::v5::mqttbytes::v5::ConnAck;
use towline_protocols::mqtt::{Connect, Text};

use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    hub::Message,
    settings,
};

/// The user property's name; its value is a gateway.
pub(super) const HOP: &str = "towline-via";
/// User property of CONNECT and CONNACK: the gateway that speaks.
pub(super) const NODE: &str = "towline-node";
/// A gateway's name is shorter; what a broker gives for one is carried by every message.
const NODE_BYTES_MAX: usize = 64;

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
    let passed = hops(message).filter(|hop| *hop != node).count();
    if passed > backend.upstream.hops_max {
        return refused(format!(
            "the message has passed {passed} gateways, more than backends.upstream.hops_max"
        ));
    }
    Ok(())
}

/// Whether a message that a broker brings may be published here.
pub(super) fn is_welcome(node: &str, message: &Message, hops_max: usize) -> bool {
    !has_passed(node, message) && hops(message).count() <= hops_max
}

/// One more gateway that the message has passed, if it is not named already.
pub(super) fn add(node: Option<&Arc<str>>, message: &mut Message) {
    if let Some(node) = node.filter(|node| !has_passed(node, message)) {
        message.user_properties.push((HOP.into(), node.clone()));
    }
}

/// Whether a client says that it is a gateway.
pub(super) fn is_gateway(connect: &Connect) -> bool {
    connect.properties.user_properties.iter().any(|(name, _)| name.as_str() == NODE)
}

/// What a gateway is told of this one. A name that the store brought may be no MQTT string.
pub(super) fn introduction(node: &str) -> Option<(Text, Text)> {
    Some((Text::try_from(NODE).ok()?, Text::try_from(node).ok()?))
}

/// The gateway that a broker says it is.
pub(super) fn source(connack: &ConnAck) -> Option<Arc<str>> {
    let properties = &connack.properties.as_ref()?.user_properties;
    let (_, node) = properties.iter().find(|(name, _)| name == NODE)?;
    (1..=NODE_BYTES_MAX).contains(&node.len()).then(|| node.as_str().into())
}

fn hops(message: &Message) -> impl Iterator<Item = &str> {
    message.user_properties.iter().filter(|(name, _)| &**name == HOP).map(|(_, value)| &**value)
}
