//! Payload compression: zstd (RFC 8878) with trained dictionaries, bounded on the way back.
//!
//! Every message is a frame of its own, made from nothing but the message and the dictionary, so that no
//! message's length tells anything about another (BREACH). Contexts are kept for reuse, one per thread and
//! direction, because creating one costs more than compressing a small message.

mod choice;
mod compressor;
mod dcz;
mod decompress;
mod dictionary;
mod effort;
mod frame_header;
mod shelf;
#[cfg(test)]
mod tests;

pub use choice::Kind;
pub use compressor::{Compressed, Compressor, LEVEL_DEFAULT, MESSAGE_BYTES_MIN_DEFAULT};
pub use dcz::{compress_dcz, decompress_dcz};
pub use decompress::{CompressError, WINDOW_BYTES_MAX, content_bytes, decompress};
pub use dictionary::{
    DICTIONARIES_MAX, DICTIONARY_BYTES_MAX, Dictionary, DictionaryError, DictionarySet, Usage,
};
pub use effort::{Effort, Pace};
pub use shelf::Shelf;
