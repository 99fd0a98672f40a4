//! A hash for small tables, at a fifth of what SipHash costs for a name.

use std::hash::{BuildHasherDefault, Hasher};

/// Hashes of [`QuickHasher`]. Whoever chooses the keys can make them collide: for tables whose keys nobody outside
/// chooses, or are hashes themselves.
pub(crate) type QuickHash = BuildHasherDefault<QuickHasher>;

/// Adds a word and multiplies, as rustc does.
#[derive(Debug, Default)]
pub(crate) struct QuickHasher(u64);

/// An odd number whose multiples spread well over the upper bits.
const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.write_u64(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.wrapping_add(word).wrapping_mul(FACTOR);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    /// A hash map looks at the lowest bits first.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::BuildHasher as _};

    use super::*;
    use crate::hpack::StaticTable;

    #[test]
    fn names_of_the_static_table_hash_apart() {
        let table = StaticTable::link();
        let names: HashSet<_> =
            (1..=table.len()).filter_map(|index| table.get(index)).map(|field| &*field.name).collect();
        let hashes: HashSet<_> = names.iter().map(|name| QuickHash::default().hash_one(name)).collect();
        assert_eq!(hashes.len(), names.len());
        // What a map of 128 places looks at first.
        let places: HashSet<_> = hashes.iter().map(|hash| hash % 128).collect();
        assert!(places.len() * 3 >= names.len() * 2, "{} of {}", places.len(), names.len());
    }
}
