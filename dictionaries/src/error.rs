//! What can go wrong with dictionaries and samples, in words for the operator who gave them.

use std::{io, path::PathBuf};

use thiserror::Error;
use towline_protocols::compress::{DICTIONARY_BYTES_MAX, DictionaryError};

use crate::{SAMPLE_BYTES_MAX, SAMPLES_BYTES_MAX, SAMPLES_MAX, SAMPLES_MIN, SIZE_MIN};

/// Why a dictionary could not be trained, read or written.
#[derive(Debug, Error)]
pub enum DictError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no usable dictionary.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: DictionaryError,
    },
    /// The bytes are no usable dictionary.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// The bytes are not those that a manifest names.
    #[error("dictionary has the hash {found}, expected {expected}")]
    HashDiffers {
        /// SHA-256 that was found.
        found: String,
        /// SHA-256 that the manifest names.
        expected: String,
    },
    /// The folder holds something else than samples.
    #[error("{}: not a file; a sample folder holds one file for each sample and nothing else", .0.display())]
    NotASample(PathBuf),
    /// One sample is too large.
    #[error("{}: more than {SAMPLE_BYTES_MAX} bytes; each file is one message", .0.display())]
    SampleTooLarge(PathBuf),
    /// There are too many samples.
    #[error("{}: more than {SAMPLES_MAX} samples", .0.display())]
    TooManySamples(PathBuf),
    /// The samples together are too large.
    #[error("{}: more than {SAMPLES_BYTES_MAX} bytes of samples", .0.display())]
    SamplesTooLarge(PathBuf),
    /// There are too few samples to learn from.
    #[error("{0} samples are too few, give at least {SAMPLES_MIN}, better hundreds")]
    TooFewSamples(usize),
    /// The size asked for is out of bounds.
    #[error("a dictionary of {0} bytes is out of bounds, ask for {SIZE_MIN} to {DICTIONARY_BYTES_MAX}")]
    Size(usize),
    /// zstd found nothing to make a dictionary of.
    #[error(
        "zstd could not train on these samples ({0}); give more samples, or longer ones that have parts in common"
    )]
    Training(io::Error),
}
