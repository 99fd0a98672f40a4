//! Keys of what waits in queues with names: `queue, 0, number (u64)`. A name holds no 0, so the 0 ends it, and what waits
//! in one queue lies together in its order.

use std::str;

use bytes::{Buf, BufMut};

/// The 0 and the number.
const BEHIND_NAME_BYTES: usize = 9;

/// Key of what has that number, or of the bound of a range.
pub fn queue_key(queue: &str, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(queue.len() + BEHIND_NAME_BYTES);
    key.put_slice(queue.as_bytes());
    key.put_u8(0);
    key.put_u64(number);
    key
}

/// Queue and number of a key.
pub fn parse_queue_key(key: &[u8]) -> Option<(&str, u64)> {
    let (queue, mut rest) = key.split_at_checked(key.len().checked_sub(BEHIND_NAME_BYTES)?)?;
    (rest.get_u8() == 0).then_some(())?;
    Some((str::from_utf8(queue).ok()?, rest.get_u64()))
}
