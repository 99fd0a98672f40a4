//! How letters lie in the store.
//!
//! ```text
//!  Table::Outbox   queue, 0, number (u64)  -> version, since, user, reason, message
//! ```
//!
//! A queue's name holds no 0, so the 0 ends it, and one queue's letters lie together in their order.

use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::Letter;
use crate::{
    mqtt,
    session::record::{get_bytes, get_text, put_bytes, put_text},
};

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 1;

pub(super) fn encode(letter: &Letter) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.put_u64(letter.since_ms);
    put_text(&mut out, letter.user.as_deref());
    put_text(&mut out, letter.reason.as_deref());
    put_bytes(&mut out, &mqtt::encode_message(&letter.message));
    out
}

/// `None` when the record is not one of this version.
pub(super) fn decode(number: u64, mut input: &[u8]) -> Option<Letter> {
    (input.try_get_u8().ok()? == VERSION).then_some(())?;
    let since_ms = input.try_get_u64().ok()?;
    let (user, reason) = (get_text(&mut input)?, get_text(&mut input)?);
    let message = Arc::new(mqtt::decode_message(get_bytes(&mut input)?)?);
    input.is_empty().then_some(Letter { number, since_ms, message, user, reason, is_stored: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hub::Message,
        store::{parse_queue_key, queue_key},
    };

    #[test]
    fn a_letter_comes_back_as_it_was() {
        let message = Message { topic: "a/b".into(), payload: "x".into(), qos: 1, ..Message::default() };
        let (user, reason) = (Some("me".into()), Some("no".into()));
        let letter =
            Letter { number: 7, since_ms: 9, message: Arc::new(message), user, reason, is_stored: true };
        let encoded = encode(&letter);
        assert_eq!(format!("{:?}", decode(7, &encoded).unwrap()), format!("{letter:?}"));
        for cut in 0..encoded.len() {
            assert!(decode(7, &encoded[..cut]).is_none(), "cut at {cut}");
        }
        assert_eq!(parse_queue_key(&queue_key("upstream.a", 7)), Some(("upstream.a", 7)));
    }
}
