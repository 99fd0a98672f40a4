//! What a header dictionary is worth, measured on lists that it was not trained on.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use towline_protocols::hpack::{Encoder, HeaderDictionary, KnownFields};

use super::{HeaderOptions, HeaderSample, train_headers};
use crate::{DictError, hold_back};

/// The dynamic table that a connection begins with.
const TABLE_BYTES: usize = 4096;

/// Octets of header blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderGain {
    /// How many lists.
    pub lists: usize,
    /// Each as the first of its connection, without the dictionary.
    pub first_without: usize,
    /// The same with it.
    pub first_with: usize,
    /// Those of one client on one connection, in order, without it.
    pub in_order_without: usize,
    /// The same with it.
    pub in_order_with: usize,
}

impl HeaderGain {
    /// Percent of the octets of first lists that it saves; negative if it costs.
    pub fn first_percent(&self) -> f64 {
        percent(self.first_without, self.first_with)
    }

    /// Percent of the octets of lists in order that it saves; negative if it costs.
    pub fn in_order_percent(&self) -> f64 {
        percent(self.in_order_without, self.in_order_with)
    }
}

/// A dictionary, and what it is worth.
#[derive(Clone, Debug)]
pub struct TrainedHeaders {
    /// The dictionary.
    pub dictionary: Arc<HeaderDictionary>,
    /// Lists that it was trained on.
    pub samples: usize,
    /// On the lists that were held back.
    pub gain: HeaderGain,
}

/// Holds every tenth list back, trains on the others, and measures on those held back.
///
/// # Errors
/// There is no dictionary ([`train_headers`]), or it saves nothing.
pub fn train_and_measure_headers(
    samples: Vec<HeaderSample>,
    options: HeaderOptions,
) -> Result<TrainedHeaders, DictError> {
    let (training, held_back) = hold_back_headers(samples);
    let dictionary = Arc::new(train_headers(&training, options)?);
    let gain = measure_headers(&dictionary, &held_back);
    if gain.first_with >= gain.first_without {
        return Err(DictError::SavesNothing { lists: gain.lists });
    }
    Ok(TrainedHeaders { dictionary, samples: training.len(), gain })
}

/// Splits lists into those to train on and every tenth, to measure with: of requests and of answers, which may come by
/// turns.
pub fn hold_back_headers(samples: Vec<HeaderSample>) -> (Vec<HeaderSample>, Vec<HeaderSample>) {
    let (answers, requests): (Vec<_>, Vec<_>) = samples.into_iter().partition(HeaderSample::is_answer);
    let (mut training, mut held_back) = hold_back(requests);
    let of_answers = hold_back(answers);
    training.extend(of_answers.0);
    held_back.extend(of_answers.1);
    (training, held_back)
}

/// Writes lists with and without the dictionary.
pub fn measure_headers(dictionary: &Arc<HeaderDictionary>, lists: &[HeaderSample]) -> HeaderGain {
    let with = KnownFields::link(Some(Arc::clone(dictionary)));
    let without = KnownFields::link(None);
    HeaderGain {
        lists: lists.len(),
        first_without: first_octets(&without, lists),
        first_with: first_octets(&with, lists),
        in_order_without: octets_in_order(&without, lists),
        in_order_with: octets_in_order(&with, lists),
    }
}

fn first_octets(known: &KnownFields, lists: &[HeaderSample]) -> usize {
    lists.iter().map(|list| octets(&mut Encoder::new(known.clone(), TABLE_BYTES), list)).sum()
}

fn octets_in_order(known: &KnownFields, lists: &[HeaderSample]) -> usize {
    let mut encoders = HashMap::new();
    let each = lists.iter().map(|list| {
        let connection = encoders.entry((list.client, list.is_answer()));
        octets(connection.or_insert_with(|| Encoder::new(known.clone(), TABLE_BYTES)), list)
    });
    each.sum()
}

fn octets(encoder: &mut Encoder, list: &HeaderSample) -> usize {
    let mut block = Vec::new();
    encoder.encode(&list.fields, &mut block);
    block.len()
}

fn percent(without: usize, with: usize) -> f64 {
    if without == 0 { 0.0 } else { 100.0 * (1.0 - with as f64 / without as f64) }
}

#[cfg(test)]
mod tests {
    use towline_protocols::hpack::HeaderField;

    use super::*;

    fn lists(version: &str) -> Vec<HeaderSample> {
        let one = |client: u64| {
            let fields = [
                HeaderField::new(":path", "/shop.Orders/Get"),
                HeaderField::new("x-app-version", version.to_owned()),
                HeaderField::new("x-app-flavour", "north"),
            ];
            HeaderSample::of(client % 20, &fields, |_| false)
        };
        (0..200).map(one).collect()
    }

    #[test]
    fn a_dictionary_saves_most_of_a_first_list_and_little_of_a_repeated_one() {
        let trained = train_and_measure_headers(lists("7.1"), HeaderOptions::default()).unwrap();
        let TrainedHeaders { samples, gain, .. } = trained;
        assert_eq!((samples, gain.lists), (180, 20));
        assert_eq!(gain.first_with, 20 * 3, "an octet for each field");
        assert!(gain.first_percent() > 90.0, "{gain:?}");
        assert!(gain.in_order_without < gain.first_without, "{gain:?}");
    }

    #[test]
    fn requests_and_answers_are_held_back_alike() {
        let by_turns = (0..200).map(|n| {
            let name = if n % 2 == 0 { ":method" } else { ":status" };
            HeaderSample::of(1, &[HeaderField::new(name, "x")], |_| false)
        });
        let (training, held_back) = hold_back_headers(by_turns.collect());
        let answers = |lists: &[HeaderSample]| lists.iter().filter(|list| list.is_answer()).count();
        assert_eq!((training.len(), answers(&training)), (180, 90));
        assert_eq!((held_back.len(), answers(&held_back)), (20, 10));
    }

    #[test]
    fn one_that_saves_nothing_is_refused() {
        let mut samples = lists("7.1");
        // Those held back are of another kind.
        for held_back in samples.iter_mut().skip(9).step_by(10) {
            held_back.fields = vec![HeaderField::new("x-else", "y")];
        }
        let refused = train_and_measure_headers(samples, HeaderOptions::default());
        assert!(matches!(refused, Err(DictError::SavesNothing { lists: 20 })), "{refused:?}");
    }
}
