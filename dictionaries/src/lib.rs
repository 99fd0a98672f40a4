//! Trained zstd dictionaries as files with ids and hashes, and the trainer.
//!
//! A file is what `zstd --train` writes too (RFC 8878, section 5), so zstd's own tools read it. Two things
//! are added: the id is derived from the content, so that different dictionaries practically never share
//! one, and the SHA-256 of the file is the name of its version. [`headers`] trains dictionaries of header fields.

mod catalogue;
pub mod demo;
mod error;
mod file;
mod gain;
pub mod headers;
mod samples;
mod train;

pub use catalogue::{BUILTIN, Builtin, builtin, builtin_set, load_set};
pub use error::DictError;
pub use file::{DictionaryFile, sha256};
pub use gain::{Gain, measure};
pub use samples::{SAMPLE_BYTES_MAX, SAMPLES_BYTES_MAX, SAMPLES_MAX, hold_back, read_samples};
pub use train::{SAMPLES_MIN, SIZE_DEFAULT, SIZE_MIN, TrainOptions, train};
