//! The dynamic table, RFC 7541 sections 2.3.2 and 4: first in, first out, bounded in bytes.

use std::collections::VecDeque;

use super::HeaderField;

/// Entries from the newest (position 0) to the oldest. Each entry counts for at least 32 bytes, so the
/// number of entries is bounded by `capacity / 32`.
#[derive(Debug)]
pub(crate) struct DynamicTable {
    entries: VecDeque<HeaderField>,
    size: usize,
    capacity: usize,
}

impl DynamicTable {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, capacity }
    }

    /// The entry that was added `position` insertions before the newest one.
    pub(crate) fn get(&self, position: usize) -> Option<&HeaderField> {
        self.entries.get(position)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &HeaderField> {
        self.entries.iter().rev()
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the capacity; entries that no longer fit go to `evicted`, the oldest first.
    pub(crate) fn set_capacity(&mut self, capacity: usize, evicted: impl FnMut(HeaderField)) {
        self.capacity = capacity;
        self.evict_until(capacity, evicted);
    }

    /// Adds an entry; says whether it is in the table now. "An attempt to add an entry larger than the
    /// maximum size causes the table to be emptied of all existing entries" (section 4.4).
    pub(crate) fn insert(&mut self, field: HeaderField, evicted: impl FnMut(HeaderField)) -> bool {
        let size = field.size();
        let fits = size <= self.capacity;
        self.evict_until(if fits { self.capacity - size } else { 0 }, evicted);
        if fits {
            self.size += size;
            self.entries.push_front(field);
        }
        fits
    }

    fn evict_until(&mut self, size_max: usize, mut evicted: impl FnMut(HeaderField)) {
        while self.size > size_max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
            evicted(oldest);
        }
    }
}
