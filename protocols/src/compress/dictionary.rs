//! Dictionaries prepared for use, and the set of those that one side holds.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use thiserror::Error;
use zstd::zstd_safe::{self, CDict, DDict};

/// The largest dictionary accepted. Gains flatten out well below; prepared for compression it costs a
/// few times its size.
pub const DICTIONARY_BYTES_MAX: usize = 512 * 1024;

/// How many dictionaries a set holds: a current and a previous version for a handful of kinds of traffic.
pub const DICTIONARIES_MAX: usize = 16;

/// The level of a dictionary's second tables, and from which level on they are used.
const THOROUGH: i32 = 9;
const THOROUGH_FROM: i32 = 8;

/// A zstd dictionary, prepared once for both directions. Clones share it.
#[derive(Clone)]
pub struct Dictionary {
    prepared: Arc<Prepared>,
}

struct Prepared {
    id: u32,
    bytes: Bytes,
    level: i32,
    encoder: CDict<'static>,
    /// For slow networks; made when the first message asks for it, `None` where there is no memory for it.
    thorough: OnceLock<Option<CDict<'static>>>,
    decoder: DDict<'static>,
    usage: Usage,
}

/// What a dictionary was used for by this process, with all peers.
#[derive(Debug, Default)]
pub struct Usage {
    /// Messages that it made smaller.
    pub messages: AtomicU64,
    /// Their bytes before.
    pub bytes_before: AtomicU64,
    /// Their bytes on the wire.
    pub bytes_after: AtomicU64,
    /// Messages that were read with it.
    pub messages_read: AtomicU64,
}

impl Dictionary {
    /// Prepares a dictionary in zstd's format (RFC 8878, section 5), to compress at `level`.
    pub fn new(bytes: impl Into<Bytes>, level: i32) -> Result<Self, DictionaryError> {
        let bytes = bytes.into();
        if bytes.len() > DICTIONARY_BYTES_MAX {
            return Err(DictionaryError::TooLarge { bytes: bytes.len() });
        }
        let id = zstd_safe::get_dict_id_from_dict(&bytes).ok_or(DictionaryError::NoId)?.get();
        let encoder = CDict::try_create(&bytes, level).ok_or(DictionaryError::Malformed)?;
        let decoder = DDict::try_create(&bytes).ok_or(DictionaryError::Malformed)?;
        Ok(Self {
            prepared: Arc::new(Prepared {
                id,
                bytes,
                level,
                encoder,
                thorough: OnceLock::new(),
                decoder,
                usage: Usage::default(),
            }),
        })
    }

    /// The id that frames name it by.
    pub fn id(&self) -> u32 {
        self.prepared.id
    }

    /// The dictionary as a file holds it.
    pub fn bytes(&self) -> &Bytes {
        &self.prepared.bytes
    }

    /// The level it compresses at.
    pub fn level(&self) -> i32 {
        self.prepared.level
    }

    /// What it was used for.
    pub fn usage(&self) -> &Usage {
        &self.prepared.usage
    }

    /// For messages at that level. Each level would need tables of its own: there are those of the dictionary's level,
    /// and of a thorough one.
    pub(super) fn encoder(&self, level: i32) -> &CDict<'static> {
        let Prepared { bytes, encoder, thorough, .. } = &*self.prepared;
        if level < THOROUGH_FROM || self.level() >= THOROUGH {
            return encoder;
        }
        thorough.get_or_init(|| CDict::try_create(bytes, THOROUGH)).as_ref().unwrap_or(encoder)
    }

    pub(super) fn decoder(&self) -> &DDict<'static> {
        &self.prepared.decoder
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dictionary({}, {} bytes, level {})", self.id(), self.bytes().len(), self.level())
    }
}

impl Usage {
    pub(super) fn wrote(&self, bytes_before: usize, bytes_after: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes_before.fetch_add(bytes_before as u64, Ordering::Relaxed);
        self.bytes_after.fetch_add(bytes_after as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) {
        self.messages_read.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a dictionary cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DictionaryError {
    /// Larger than [`DICTIONARY_BYTES_MAX`].
    #[error("dictionary has {bytes} bytes, more than {DICTIONARY_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It does not begin with zstd's dictionary magic and an id other than zero.
    #[error("not a zstd dictionary with an id (raw content cannot be named in a frame)")]
    NoId,
    /// Its tables cannot be read.
    #[error("zstd dictionary is malformed")]
    Malformed,
    /// The set already holds [`DICTIONARIES_MAX`].
    #[error("more than {DICTIONARIES_MAX} dictionaries")]
    TooMany,
    /// The set holds another dictionary with this id.
    #[error("another dictionary has the id {0} already")]
    IdTaken(u32),
}

/// The dictionaries that one side holds, in order of preference, the best first. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DictionarySet {
    dictionaries: Vec<Dictionary>,
}

impl DictionarySet {
    /// An empty set: only frames without a dictionary can be read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dictionary, less preferred than those before. Adding the same one again does nothing.
    pub fn insert(&mut self, dictionary: Dictionary) -> Result<(), DictionaryError> {
        if let Some(present) = self.get(dictionary.id()) {
            let same = present.bytes() == dictionary.bytes();
            return if same { Ok(()) } else { Err(DictionaryError::IdTaken(dictionary.id())) };
        }
        if self.dictionaries.len() == DICTIONARIES_MAX {
            return Err(DictionaryError::TooMany);
        }
        self.dictionaries.push(dictionary);
        Ok(())
    }

    /// The dictionary with this id.
    pub fn get(&self, id: u32) -> Option<&Dictionary> {
        self.dictionaries.iter().find(|dictionary| dictionary.id() == id)
    }

    /// All ids, the most preferred first: what HELLO and WELCOME announce.
    pub fn ids(&self) -> Vec<u32> {
        self.dictionaries.iter().map(Dictionary::id).collect()
    }

    /// The most preferred dictionary that a peer with `peer_ids` can read.
    pub fn best_common(&self, peer_ids: &[u32]) -> Option<&Dictionary> {
        self.dictionaries.iter().find(|dictionary| peer_ids.contains(&dictionary.id()))
    }

    /// Each of them, the most preferred first.
    pub fn iter(&self) -> impl Iterator<Item = &Dictionary> {
        self.dictionaries.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.dictionaries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dictionaries.is_empty()
    }
}
