//! How receipts lie in the store.
//!
//! ```text
//!  Table::Receipts   queue, 0, number (u64)  -> version, state, time, lost, push id, client id, reason
//! ```
//!
//! A queue's name is printable ASCII, so the 0 ends it, and one queue's receipts lie together in their order.

use std::{str, sync::Arc};

use bytes::{Buf, BufMut};
use towline_protocols::varint;

use super::Receipt;

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 1;

pub(super) fn encode(receipt: &Receipt) -> Vec<u8> {
    let mut out = vec![VERSION, receipt.state];
    out.put_u64(receipt.unix_ms);
    varint::put(&mut out, receipt.lost);
    for text in [&receipt.push_id, &receipt.client_id, &receipt.reason] {
        varint::put(&mut out, text.len() as u64);
        out.put_slice(text.as_bytes());
    }
    out
}

/// `None` when the record is not one of this version.
pub(super) fn decode(number: u64, mut input: &[u8]) -> Option<Receipt> {
    let [VERSION, state] = [input.try_get_u8().ok()?, input.try_get_u8().ok()?] else { return None };
    let unix_ms = input.try_get_u64().ok()?;
    let lost = varint::get(&mut input)?;
    let [push_id, client_id, reason] = [text(&mut input)?, text(&mut input)?, text(&mut input)?];
    Some(Receipt { number, push_id, client_id, state, reason, unix_ms, lost })
}

fn text(input: &mut &[u8]) -> Option<Arc<str>> {
    let length = usize::try_from(varint::get(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    str::from_utf8(bytes).ok().map(Arc::from)
}
