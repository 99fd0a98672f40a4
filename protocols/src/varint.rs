//! Variable-length integers of RFC 9000, section 16.
//!
//! ```text
//!  2MSB  length  usable bits  range
//!   00     1          6       0-63
//!   01     2         14       0-16383
//!   10     4         30       0-1073741823
//!   11     8         62       0-4611686018427387903
//! ```

use bytes::{Buf, BufMut};

/// The largest value that fits: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// How many bytes [`put`] writes for `value`: 1, 2, 4 or 8.
pub const fn size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values above [`MAX`] are clamped to it: callers count bytes,
/// streams and messages, none of which can reach 2^62.
pub fn put(out: &mut impl BufMut, value: u64) {
    match size(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value.min(MAX)),
    }
}

/// Reads one integer, or returns `None` and consumes nothing when `input` ends inside it.
pub fn get(input: &mut impl Buf) -> Option<u64> {
    let first = *input.chunk().first()?;
    let length = 1usize << (first >> 6);
    if input.remaining() < length {
        return None;
    }
    Some(match length {
        1 => u64::from(input.get_u8()),
        2 => u64::from(input.get_u16()) & 0x3fff,
        4 => u64::from(input.get_u32()) & 0x3fff_ffff,
        _ => input.get_u64() & MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: u64, encoded: &[u8]) {
        let mut out = Vec::new();
        put(&mut out, value);
        assert_eq!(out, encoded);
        let mut input = encoded;
        assert_eq!(get(&mut input), Some(value));
        for cut in 0..encoded.len() {
            let mut short = &encoded[..cut];
            assert_eq!(get(&mut short), None);
            assert_eq!(short.len(), cut, "a short input is left untouched");
        }
    }

    #[test]
    fn examples_of_rfc_9000_appendix_a_1() {
        check(151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]);
        check(494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]);
        check(15_293, &[0x7b, 0xbd]);
        check(37, &[0x25]);
        check(MAX, &[0xff; 8]);
    }
}
