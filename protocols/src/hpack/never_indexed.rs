//! Names whose values no compression table holds, here or at a later hop (RFC 7541, section 7.1.3).

use std::sync::Arc;

use thiserror::Error;

/// Most names beside those of credentials: each is compared with each field.
pub const NEVER_INDEXED_NAMES_MAX: usize = 64;

/// Fields that hold credentials whoever sends them.
const CREDENTIAL_NAMES: [&[u8]; 4] = [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"];

/// The names of credentials, and others that somebody knows to hold secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeverIndexed {
    others: Arc<[Box<[u8]>]>,
}

/// Why a list of names cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// It is not a field's name.
    #[error("\"{0}\" is not the name of a header field, as \"x-api-key\"")]
    NotAName(String),
    /// There are too many.
    #[error("{0} names are too many; list at most {NEVER_INDEXED_NAMES_MAX}")]
    TooMany(usize),
}

impl NeverIndexed {
    /// These names beside those of credentials, in upper or lower case. The names of pseudo-header fields are none.
    ///
    /// # Errors
    /// Names the first that is no name.
    pub fn new<N: AsRef<str>>(names: &[N]) -> Result<Self, InvalidName> {
        if names.len() > NEVER_INDEXED_NAMES_MAX {
            return Err(InvalidName::TooMany(names.len()));
        }
        let lower = |name: &N| {
            let name = name.as_ref();
            let is_name = !name.is_empty() && name.bytes().all(is_token);
            match is_name {
                true => Ok(name.to_ascii_lowercase().into_bytes().into()),
                false => Err(InvalidName::NotAName(name.to_owned())),
            }
        };
        Ok(Self { others: names.iter().map(lower).collect::<Result<_, _>>()? })
    }

    /// Whether there are names beside those of credentials.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// Whether fields of this name, in lower case, hold secrets.
    pub fn holds(&self, name: &[u8]) -> bool {
        is_credential(name) || self.others.iter().any(|other| **other == *name)
    }
}

/// Whether fields of this name hold credentials, whoever sends them.
pub(super) fn is_credential(name: &[u8]) -> bool {
    CREDENTIAL_NAMES.contains(&name)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_in_any_case() {
        let names = NeverIndexed::new(&["X-Api-Key", "x-pin"]).unwrap();
        for (name, expected) in [("x-api-key", true), ("x-pin", true), ("cookie", true), ("x-pi", false)] {
            assert_eq!(names.holds(name.as_bytes()), expected, "{name}");
        }
        for wrong in ["", ":path", "a b", "a:", "é"] {
            assert_eq!(NeverIndexed::new(&[wrong]), Err(InvalidName::NotAName(wrong.to_owned())));
        }
        let many = vec!["x"; NEVER_INDEXED_NAMES_MAX + 1];
        assert_eq!(NeverIndexed::new(&many), Err(InvalidName::TooMany(many.len())));
        assert!(NeverIndexed::new(&many[1..]).is_ok_and(|names| names.has_others()));
    }
}
