//! The patterns of RFC 9204: the bits above each prefix, and how many bits the prefix has.

/// A pattern of the first octet, and the bits of the prefix below it.
pub(super) type Pattern = (u8, u32);

/// Encoder instructions, section 4.3.
pub(super) const SET_CAPACITY: Pattern = (0b0010_0000, 5);
/// With a name of the static table; without bit 6, of the dynamic one.
pub(super) const INSERT_NAMED: Pattern = (0b1100_0000, 6);
pub(super) const INSERT_NAMED_DYNAMIC: Pattern = (0b1000_0000, 6);
pub(super) const INSERT_LITERAL: Pattern = (0b0100_0000, 5);
pub(super) const DUPLICATE: Pattern = (0b0000_0000, 5);

/// Decoder instructions, section 4.4.
pub(super) const SECTION_ACK: Pattern = (0b1000_0000, 7);
pub(super) const STREAM_CANCEL: Pattern = (0b0100_0000, 6);
pub(super) const INSERT_COUNT_INCREMENT: Pattern = (0b0000_0000, 6);

/// Field lines, sections 4.5.2 to 4.5.6.
pub(super) const INDEXED_STATIC: Pattern = (0b1100_0000, 6);
pub(super) const INDEXED_DYNAMIC: Pattern = (0b1000_0000, 6);
pub(super) const NAMED_STATIC: Pattern = (0b0101_0000, 4);
pub(super) const NAMED_DYNAMIC: Pattern = (0b0100_0000, 4);
/// The prefix is that of the name's length, below H.
pub(super) const LITERAL: Pattern = (0b0010_0000, 3);
/// "N": the value must stay a literal at every hop; in a line with a name reference, and with a literal name.
pub(super) const NEVER_NAMED: u8 = 0b0010_0000;
pub(super) const NEVER_LITERAL: u8 = 0b0001_0000;

/// Entries that a table of `capacity` can hold (section 4.5.1.1).
pub(super) fn entries_max(capacity: usize) -> u64 {
    (capacity / 32) as u64
}
