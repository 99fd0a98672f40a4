//! Header dictionaries: trained on sampled header lists, for the link's header compression.
//!
//! Every client is shown a dictionary. So a value gets into one only if several clients sent or got it
//! ([`HeaderOptions::clients_min`]) and it does not look like an id; of all others the name alone counts.

mod gain;
mod read;
mod sample;
mod train;
mod unique;

pub use gain::{HeaderGain, TrainedHeaders, hold_back_headers, measure_headers, train_and_measure_headers};
pub use read::read_header_samples;
pub use sample::HeaderSample;
pub use train::{
    CLIENTS_MIN_DEFAULT, CLIENTS_MIN_LEAST, HEADER_FIELDS_DEFAULT, HEADER_SAMPLES_MIN, HEADER_SIZE_DEFAULT,
    HeaderOptions, train_headers,
};
pub use unique::{VALUE_BYTES_MAX, looks_unique};
