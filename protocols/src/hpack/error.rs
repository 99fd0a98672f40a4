//! What can be wrong with a header block.

use thiserror::Error;

/// Why a header block was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HpackError {
    /// The block ends inside a field, an integer or a string (RFC 7541, section 5).
    #[error("header block ends inside a field representation")]
    Truncated,
    /// An integer is longer than any length or index can be (RFC 7541, section 5.1).
    #[error("integer in header block exceeds the implementation limit")]
    IntegerOverflow,
    /// Index 0 names nothing (RFC 7541, section 6.1).
    #[error("header field index 0 is not used")]
    IndexZero,
    /// The index is beyond the static and the dynamic table (RFC 7541, section 2.3.3).
    #[error("header field index {0} is beyond the end of both tables")]
    IndexOutOfRange(usize),
    /// A Huffman string contains the EOS symbol (RFC 7541, section 5.2).
    #[error("Huffman string contains the EOS symbol")]
    HuffmanEos,
    /// A Huffman string is padded with more than 7 bits or with zeros (RFC 7541, section 5.2).
    #[error("Huffman string does not end in at most 7 one bits of padding")]
    HuffmanPadding,
    /// A dynamic table size update asks for more than was offered (RFC 7541, section 6.3).
    #[error("dynamic table size update to {asked} exceeds the maximum of {max}")]
    SizeUpdateTooLarge {
        /// The size in the update.
        asked: usize,
        /// The size that was offered.
        max: usize,
    },
    /// A dynamic table size update stands after a field (RFC 7541, section 4.2).
    #[error("dynamic table size update is not at the beginning of the header block")]
    SizeUpdateMisplaced,
    /// The maximum was lowered and the next block does not begin with an update (RFC 7541, section 4.2).
    #[error("header block lacks the dynamic table size update that a lowered maximum requires")]
    SizeUpdateMissing,
    /// The decoded list is larger than allowed. The block was decoded to its end, so the dynamic table is
    /// in step with the peer's and the connection can go on.
    #[error("header list exceeds {max} bytes")]
    HeaderListTooLarge {
        /// The limit, counted as RFC 7541 section 4.1 counts: name, value and 32 bytes per field.
        max: usize,
    },
}

impl HpackError {
    /// Whether the tables of the two sides may differ from now on, so that the connection must end.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::HeaderListTooLarge { .. })
    }
}
