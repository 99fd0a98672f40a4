//! How messages and what belongs to a session's number lie in the store.
//!
//! ```text
//!  MqttMessages       message (u64)                    -> version, since, message, whom it waits for
//!  MqttProgress       message (u64), session (u64)     -> released, or done
//!  MqttSubscriptions  session (u64), topic filter      -> version, options
//!  MqttReceived       session (u64), packet id (u16)   -> nothing
//!  MqttRetained       topic                            -> version, message
//! ```
//!
//! A session's number is drawn when it begins and never used again, so what is left of one that is over belongs
//! to nobody, and goes at the next start.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, BufMut, Bytes};
use towline_protocols::{link::Priority, varint};

use crate::{
    hub::{Message, SubscribeOptions, format_flags, format_of},
    mqtt::clock,
    session::record::{get_bytes, get_option, get_text, put_bytes, put_option, put_text, text},
};

/// First byte of each record. Another layout gets another number.
pub(super) const VERSION: u8 = 1;
/// The first byte of a message that waits for sessions. In those of version 1 no recipient names a shared subscription.
const MESSAGE_VERSION: u8 = 2;

/// A session that a message waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipient {
    pub(super) session: u64,
    /// The message's place among those of the session.
    pub(super) position: u64,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Subscription identifiers.
    pub(super) identifiers: Box<[u32]>,
    /// The shared subscription that asked for it.
    pub(super) share: Option<Arc<str>>,
}

/// A message as it lies in the store.
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) since: Instant,
    pub(super) recipients: Vec<Recipient>,
}

pub(super) fn encode_message(message: &Message, since: Instant, recipients: &[Recipient]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(64 + message.topic.len() + message.payload.len() + 16 * recipients.len());
    out.put_u8(MESSAGE_VERSION);
    out.put_u64(clock().unix_ms(since));
    put_message(&mut out, message);
    varint::put(&mut out, recipients.len() as u64);
    for recipient in recipients {
        out.put_u64(recipient.session);
        varint::put(&mut out, recipient.position);
        let is_shared = u8::from(recipient.share.is_some()) * RECIPIENT_SHARED;
        out.put_u8(recipient.qos | (u8::from(recipient.retain) * RECIPIENT_RETAIN) | is_shared);
        varint::put(&mut out, recipient.identifiers.len() as u64);
        for identifier in &recipient.identifiers {
            varint::put(&mut out, (*identifier).into());
        }
        if let Some(share) = &recipient.share {
            put_bytes(&mut out, share.as_bytes());
        }
    }
    out
}

/// `None` when the record is not one of this version, or of the one before.
pub(super) fn decode_message(mut input: &[u8]) -> Option<Stored> {
    let input = &mut input;
    matches!(input.try_get_u8().ok()?, VERSION | MESSAGE_VERSION).then_some(())?;
    let since = clock().instant(input.try_get_u64().ok()?);
    let message = get_message(input)?;
    let mut recipients = Vec::new();
    for _ in 0..varint::get(input)? {
        let session = input.try_get_u64().ok()?;
        let position = varint::get(input)?;
        let flags = input.try_get_u8().ok()?;
        let mut identifiers = Vec::new();
        for _ in 0..varint::get(input)? {
            identifiers.push(u32::try_from(varint::get(input)?).ok()?);
        }
        let share = if flags & RECIPIENT_SHARED == 0 { None } else { Some(text(get_bytes(input)?)?) };
        let (qos, retain) = (flags & RECIPIENT_QOS, flags & RECIPIENT_RETAIN != 0);
        recipients.push(Recipient { session, position, qos, retain, identifiers: identifiers.into(), share });
    }
    input.is_empty().then_some(Stored { message, since, recipients })
}

/// Flags of a recipient.
const RECIPIENT_QOS: u8 = 3;
const RECIPIENT_SHARED: u8 = 0x40;
const RECIPIENT_RETAIN: u8 = 0x80;

/// Flags of a message.
const RETAIN: u8 = 1;

pub(super) fn put_message(out: &mut Vec<u8>, message: &Message) {
    let flags = (u8::from(message.retain) * RETAIN) | format_flags(message.payload_utf8);
    out.put_slice(&[message.qos, message.priority.urgency(), flags]);
    out.put_u64(message.expires.map_or(0, |expires| clock().unix_ms(expires)));
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, &message.payload);
    put_text(out, message.publisher.as_deref());
    put_text(out, message.content_type.as_deref());
    put_text(out, message.response_topic.as_deref());
    put_option(out, message.correlation_data.as_deref());
    varint::put(out, message.user_properties.len() as u64);
    for (name, value) in &message.user_properties {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

pub(super) fn get_message(input: &mut &[u8]) -> Option<Message> {
    let mut head = [0; 3];
    input.try_copy_to_slice(&mut head).ok()?;
    let [qos, urgency, flags] = head;
    let expires = Some(input.try_get_u64().ok()?).filter(|&ms| ms > 0).map(|ms| clock().instant(ms));
    let mut message = Message {
        topic: text(get_bytes(input)?)?,
        payload: Bytes::copy_from_slice(get_bytes(input)?),
        qos,
        retain: flags & RETAIN != 0,
        priority: Priority::new(urgency),
        expires,
        publisher: get_text(input)?,
        payload_utf8: format_of(flags),
        content_type: get_text(input)?,
        response_topic: get_text(input)?,
        correlation_data: get_option(input)?.map(Bytes::copy_from_slice),
        ..Message::default()
    };
    for _ in 0..varint::get(input)? {
        let name: Arc<str> = text(get_bytes(input)?)?;
        message.user_properties.push((name, text(get_bytes(input)?)?));
    }
    Some(message)
}

pub(crate) fn encode_retained(message: &Message) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_message(&mut out, message);
    out
}

/// `None` when the record is not one of this version.
pub(crate) fn decode_retained(mut input: &[u8]) -> Option<Message> {
    (input.try_get_u8().ok()? == VERSION).then_some(())?;
    let message = get_message(&mut input)?;
    input.is_empty().then_some(message)
}

const NO_LOCAL: u8 = 4;
const AS_PUBLISHED: u8 = 8;

pub(in crate::mqtt) fn encode_subscription(options: &SubscribeOptions) -> Vec<u8> {
    let flags = (u8::from(options.no_local) * NO_LOCAL)
        | (u8::from(options.retain_as_published) * AS_PUBLISHED)
        | options.qos;
    let mut out = vec![VERSION, flags];
    out.put_u32(options.identifier);
    out
}

/// `None` when the record is not one of this version.
pub(super) fn decode_subscription(mut input: &[u8]) -> Option<SubscribeOptions> {
    (input.try_get_u8().ok()? == VERSION).then_some(())?;
    let flags = input.try_get_u8().ok()?;
    let identifier = input.try_get_u32().ok()?;
    let (no_local, retain_as_published) = (flags & NO_LOCAL != 0, flags & AS_PUBLISHED != 0);
    let qos = flags & 3;
    input.is_empty().then_some(SubscribeOptions { qos, no_local, retain_as_published, identifier })
}

/// Key of something that belongs to a session.
pub(in crate::mqtt) fn numbered_key(session: u64, rest: &[u8]) -> Vec<u8> {
    [&session.to_be_bytes(), rest].concat()
}

/// All keys of a session, to what follows the number with up to 65535 bytes of text.
pub(in crate::mqtt) fn numbered_range(session: u64) -> (Vec<u8>, Vec<u8>) {
    // UTF-8 has no byte 0xff.
    (numbered_key(session, &[]), numbered_key(session, &[0xff; 3]))
}

/// The session's number, and the rest.
pub(super) fn parse_numbered_key(mut key: &[u8]) -> Option<(u64, &[u8])> {
    Some((key.try_get_u64().ok()?, key))
}

pub(super) fn progress_key(message: u64, session: u64) -> Vec<u8> {
    numbered_key(message, &session.to_be_bytes())
}

pub(super) fn progress_range(message: u64) -> (Vec<u8>, Vec<u8>) {
    (progress_key(message, 0), progress_key(message, u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message() -> Message {
        Message {
            topic: "t/1".into(),
            payload: Bytes::from_static(b"payload"),
            qos: 2,
            retain: true,
            priority: Priority::CRITICAL,
            expires: Some(clock().instant(clock().unix_ms(crate::mqtt::now())) + Duration::from_secs(9)),
            publisher: Some("me".into()),
            payload_utf8: Some(true),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..Message::default()
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was_with_those_it_waits_for() {
        let message = message();
        let since = clock().instant(clock().unix_ms(crate::mqtt::now()));
        let recipient = |session, position| Recipient {
            session,
            position,
            qos: 2,
            retain: session == 7,
            identifiers: [1, 268_435_455].into(),
            share: (session == 7).then(|| "$share/g/t/+".into()),
        };
        let recipients = [recipient(7, 1), recipient(u64::MAX, 1 << 40)];
        let encoded = encode_message(&message, since, &recipients);
        let stored = decode_message(&encoded).unwrap();
        assert_eq!(format!("{:?}", stored.message), format!("{message:?}"));
        assert_eq!((stored.since, &stored.recipients[..]), (since, &recipients[..]));
        for cut in 0..encoded.len() {
            assert!(decode_message(&encoded[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_retained_message_comes_back_as_it_was() {
        // Made once: it expires at a time that the clock says.
        let message = message();
        let encoded = encode_retained(&message);
        assert_eq!(format!("{:?}", decode_retained(&encoded).unwrap()), format!("{message:?}"));
        for cut in 0..encoded.len() {
            assert!(decode_retained(&encoded[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_subscription_comes_back_as_it_was() {
        for (qos, no_local, retain_as_published, identifier) in
            [(0, false, false, 0), (2, true, false, 9), (1, false, true, u32::MAX)]
        {
            let options = SubscribeOptions { qos, no_local, retain_as_published, identifier };
            assert_eq!(decode_subscription(&encode_subscription(&options)), Some(options));
        }
        assert_eq!(decode_subscription(&[2, 0, 0, 0, 0, 0]), None, "another version");
    }

    #[test]
    fn keys_of_one_session_lie_in_its_range_and_no_others() {
        let (first, last) = numbered_range(7);
        for rest in ["", "#", "\u{10ffff}/\u{10ffff}"] {
            let key = numbered_key(7, rest.as_bytes());
            assert!(first <= key && key <= last, "{rest}");
        }
        let packet_id = numbered_key(7, &u16::MAX.to_be_bytes());
        assert!(first <= packet_id && packet_id <= last);
        assert!(numbered_key(6, &[0xff; 3]) < first && numbered_key(8, &[]) > last);
    }
}
