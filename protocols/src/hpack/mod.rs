//! HPACK header compression, RFC 7541, with a choice of static table.
//!
//! The link protocol uses the RFC's format unchanged except that its static table goes on after entry 61
//! with fields that mobile traffic repeats ([`StaticTable::link`]); the dynamic table follows after it.

mod decoder;
pub(crate) mod dynamic_table;
mod encoder;
mod error;
mod field;
mod huffman;
mod huffman_codes;
pub(crate) mod indexed_table;
pub(crate) mod indexing;
pub(crate) mod integer;
pub(crate) mod static_table;
pub(crate) mod string;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use encoder::{Encoder, TABLE_BYTES_MAX};
pub use error::HpackError;
pub use field::HeaderField;
pub use static_table::{LINK_STATIC_FIELDS, StaticTable};
