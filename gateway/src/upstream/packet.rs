//! Between the hub's messages and the upstream connection's packets.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{Publish, PublishProperties},
};
use towline_protocols::{link::Priority, mqtt::topic::check_name};

use super::hops;
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    hub::{Message, check_topic},
    mqtt, settings,
};

/// The PUBLISH of a message, without its packet identifier.
pub(super) fn publish(message: &Message, backend: &settings::Backend, node: &Arc<str>) -> Publish {
    let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
    let owned = |(name, value): &(Arc<str>, Arc<str>)| (name.to_string(), value.to_string());
    let mut user_properties: Vec<_> = message.user_properties.iter().map(owned).collect();
    if !hops::has_passed(node, message) {
        user_properties.push((hops::HOP.to_owned(), node.to_string()));
    }
    let properties = PublishProperties {
        payload_format_indicator: message.payload_utf8.map(u8::from),
        message_expiry_interval: message.expires.map(seconds_left),
        response_topic: text(&message.response_topic),
        correlation_data: message.correlation_data.clone(),
        content_type: text(&message.content_type),
        user_properties,
        ..PublishProperties::default()
    };
    Publish {
        // At least once is what the gateway vouches for on this leg.
        qos: if message.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
        retain: message.retain,
        topic: remote_topic(&message.topic, backend).into(),
        payload: message.payload.clone(),
        properties: Some(properties),
        ..Publish::default()
    }
}

/// Whole seconds begun: a message that is still worth delivering here is so at the broker.
fn seconds_left(at: Instant) -> u32 {
    let left = at.saturating_duration_since(mqtt::now()).as_secs();
    u32::try_from(left.saturating_add(1)).unwrap_or(u32::MAX)
}

fn remote_topic(topic: &str, backend: &settings::Backend) -> String {
    let bare = topic.strip_prefix(&*backend.upstream.local_prefix).unwrap_or(topic);
    format!("{}{bare}", backend.topic_prefix)
}

/// The message that a broker brings, or what is wrong with it.
pub(super) fn message(
    publish: &Publish,
    backend: &settings::Backend,
    levels_max: usize,
) -> Result<Message, String> {
    let topic = str::from_utf8(&publish.topic).map_err(|error| format!("its topic: {error}"))?;
    let bare = topic.strip_prefix(&*backend.topic_prefix).ok_or_else(|| {
        format!("its topic does not begin with topic_prefix = \"{}\"", backend.topic_prefix)
    })?;
    let topic = format!("{}{bare}", backend.upstream.local_prefix);
    check_topic(&topic, levels_max).map_err(|error| format!("its topic here: {error}"))?;
    if mqtt::is_reserved(&topic) {
        return Err("its topic here would be the gateway's own ($SYS)".to_owned());
    }
    let properties = publish.properties.clone().unwrap_or_default();
    let now = mqtt::now();
    let seconds =
        properties.message_expiry_interval.map(|seconds| std::time::Duration::from_secs(seconds.into()));
    let pair = |(name, value): (String, String)| (Arc::from(name), Arc::from(value));
    // Some brokers hand on whatever stands there, and subscribers end their connections over what nobody can answer to.
    let response_topic = properties.response_topic.filter(|topic| check_name(topic).is_ok());
    Ok(Message {
        topic: topic.into(),
        // A copy of its own: a slice would hold on to the buffer that it came in.
        payload: Bytes::copy_from_slice(&publish.payload),
        qos: publish.qos as u8,
        retain: publish.retain,
        priority: Priority::NORMAL,
        expires: seconds.and_then(|seconds| now.checked_add(seconds)),
        payload_utf8: properties.payload_format_indicator.map(|format| format == 1),
        content_type: properties.content_type.map(Into::into),
        response_topic: response_topic.map(Into::into),
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties.into_iter().map(pair).collect(),
        upstream: Some(backend.name.clone()),
        ..Message::default()
    })
}

/// MQTT's strings have a length of 16 bits, and the client writes it without a look. A topic is longer than what its
/// publisher sent by the prefix; an app's texts came by another protocol.
pub(super) fn check_strings(message: &Message, backend: &settings::Backend) -> Result<(), RpcError> {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let longest_pair = message.user_properties.iter().map(|(name, value)| name.len().max(value.len())).max();
    let lengths = [
        remote_topic(&message.topic, backend).len(),
        text(&message.response_topic),
        text(&message.content_type),
        message.correlation_data.as_ref().map_or(0, Bytes::len),
        longest_pair.unwrap_or(0),
    ];
    if lengths.iter().all(|length| u16::try_from(*length).is_ok()) {
        return Ok(());
    }
    let message = format!(
        "backend {}: the topic with its prefix, or a property, is longer than MQTT's 65535 bytes",
        backend.name
    );
    Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Backend, BackendKind, Upstream};

    fn backend(local_prefix: &str, remote_prefix: &str) -> Backend {
        Backend {
            topic_prefix: remote_prefix.to_owned(),
            upstream: Upstream { local_prefix: local_prefix.to_owned(), ..Upstream::default() },
            ..Backend::new("up", BackendKind::Mqtt, "h:1")
        }
    }

    #[track_caller]
    fn check(local_prefix: &str, remote_prefix: &str, here: &str, there: &str) {
        let (backend, node) = (backend(local_prefix, remote_prefix), "n".into());
        let message = Message { topic: here.into(), ..Message::default() };
        let sent = publish(&message, &backend, &node);
        assert_eq!(sent.topic, there.as_bytes());
        let back = super::message(&sent, &backend, 10).unwrap();
        assert_eq!(&*back.topic, here);
        assert_eq!(back.user_properties, [(hops::HOP.into(), node)]);
    }

    #[test]
    fn prefixes_are_exchanged_both_ways() {
        check("", "", "a/b", "a/b");
        check("", "edge/7/", "a/b", "edge/7/a/b");
        check("site/", "", "site/a", "a");
        check("site/", "edge/7/", "site/a", "edge/7/a");
    }

    #[test]
    fn a_response_topic_that_is_none_is_left_out() {
        for (came, kept) in [("answers", Some("answers")), ("answers/#", None), ("+", None), ("", None)] {
            let properties =
                PublishProperties { response_topic: Some(came.to_owned()), ..PublishProperties::default() };
            let publish = Publish { topic: "a".into(), properties: Some(properties), ..Publish::default() };
            let message = message(&publish, &backend("", ""), 3).unwrap();
            assert_eq!(message.response_topic.as_deref(), kept);
        }
    }

    #[test]
    fn what_does_not_belong_here_is_named() {
        let came = |topic: &str| Publish { topic: topic.to_owned().into(), ..Publish::default() };
        let refused = |backend, topic| message(&came(topic), &backend, 3).unwrap_err();
        assert!(refused(backend("", "edge/"), "other/a").contains("topic_prefix"));
        assert!(refused(backend("$SYS/", ""), "a").contains("$SYS"));
        assert!(refused(backend("", ""), "a/b/c/d").contains("levels"));
        let bytes = Publish { topic: Bytes::from_static(b"a\xff"), ..Publish::default() };
        assert!(message(&bytes, &backend("", ""), 3).unwrap_err().contains("topic"));
    }
}
