//! Integers with a prefix, RFC 7541 section 5.1.
//!
//! ```text
//!   0   1   2   3   4   5   6   7
//! +---+---+---+---+---+---+---+---+
//! | pattern   | value < 2^N - 1   |   or 2^N - 1, and then 7 bits per octet, low bits first,
//! +---+---+---+-------------------+   the top bit set on all octets but the last
//! ```

use bytes::BufMut;

use super::HpackError;

/// Octets after the prefix. Four hold 28 bits, and no length or index of a header block comes near
/// 2^28; a longer run could only overflow, or waste time with zeros.
const CONTINUATION_OCTETS_MAX: u32 = 4;

/// Appends `value` with a prefix of `prefix_bits`; `pattern` fills the bits above the prefix.
pub(crate) fn put(out: &mut impl BufMut, pattern: u8, prefix_bits: u32, value: usize) {
    let prefix_max = (1usize << prefix_bits) - 1;
    if value < prefix_max {
        return out.put_u8(pattern | value as u8);
    }
    out.put_u8(pattern | prefix_max as u8);
    let mut rest = value - prefix_max;
    while rest >= 0x80 {
        out.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Takes an integer off the front of `input`, whose first octet holds the prefix.
pub(crate) fn take(input: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let prefix_max = (1usize << prefix_bits) - 1;
    let mut value = usize::from(take_octet(input)?) & prefix_max;
    if value < prefix_max {
        return Ok(value);
    }
    for position in 0..CONTINUATION_OCTETS_MAX {
        let octet = take_octet(input)?;
        value += usize::from(octet & 0x7f) << (7 * position);
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::IntegerOverflow)
}

fn take_octet(input: &mut &[u8]) -> Result<u8, HpackError> {
    let (&first, rest) = input.split_first().ok_or(HpackError::Truncated)?;
    *input = rest;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: usize, prefix_bits: u32, encoded: &[u8]) {
        let mut out = Vec::new();
        put(&mut out, 0, prefix_bits, value);
        assert_eq!(out, encoded);
        assert_eq!(take(&mut &*out, prefix_bits), Ok(value));
        for cut in 0..encoded.len() {
            assert_eq!(take(&mut &encoded[..cut], prefix_bits), Err(HpackError::Truncated));
        }
    }

    #[test]
    fn examples_of_rfc_7541_appendix_c_1() {
        check(10, 5, &[0b01010]);
        check(1337, 5, &[0b11111, 0b1001_1010, 0b0000_1010]);
        check(42, 8, &[0b0010_1010]);
    }

    #[test]
    fn the_edges_of_the_prefix() {
        check(30, 5, &[30]);
        check(31, 5, &[31, 0]);
        check(32, 5, &[31, 1]);
        check(31 + 127, 5, &[31, 127]);
        check(31 + 128, 5, &[31, 0x80, 1]);
        check(31 + (1 << 28) - 1, 5, &[31, 0xff, 0xff, 0xff, 0x7f]);
    }

    #[test]
    fn an_integer_that_does_not_end_is_refused_after_four_octets() {
        assert_eq!(take(&mut &[31, 0xff, 0xff, 0xff, 0xff, 0][..], 5), Err(HpackError::IntegerOverflow));
        assert_eq!(take(&mut &[31, 0x80, 0x80, 0x80, 0x80, 0][..], 5), Err(HpackError::IntegerOverflow));
    }
}
