//! Topic levels as small numbers, so that the tree compares and stores four bytes for each.

use std::{collections::HashMap, sync::Arc};

/// A level's text. Two levels are equal when their ids are, while both are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LevelId(pub(super) u32);

impl LevelId {
    /// A text that no filter uses; only wildcards match it.
    pub(super) const UNUSED: Self = Self(0);
    /// `+`
    pub(super) const PLUS: Self = Self(1);
    /// `#`
    pub(super) const HASH: Self = Self(2);
    const FIRST_TEXT: u32 = 3;
}

/// The texts in use, counted.
#[derive(Default)]
pub(super) struct Levels {
    ids: HashMap<Arc<str>, LevelId>,
    /// Entry `i` belongs to id `i + FIRST_TEXT`.
    slots: Vec<Slot>,
    free: Vec<LevelId>,
}

#[derive(Clone)]
struct Slot {
    text: Arc<str>,
    uses: u32,
}

impl Levels {
    /// The id of a level of a topic name.
    pub(super) fn find(&self, text: &str) -> LevelId {
        self.ids.get(text).copied().unwrap_or(LevelId::UNUSED)
    }

    /// The id of a level of a filter, used once more. Pair with [`release`](Self::release).
    pub(super) fn acquire(&mut self, text: &str) -> LevelId {
        match text {
            "+" => return LevelId::PLUS,
            "#" => return LevelId::HASH,
            _ => {}
        }
        if let Some(&id) = self.ids.get(text) {
            self.slots[slot_of(id)].uses += 1;
            return id;
        }
        let slot = Slot { text: text.into(), uses: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[slot_of(id)] = slot.clone();
                id
            }
            None => {
                self.slots.push(slot.clone());
                LevelId(LevelId::FIRST_TEXT + self.slots.len() as u32 - 1)
            }
        };
        self.ids.insert(slot.text, id);
        id
    }

    /// Ends one use.
    pub(super) fn release(&mut self, id: LevelId) {
        if id.0 < LevelId::FIRST_TEXT {
            return;
        }
        let slot = &mut self.slots[slot_of(id)];
        slot.uses -= 1;
        if slot.uses == 0 {
            let text = std::mem::take(&mut slot.text);
            self.ids.remove(&text);
            self.free.push(id);
        }
    }

    /// The text of an id in use.
    pub(super) fn text(&self, id: LevelId) -> &str {
        match id {
            LevelId::PLUS => "+",
            LevelId::HASH => "#",
            id => &self.slots[slot_of(id)].text,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

fn slot_of(id: LevelId) -> usize {
    (id.0 - LevelId::FIRST_TEXT) as usize
}
