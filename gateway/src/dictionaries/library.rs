//! What is published, and the ways to change it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use towline_dictionaries::{DictionaryFile, builtin, sha256};
use towline_protocols::{
    compress::{DICTIONARY_BYTES_MAX, Dictionary, DictionaryError, DictionarySet, Shelf},
    hpack::{HeaderDictionary, HeaderDictionaryError, HeaderShelf},
    link::DictionaryKind,
};

use super::{Edition, Entry, HeaderSampler, Sampler, files};
use crate::{endpoints::PublishedList, gateway::StartError, metrics::Metrics, settings::Settings};

/// Every dictionary of one gateway.
pub struct Library {
    /// What the link's machines read and write with.
    shelves: Shelves,
    edition: ArcSwap<Edition>,
    /// Changes are made one after the other.
    changing: Mutex<Shelving>,
    /// Messages to train on.
    pub sampler: Sampler,
    /// Header lists to train on.
    pub headers: HeaderSampler,
}

/// What the link's machines read and write with. Clones are the same shelves.
#[derive(Clone, Debug, Default)]
pub struct Shelves {
    /// For messages.
    pub payload: Shelf,
    /// For header blocks.
    pub headers: HeaderShelf,
}

struct Shelving {
    /// Where published ones are kept; `None` keeps them in memory.
    folder: Option<PathBuf>,
    published: Vec<Entry>,
    /// Of the configuration, and built in.
    standing: Vec<Entry>,
    /// Where the operator has clients knock.
    endpoints: Option<Arc<PublishedList>>,
    /// Versions of each kind that are kept.
    versions_max: usize,
    level: i32,
    builtin_count: usize,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It cannot be used.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// It is no header dictionary.
    #[error(transparent)]
    Headers(#[from] HeaderDictionaryError),
    /// It is published already.
    #[error("version {0} is the same dictionary")]
    Known(u64),
    /// There is no such version.
    #[error("no version {0} is published")]
    NoVersion(u64),
    /// Nothing to roll back.
    #[error("no dictionary of this kind is published, or all are rolled back")]
    NothingPublished,
    /// The share is out of bounds.
    #[error("a rollout is 0 to 100 percent")]
    Rollout,
    /// It could not be kept; nothing changed.
    #[error("the dictionary cannot be kept: {0}")]
    Io(#[from] io::Error),
}

impl Library {
    /// Reads the files of the configuration and what was published before.
    ///
    /// # Errors
    /// Names the file of the configuration that cannot be used.
    pub fn open(settings: &Settings, keeps_files: bool) -> Result<Self, StartError> {
        let folder = keeps_files.then(|| settings.data_dir.join("dictionaries"));
        let level = settings.compression.level;
        let published = folder.as_ref().map(|folder| files::read(folder, level)).unwrap_or_default();
        let shelving = Shelving {
            folder,
            published,
            standing: Vec::new(),
            endpoints: None,
            versions_max: settings.dictionaries.versions_max,
            level,
            builtin_count: 0,
        };
        let library = Self {
            shelves: Shelves::default(),
            edition: ArcSwap::default(),
            changing: Mutex::new(shelving),
            sampler: Sampler::new(settings.dictionaries.samples_bytes_max),
            headers: HeaderSampler::new(settings.dictionaries.header_samples_bytes_max),
        };
        library.configure(settings)?;
        Ok(library)
    }

    /// Follows a changed configuration.
    ///
    /// # Errors
    /// As [`Library::open`]; nothing has changed then.
    pub fn configure(&self, settings: &Settings) -> Result<(), StartError> {
        let (standing, builtin_count) = standing(settings).map_err(StartError::Settings)?;
        let endpoints = settings.endpoint_list.as_ref().map(PublishedList::load).transpose();
        let endpoints =
            endpoints.map_err(|problem| StartError::Settings(format!("endpoint_list: {problem}")))?;
        let mut shelving = self.changing.lock();
        (shelving.standing, shelving.builtin_count) = (standing, builtin_count);
        shelving.follow_endpoints(endpoints);
        shelving.versions_max = settings.dictionaries.versions_max;
        shelving.level = settings.compression.level;
        let withdrawn = &settings.dictionaries.withdrawn;
        for entry in &mut shelving.published {
            let name = files::hex(&entry.hash);
            entry.withdrawn |= withdrawn.iter().any(|prefix| name.starts_with(&**prefix));
        }
        self.sampler.set_bytes_max(settings.dictionaries.samples_bytes_max);
        self.headers.configure(settings);
        self.issue(&shelving);
        Ok(())
    }

    /// What the link's machines read and write with.
    pub fn shelves(&self) -> Shelves {
        self.shelves.clone()
    }

    /// What is published now.
    pub fn edition(&self) -> Arc<Edition> {
        self.edition.load_full()
    }

    /// The number of the edition, which rises with each change.
    pub fn revision(&self) -> u64 {
        self.edition.load().revision
    }

    /// Publishes a dictionary to a share of the clients, and says which version it is.
    ///
    /// # Errors
    /// It cannot be used or kept, or is published already; nothing has changed then.
    pub fn publish(
        &self,
        kind: DictionaryKind,
        bytes: Bytes,
        rollout: u8,
        gain_percent: Option<f64>,
    ) -> Result<u64, LibraryError> {
        check_rollout(rollout)?;
        let hash = sha256(&bytes);
        let mut shelving = self.changing.lock();
        if let Some(known) = shelving.published.iter().find(|entry| entry.hash == hash) {
            return Err(LibraryError::Known(known.version));
        }
        let (dictionary, headers) = prepare(kind, &bytes, shelving.level)?;
        let version = shelving.published.iter().map(|entry| entry.version).max().unwrap_or(0) + 1;
        let withdrawn = false;
        let entry =
            Entry { hash, kind, version, rollout, withdrawn, gain_percent, bytes, dictionary, headers };
        let mut published = shelving.published.clone();
        published.insert(0, entry);
        keep_newest(&mut published, kind, shelving.versions_max);
        self.change(&mut shelving, published)?;
        Ok(version)
    }

    /// Changes the share of clients that a version is for. A version that was rolled back is in use again.
    ///
    /// # Errors
    /// There is no such version, the share is out of bounds, or the change could not be kept.
    pub fn roll_out(&self, version: u64, percent: u8) -> Result<(), LibraryError> {
        check_rollout(percent)?;
        let mut shelving = self.changing.lock();
        let mut published = shelving.published.clone();
        let entry = published.iter_mut().find(|entry| entry.version == version);
        let entry = entry.ok_or(LibraryError::NoVersion(version))?;
        (entry.rollout, entry.withdrawn) = (percent, false);
        self.change(&mut shelving, published)
    }

    /// Withdraws the newest dictionary of a kind that is in use: the one before is used again. Says which
    /// version that was.
    ///
    /// # Errors
    /// There is none, or the change could not be kept.
    pub fn roll_back(&self, kind: DictionaryKind) -> Result<u64, LibraryError> {
        let mut shelving = self.changing.lock();
        let mut published = shelving.published.clone();
        let newest = published.iter_mut().find(|entry| entry.kind == kind && !entry.withdrawn);
        let newest = newest.ok_or(LibraryError::NothingPublished)?;
        newest.withdrawn = true;
        let version = newest.version;
        self.change(&mut shelving, published)?;
        Ok(version)
    }

    /// Brings the counters of what dictionaries saved up to date.
    pub fn observe(&self, metrics: &Metrics) {
        self.edition().observe_endpoints(metrics);
        for entry in &self.edition().entries {
            let name = &files::hex(&entry.hash[..8])[..];
            let set = |what: &str, value: u64| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                metrics.dictionary_usage.with_label_values(&[name, what]).set(value);
            };
            if let Some(headers) = &entry.headers {
                set("connections", headers.connections());
            }
            if let Some(usage) = entry.dictionary.as_ref().map(Dictionary::usage) {
                set("messages", usage.messages.load(Ordering::Relaxed));
                set("bytes_before", usage.bytes_before.load(Ordering::Relaxed));
                set("bytes_after", usage.bytes_after.load(Ordering::Relaxed));
                set("messages_read", usage.messages_read.load(Ordering::Relaxed));
            }
        }
    }

    fn change(&self, shelving: &mut Shelving, published: Vec<Entry>) -> Result<(), LibraryError> {
        if let Some(folder) = &shelving.folder {
            files::write(folder, &published)?;
        }
        shelving.published = published;
        self.issue(shelving);
        Ok(())
    }

    /// Puts a state in force: first it can be read, then it is told.
    fn issue(&self, shelving: &Shelving) {
        let entries: Vec<Entry> = shelving.published.iter().chain(&shelving.standing).cloned().collect();
        let mut set = DictionarySet::new();
        for dictionary in entries.iter().filter_map(|entry| entry.dictionary.clone()) {
            if let Err(error) = set.insert(dictionary) {
                tracing::warn!("a dictionary is left out: {error}");
            }
        }
        self.shelves.payload.replace(set);
        self.shelves.headers.replace(entries.iter().filter_map(|entry| entry.headers.clone()).collect());
        let revision = self.edition.load().revision + 1;
        let has_news = entries.len() > shelving.builtin_count;
        let endpoints = shelving.endpoints.clone();
        self.edition.store(Arc::new(Edition { revision, entries, has_news, endpoints }));
    }
}

impl Shelving {
    /// Takes the endpoint list of the configuration, and says what clients will not do with it.
    fn follow_endpoints(&mut self, endpoints: Option<PublishedList>) {
        if let Some(list) = &endpoints {
            let serial = list.list().serial;
            if let Some(problem) = list.problem(SystemTime::now()) {
                tracing::warn!(serial, "the endpoint list is offered to nobody: {problem}");
            }
            let before = self.endpoints.as_ref().map_or(0, |before| before.list().serial);
            if serial < before {
                tracing::warn!(serial, before, "clients that have the endpoint list of before keep that");
            }
        }
        self.endpoints = endpoints.map(Arc::new);
    }
}

fn check_rollout(percent: u8) -> Result<(), LibraryError> {
    if percent <= 100 { Ok(()) } else { Err(LibraryError::Rollout) }
}

/// What the configuration names, and what is built in.
fn standing(settings: &Settings) -> Result<(Vec<Entry>, usize), String> {
    let compression = &settings.compression;
    let mut entries = Vec::new();
    let mut add = |file: &DictionaryFile| {
        let dictionary = file.prepare(compression.level).map_err(|error| error.to_string())?;
        entries.push(Entry {
            hash: sha256(file.bytes()),
            kind: DictionaryKind::Payload,
            version: 0,
            rollout: 100,
            withdrawn: false,
            gain_percent: None,
            bytes: file.bytes().clone(),
            dictionary: Some(dictionary),
            headers: None,
        });
        Ok::<_, String>(())
    };
    let named = |problem: &dyn std::fmt::Display| format!("compression.dictionaries: {problem}");
    for path in &compression.dictionaries {
        let file = DictionaryFile::load(path).map_err(|error| named(&error))?;
        add(&file).map_err(|error| named(&error))?;
    }
    let builtin = builtin().map_err(|error| named(&error))?;
    builtin.iter().try_for_each(&mut add)?;
    Ok((entries, builtin.len()))
}

/// Drops the oldest versions of a kind.
fn keep_newest(published: &mut Vec<Entry>, kind: DictionaryKind, versions_max: usize) {
    let mut seen = 0;
    published.retain(|entry| {
        seen += usize::from(entry.kind == kind);
        entry.kind != kind || seen <= versions_max
    });
}

type Prepared = (Option<Dictionary>, Option<Arc<HeaderDictionary>>);

/// Ready for use, as what it is.
pub(super) fn prepare(kind: DictionaryKind, bytes: &[u8], level: i32) -> Result<Prepared, LibraryError> {
    if bytes.len() > DICTIONARY_BYTES_MAX {
        return Err(DictionaryError::TooLarge { bytes: bytes.len() }.into());
    }
    let bytes = Bytes::copy_from_slice(bytes);
    Ok(match kind {
        DictionaryKind::Payload => (Some(Dictionary::new(bytes, level)?), None),
        DictionaryKind::Headers => (None, Some(Arc::new(HeaderDictionary::parse(bytes)?))),
        DictionaryKind::Unspecified | DictionaryKind::Endpoints => (None, None),
    })
}

#[cfg(test)]
mod tests {
    use towline_dictionaries::{TrainOptions, demo, train};

    use super::*;

    fn trained(first: u64) -> Bytes {
        let samples: Vec<_> = (first..first + 300).map(demo::message).collect();
        train(&samples, TrainOptions { size: 2048 }).unwrap().bytes().clone()
    }

    fn settings(folder: &tempfile::TempDir) -> Settings {
        let mut settings = Settings { data_dir: folder.path().into(), ..Settings::default() };
        settings.dictionaries.versions_max = 2;
        settings
    }

    fn ids(library: &Library) -> Vec<u32> {
        library.edition().order("phone-1")
    }

    #[test]
    fn what_is_published_rolled_out_and_back_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let library = Library::open(&settings, true).unwrap();
        let standing = ids(&library);
        assert!(!library.edition().has_news);
        let publish = |file: Bytes, rollout| library.publish(DictionaryKind::Payload, file, rollout, None);
        let (first, second) = (trained(0), trained(1000));
        assert_eq!(publish(first.clone(), 100).unwrap(), 1);
        assert!(matches!(publish(first.clone(), 100), Err(LibraryError::Known(1))));
        let with_first = ids(&library);
        assert_eq!(with_first.len(), standing.len() + 1);
        assert_eq!(publish(second, 0).unwrap(), 2);
        assert_eq!(ids(&library), with_first, "nobody has the second yet");
        library.roll_out(2, 100).unwrap();
        assert_eq!(ids(&library).len(), standing.len() + 2);
        assert_eq!(library.roll_back(DictionaryKind::Payload).unwrap(), 2);
        assert_eq!(ids(&library), with_first);
        assert!(library.shelves().payload.ids().len() > with_first.len(), "what is under way can be read");

        let again = Library::open(&settings, true).unwrap();
        assert_eq!(ids(&again), with_first);
        assert_eq!(again.roll_back(DictionaryKind::Payload).unwrap(), 1);
        assert_eq!(ids(&again), standing);
        assert!(matches!(again.roll_back(DictionaryKind::Payload), Err(LibraryError::NothingPublished)));
    }

    #[test]
    fn what_is_no_header_dictionary_is_not_published_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(&settings(&folder), true).unwrap();
        let publish = |text: String| {
            let published = library.publish(DictionaryKind::Headers, text.into(), 100, None);
            published.map_err(|error| error.to_string())
        };
        let refused = |text: String, problem: &str| {
            let error = publish(text).unwrap_err();
            assert!(error.contains(problem), "{error}");
        };
        refused("x-app-version: 7.1\n".to_owned(), "begins with the line");
        refused("towline headers 1\ncookie: a=b\n".to_owned(), "line 2 holds a credential");
        let many: String = (0..1025).map(|n| format!("x-{n}: 1\n")).collect();
        refused(format!("towline headers 1\n{many}"), "1024 fields");
        assert!(!library.edition().has_news);
        let text = "towline headers 1\nx-app-version: 7.1\n";
        assert_eq!(publish(text.to_owned()), Ok(1));
        let id = library.edition().header_order("phone-1")[0];
        assert!(library.shelves().headers.get(id).is_some());
        assert_eq!(library.roll_back(DictionaryKind::Headers).unwrap(), 1);
        assert!(library.edition().header_order("phone-1").is_empty());
        assert!(library.shelves().headers.get(id).is_some(), "clients that have not heard may name it");
        let again = Library::open(&settings(&folder), true).unwrap();
        assert!(again.shelves().headers.get(id).is_some());
    }

    #[test]
    fn old_versions_go() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(&settings(&folder), true).unwrap();
        for n in 0..3 {
            library.publish(DictionaryKind::Payload, trained(n * 1000), 100, None).unwrap();
        }
        let versions: Vec<u64> = library.edition().entries.iter().map(|entry| entry.version).collect();
        assert_eq!(versions[..2], [3, 2]);
        assert!(!versions.contains(&1));
        let files = std::fs::read_dir(folder.path().join("dictionaries")).unwrap().count();
        assert_eq!(files, 3, "two dictionaries and the index");
    }

    #[test]
    fn the_configuration_withdraws() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&folder);
        let library = Library::open(&settings, true).unwrap();
        let standing = ids(&library);
        let file = trained(0);
        library.publish(DictionaryKind::Payload, file.clone(), 100, None).unwrap();
        settings.dictionaries.withdrawn = vec![files::hex(&sha256(&file))[..16].to_owned()];
        library.configure(&settings).unwrap();
        assert_eq!(ids(&library), standing);
    }

    #[test]
    fn a_file_that_was_changed_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let library = Library::open(&settings, true).unwrap();
        let file = trained(0);
        library.publish(DictionaryKind::Payload, file.clone(), 100, None).unwrap();
        let path = folder.path().join(format!("dictionaries/{}.payload", files::hex(&sha256(&file))));
        std::fs::write(&path, b"other").unwrap();
        let again = Library::open(&settings, true).unwrap();
        assert!(!again.edition().has_news);
    }
}
