//! Which values come again: learned on each connection, by name, from what became of earlier entries.
//!
//! An entry that is never referred to pushes out useful ones and moves those that stay to longer indices. So a
//! name has *tries*: each entry takes one, and an entry's first reference earns more.
//!
//! ```text
//!  a new name: 4 tries --entry: -1--> 3 --entry: -1--> 2 ...   0: only values that were seen before get entries
//!                        <-- first reference to an entry: +2, up to 8 --
//! ```
//!
//! A name whose tries are used up gets them back when values that were seen twice have been worth their entries.

use super::{FieldHash, HeaderField, sightings::Sightings};

/// Names whose tries are remembered: four for each of so many values of a few bits of the hash. A request has
/// about twenty.
const SETS: usize = 8;
const WAYS: usize = 4;

/// Values of a new name that get entries before one of them must have come again.
const TRIES_AT_FIRST: u8 = 4;
/// A name keeps its tries while every other entry is referred to.
const TRIES_EARNED: u8 = 2;
/// So many entries in a row may fail of a name that has proven itself.
const TRIES_MAX: u8 = 8;

/// Fields whose value is hardly ever sent twice: they have no tries.
const VOLATILE_NAMES: [&[u8]; 12] = [
    b"age",
    b"content-length",
    b"content-range",
    b"etag",
    b"grpc-timeout",
    b"idempotency-key",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"range",
    b"traceparent",
    b"x-request-id",
];

/// What an encoder remembers of names and values beside its table.
#[derive(Debug, Default)]
pub(crate) struct Repetition {
    names: [[Name; WAYS]; SETS],
    seen: Sightings,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    /// The rest of the name's hash.
    tag: u16,
    tries: u8,
}

impl Default for Name {
    fn default() -> Self {
        Self { tag: 0, tries: TRIES_AT_FIRST }
    }
}

impl Repetition {
    /// Whether the field, which no table has, is worth an entry that can be referred to at once.
    pub(crate) fn is_expected(&mut self, field: &HeaderField, hash: FieldHash) -> bool {
        self.take_try(field, hash, 1) || self.seen.note(hash.whole)
    }

    /// Whether the field, which no table has, is worth an entry that costs its bytes a second time, since this
    /// list cannot refer to it: its name has proven itself, or the value was seen before.
    pub(crate) fn is_expected_soon(&mut self, field: &HeaderField, hash: FieldHash) -> bool {
        self.take_try(field, hash, TRIES_MAX) || self.seen.note(hash.whole)
    }

    /// Whether a name that no table has was seen before.
    pub(crate) fn is_known_name(&mut self, hash: FieldHash) -> bool {
        self.seen.note(hash.name)
    }

    /// An entry of this name is referred to for the first time.
    pub(crate) fn on_first_reference(&mut self, hash: FieldHash) {
        let name = self.name(hash);
        name.tries = (name.tries + TRIES_EARNED).min(TRIES_MAX);
    }

    /// Takes a try of the name if it has `tries_min`.
    fn take_try(&mut self, field: &HeaderField, hash: FieldHash, tries_min: u8) -> bool {
        if is_volatile(field) {
            return false;
        }
        let name = self.name(hash);
        let may_try = name.tries >= tries_min;
        name.tries -= u8::from(may_try);
        may_try
    }

    /// The name's place; it may have to take that of the one that a new beginning hurts least.
    fn name(&mut self, hash: FieldHash) -> &mut Name {
        let tag = (hash.name >> 16) as u16;
        let set = &mut self.names[hash.name as usize % SETS];
        let most_tries = (0..WAYS).max_by_key(|&way| set[way].tries).unwrap_or_default();
        let way = set.iter().position(|name| name.tag == tag).unwrap_or_else(|| {
            set[most_tries] = Name { tag, tries: TRIES_AT_FIRST };
            most_tries
        });
        &mut set[way]
    }
}

fn is_volatile(field: &HeaderField) -> bool {
    let is_path_with_query = &*field.name == b":path" && field.value.contains(&b'?');
    is_path_with_query || VOLATILE_NAMES.contains(&&*field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> (HeaderField, FieldHash) {
        let field = HeaderField::new(name.to_owned(), value.to_owned());
        let hash = FieldHash::of(&field);
        (field, hash)
    }

    #[test]
    fn a_name_whose_entries_are_not_referred_to_loses_them_until_a_value_comes_again() {
        let mut repetition = Repetition::default();
        let mut is_expected = |value: &str| {
            let (field, hash) = one("x-span", value);
            repetition.is_expected(&field, hash)
        };
        let inserted = (0..20).filter(|n| is_expected(&n.to_string())).count();
        assert_eq!(inserted, usize::from(TRIES_AT_FIRST));
        assert!(is_expected("19"), "it was seen before");
        repetition.on_first_reference(one("x-span", "19").1);
        let (field, hash) = one("x-span", "20");
        assert!(repetition.is_expected(&field, hash), "the name has earned another try");
    }

    #[test]
    fn a_name_of_which_every_other_entry_is_referred_to_keeps_its_entries() {
        let mut repetition = Repetition::default();
        for n in 0..100 {
            let (field, hash) = one("x-screen", &n.to_string());
            assert!(repetition.is_expected(&field, hash), "{n}");
            if n % 2 == 1 {
                repetition.on_first_reference(hash);
            }
        }
    }

    #[test]
    fn more_names_than_are_remembered_do_not_take_the_place_of_the_worst() {
        let mut repetition = Repetition::default();
        for n in 0..20 {
            let (field, hash) = one("x-span", &n.to_string());
            repetition.is_expected(&field, hash);
        }
        for n in 0..1000 {
            let (field, hash) = one(&format!("x-{n}"), "same");
            repetition.is_expected(&field, hash);
            repetition.on_first_reference(hash);
        }
        let (field, hash) = one("x-span", "20");
        assert!(!repetition.is_expected(&field, hash));
    }

    #[test]
    fn what_is_volatile_by_name_gets_an_entry_when_it_comes_again() {
        let mut repetition = Repetition::default();
        for (name, value) in
            [("content-length", "17"), (":path", "/search?q=tea"), ("if-none-match", "\"a\"")]
        {
            let (field, hash) = one(name, value);
            assert!(!repetition.is_expected(&field, hash), "{field:?}");
            assert!(repetition.is_expected(&field, hash), "{field:?}");
        }
    }
}
