//! What can go wrong with dictionaries and samples, in words for the operator who gave them.

use std::{io, path::PathBuf};

use thiserror::Error;
use towline_protocols::{
    compress::{DICTIONARY_BYTES_MAX, DictionaryError},
    hpack::{HEADER_DICTIONARY_BYTES_MAX, HEADER_DICTIONARY_FIELDS_MAX, HeaderDictionaryError},
};

use crate::{
    SAMPLE_BYTES_MAX, SAMPLES_BYTES_MAX, SAMPLES_MAX, SAMPLES_MIN, SIZE_MIN,
    headers::{CLIENTS_MIN_LEAST, HEADER_SAMPLES_MIN},
};

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
    /// The dictionary has another id than the one that it goes by.
    #[error("dictionary has the id {found}, expected {expected}")]
    IdDiffers {
        /// The id in its header.
        found: u32,
        /// The id that its entry names.
        expected: u32,
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
    /// A line of a file of header lists is none.
    #[error("{}:{number}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There are too few header lists to learn from.
    #[error("{0} header lists are too few, give at least {HEADER_SAMPLES_MIN}, better thousands")]
    TooFewLists(usize),
    /// A bound of a header dictionary is out of bounds itself.
    #[error(
        "a header dictionary has at most {HEADER_DICTIONARY_BYTES_MAX} bytes and 1 to \
         {HEADER_DICTIONARY_FIELDS_MAX} fields, of values that at least {CLIENTS_MIN_LEAST} clients have shown"
    )]
    HeaderOptions,
    /// No field is worth an entry.
    #[error(
        "no header field that {clients_min} clients or more have shown would save anything; give lists of more \
         clients"
    )]
    NothingInCommon {
        /// How many must have shown it.
        clients_min: usize,
    },
    /// The dictionary is worth nothing.
    #[error(
        "the dictionary saves nothing of the {lists} lists that were held back; give more lists, of the traffic that \
         it is for"
    )]
    SavesNothing {
        /// How many were held back.
        lists: usize,
    },
    /// A text is no header dictionary.
    #[error(transparent)]
    Headers(#[from] HeaderDictionaryError),
}
