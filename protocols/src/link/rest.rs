//! What connections at rest have in common.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Config, Peer};
use crate::{
    compress::{Compressor, Dictionary},
    hpack::HeaderDictionary,
};

/// What is known of a peer beside its own numbers.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) config: Arc<Config>,
    pub(super) peer: Peer,
    pub(super) header_dictionary: Option<Arc<HeaderDictionary>>,
    pub(super) dictionaries_off: bool,
}

/// What is different of connections at rest. There are a few kinds of clients, and those of a kind say the
/// same of themselves: what they said is kept once. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Resting(Arc<Mutex<Vec<Weak<Common>>>>);

impl Resting {
    /// Kinds that are looked through whenever a connection comes to rest; beyond, each keeps its own.
    const KINDS_MAX: usize = 32;

    pub(super) fn share(&self, common: Common) -> Arc<Common> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.iter().filter_map(Weak::upgrade).find(|known| known.is_same(&common));
        if let Some(known) = known {
            return known;
        }
        let common = Arc::new(common);
        kinds.retain(|kind| kind.strong_count() > 0);
        if kinds.len() < Self::KINDS_MAX {
            kinds.push(Arc::downgrade(&common));
        }
        common
    }
}

impl Common {
    fn is_same(&self, other: &Self) -> bool {
        let header_dictionary = |common: &Self| common.header_dictionary.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.config, &other.config)
            && self.peer.limits == other.peer.limits
            && self.peer.dictionaries == other.peer.dictionaries
            && self.compression() == other.compression()
            && header_dictionary(self) == header_dictionary(other)
            && self.dictionaries_off == other.dictionaries_off
    }

    /// A server's compressors are its configuration's, and differ in their dictionaries alone.
    fn compression(&self) -> Option<Option<(*const u8, i32)>> {
        let told_apart = |dictionary: &Dictionary| (dictionary.bytes().as_ptr(), dictionary.level());
        let dictionary = |compressor: &Compressor| compressor.dictionary().map(told_apart);
        self.peer.compressor.as_ref().map(dictionary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Limits;

    fn common(config: &Arc<Config>, streams_max: u32) -> Common {
        let limits = Limits { streams_max, ..Limits::default() };
        let peer = Peer { limits, compressor: config.compressor.clone(), ..Peer::default() };
        Common { config: Arc::clone(config), peer, header_dictionary: None, dictionaries_off: false }
    }

    #[test]
    fn peers_of_one_kind_share_what_they_said() {
        let config = Arc::new(Config::default());
        let (one, same) =
            (config.resting.share(common(&config, 7)), config.resting.share(common(&config, 7)));
        assert!(Arc::ptr_eq(&one, &same));
        let others = [
            common(&config, 8),
            common(&Arc::new(Config::clone(&config)), 7),
            Common { dictionaries_off: true, ..common(&config, 7) },
            Common { peer: Peer { compressor: None, ..one.peer.clone() }, ..common(&config, 7) },
            Common { peer: Peer { dictionaries: [1].into(), ..one.peer.clone() }, ..common(&config, 7) },
        ];
        for other in others {
            assert!(!Arc::ptr_eq(&one, &config.resting.share(other)));
        }
    }

    #[test]
    fn kinds_that_nobody_is_of_make_room() {
        let config = Arc::new(Config::default());
        let kinds: Vec<_> = (1..=40).map(|max| config.resting.share(common(&config, max))).collect();
        assert_eq!(config.resting.0.lock().unwrap().len(), Resting::KINDS_MAX);
        assert!(!Arc::ptr_eq(&kinds[39], &config.resting.share(common(&config, 40))), "beyond the bound");
        drop(kinds);
        let held = config.resting.share(common(&config, 40));
        assert!(Arc::ptr_eq(&held, &config.resting.share(common(&config, 40))));
        assert_eq!(config.resting.0.lock().unwrap().len(), 1);
    }
}
