//! The set that a side holds now. It changes while connections live: dictionaries are published, fetched
//! and withdrawn.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Dictionary, DictionaryError, DictionarySet};

/// One side's dictionaries, shared by all its connections; clones are the same shelf.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    set: Arc<RwLock<Arc<DictionarySet>>>,
}

impl Shelf {
    /// What is held now. A message is read with one set, whatever is published meanwhile.
    pub fn load(&self) -> Arc<DictionarySet> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds these from now on.
    pub fn replace(&self, set: DictionarySet) {
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }

    /// Adds a dictionary, less preferred than those before. Adding the same one again does nothing.
    pub fn insert(&self, dictionary: Dictionary) -> Result<(), DictionaryError> {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut set).insert(dictionary)
    }

    /// All ids, the most preferred first.
    pub fn ids(&self) -> Vec<u32> {
        self.load().ids()
    }
}

impl From<DictionarySet> for Shelf {
    fn from(set: DictionarySet) -> Self {
        Self { set: Arc::new(RwLock::new(Arc::new(set))) }
    }
}
