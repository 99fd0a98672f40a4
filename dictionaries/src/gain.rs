//! What a dictionary is worth, measured on messages that it was not trained on.

use towline_protocols::compress::{Compressor, DictionaryError, MESSAGE_BYTES_MIN_DEFAULT};

use crate::DictionaryFile;

/// Bytes that the same messages take in three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// How many messages.
    pub messages: usize,
    /// As they are.
    pub bytes: usize,
    /// Sent as a compressor without a dictionary would: compressed where that helps.
    pub bytes_without: usize,
    /// Sent as a compressor with the dictionary would.
    pub bytes_with: usize,
}

impl Gain {
    /// Percent of the bytes sent without a dictionary that the dictionary saves; negative if it costs.
    pub fn percent(&self) -> f64 {
        if self.bytes_without == 0 {
            return 0.0;
        }
        100.0 * (1.0 - self.bytes_with as f64 / self.bytes_without as f64)
    }
}

/// Sends `messages` with and without the dictionary, at `level` and under the default minimum.
pub fn measure<S: AsRef<[u8]>>(
    dictionary: &DictionaryFile,
    messages: &[S],
    level: i32,
) -> Result<Gain, DictionaryError> {
    let without = Compressor::new(level, MESSAGE_BYTES_MIN_DEFAULT);
    let with = without.clone().with_dictionary(dictionary.prepare(level)?);
    let mut gain = Gain { messages: messages.len(), ..Gain::default() };
    for message in messages.iter().map(S::as_ref) {
        gain.bytes += message.len();
        gain.bytes_without += sent_bytes(&without, message);
        gain.bytes_with += sent_bytes(&with, message);
    }
    Ok(gain)
}

fn sent_bytes(compressor: &Compressor, message: &[u8]) -> usize {
    compressor.compress(message).map_or(message.len(), |compressed| compressed.frame.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TrainOptions, demo, train};

    #[test]
    fn messages_of_another_kind_gain_nothing() {
        let samples: Vec<_> = (0..500).map(demo::message).collect();
        let dictionary = train(&samples, TrainOptions { size: 4096 }).unwrap();
        let mut noise = vec![vec![0; 500]; 20];
        let mut random = fastrand::Rng::with_seed(1);
        noise.iter_mut().for_each(|message| random.fill(message));
        let gain = measure(&dictionary, &noise, 3).unwrap();
        assert_eq!(
            (gain.messages, gain.bytes, gain.bytes_without, gain.bytes_with),
            (20, 10_000, 10_000, 10_000)
        );
        assert_eq!(gain.percent(), 0.0);
        assert_eq!(measure::<Vec<u8>>(&dictionary, &[], 3).unwrap().percent(), 0.0);
    }
}
