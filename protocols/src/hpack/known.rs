//! What both sides know before the first block: a static table, and a header dictionary behind it.

use std::sync::Arc;

use super::{HeaderDictionary, HeaderField, StaticTable, static_table::Match};

/// A static table, followed by a [`HeaderDictionary`] if the connection has one.
#[derive(Clone, Debug)]
pub struct KnownFields {
    fixed: StaticTable,
    dictionary: Option<Arc<HeaderDictionary>>,
}

impl From<StaticTable> for KnownFields {
    fn from(fixed: StaticTable) -> Self {
        Self { fixed, dictionary: None }
    }
}

impl KnownFields {
    /// The link's static table, and `dictionary` behind it.
    pub fn link(dictionary: Option<Arc<HeaderDictionary>>) -> Self {
        Self { fixed: StaticTable::link(), dictionary }
    }

    /// How many fields there are.
    pub(crate) fn len(&self) -> usize {
        self.fixed.len() + self.dictionary.as_ref().map_or(0, |dictionary| dictionary.fields().len())
    }

    /// The field at `index`, counted from 1.
    pub(crate) fn get(&self, index: usize) -> Option<&HeaderField> {
        let position = index.checked_sub(1)?;
        match (position.checked_sub(self.fixed.len()), &self.dictionary) {
            (None, _) => self.fixed.get(index),
            (Some(position), Some(dictionary)) => dictionary.fields().get(position),
            (Some(_), None) => None,
        }
    }

    /// The best match for a field: the index of the whole field, or else of its name.
    pub(crate) fn find(&self, name: &[u8], value: &[u8]) -> Option<Match> {
        let in_fixed = self.fixed.find(name, value);
        if let Some(Match::Field(_)) = in_fixed {
            return in_fixed;
        }
        let behind = |position: usize| self.fixed.len() + 1 + position;
        match self.dictionary.as_ref().and_then(|dictionary| dictionary.find(name, value)) {
            Some(Match::Field(position)) => Some(Match::Field(behind(position))),
            Some(Match::Name(position)) => in_fixed.or(Some(Match::Name(behind(position)))),
            None => in_fixed,
        }
    }
}
