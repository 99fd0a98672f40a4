//! The messages of one queue in their order, a window of which is in memory.
//!
//! ```text
//!  number       7    8    9  |  10   11   12  ...  5000  |  5001  5002
//!  in memory    all of it    |  where it stands          |  all of it
//!               the window   |  read when it is its turn |  not in the store yet
//! ```
//!
//! What stands in the middle takes the forty bytes of an [`Entry`]. Behind the window a message goes from memory once
//! the store has it.

use std::{collections::VecDeque, sync::Arc};

use super::Letter;
use crate::hub::Message;

/// Messages in memory: four times what a broker takes at one time, so that what is to go out next is there.
pub(super) const WINDOW_COUNT: usize = 1024;
/// Bytes in memory. What goes out next is read however large it is.
pub(super) const WINDOW_BYTES: usize = 1 << 20;
/// Messages read from the store at a time.
pub(super) const READ_AHEAD: usize = 64;

#[derive(Default)]
pub(super) struct Waiting {
    entries: VecDeque<Entry>,
    number_last: u64,
    /// What all of them cost.
    bytes: usize,
    held: Held,
    /// Up to this number it was decided whether messages stay in memory.
    settled: u64,
    /// What is in memory up to there.
    kept: Held,
}

/// What is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// One message that waits.
struct Entry {
    number: u64,
    since_ms: u64,
    cost: usize,
    is_stored: bool,
    body: Option<Box<Body>>,
}

struct Body {
    message: Arc<Message>,
    user: Option<Arc<str>>,
    reason: Option<Arc<str>>,
}

/// A message that left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) number: u64,
    pub(super) is_stored: bool,
}

impl Held {
    fn is_full(self) -> bool {
        self.count >= WINDOW_COUNT || self.bytes >= WINDOW_BYTES
    }

    fn add(&mut self, cost: usize) {
        self.count += 1;
        self.bytes += cost;
    }

    fn remove(&mut self, cost: usize) {
        self.count -= 1;
        self.bytes -= cost;
    }
}

impl Entry {
    fn letter(&self) -> Option<Letter> {
        let &Self { number, since_ms, is_stored, ref body, .. } = self;
        let Body { message, user, reason } = &**body.as_ref()?;
        let (message, user, reason) = (message.clone(), user.clone(), reason.clone());
        Some(Letter { number, since_ms, message, user, reason, is_stored })
    }
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn next_number(&self) -> u64 {
        self.number_last + 1
    }

    /// Whether what comes now can only stay in the store.
    pub(super) fn is_window_full(&self) -> bool {
        self.held.is_full()
    }

    /// Since when the first one waits.
    pub(super) fn first_since_ms(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.since_ms)
    }

    /// Takes the last one in.
    pub(super) fn push(&mut self, letter: Letter, cost: usize) {
        let Letter { number, since_ms, message, user, reason, is_stored } = letter;
        self.number_last = self.number_last.max(number);
        self.bytes += cost;
        self.held.add(cost);
        let body = Some(Box::new(Body { message, user, reason }));
        self.entries.push_back(Entry { number, since_ms, cost, is_stored, body });
    }

    /// The store has what was to be kept up to `written`: that goes from memory, if it is behind the window.
    pub(super) fn settle(&mut self, written: u64) {
        let mut index = self.index_after(self.settled);
        while let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.number <= written) {
            self.settled = entry.number;
            if entry.is_stored && self.kept.is_full() {
                entry.body = None;
                self.held.remove(entry.cost);
            } else {
                self.kept.add(entry.cost);
            }
            index += 1;
        }
    }

    /// Where the first one behind `number` stands; the end if there is none.
    pub(super) fn index_after(&self, number: u64) -> usize {
        self.entries.partition_point(|entry| entry.number <= number)
    }

    pub(super) fn index_of(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }

    pub(super) fn number_at(&self, index: usize) -> Option<u64> {
        self.entries.get(index).map(|entry| entry.number)
    }

    /// The message; `None` if it is in the store alone.
    pub(super) fn letter_at(&self, index: usize) -> Option<Letter> {
        self.entries.get(index)?.letter()
    }

    pub(super) fn is_in_store_alone(&self, number: u64) -> bool {
        self.index_of(number).is_some_and(|index| self.entries[index].body.is_none())
    }

    /// Puts messages that were read back: the first one, since it goes out now, and of the others as many as the window
    /// has room for. What has left the queue meanwhile stays away.
    pub(super) fn fill(&mut self, letters: Vec<Letter>) {
        for (nth, letter) in letters.into_iter().enumerate() {
            if nth > 0 && self.kept.is_full() {
                return;
            }
            let Some(index) = self.index_of(letter.number) else { continue };
            let entry = &mut self.entries[index];
            if entry.body.is_none() {
                let Letter { message, user, reason, .. } = letter;
                entry.body = Some(Box::new(Body { message, user, reason }));
                self.held.add(entry.cost);
                self.kept.add(entry.cost);
            }
        }
    }

    /// Takes one out.
    pub(super) fn take(&mut self, index: usize) -> Option<Gone> {
        let Entry { number, cost, is_stored, body, .. } = self.entries.remove(index)?;
        self.bytes -= cost;
        if body.is_some() {
            self.held.remove(cost);
            if number <= self.settled {
                self.kept.remove(cost);
            }
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        Some(Gone { number, is_stored })
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Held {
        self.held
    }
}
