//! HPACK header compression, RFC 7541, with a choice of static table.
//!
//! The link protocol uses the RFC's format unchanged except that its static table goes on after entry 61
//! with fields that mobile traffic repeats ([`StaticTable::link`]), and then with a header dictionary where
//! the connection has one ([`KnownFields`]); the dynamic table follows after it.

mod decoder;
mod dictionary;
pub(crate) mod dynamic_table;
mod encoder;
mod error;
mod field;
mod huffman;
mod huffman_codes;
pub(crate) mod indexed_table;
pub(crate) mod indexing;
pub(crate) mod integer;
mod known;
mod never_indexed;
mod quick_hash;
pub(crate) mod repetition;
mod shelf;
mod sightings;
pub(crate) mod static_table;
pub(crate) mod string;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use dictionary::{
    HEADER_DICTIONARY_BYTES_MAX, HEADER_DICTIONARY_FIELDS_MAX, HeaderDictionary, HeaderDictionaryError,
};
pub use encoder::{Encoder, TABLE_BYTES_MAX};
pub use error::HpackError;
pub use field::HeaderField;
pub(crate) use indexed_table::FieldHash;
pub use known::KnownFields;
pub use never_indexed::{InvalidName, NEVER_INDEXED_NAMES_MAX, NeverIndexed};
pub use shelf::HeaderShelf;
pub use static_table::{LINK_STATIC_FIELDS, StaticTable};
