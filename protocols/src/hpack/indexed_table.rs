//! The encoder's view of the dynamic table.

use std::{
    collections::{HashMap, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use super::{HeaderField, dynamic_table::DynamicTable, quick_hash::QuickHash, static_table::Match};

/// The dynamic table with an index by content.
///
/// The index maps a hash to the newest entry that has it, counted from the first insertion on. A hash
/// that two entries share loses the older one for the index, which costs bytes on the wire and nothing
/// else, since each hit is compared with the entry itself. So keys are not stored twice, and the index
/// has at most two pairs of words for each entry.
#[derive(Debug)]
pub(crate) struct IndexedTable {
    pub(crate) table: DynamicTable,
    /// Insertions since the beginning.
    pub(crate) inserted: u64,
    index: Index,
}

#[derive(Debug, Default)]
struct Index {
    by_hash: HashMap<u64, u64, QuickHash>,
    evicted: u64,
    /// Of each entry, the newest first, whether something has referred to it.
    referred: VecDeque<bool>,
}

/// Hashes of a field and of its name, taken once for everything that goes by them. The hasher has no random key,
/// so that equal traffic gives equal bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldHash {
    pub(crate) whole: u64,
    pub(crate) name: u64,
}

impl FieldHash {
    pub(crate) fn of(field: &HeaderField) -> Self {
        let mut hasher = DefaultHasher::new();
        field.name.hash(&mut hasher);
        let name = hasher.finish();
        field.value.hash(&mut hasher);
        Self { whole: hasher.finish(), name }
    }
}

impl IndexedTable {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { table: DynamicTable::new(capacity), inserted: 0, index: Index::default() }
    }

    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.table.set_capacity(capacity, |field| self.index.forget_oldest(&field));
    }

    pub(crate) fn insert(&mut self, field: HeaderField, hash: FieldHash) {
        if self.table.insert(field, |evicted| self.index.forget_oldest(&evicted)) {
            for hash in [hash.whole, hash.name] {
                self.index.by_hash.insert(hash, self.inserted);
            }
            self.index.referred.push_front(false);
            self.inserted += 1;
        }
    }

    /// The best match, by position in the table.
    pub(crate) fn find(&self, field: &HeaderField, hash: FieldHash) -> Option<Match> {
        if let Some((position, entry)) = self.entry_with(hash.whole)
            && entry.name == field.name
            && entry.value == field.value
        {
            return Some(Match::Field(position));
        }
        let (position, entry) = self.entry_with(hash.name)?;
        (entry.name == field.name).then_some(Match::Name(position))
    }

    /// Notes that the entry at `position` is referred to; whether that is the first time.
    pub(crate) fn refer(&mut self, position: usize) -> bool {
        self.index.referred.get_mut(position).is_some_and(|referred| !std::mem::replace(referred, true))
    }

    fn entry_with(&self, hash: u64) -> Option<(usize, &HeaderField)> {
        let insertion = *self.index.by_hash.get(&hash)?;
        let position = usize::try_from(self.inserted.checked_sub(insertion + 1)?).ok()?;
        Some((position, self.table.get(position)?))
    }
}

impl Index {
    fn forget_oldest(&mut self, field: &HeaderField) {
        let FieldHash { whole, name } = FieldHash::of(field);
        for hash in [whole, name] {
            if self.by_hash.get(&hash) == Some(&self.evicted) {
                self.by_hash.remove(&hash);
            }
        }
        self.referred.pop_back();
        self.evicted += 1;
    }
}
