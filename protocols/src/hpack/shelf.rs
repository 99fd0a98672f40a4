//! The header dictionaries that a side holds.

use std::sync::{Arc, PoisonError, RwLock};

use super::HeaderDictionary;

/// Header dictionaries by id. They may change while connections live: a connection keeps the one that it began with.
/// Clones are the same shelf.
#[derive(Clone, Debug, Default)]
pub struct HeaderShelf {
    held: Arc<RwLock<Vec<Arc<HeaderDictionary>>>>,
}

impl HeaderShelf {
    /// The dictionary with this [id](HeaderDictionary::id); 0 names none.
    pub fn get(&self, id: u64) -> Option<Arc<HeaderDictionary>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|dictionary| dictionary.id() == id && id != 0).cloned()
    }

    /// Holds these from now on.
    pub fn replace(&self, dictionaries: Vec<Arc<HeaderDictionary>>) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = dictionaries;
    }
}
