//! A header field.

use std::fmt;

use bytes::Bytes;

use super::never_indexed::is_credential;

/// Bytes that an entry is counted for beside its name and value (RFC 7541, section 4.1).
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A header field: the name in lower case, the value as opaque octets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderField {
    /// Name, in lower case; pseudo-header names begin with a colon.
    pub name: Bytes,
    /// Value.
    pub value: Bytes,
    /// Whether the value must never enter a compression table, here or at a later hop
    /// (RFC 7541, section 7.1.3). Fields that are known to hold credentials are treated so anyway.
    pub sensitive: bool,
}

impl HeaderField {
    /// A field that may be indexed unless its name says that it holds a credential.
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into(), sensitive: false }
    }

    /// A field that is known from the program text, at no allocation.
    pub const fn from_static(name: &'static str, value: &'static str) -> Self {
        Self {
            name: Bytes::from_static(name.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            sensitive: false,
        }
    }

    /// A field that no table may hold.
    pub fn sensitive(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into(), sensitive: true }
    }

    /// Whether the value is kept out of tables, logs and `Debug`: declared so, or known by name.
    pub fn is_secret(&self) -> bool {
        self.sensitive || is_credential(&self.name)
    }

    /// A copy in one allocation of its own, for a table: the caller's bytes may be slices of a large read
    /// buffer, which an entry would keep in memory.
    pub(crate) fn own_copy(&self) -> Self {
        let mut name = Bytes::from([&*self.name, &*self.value].concat());
        let value = name.split_off(self.name.len());
        Self { name, value, sensitive: self.sensitive }
    }

    /// The size by which tables and limits count a field (RFC 7541, section 4.1).
    pub fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD_BYTES
    }
}

impl fmt::Debug for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name.escape_ascii())?;
        if self.is_secret() { f.write_str("<redacted>") } else { write!(f, "{}", self.value.escape_ascii()) }
    }
}
