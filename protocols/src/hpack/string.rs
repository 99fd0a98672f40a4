//! String literals, RFC 7541 section 5.2; RFC 9204 (section 4.1.2) lets them begin within an octet.
//!
//! ```text
//!   0   1   2   3   4   5   6   7
//! +---+---+---+---+---+---+---+---+
//! | pattern   | H | length < 2^N-1|   and then the octets, by Huffman code if H is set
//! +---+---+---+---+---------------+
//! ```

use bytes::{BufMut, Bytes};

use super::{HpackError, huffman, integer};

/// Appends `text`, by Huffman code where that is shorter. The length has a prefix of `prefix_bits`, H stands
/// above it, and `pattern` fills the bits above H.
pub(crate) fn put(text: &[u8], pattern: u8, prefix_bits: u32, out: &mut impl BufMut) {
    let encoded_len = huffman::encoded_len(text);
    if encoded_len < text.len() {
        integer::put(out, pattern | 1 << prefix_bits, prefix_bits, encoded_len);
        huffman::encode(text, out);
    } else {
        integer::put(out, pattern, prefix_bits, text.len());
        out.put_slice(text);
    }
}

/// Takes a string off the front of `input`. Its length is checked against the input before anything is
/// allocated.
pub(crate) fn take(input: &mut &[u8], prefix_bits: u32) -> Result<Bytes, HpackError> {
    let is_huffman = input.first().ok_or(HpackError::Truncated)? & 1 << prefix_bits != 0;
    let length = integer::take(input, prefix_bits)?;
    let (text, rest) = input.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *input = rest;
    if is_huffman { huffman::decode(text).map(Bytes::from) } else { Ok(Bytes::copy_from_slice(text)) }
}
