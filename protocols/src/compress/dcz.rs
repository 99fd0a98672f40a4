//! Dictionary-Compressed Zstandard (RFC 9842, section 5), for HTTP.
//!
//! ```text
//!  5E 2A 4D 18 20 00 00 00 | SHA-256 of the dictionary, 32 bytes | one zstd frame
//! ```
//!
//! The file is used as raw content, whatever its format: "raw" is the only type that RFC 9842 knows.

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use super::{CompressError, content_bytes};
use crate::compress::DictionarySet;

/// A skippable frame's magic and length, so that zstd's own tools pass over the hash.
const MAGIC: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0];
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// The body with `Content-Encoding: dcz`, or `None` where it would not be smaller.
pub fn compress_dcz(dictionary: &[u8], hash: &[u8; 32], body: &[u8], level: i32) -> Option<Bytes> {
    let mut frame = Vec::with_capacity(compress_bound(body.len()));
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    context.ref_prefix(dictionary).ok()?;
    context.compress2(&mut frame, body).ok()?;
    (HEADER_BYTES + frame.len() < body.len()).then(|| [&MAGIC[..], hash, &frame].concat().into())
}

/// Reads such a body back, of at most `body_bytes_max`; size and window are checked before it inflates.
///
/// # Errors
/// It is of another dictionary or form, or too large.
pub fn decompress_dcz(
    dictionary: &[u8],
    hash: &[u8; 32],
    body: &[u8],
    body_bytes_max: usize,
) -> Result<Bytes, CompressError> {
    let rest = body.strip_prefix(&MAGIC).ok_or(CompressError::Malformed("it has no dcz header"))?;
    let frame = rest.strip_prefix(hash).ok_or(CompressError::Malformed("it names another dictionary"))?;
    let length = content_bytes(frame, &DictionarySet::new(), body_bytes_max)?;
    let mut message = Vec::with_capacity(length);
    let mut context = DCtx::try_create().ok_or(CompressError::OutOfMemory)?;
    let named = |code| CompressError::Malformed(zstd::zstd_safe::get_error_name(code));
    context.ref_prefix(dictionary).map_err(named)?;
    context.decompress(&mut message, frame).map_err(named)?;
    match message.len() == length {
        true => Ok(message.into()),
        false => Err(CompressError::Malformed("its content is not as long as it declares")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [7; 32];

    fn body(n: usize) -> Vec<u8> {
        format!(r#"{{"order":{n},"status":"SHIPPED","currency":"EUR","carrier":"yellow bicycles"}}"#)
            .into_bytes()
    }

    #[test]
    fn a_body_comes_back_with_the_same_dictionary_only() {
        let dictionary = body(1).repeat(3);
        let short = compress_dcz(&dictionary, &HASH, &body(2), 3).unwrap();
        assert!(short.len() < body(2).len());
        assert_eq!(short[..8], MAGIC);
        assert_eq!(decompress_dcz(&dictionary, &HASH, &short, 1000).unwrap(), body(2));
        assert!(decompress_dcz(&dictionary, &[8; 32], &short, 1000).is_err());
        assert!(decompress_dcz(&dictionary, &HASH, &short[8..], 1000).is_err());
    }

    #[test]
    fn what_is_not_smaller_is_left_alone_and_what_is_too_large_refused() {
        assert_eq!(compress_dcz(b"other", &HASH, b"short", 3), None);
        let zeros = compress_dcz(b"other", &HASH, &[0; 5000], 3).unwrap();
        let refused = decompress_dcz(b"other", &HASH, &zeros, 4999);
        assert_eq!(refused, Err(CompressError::TooLarge { declared: 5000, max: 4999 }));
    }
}
