//! Between MQTT's packets and the hub's messages.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use towline_protocols::{
    link::Priority,
    mqtt::{
        LastWill, PacketId, Publish, QoS, SharedHeads, Text,
        session::{ApplicationMessage, MessageView, Standing},
    },
};

use super::kept::Entry;
use crate::hub::{LastMatch, Message};

/// Payloads up to this size are copied out of the packet they came in: a message that waits must not hold on
/// to a whole read buffer. Above it, the buffer is a few times the message at the most.
const PAYLOAD_BYTES_COPIED_MAX: usize = 4096;

/// A message as sessions queue it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) message: Arc<Message>,
    /// The session's part in it, if the store keeps it.
    pub(super) entry: Option<Arc<Entry>>,
    /// The shared subscription that asked for it.
    pub(super) share: Option<Arc<str>>,
}

impl ApplicationMessage for Shared {
    fn view(&self) -> MessageView<'_> {
        view(&self.message)
    }

    fn heads(&self) -> Option<&SharedHeads> {
        // Held by whoever sends it at the moment. More: others are to have it, too; and the last of them gets what was
        // encoded for those before it.
        let is_shared = Arc::strong_count(&self.message) > 1 || !self.message.heads.is_empty();
        is_shared.then_some(&self.message.heads)
    }

    fn standing(&self) -> Standing {
        self.entry.as_ref().map_or(Standing::Ready, |entry| entry.standing())
    }

    fn packet_id(&self) -> Option<PacketId> {
        self.entry.as_ref()?.packet_id()
    }

    fn released(&self) -> Self {
        static NOTHING: LazyLock<Arc<Message>> = LazyLock::new(Arc::default);
        if let Some(entry) = &self.entry {
            entry.release();
        }
        Self { message: NOTHING.clone(), entry: self.entry.clone(), share: None }
    }

    fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    fn finish(&self) {
        if let Some(entry) = &self.entry {
            entry.finish();
        }
    }
}

/// A message's parts.
pub(super) fn view(message: &Message) -> MessageView<'_> {
    MessageView {
        topic: &message.topic,
        payload: &message.payload,
        expires: message.expires,
        payload_utf8: message.payload_utf8,
        content_type: message.content_type.as_deref(),
        response_topic: message.response_topic.as_deref(),
        correlation_data: message.correlation_data.as_deref(),
        user_properties: &message.user_properties,
    }
}

/// The message of a PUBLISH, whose topic may be the one that its publisher published to last.
pub(super) fn from_publish(
    publish: &Publish,
    publisher: &Arc<str>,
    last: &LastMatch,
    now: Instant,
) -> Message {
    let properties = &publish.properties;
    let topic = last.topic(publish.topic.as_bytes()).cloned();
    Message {
        topic: topic.unwrap_or_else(|| publish.topic.as_str().into()),
        payload: detached(&publish.payload),
        qos: publish.qos as u8,
        retain: publish.retain,
        priority: Priority::NORMAL,
        expires: expires(properties.expiry, now),
        publisher: Some(publisher.clone()),
        upstream: None,
        payload_utf8: properties.payload_utf8,
        content_type: shared(properties.content_type.as_ref()),
        response_topic: shared(properties.response_topic.as_ref()),
        correlation_data: properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        user_properties: pairs(&properties.user_properties),
        collapse_key: None,
        receipt: None,
        heads: SharedHeads::default(),
    }
}

/// The message of a will. Its expiry begins when it is published, so it is not set here.
pub(super) fn from_will(will: &LastWill, publisher: &Arc<str>) -> Message {
    let properties = &will.properties;
    Message {
        topic: will.topic.as_str().into(),
        payload: Bytes::copy_from_slice(&will.payload),
        qos: will.qos as u8,
        retain: will.retain,
        priority: Priority::NORMAL,
        expires: None,
        publisher: Some(publisher.clone()),
        upstream: None,
        payload_utf8: properties.payload_utf8,
        content_type: shared(properties.content_type.as_ref()),
        response_topic: shared(properties.response_topic.as_ref()),
        correlation_data: properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        user_properties: pairs(&properties.user_properties),
        collapse_key: None,
        receipt: None,
        heads: SharedHeads::default(),
    }
}

/// The instant after `seconds`; `None` when there is no such interval, or it is longer than time.
pub(super) fn expires(seconds: Option<u32>, now: Instant) -> Option<Instant> {
    now.checked_add(Duration::from_secs(seconds?.into()))
}

/// A delivery's quality of service.
pub(super) fn qos(qos: u8) -> QoS {
    QoS::from_bits(qos).unwrap_or(QoS::ExactlyOnce)
}

fn detached(payload: &Bytes) -> Bytes {
    if payload.len() <= PAYLOAD_BYTES_COPIED_MAX { Bytes::copy_from_slice(payload) } else { payload.clone() }
}

fn shared(text: Option<&Text>) -> Option<Arc<str>> {
    text.map(|text| text.as_str().into())
}

fn pairs(pairs: &[(Text, Text)]) -> Vec<(Arc<str>, Arc<str>)> {
    pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use towline_protocols::mqtt::{PublishHead, Version};

    use super::*;

    #[test]
    fn heads_are_shared_while_others_wait_for_the_message_and_by_the_last_of_them() {
        let sent = Shared { message: Arc::default(), entry: None, share: None };
        assert!(sent.heads().is_none(), "one subscriber needs no copy to take from");
        let other = sent.clone();
        let heads = sent.heads().unwrap();
        let head = PublishHead::<&str> {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            topic_alias: None,
            payload_utf8: None,
            expiry: None,
            response_topic: None,
            correlation_data: None,
            user_properties: &[],
            subscription_ids: &[],
            content_type: None,
            payload_bytes: 0,
        };
        head.encode_shared(Version::V311, heads, &mut BytesMut::new()).unwrap();
        drop(sent);
        assert!(other.heads().is_some());
    }
}
