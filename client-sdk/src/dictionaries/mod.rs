//! The dictionaries that this installation holds: fetched ones in a folder beside the identity file, named by
//! their hash, and the built-in ones. Endpoint lists are fetched in the same way, and kept elsewhere.

mod fetch;
mod folder;

use std::sync::Arc;

use bytes::Bytes;
use towline_dictionaries::{DictError, builtin_set};
use towline_protocols::{
    compress::{Dictionary, DictionarySet, LEVEL_DEFAULT, Shelf},
    hpack::{HeaderDictionary, HeaderShelf},
    link::{DictionaryKind, Fetch, Offer, Piece},
};

pub(crate) use self::fetch::Fetched;
use self::{fetch::Fetcher, folder::Folder};
use crate::{
    config::{ClientConfig, DictionaryFetch},
    endpoints::Listed,
    work,
};

/// What is held and what is being fetched.
pub(crate) struct Dictionaries {
    folder: Option<Arc<Folder>>,
    /// What this process reads and writes messages with.
    shelf: Shelf,
    /// What it reads and writes header blocks with.
    header_shelf: HeaderShelf,
    builtin: DictionarySet,
    /// Fetched ones, the newest first.
    held: Vec<Fetched>,
    /// Payload dictionaries that made room for others while a gateway may still write with them: HELLO named them.
    retired: Vec<Fetched>,
    /// How many of each kind are kept.
    held_max: usize,
    fetcher: Fetcher,
    lists: Arc<Listed>,
    when: DictionaryFetch,
    /// What the app says of the network; `None`: nothing.
    metered: Option<bool>,
    /// Hashes of the last OFFER: what is not among them is the first to go.
    offered: Vec<Bytes>,
    /// To be told to the gateway.
    held_due: Vec<Fetch>,
}

impl Dictionaries {
    pub(crate) fn open(config: &ClientConfig, lists: Arc<Listed>) -> Result<Self, DictError> {
        let folder = config.identity_file.as_ref().map(|identity| Arc::new(Folder::beside(identity)));
        let held = folder.as_ref().map(|folder| folder.read()).unwrap_or_default();
        let builtin = builtin_set(LEVEL_DEFAULT)?;
        let mut dictionaries = Self {
            folder,
            shelf: Shelf::default(),
            header_shelf: HeaderShelf::default(),
            builtin,
            held,
            retired: Vec::new(),
            held_max: config.limits.dictionaries_max,
            fetcher: Fetcher::default(),
            lists,
            when: config.dictionary_fetch,
            metered: None,
            offered: Vec::new(),
            held_due: Vec::new(),
        };
        dictionaries.trim();
        dictionaries.fill_shelf();
        Ok(dictionaries)
    }

    /// What the protocol's machines read and write messages with.
    pub(crate) fn shelf(&self) -> Shelf {
        self.shelf.clone()
    }

    /// What they read and write header blocks with.
    pub(crate) fn header_shelf(&self) -> HeaderShelf {
        self.header_shelf.clone()
    }

    pub(crate) fn begin_line(&mut self) {
        self.fetcher.begin_line();
        self.held_due.clear();
        if !std::mem::take(&mut self.retired).is_empty() {
            self.fill_shelf();
        }
    }

    pub(crate) fn set_metered(&mut self, metered: Option<bool>) {
        self.metered = metered;
    }

    pub(crate) fn on_offer(&mut self, offer: &Offer) {
        self.offered = offer.dictionaries.iter().map(|offered| offered.hash.clone()).collect();
        let (held, lists) = (&self.held, &self.lists);
        self.fetcher.on_offer(offer, |it| match it.kind() {
            DictionaryKind::Endpoints => lists.wants(it),
            _ => !held.iter().any(|held| held.hash == it.hash),
        });
    }

    /// Whether something is to be fetched when the line is idle, or has not been for long.
    pub(crate) fn is_wanting(&self) -> bool {
        let may = match (self.when, self.metered) {
            (DictionaryFetch::Never, _) | (_, Some(true)) => false,
            (DictionaryFetch::WhenUnmetered, metered) => metered == Some(false),
            (DictionaryFetch::UnlessMetered, _) => true,
        };
        // A list is small, and may be what leads to a better gateway.
        (may || self.fetcher.is_at_list()) && self.fetcher.is_wanting()
    }

    /// What to ask for, now.
    pub(crate) fn next_fetch(&mut self) -> Option<Fetch> {
        self.is_wanting().then(|| self.fetcher.next()).flatten()
    }

    /// Takes a PIECE in; a dictionary that is whole is kept and used.
    pub(crate) fn on_piece(&mut self, piece: &Piece) {
        let Some(fetched) = self.fetcher.on_piece(piece) else { return };
        if fetched.kind == DictionaryKind::Endpoints {
            return self.lists.take(&fetched.bytes);
        }
        if let Err(error) = check(&fetched) {
            tracing::warn!("the gateway offers what is no dictionary: {error}");
            return;
        }
        tracing::debug!(kind = ?fetched.kind, bytes = fetched.bytes.len(), "a dictionary was fetched");
        // A header dictionary is named by the next HELLO.
        if fetched.kind == DictionaryKind::Payload {
            self.held_due.push(Fetch { hash: fetched.hash.clone(), offset: 0, held: true });
        }
        self.held.insert(0, fetched.clone());
        let dropped = self.trim();
        let payload = dropped.iter().filter(|dropped| dropped.kind == DictionaryKind::Payload);
        self.retired.splice(0..0, payload.cloned());
        self.retired.truncate(self.held_max);
        self.fill_shelf();
        self.write(fetched, dropped);
    }

    /// What the gateway is to be told.
    pub(crate) fn take_held(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.held_due)
    }

    /// Keeps the newest of each kind, and of them rather those that are offered.
    fn trim(&mut self) -> Vec<Fetched> {
        let mut dropped = Vec::new();
        for kind in [DictionaryKind::Payload, DictionaryKind::Headers] {
            while self.held.iter().filter(|held| held.kind == kind).count() > self.held_max {
                let is_offered = |held: &Fetched| self.offered.contains(&held.hash);
                let of_kind = |held: &Fetched| held.kind == kind;
                let stale = self.held.iter().rposition(|held| of_kind(held) && !is_offered(held));
                let Some(last) = stale.or_else(|| self.held.iter().rposition(of_kind)) else { break };
                dropped.push(self.held.remove(last));
            }
        }
        dropped
    }

    /// Fetched ones before the built-in ones.
    fn fill_shelf(&mut self) {
        let mut set = DictionarySet::new();
        let payload = self.held.iter().filter(|held| held.kind == DictionaryKind::Payload);
        let fetched = payload
            .chain(&self.retired)
            .filter_map(|held| Dictionary::new(held.bytes.clone(), LEVEL_DEFAULT).ok());
        for dictionary in fetched.chain(self.builtin.iter().cloned()) {
            // Two with one id cannot be told apart: the newer one stays.
            if let Err(error) = set.insert(dictionary) {
                tracing::debug!("a dictionary is left out: {error}");
            }
        }
        self.shelf.replace(set);
        let headers = self.held.iter().filter(|held| held.kind == DictionaryKind::Headers);
        let headers = headers.filter_map(|held| HeaderDictionary::parse(held.bytes.clone()).ok());
        self.header_shelf.replace(headers.map(Arc::new).collect());
    }

    /// The disk may be slow, and nobody waits for it.
    fn write(&self, fetched: Fetched, dropped: Vec<Fetched>) {
        let Some(folder) = self.folder.clone() else { return };
        let write = move || {
            dropped.iter().for_each(|dropped| folder.remove(dropped));
            if let Err(error) = folder.write(&fetched) {
                tracing::warn!("a dictionary cannot be kept: {error}");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work::blocking(write))),
            Err(_) => write(),
        }
    }
}

/// What is wrong with a dictionary, in words.
fn check(fetched: &Fetched) -> Result<(), String> {
    let bytes = fetched.bytes.clone();
    match fetched.kind {
        DictionaryKind::Headers => {
            HeaderDictionary::parse(bytes).map(drop).map_err(|error| error.to_string())
        }
        _ => Dictionary::new(bytes, LEVEL_DEFAULT).map(drop).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use towline_dictionaries::{TrainOptions, demo, sha256, train};
    use towline_protocols::link::OfferedDictionary;

    use super::*;
    use crate::identity::Identity;

    fn trained(first: u64) -> Bytes {
        let samples: Vec<_> = (first..first + 300).map(demo::message).collect();
        train(&samples, TrainOptions { size: 2048 }).unwrap().bytes().clone()
    }

    fn offer(files: &[&Bytes]) -> Offer {
        let entry = |file: &&Bytes| OfferedDictionary {
            hash: sha256(file).to_vec().into(),
            kind: DictionaryKind::Payload.into(),
            bytes: file.len() as u32,
            ..OfferedDictionary::default()
        };
        Offer { dictionaries: files.iter().map(entry).collect() }
    }

    fn config(folder: &tempfile::TempDir) -> ClientConfig {
        let mut config = ClientConfig::plaintext(Vec::new());
        config.identity_file = Some(folder.path().join("identity"));
        config.limits.dictionaries_max = 2;
        config
    }

    fn open(config: &ClientConfig) -> Dictionaries {
        let identity = Identity::open(config).unwrap();
        Dictionaries::open(config, Arc::new(Listed::open(config, &identity))).unwrap()
    }

    fn fetch(dictionaries: &mut Dictionaries, file: &Bytes) {
        dictionaries.on_offer(&offer(&[file]));
        let asked = dictionaries.next_fetch().unwrap();
        dictionaries.on_piece(&Piece { hash: asked.hash, offset: 0, bytes: file.clone() });
    }

    #[test]
    fn what_was_fetched_is_there_after_a_restart_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<Bytes> = (0..3).map(|n| trained(n * 1000)).collect();
        let mut first = open(&config(&folder));
        let builtin = first.shelf().ids().len();
        for file in &files {
            fetch(&mut first, file);
            assert!(first.take_held()[0].held);
        }
        assert_eq!(first.shelf().ids().len(), builtin + 3, "the gateway may still write with the first");
        first.begin_line();
        assert_eq!(first.shelf().ids().len(), builtin + 2);
        let second = open(&config(&folder));
        let mut ids = (first.shelf().ids(), second.shelf().ids());
        ids.0.sort_unstable();
        ids.1.sort_unstable();
        assert_eq!(ids.0, ids.1);
        assert_eq!(std::fs::read_dir(folder.path().join("identity.dictionaries")).unwrap().count(), 2);
    }

    #[test]
    fn of_header_dictionaries_the_first_is_fetched_and_what_is_none_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let headers = |text: &'static str| Bytes::from_static(text.as_bytes());
        let (first, second) =
            (headers("towline headers 1\nx-a: 1\n"), headers("towline headers 1\nx-b: 1\n"));
        let broken = headers("towline headers 1\ncookie: a=b\n");
        let offer = |files: &[&Bytes]| {
            let mut offer = offer(files);
            offer.dictionaries.iter_mut().for_each(|it| it.kind = DictionaryKind::Headers.into());
            offer
        };
        let mut dictionaries = open(&config(&folder));
        let fetch = |dictionaries: &mut Dictionaries, file: &Bytes| {
            let asked = dictionaries.next_fetch().unwrap();
            dictionaries.on_piece(&Piece { hash: asked.hash, offset: 0, bytes: file.clone() });
        };
        dictionaries.on_offer(&offer(&[&first, &second]));
        fetch(&mut dictionaries, &first);
        assert!(!dictionaries.is_wanting(), "the second would not be used");
        assert!(dictionaries.take_held().is_empty(), "the next HELLO says it");
        let id = HeaderDictionary::parse(first.clone()).unwrap().id();
        assert!(dictionaries.header_shelf().get(id).is_some());
        dictionaries.on_offer(&offer(&[&broken]));
        fetch(&mut dictionaries, &broken);
        assert_eq!(dictionaries.held.len(), 1);
        let again = open(&config(&folder));
        assert!(again.header_shelf().get(id).is_some(), "after a restart");
    }

    #[test]
    fn a_file_that_was_changed_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = open(&config(&folder));
        fetch(&mut first, &trained(0));
        let kept = std::fs::read_dir(folder.path().join("identity.dictionaries")).unwrap().next();
        let path = kept.unwrap().unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let second = open(&config(&folder));
        assert_eq!(second.held, []);
        assert!(!path.exists());
    }

    #[test]
    fn the_network_decides_whether_to_fetch() {
        let folder = tempfile::tempdir().unwrap();
        let file = trained(0);
        let check = |when, metered, wanting| {
            let config = ClientConfig { dictionary_fetch: when, ..config(&folder) };
            let mut dictionaries = open(&config);
            dictionaries.on_offer(&offer(&[&file]));
            dictionaries.set_metered(metered);
            assert_eq!(dictionaries.is_wanting(), wanting, "{when:?} {metered:?}");
        };
        check(DictionaryFetch::UnlessMetered, None, true);
        check(DictionaryFetch::UnlessMetered, Some(true), false);
        check(DictionaryFetch::WhenUnmetered, None, false);
        check(DictionaryFetch::WhenUnmetered, Some(false), true);
        check(DictionaryFetch::Never, Some(false), false);
    }
}
