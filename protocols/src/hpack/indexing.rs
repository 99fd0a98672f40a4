//! Which fields may have an entry of the dynamic table; `repetition` says which of them are worth one.

use super::HeaderField;

/// How a literal may be written (section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexing {
    Incremental,
    Without,
    Never,
}

impl Indexing {
    pub(crate) fn of(field: &HeaderField, table_capacity: usize) -> Self {
        // An entry of more than half the table would push out most of the others.
        let too_large = field.size() > table_capacity / 2;
        if field.is_secret() {
            Self::Never
        } else if too_large {
            Self::Without
        } else {
            Self::Incremental
        }
    }

    /// The pattern of the first octet, and the bits of the prefix below it.
    pub(super) fn representation(self) -> (u8, u32) {
        match self {
            Self::Incremental => (0b0100_0000, 6),
            Self::Without => (0b0000_0000, 4),
            Self::Never => (0b0001_0000, 4),
        }
    }
}
