//! Header dictionaries: lists of fields that both sides know beforehand, by the hash of their text.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{HeaderField, static_table::Match};

/// The first line of a dictionary.
const FIRST_LINE: &[u8] = b"towline headers 1";
/// Longest text of a dictionary, bytes: it is offered to phones, and read whole.
pub const HEADER_DICTIONARY_BYTES_MAX: usize = 64 * 1024;
/// Most fields: indices above take three octets and save little.
pub const HEADER_DICTIONARY_FIELDS_MAX: usize = 1024;

/// A published list of header fields. Its text, of which the hash is taken, is
///
/// ```text
/// towline headers 1
/// :path: /shop.Orders/Get
/// x-app-version: 7.1
/// ```
///
/// with one newline behind each line: a name in lower case, a colon and a space, a value.
#[derive(Debug)]
pub struct HeaderDictionary {
    hash: [u8; 32],
    text: Bytes,
    fields: Vec<HeaderField>,
    /// Positions of each name, in order.
    by_name: HashMap<Bytes, Vec<usize>>,
    connections: AtomicU64,
}

/// Why a text is no header dictionary.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderDictionaryError {
    /// It does not begin as one.
    #[error("a header dictionary begins with the line `towline headers 1`")]
    FirstLine,
    /// More bytes or fields than allowed.
    #[error(
        "a header dictionary has at most {HEADER_DICTIONARY_BYTES_MAX} bytes and \
         {HEADER_DICTIONARY_FIELDS_MAX} fields"
    )]
    TooLarge,
    /// A line is not a field.
    #[error("line {0} is not `name: value` with a name in lower case")]
    Line(usize),
    /// A line holds a credential.
    #[error("line {0} holds a credential, which is in no dictionary")]
    Credential(usize),
    /// A line is there twice.
    #[error("line {0} repeats another")]
    Repeated(usize),
}

impl HeaderDictionary {
    /// Reads a dictionary's text.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, HeaderDictionaryError> {
        let text = text.into();
        if text.len() > HEADER_DICTIONARY_BYTES_MAX {
            return Err(HeaderDictionaryError::TooLarge);
        }
        let body = text.strip_suffix(b"\n").ok_or(HeaderDictionaryError::FirstLine)?;
        let mut lines = body.split(|&octet| octet == b'\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(HeaderDictionaryError::FirstLine);
        }
        let mut fields: Vec<HeaderField> = Vec::new();
        let mut by_name: HashMap<Bytes, Vec<usize>> = HashMap::new();
        for (number, line) in (2..).zip(lines) {
            let field = field_of(&text, line).ok_or(HeaderDictionaryError::Line(number))?;
            if field.is_secret() {
                return Err(HeaderDictionaryError::Credential(number));
            }
            let same_name = by_name.entry(field.name.clone()).or_default();
            if same_name.iter().any(|&position| fields[position].value == field.value) {
                return Err(HeaderDictionaryError::Repeated(number));
            }
            if fields.len() == HEADER_DICTIONARY_FIELDS_MAX {
                return Err(HeaderDictionaryError::TooLarge);
            }
            same_name.push(fields.len());
            fields.push(field);
        }
        let hash = Sha256::digest(&text).into();
        Ok(Self { hash, text, fields, by_name, connections: AtomicU64::new(0) })
    }

    /// The text of a dictionary with these fields, in this order.
    pub fn text_of<'a>(fields: impl IntoIterator<Item = &'a HeaderField>) -> Vec<u8> {
        let mut text = [FIRST_LINE, b"\n"].concat();
        for field in fields {
            text.extend([&*field.name, b": ", &*field.value, b"\n"].concat());
        }
        text
    }

    /// SHA-256 of the text.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// What names it in HELLO and WELCOME.
    pub fn id(&self) -> u64 {
        Self::id_of(&self.hash)
    }

    /// The id of the dictionary with this hash: the first 8 bytes, in the order in which a protobuf fixed64 has them.
    /// Both sides compare whole hashes before they hold one, so these need not withstand an attack.
    pub fn id_of(hash: &[u8; 32]) -> u64 {
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(id)
    }

    /// Connections that this side has taken with it.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection.
    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The fields, in order.
    pub fn fields(&self) -> &[HeaderField] {
        &self.fields
    }

    /// The best match, by position.
    pub(super) fn find(&self, name: &[u8], value: &[u8]) -> Option<Match> {
        let same_name = self.by_name.get(name)?;
        let whole = same_name.iter().find(|&&position| self.fields[position].value == value);
        Some(match whole {
            Some(&position) => Match::Field(position),
            None => Match::Name(*same_name.first()?),
        })
    }
}

fn field_of(text: &Bytes, line: &[u8]) -> Option<HeaderField> {
    // A pseudo-header's name begins with a colon.
    let colon = 1 + line.get(1..)?.windows(2).position(|pair| pair == b": ")?;
    let (name, value) = (&line[..colon], &line[colon + 2..]);
    let is_name = |octet: &u8| matches!(octet, b'!'..=b'~') && !octet.is_ascii_uppercase();
    let is_value = value.iter().all(|&octet| octet >= b' ' && octet != 0x7f || octet == b'\t');
    (name.iter().all(is_name) && is_value)
        .then(|| HeaderField::new(text.slice_ref(name), text.slice_ref(value)))
}
