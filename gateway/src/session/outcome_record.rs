//! How outcomes of durable routes lie in the store.
//!
//! ```text
//!  Table::Outcomes   client id, 0, 0     -> version, session id, mark: no number above it was forwarded
//!                    client id, 0, seq   -> version, session id, time of the end, parts of the answer
//! ```
//!
//! The key is a push's with a sequence number, so a client's mark lies ahead of its outcomes. A record of
//! another session id than the mark's is of a session that is over.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use towline_protocols::{
    hpack::HeaderField,
    link::{Execution, RpcError, RpcErrorKind},
    varint,
};

use super::{
    exchange::ExchangePart,
    record::{get_bytes, put_bytes},
};

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 1;

/// What a restart must know of a session's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) session_id: u64,
    /// No number above it was forwarded.
    pub(super) mark: u64,
}

/// An answer that was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) session_id: u64,
    /// When it was complete, milliseconds since 1970.
    pub(super) finished_ms: u64,
    pub(super) parts: Vec<ExchangePart>,
}

impl Mark {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_u64(self.session_id);
        out.put_u64(self.mark);
        out
    }

    /// `None` when the record is not one of this version.
    pub(super) fn decode(mut input: &[u8]) -> Option<Self> {
        (input.try_get_u8().ok()? == VERSION).then_some(())?;
        Some(Self { session_id: input.try_get_u64().ok()?, mark: input.try_get_u64().ok()? })
    }
}

/// What a part is.
const HEAD: u8 = 1;
const MESSAGE: u8 = 2;
const TRAILERS: u8 = 3;
const END: u8 = 4;
const ERROR: u8 = 5;

impl Outcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_u64(self.session_id);
        out.put_u64(self.finished_ms);
        for part in &self.parts {
            match part {
                ExchangePart::Head(fields) => put_fields(&mut out, HEAD, fields),
                ExchangePart::Message(message) => {
                    out.put_u8(MESSAGE);
                    put_bytes(&mut out, message);
                }
                ExchangePart::Trailers(fields) => put_fields(&mut out, TRAILERS, fields),
                ExchangePart::End => out.put_u8(END),
                ExchangePart::Error(error) => put_error(&mut out, error),
            }
        }
        out
    }

    /// `None` when the record is not one of this version.
    pub(super) fn decode(mut input: &[u8]) -> Option<Self> {
        (input.try_get_u8().ok()? == VERSION).then_some(())?;
        let (session_id, finished_ms) = (input.try_get_u64().ok()?, input.try_get_u64().ok()?);
        let mut parts = Vec::new();
        while input.has_remaining() {
            parts.push(match input.get_u8() {
                HEAD => ExchangePart::Head(get_fields(&mut input)?),
                MESSAGE => ExchangePart::Message(Bytes::copy_from_slice(get_bytes(&mut input)?)),
                TRAILERS => ExchangePart::Trailers(get_fields(&mut input)?),
                END => ExchangePart::End,
                ERROR => ExchangePart::Error(get_error(&mut input)?),
                _ => return None,
            });
        }
        Some(Self { session_id, finished_ms, parts })
    }
}

fn put_fields(out: &mut Vec<u8>, kind: u8, fields: &[HeaderField]) {
    out.put_u8(kind);
    varint::put(out, fields.len() as u64);
    for field in fields {
        put_bytes(out, &field.name);
        put_bytes(out, &field.value);
        out.put_u8(u8::from(field.sensitive));
    }
}

fn get_fields(input: &mut &[u8]) -> Option<Arc<[HeaderField]>> {
    let count = varint::get(input)?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let name = Bytes::copy_from_slice(get_bytes(input)?);
        let value = Bytes::copy_from_slice(get_bytes(input)?);
        let sensitive = input.try_get_u8().ok()? != 0;
        fields.push(HeaderField { name, value, sensitive });
    }
    Some(fields.into())
}

fn put_error(out: &mut Vec<u8>, error: &RpcError) {
    out.put_slice(&[ERROR, error.kind as u8, error.execution as u8]);
    varint::put(out, error.retry_after.map_or(0, |after| after.as_millis() as u64).min(varint::MAX));
    put_bytes(out, error.message.as_bytes());
}

fn get_error(input: &mut &[u8]) -> Option<RpcError> {
    let kind = RpcErrorKind::from_wire(input.try_get_u8().ok()?);
    let execution = match input.try_get_u8().ok()? {
        0 => Execution::NotRun,
        2 => Execution::Ran,
        _ => Execution::MayHaveRun,
    };
    let retry_after = Some(varint::get(input)?).filter(|&ms| ms > 0).map(Duration::from_millis);
    let message = String::from_utf8(get_bytes(input)?.to_vec()).ok()?;
    Some(RpcError { retry_after, ..RpcError::new(kind, execution, message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: Vec<ExchangePart>) {
        let outcome = Outcome { session_id: 7, finished_ms: 1_700_000_000_000, parts };
        let encoded = outcome.encode();
        assert_eq!(Outcome::decode(&encoded), Some(outcome));
        assert_eq!(Outcome::decode(&encoded[..encoded.len() - 1]), None, "cut");
    }

    #[test]
    fn an_outcome_is_read_as_it_was_written() {
        let fields: Arc<[HeaderField]> = vec![
            HeaderField::from_static(":status", "200"),
            HeaderField { sensitive: true, ..HeaderField::from_static("x-secret", "1") },
        ]
        .into();
        let message = ExchangePart::Message(Bytes::from_static(b"paid"));
        let head = ExchangePart::Head(fields.clone());
        check(vec![head.clone(), message.clone(), ExchangePart::Trailers(fields)]);
        let error = RpcError {
            retry_after: Some(Duration::from_millis(5)),
            ..RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, "down")
        };
        check(vec![head, ExchangePart::Error(error)]);
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark { session_id: u64::MAX, mark: 300 };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[9]), None);
    }
}
