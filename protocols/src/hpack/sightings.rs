//! Which fields have been seen before.

const SLOTS: usize = 128;

/// A small memory of fields, or names, by hash. What shares its slot with another is forgotten sooner, and what
/// shares its mark, too, is mistaken for it: that costs bytes and nothing else.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    slots: Option<Box<[u16; SLOTS]>>,
}

impl Sightings {
    /// Notes what has this hash; whether it was there.
    pub(super) fn note(&mut self, hash: u64) -> bool {
        let slots = self.slots.get_or_insert_with(|| Box::new([0; SLOTS]));
        let slot = &mut slots[hash as usize % SLOTS];
        // Never 0, which an empty slot holds.
        let mark = (hash >> 32) as u16 | 1;
        std::mem::replace(slot, mark) == mark
    }
}
