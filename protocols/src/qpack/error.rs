//! What can be wrong with a header section or an instruction.

use thiserror::Error;

use crate::hpack::HpackError;

/// Why a header section or an instruction was refused.
///
/// A section that is refused leaves the tables in step; an instruction that is refused does not, and ends
/// the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QpackError {
    /// An integer or a string is malformed (RFC 9204, section 4.1).
    #[error(transparent)]
    Primitive(#[from] HpackError),
    /// No table has an entry there, or it has been evicted (RFC 9204, section 2.2.3).
    #[error("index {0} names no entry that the header section may refer to")]
    IndexOutOfRange(u64),
    /// The Required Insert Count or Base cannot be (RFC 9204, sections 4.5.1.1 and 4.5.1.2).
    #[error("Required Insert Count or Base of a header section is out of range")]
    Prefix,
    /// More streams would wait for the encoder stream than were allowed (RFC 9204, section 2.1.2).
    #[error("more than {max} streams would be blocked")]
    TooManyBlocked {
        /// The limit.
        max: usize,
    },
    /// The table's capacity was set above its maximum (RFC 9204, section 4.3.1).
    #[error("dynamic table capacity of {asked} exceeds the maximum of {max}")]
    CapacityTooLarge {
        /// The capacity in the instruction.
        asked: usize,
        /// What was allowed.
        max: usize,
    },
    /// An entry does not fit the table (RFC 9204, section 3.2.2).
    #[error("an entry of {size} bytes is inserted into a dynamic table of {capacity}")]
    EntryTooLarge {
        /// Of the entry.
        size: usize,
        /// Of the table.
        capacity: usize,
    },
    /// A section is acknowledged that was not sent or has been acknowledged (RFC 9204, section 4.4.1).
    #[error("a header section of stream {0} is acknowledged, and none is outstanding")]
    NotOutstanding(u64),
    /// More insertions are acknowledged than were sent, or none (RFC 9204, section 4.4.3).
    #[error("an Insert Count Increment of {0} is more than was sent, or nothing")]
    Increment(u64),
    /// The peer does not take the acknowledgments that it makes this side send.
    #[error("more than {max} bytes of decoder instructions wait to be sent")]
    Backlog {
        /// The limit.
        max: usize,
    },
    /// The list is larger than allowed.
    #[error("header list exceeds {max} bytes")]
    HeaderListTooLarge {
        /// The limit, counted as RFC 9204 section 3.2.1 counts: name, value and 32 bytes per field.
        max: usize,
    },
}
