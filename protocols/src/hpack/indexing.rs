//! Which fields are worth an entry of the dynamic table.

use super::HeaderField;

/// How a literal is written (section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexing {
    Incremental,
    Without,
    Never,
}

/// Fields whose value is hardly ever sent twice: an entry would only push out useful ones.
const VOLATILE_NAMES: [&[u8]; 12] = [
    b"age",
    b"content-length",
    b"content-range",
    b"etag",
    b"grpc-timeout",
    b"idempotency-key",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"range",
    b"traceparent",
    b"x-request-id",
];

impl Indexing {
    pub(crate) fn of(field: &HeaderField, table_capacity: usize) -> Self {
        // An entry of more than half the table would push out most of the others.
        let too_large = field.size() > table_capacity / 2;
        if field.is_secret() {
            Self::Never
        } else if too_large || VOLATILE_NAMES.contains(&&*field.name) || is_path_with_query(field) {
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

fn is_path_with_query(field: &HeaderField) -> bool {
    &*field.name == b":path" && field.value.contains(&b'?')
}
