//! The trainer.

use towline_protocols::compress::DICTIONARY_BYTES_MAX;

use crate::{DictError, DictionaryFile};

/// The fewest samples to learn from; zstd itself refuses fewer than about this.
pub const SAMPLES_MIN: usize = 16;

/// The size that [`TrainOptions::default`] asks for: small messages gain little from more.
pub const SIZE_DEFAULT: usize = 32 * 1024;

/// Smaller than this, the entropy tables leave hardly any room for content.
pub const SIZE_MIN: usize = 1024;

/// What kind of dictionary to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// The most bytes that it may have; from a few samples zstd makes a smaller one.
    pub size: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { size: SIZE_DEFAULT }
    }
}

/// Trains a dictionary on messages like those that it will compress. The same samples in the same order
/// give the same dictionary, as long as the version of zstd is the same.
pub fn train<S: AsRef<[u8]>>(samples: &[S], options: TrainOptions) -> Result<DictionaryFile, DictError> {
    if !(SIZE_MIN..=DICTIONARY_BYTES_MAX).contains(&options.size) {
        return Err(DictError::Size(options.size));
    }
    if samples.len() < SAMPLES_MIN {
        return Err(DictError::TooFewSamples(samples.len()));
    }
    let bytes = zstd::dict::from_samples(samples, options.size).map_err(DictError::Training)?;
    Ok(DictionaryFile::with_content_id(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    fn samples(count: u64) -> Vec<Vec<u8>> {
        (0..count).map(demo::message).collect()
    }

    #[test]
    fn the_same_samples_give_the_same_dictionary() {
        let first = train(&samples(500), TrainOptions { size: 4096 }).unwrap();
        assert_eq!(train(&samples(500), TrainOptions { size: 4096 }).unwrap(), first);
        assert!(first.bytes().len() <= 4096);
    }

    #[test]
    fn too_few_samples_and_sizes_out_of_bounds_are_refused() {
        let few = SAMPLES_MIN - 1;
        let result = train(&samples(few as u64), TrainOptions::default());
        assert!(matches!(result, Err(DictError::TooFewSamples(count)) if count == few));
        for size in [SIZE_MIN - 1, DICTIONARY_BYTES_MAX + 1] {
            let result = train(&samples(100), TrainOptions { size });
            assert!(matches!(result, Err(DictError::Size(asked)) if asked == size));
        }
    }

    #[test]
    fn samples_with_nothing_in_them_are_an_error() {
        let result = train(&[b""; 20], TrainOptions::default());
        assert!(matches!(result, Err(DictError::Training(_))), "{result:?}");
    }
}
