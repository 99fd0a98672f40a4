//! Which fields have been seen before.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::hpack::HeaderField;

const SLOTS: usize = 128;

/// A small memory of fields, by hash: an insertion that cannot be referred to at once costs its bytes a
/// second time, so it waits for the field's second sighting. A field that shares its slot with another is
/// forgotten sooner, which costs bytes and nothing else.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    slots: Option<Box<[u32; SLOTS]>>,
}

impl Sightings {
    /// Notes the field; whether it was there.
    pub(super) fn note(&mut self, field: &HeaderField) -> bool {
        let mut hasher = DefaultHasher::new();
        (&field.name, &field.value).hash(&mut hasher);
        let hash = hasher.finish();
        let slots = self.slots.get_or_insert_with(|| Box::new([0; SLOTS]));
        let slot = &mut slots[hash as usize % SLOTS];
        // Never 0, which an empty slot holds.
        let mark = (hash >> 32) as u32 | 1;
        std::mem::replace(slot, mark) == mark
    }
}
