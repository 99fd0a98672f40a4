//! How sessions and pushes lie in the store.
//!
//! ```text
//!  Table::Sessions   client id                     -> version, secret hash, user, push line and ids, filters
//!  Table::Pushes     client id, 0, push id (u64)   -> version, qos, urgencies, times, topic, payload, ...
//! ```
//!
//! A client id is printable ASCII, so the 0 ends it, and one client's pushes lie together in their order.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use towline_protocols::{link::Priority, varint};

use super::{clock::Clock, push_queue::QueuedPush};
use crate::{
    hub::{Message, format_flags, format_of},
    receipts::Receipts,
};

/// What a session is after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionRecord {
    pub(super) secret_hash: [u8; 16],
    pub(super) user: Option<Arc<str>>,
    /// WELCOME.push_line
    pub(super) push_line: u64,
    /// No push id up to this one is used again.
    pub(super) push_ids_reserved: u64,
    /// Filter and quality of service.
    pub(super) filters: Vec<(String, u8)>,
}

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 2;

impl SessionRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_slice(&self.secret_hash);
        put_text(&mut out, self.user.as_deref());
        out.put_u64(self.push_line);
        varint::put(&mut out, self.push_ids_reserved);
        varint::put(&mut out, self.filters.len() as u64);
        for (filter, qos) in &self.filters {
            put_bytes(&mut out, filter.as_bytes());
            out.put_u8(*qos);
        }
        out
    }

    /// `None` when the record is not one of this version.
    pub(super) fn decode(mut input: &[u8]) -> Option<Self> {
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut secret_hash = [0; 16];
        input.try_copy_to_slice(&mut secret_hash).ok()?;
        let user = get_text(&mut input)?;
        let push_line = input.try_get_u64().ok()?;
        let push_ids_reserved = varint::get(&mut input)?;
        let count = varint::get(&mut input)?;
        let mut filters = Vec::new();
        for _ in 0..count {
            let filter = String::from_utf8(get_bytes(&mut input)?.to_vec()).ok()?;
            filters.push((filter, input.try_get_u8().ok()?));
        }
        Some(Self { secret_hash, user, push_line, push_ids_reserved, filters })
    }
}

/// Key of one push, or of the bound of a range of them.
pub(super) fn push_key(client_id: &str, id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(client_id.len() + 9);
    key.put_slice(client_id.as_bytes());
    key.put_u8(0);
    key.put_u64(id);
    key
}

/// Client id and push id of a key.
pub(super) fn parse_push_key(key: &[u8]) -> Option<(&str, u64)> {
    let (client_id, mut rest) = key.split_at_checked(key.len().checked_sub(9)?)?;
    (rest.get_u8() == 0).then_some(())?;
    Some((std::str::from_utf8(client_id).ok()?, rest.get_u64()))
}

/// Flags of a push record.
const RETAIN: u8 = 1;

pub(super) fn encode_push(push: &QueuedPush, clock: &Clock) -> Vec<u8> {
    let message = &*push.message;
    let mut out = Vec::with_capacity(64 + message.topic.len() + message.payload.len());
    out.put_slice(&[VERSION, push.qos, message.qos, message.priority.urgency(), push.lane.urgency()]);
    out.put_u8((u8::from(message.retain) * RETAIN) | format_flags(message.payload_utf8));
    out.put_u64(clock.unix_ms(push.queued_at));
    out.put_u64(message.expires.map_or(0, |expires| clock.unix_ms(expires)));
    put_bytes(&mut out, message.topic.as_bytes());
    put_bytes(&mut out, &message.payload);
    put_text(&mut out, message.publisher.as_deref());
    put_text(&mut out, message.content_type.as_deref());
    put_text(&mut out, message.response_topic.as_deref());
    put_option(&mut out, message.correlation_data.as_deref());
    varint::put(&mut out, message.user_properties.len() as u64);
    for (name, value) in &message.user_properties {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    put_text(&mut out, message.collapse_key.as_deref());
    let (queue, push_id, all) = message.receipt.as_ref().map_or(("", "", false), |ticket| ticket.parts());
    put_bytes(&mut out, queue.as_bytes());
    put_bytes(&mut out, push_id.as_bytes());
    out.put_u8(u8::from(all));
    out
}

/// `None` when the record is not one of this version.
pub(super) fn decode_push(id: u64, record: &[u8], clock: &Clock, receipts: &Receipts) -> Option<QueuedPush> {
    let mut input = record;
    let mut head = [0; 6];
    input.try_copy_to_slice(&mut head).ok()?;
    let [VERSION, qos, message_qos, urgency, lane, flags] = head else { return None };
    let queued_at = clock.instant(input.try_get_u64().ok()?);
    let expires = Some(input.try_get_u64().ok()?).filter(|&ms| ms > 0).map(|ms| clock.instant(ms));
    let mut message = Message {
        topic: text(get_bytes(&mut input)?)?,
        payload: Bytes::copy_from_slice(get_bytes(&mut input)?),
        qos: message_qos,
        retain: flags & RETAIN != 0,
        priority: Priority::new(urgency),
        expires,
        publisher: get_text(&mut input)?,
        payload_utf8: format_of(flags),
        content_type: get_text(&mut input)?,
        response_topic: get_text(&mut input)?,
        correlation_data: get_option(&mut input)?.map(Bytes::copy_from_slice),
        ..Message::default()
    };
    for _ in 0..varint::get(&mut input)? {
        let name = text(get_bytes(&mut input)?)?;
        message.user_properties.push((name, text(get_bytes(&mut input)?)?));
    }
    message.collapse_key = get_text(&mut input)?;
    let [queue, push_id] = [text(get_bytes(&mut input)?)?, text(get_bytes(&mut input)?)?];
    let all = input.try_get_u8().ok()? == 1;
    message.receipt = (!queue.is_empty()).then(|| Arc::new(receipts.restored_ticket(&queue, push_id, all)));
    let (lane, message) = (Priority::new(lane), Arc::new(message));
    Some(QueuedPush { id, lane, message, qos, queued_at, stored: true })
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(crate) fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.put_u8(u8::from(bytes.is_some()));
    put_bytes(out, bytes.unwrap_or_default());
}

pub(crate) fn put_text(out: &mut Vec<u8>, value: Option<&str>) {
    put_option(out, value.map(str::as_bytes));
}

pub(crate) fn get_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::get(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

pub(crate) fn get_option<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let present = input.try_get_u8().ok()? == 1;
    let bytes = get_bytes(input)?;
    Some(present.then_some(bytes))
}

pub(crate) fn get_text(input: &mut &[u8]) -> Option<Option<Arc<str>>> {
    match get_option(input)? {
        Some(bytes) => Some(Some(text(bytes)?)),
        None => Some(None),
    }
}

pub(crate) fn text(bytes: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(bytes).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{metrics::Metrics, settings::Settings, store::Store};

    #[test]
    fn a_session_comes_back_as_it_was() {
        let record = SessionRecord {
            secret_hash: [7; 16],
            user: Some("ann".into()),
            push_line: u64::MAX,
            push_ids_reserved: 2048,
            filters: vec![("a/+/#".into(), 1), ("b".into(), 0)],
        };
        assert_eq!(SessionRecord::decode(&record.encode()), Some(record.clone()));
        let encoded = record.encode();
        for cut in 0..encoded.len() {
            assert_eq!(SessionRecord::decode(&encoded[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_push_comes_back_as_it_was() {
        let clock = Clock::simulated();
        let store = Store::in_memory().unwrap();
        let receipts =
            Receipts::restore(&Settings::default(), store, &Metrics::new(), clock.clone()).unwrap();
        let message = Message {
            topic: "t/1".into(),
            payload: Bytes::from_static(b"payload"),
            qos: 1,
            retain: true,
            priority: Priority::CRITICAL,
            expires: Some(clock.now() + Duration::from_secs(9)),
            publisher: Some("me".into()),
            upstream: None,
            payload_utf8: Some(true),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            collapse_key: Some("score".into()),
            receipt: Some(Arc::new(receipts.restored_ticket("shop", "order-1".into(), true))),
            heads: towline_protocols::mqtt::SharedHeads::default(),
        };
        let expected = format!("{message:?}");
        let queued_at = clock.now();
        let (lane, message) = (Priority::BACKGROUND, Arc::new(message));
        let push = QueuedPush { id: 9, lane, message, qos: 1, queued_at, stored: true };
        let encoded = encode_push(&push, &clock);
        let decoded = decode_push(9, &encoded, &clock, &receipts).unwrap();
        assert_eq!((format!("{:?}", decoded.message), decoded.queued_at), (expected, queued_at));
        assert_eq!(decoded.lane, Priority::BACKGROUND);
        for cut in 0..encoded.len() {
            assert!(decode_push(9, &encoded[..cut], &clock, &receipts).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn keys_of_one_client_sort_by_push_id_and_apart_from_others() {
        assert!(push_key("a", 255) < push_key("a", 256));
        assert!(push_key("a", u64::MAX) < push_key("a!", 0));
        assert_eq!(parse_push_key(&push_key("phone-1", 77)), Some(("phone-1", 77)));
        assert_eq!(parse_push_key(b"short"), None);
    }
}
