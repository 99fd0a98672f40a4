//! How delayed messages lie in the store.
//!
//! ```text
//!  Table::Delayed   due (unix ms, u64), number (u64)  -> version, listener, peer, encrypted, user, client id, message
//! ```

use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::Entry;
use crate::{
    mqtt,
    request::{Origin, Protocol},
    session::record::{get_bytes, get_text, put_bytes, put_text, text},
};

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 1;

pub(super) type Key = (u64, u64);

pub(super) fn key((due_ms, number): Key) -> Vec<u8> {
    [due_ms.to_be_bytes(), number.to_be_bytes()].concat()
}

pub(super) fn parse_key(mut key: &[u8]) -> Option<Key> {
    let parsed = (key.try_get_u64().ok()?, key.try_get_u64().ok()?);
    key.is_empty().then_some(parsed)
}

pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let Entry { origin, message } = entry;
    let mut out = vec![VERSION];
    put_bytes(&mut out, origin.listener.as_bytes());
    put_bytes(&mut out, origin.peer.to_string().as_bytes());
    out.put_u8(origin.encrypted.into());
    put_text(&mut out, origin.user.as_deref());
    put_text(&mut out, origin.client_id.as_deref());
    put_bytes(&mut out, &mqtt::encode_message(message));
    out
}

/// `None` when the record is not one of this version.
pub(super) fn decode(mut input: &[u8]) -> Option<Entry> {
    (input.try_get_u8().ok()? == VERSION).then_some(())?;
    let listener = text(get_bytes(&mut input)?)?;
    let peer = std::str::from_utf8(get_bytes(&mut input)?).ok()?.parse().ok()?;
    let encrypted = input.try_get_u8().ok()? == 1;
    let (user, client_id) = (get_text(&mut input)?, get_text(&mut input)?);
    let message = Arc::new(mqtt::decode_message(get_bytes(&mut input)?)?);
    let origin = Origin { user, client_id, ..Origin::new(listener, peer, Protocol::Mqtt, encrypted) };
    input.is_empty().then_some(Entry { origin: Arc::new(origin), message })
}
