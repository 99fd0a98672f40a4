//! The header fields that a client sends once for its session, in the one form that both sides hash.

use std::{fmt, iter};

use bytes::{BufMut as _, Bytes};
use sha2::{Digest as _, Sha256};

use super::Header;
use crate::{hpack::HeaderField, varint};

/// Bytes of [`SessionHeaders::hash`]. The fields may hold text of third parties, so a second list with the same
/// hash must be out of reach; half a SHA-256 is.
pub const SESSION_HEADERS_HASH_BYTES: usize = 16;

/// A session's header fields, in one piece of memory:
///
/// ```text
/// ( name length varint | name | value length varint | value ) *
/// ```
///
/// The hash, by which HELLO names them, is taken of just that, the lengths in their shortest form.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionHeaders {
    encoded: Bytes,
    hash: [u8; SESSION_HEADERS_HASH_BYTES],
}

impl SessionHeaders {
    /// The fields as HELLO spells them out, in their order.
    pub fn of(fields: &[Header]) -> Self {
        let bytes = fields.iter().map(|field| 16 + field.name.len() + field.value.len()).sum();
        let mut encoded = Vec::with_capacity(bytes);
        for part in fields.iter().flat_map(|field| [&field.name, &field.value]) {
            varint::put(&mut encoded, part.len() as u64);
            encoded.put_slice(part);
        }
        encoded.shrink_to_fit();
        Self::from_encoded(encoded.into())
    }

    /// Reads what [`SessionHeaders::encoded`] gave; `None` when it is something else.
    pub fn decode(encoded: Bytes) -> Option<Self> {
        let mut rest = encoded.clone();
        while !rest.is_empty() {
            take(&mut rest)?;
        }
        Some(Self::from_encoded(encoded))
    }

    fn from_encoded(encoded: Bytes) -> Self {
        let mut hash = [0; SESSION_HEADERS_HASH_BYTES];
        hash.copy_from_slice(&Sha256::digest(&encoded)[..SESSION_HEADERS_HASH_BYTES]);
        Self { encoded, hash }
    }

    /// What names them in HELLO.
    pub fn hash(&self) -> &[u8; SESSION_HEADERS_HASH_BYTES] {
        &self.hash
    }

    /// All of them in one piece.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The fields, in order. Names and values are parts of the one piece.
    pub fn iter(&self) -> impl Iterator<Item = HeaderField> + use<> {
        let mut rest = self.encoded.clone();
        iter::from_fn(move || take(&mut rest)).map(|(name, value)| HeaderField::new(name, value))
    }
}

/// Values may be tokens.
impl fmt::Debug for SessionHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionHeaders({} bytes)", self.encoded.len())
    }
}

fn take(rest: &mut Bytes) -> Option<(Bytes, Bytes)> {
    Some((take_part(rest)?, take_part(rest)?))
}

fn take_part(rest: &mut Bytes) -> Option<Bytes> {
    let mut input = &rest[..];
    let length = usize::try_from(varint::get(&mut input)?).ok()?;
    let start = rest.len() - input.len();
    let end = start.checked_add(length).filter(|&end| end <= rest.len())?;
    let part = rest.slice(start..end);
    *rest = rest.slice(end..);
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &'static str, value: &'static str) -> Header {
        Header { name: name.into(), value: value.into() }
    }

    fn pairs(headers: &SessionHeaders) -> Vec<(Bytes, Bytes)> {
        headers.iter().map(|field| (field.name, field.value)).collect()
    }

    #[test]
    fn fields_come_back_in_their_order() {
        let long: &'static str = "x".repeat(300).leak();
        let fields = [field("x-app-version", "7.1"), field("x-token", long), field("x-app-version", "")];
        let headers = SessionHeaders::of(&fields);
        let expected: Vec<_> = fields.iter().map(|it| (it.name.clone(), it.value.clone())).collect();
        assert_eq!(pairs(&headers), expected);
        assert_eq!(SessionHeaders::decode(headers.encoded().clone()), Some(headers.clone()));
        for cut in [1, 5, 20, headers.encoded().len() - 1] {
            assert_eq!(SessionHeaders::decode(headers.encoded().slice(..cut)), None, "cut at {cut}");
        }
        assert!(SessionHeaders::of(&[]).is_empty());
    }

    #[test]
    fn other_fields_have_another_hash() {
        let hash = |fields: &[Header]| *SessionHeaders::of(fields).hash();
        let one = hash(&[field("a", "bc"), field("d", "e")]);
        for other in [
            &[field("ab", "c"), field("d", "e")][..],
            &[field("d", "e"), field("a", "bc")],
            &[field("a", "bc")],
            &[field("a", "bcd"), field("", "e")],
        ] {
            assert_ne!(hash(other), one, "{other:?}");
        }
    }
}
