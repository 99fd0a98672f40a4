//! From header lists to a dictionary: which fields, in which order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use bytes::Bytes;
use towline_protocols::hpack::{
    Encoder, HEADER_DICTIONARY_BYTES_MAX, HEADER_DICTIONARY_FIELDS_MAX, HeaderDictionary, HeaderField,
    StaticTable,
};

use super::{HeaderSample, looks_unique};
use crate::DictError;

/// Fewer lists say too little of what is usual.
pub const HEADER_SAMPLES_MIN: usize = 50;
/// Clients that must have shown a value before others are shown it.
pub const CLIENTS_MIN_DEFAULT: usize = 5;
/// With one it would be somebody's own.
pub const CLIENTS_MIN_LEAST: usize = 2;
/// Bytes of a dictionary's text: each client fetches it once.
pub const HEADER_SIZE_DEFAULT: usize = 8 * 1024;
/// Fields of a dictionary: so all of them, and the newest twenty of HPACK's dynamic table behind them, have indices of
/// two octets at most.
pub const HEADER_FIELDS_DEFAULT: usize = 128;

/// Octets of an index into a dictionary, which stands behind the static table; the first 21 take one in HPACK.
const INDEX_OCTETS: usize = 2;

/// Bounds of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderOptions {
    /// The most bytes that its text may have.
    pub size: usize,
    /// The most fields.
    pub fields: usize,
    /// How many clients must have shown a value.
    pub clients_min: usize,
}

impl Default for HeaderOptions {
    fn default() -> Self {
        Self { size: HEADER_SIZE_DEFAULT, fields: HEADER_FIELDS_DEFAULT, clients_min: CLIENTS_MIN_DEFAULT }
    }
}

/// Trains a dictionary. The same samples give the same one.
///
/// # Errors
/// There are too few samples, an option is out of bounds, or the lists have nothing in common that would be saved.
pub fn train_headers(
    samples: &[HeaderSample],
    options: HeaderOptions,
) -> Result<HeaderDictionary, DictError> {
    let HeaderOptions { size, fields, clients_min } = options;
    if !(1..=HEADER_DICTIONARY_FIELDS_MAX).contains(&fields)
        || size > HEADER_DICTIONARY_BYTES_MAX
        || clients_min < CLIENTS_MIN_LEAST
    {
        return Err(DictError::HeaderOptions);
    }
    if samples.len() < HEADER_SAMPLES_MIN {
        return Err(DictError::TooFewLists(samples.len()));
    }
    let mut chosen = choose(candidates(samples, clients_min), options);
    if chosen.is_empty() {
        return Err(DictError::NothingInCommon { clients_min });
    }
    // What is frequent gets the short indices.
    chosen.sort_by(|a, b| (b.count, b.saved).cmp(&(a.count, a.saved)).then_with(|| a.text().cmp(&b.text())));
    let text = HeaderDictionary::text_of(chosen.iter().map(|candidate| &candidate.field));
    HeaderDictionary::parse(text).map_err(DictError::Headers)
}

/// A field that may become an entry; with an empty value, perhaps a name alone.
struct Candidate {
    field: HeaderField,
    /// How often it would be referred to.
    count: usize,
    /// Octets that references in place of literals save in all lists.
    saved: usize,
}

impl Candidate {
    /// Its line in the text, without what all lines have.
    fn text(&self) -> (&Bytes, &Bytes) {
        (&self.field.name, &self.field.value)
    }

    fn line_bytes(&self) -> usize {
        self.field.name.len() + self.field.value.len() + ": \n".len()
    }
}

/// How often something was there, and with whom.
#[derive(Default)]
struct Seen {
    count: usize,
    /// No more than are asked for.
    clients: HashSet<u64>,
}

impl Seen {
    fn note(&mut self, client: u64, clients_min: usize) {
        self.count += 1;
        if self.clients.len() < clients_min {
            self.clients.insert(client);
        }
    }
}

/// All that enough clients have shown and that saves more than one client pays to fetch it.
fn candidates(samples: &[HeaderSample], clients_min: usize) -> Vec<Candidate> {
    let mut fields: BTreeMap<(&Bytes, &Bytes), Seen> = BTreeMap::new();
    let mut names: BTreeMap<&Bytes, Seen> = BTreeMap::new();
    for sample in samples {
        for field in &sample.fields {
            names.entry(&field.name).or_default().note(sample.client, clients_min);
            if !field.sensitive {
                fields.entry((&field.name, &field.value)).or_default().note(sample.client, clients_min);
            }
        }
    }
    let whole = fields.into_iter().map(|((name, value), seen)| {
        let field = HeaderField::new(name.clone(), value.clone());
        let saved_each = literal_octets(&field).saturating_sub(INDEX_OCTETS);
        (field, saved_each, seen)
    });
    let alone = names.into_iter().map(|(name, seen)| {
        let field = HeaderField::new(name.clone(), Bytes::new());
        // A literal of that name keeps the index, and the value with its length.
        let saved_each = literal_octets(&field).saturating_sub(INDEX_OCTETS + 1);
        (field, saved_each, seen)
    });
    let enough = |seen: &Seen| seen.clients.len() >= clients_min;
    whole
        .chain(alone)
        .filter(|(field, _, seen)| enough(seen) && !looks_unique(&field.name) && !looks_unique(&field.value))
        .map(|(field, saved_each, Seen { count, .. })| Candidate { field, count, saved: count * saved_each })
        .filter(|candidate| candidate.saved > candidate.line_bytes())
        .collect()
}

/// What the field takes where no table but the static one has it.
fn literal_octets(field: &HeaderField) -> usize {
    let mut block = Vec::new();
    Encoder::new(StaticTable::link(), 0).encode([field], &mut block);
    block.len()
}

/// Takes what saves most, within the bounds. A name has its entry already when a field of that name has one.
fn choose(mut candidates: Vec<Candidate>, options: HeaderOptions) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| Reverse(candidate.saved));
    let mut room = options.size.saturating_sub(HeaderDictionary::text_of([]).len());
    let (mut chosen, mut names, mut texts) = (Vec::new(), HashSet::new(), HashSet::new());
    for candidate in candidates {
        let Candidate { field, .. } = &candidate;
        let is_name_alone = field.value.is_empty();
        let is_there = is_name_alone && names.contains(&field.name) || texts.contains(field);
        if chosen.len() == options.fields || is_there || candidate.line_bytes() > room {
            continue;
        }
        room -= candidate.line_bytes();
        names.insert(field.name.clone());
        texts.insert(field.clone());
        chosen.push(candidate);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(client: u64, fields: &[(&str, &str)]) -> HeaderSample {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| HeaderField::new(name.to_string(), value.to_string()))
            .collect();
        HeaderSample::of(client, &fields, |_| false)
    }

    /// Ten clients with ten lists each.
    fn samples() -> Vec<HeaderSample> {
        let one = |n: u64| {
            let (client, method) = (n % 10, if n.is_multiple_of(3) { "Place" } else { "Get" });
            sample(
                client,
                &[
                    (":path", &format!("/shop.Orders/{method}")),
                    ("x-app-version", "7.1"),
                    ("x-nickname", &format!("nick {client}")),
                    ("x-tenant", if client < 4 { "rare" } else { "usual tenant" }),
                    ("x-b3-traceid", &format!("{n:032x}")),
                ],
            )
        };
        (0..100).map(one).collect()
    }

    fn lines(dictionary: &HeaderDictionary) -> Vec<String> {
        let text = String::from_utf8(dictionary.text().to_vec()).unwrap();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn what_several_clients_show_is_taken_the_most_frequent_first() {
        let dictionary = train_headers(&samples(), HeaderOptions::default()).unwrap();
        let expected = [
            "x-b3-traceid: ",
            "x-nickname: ",
            "x-app-version: 7.1",
            ":path: /shop.Orders/Get",
            "x-tenant: usual tenant",
            ":path: /shop.Orders/Place",
        ];
        assert_eq!(lines(&dictionary), expected);
        assert_eq!(train_headers(&samples(), HeaderOptions::default()).unwrap().hash(), dictionary.hash());
    }

    #[test]
    fn a_value_of_one_client_less_than_asked_for_stays_out() {
        let with = |clients_min| {
            let options = HeaderOptions { clients_min, ..HeaderOptions::default() };
            lines(&train_headers(&samples(), options).unwrap()).contains(&"x-tenant: rare".to_owned())
        };
        assert!(with(4), "four clients have shown it");
        assert!(!with(5));
    }

    #[test]
    fn what_saves_most_is_taken_where_not_all_has_room() {
        let options = HeaderOptions { fields: 2, ..HeaderOptions::default() };
        let two = lines(&train_headers(&samples(), options).unwrap());
        assert_eq!(two, ["x-b3-traceid: ", "x-tenant: usual tenant"]);
        let options = HeaderOptions { size: 60, ..HeaderOptions::default() };
        let small = train_headers(&samples(), options).unwrap();
        assert!(small.text().len() <= 60, "{:?}", small.text());
    }

    #[test]
    fn too_few_lists_bounds_and_nothing_in_common_are_errors() {
        let few = train_headers(&samples()[..HEADER_SAMPLES_MIN - 1], HeaderOptions::default());
        assert!(matches!(few, Err(DictError::TooFewLists(count)) if count == HEADER_SAMPLES_MIN - 1));
        let default = HeaderOptions::default();
        for options in [
            HeaderOptions { clients_min: 1, ..default },
            HeaderOptions { fields: HEADER_DICTIONARY_FIELDS_MAX + 1, ..default },
            HeaderOptions { size: HEADER_DICTIONARY_BYTES_MAX + 1, ..default },
        ] {
            assert!(matches!(train_headers(&samples(), options), Err(DictError::HeaderOptions)));
        }
        let alone: Vec<_> = (0..60).map(|n| sample(1, &[("x-of-one", &format!("{n}"))])).collect();
        assert!(matches!(train_headers(&alone, default), Err(DictError::NothingInCommon { .. })));
    }
}
