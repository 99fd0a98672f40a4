//! A dictionary as a file holds it.
//!
//! ```text
//! magic 37 A4 30 EC | id, 4 octets little-endian | entropy tables | content
//! ```

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Read,
    path::Path,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use towline_protocols::compress::{DICTIONARY_BYTES_MAX, Dictionary, DictionaryError, LEVEL_DEFAULT};

use crate::DictError;

/// Where the id stands.
const ID: std::ops::Range<usize> = 4..8;

/// Ids below are reserved for a public registry, and so are those of 2^31 and above
/// (RFC 8878, section 5).
const ID_MIN: u32 = 32_768;

/// A dictionary that zstd accepts, with its id and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictionaryFile {
    id: u32,
    sha256: String,
    bytes: Bytes,
}

impl DictionaryFile {
    /// Checks that zstd can use `bytes` as a dictionary and computes their hash.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, DictionaryError> {
        let bytes = bytes.into();
        let id = Dictionary::new(bytes.clone(), LEVEL_DEFAULT)?.id();
        Ok(Self { id, sha256: sha256_hex(&bytes), bytes })
    }

    /// One that came with the program. What its hash says to be unchanged, zstd need not look at twice.
    pub(crate) fn of_hash(bytes: Bytes, sha256: &str) -> Result<Self, DictError> {
        let found = sha256_hex(&bytes);
        if found != sha256 {
            return Err(DictError::HashDiffers { found, expected: sha256.to_owned() });
        }
        let id = bytes.get(ID).and_then(|id| id.try_into().ok()).map(u32::from_le_bytes);
        let id = id.ok_or(DictionaryError::NoId)?;
        Ok(Self { id, sha256: found, bytes })
    }

    /// Reads a dictionary made by `towline dict train` or `zstd --train`.
    pub fn load(path: &Path) -> Result<Self, DictError> {
        let io_error = |source| DictError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One byte more than allowed is enough to refuse a file of any size.
        let file = File::open(path).map_err(io_error)?;
        file.take(DICTIONARY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(io_error)?;
        Self::from_bytes(bytes).map_err(|source| DictError::File { path: path.to_owned(), source })
    }

    /// Writes the file whole or not at all: first beside its place, then moved into it.
    pub fn save(&self, path: &Path) -> Result<(), DictError> {
        let io_error = |source| DictError::Io { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        fs::write(&beside, &self.bytes).map_err(io_error)?;
        fs::rename(&beside, path).map_err(io_error)
    }

    /// Gives a fresh dictionary the id that its content has, in place of whatever zstd chose.
    pub(crate) fn with_content_id(mut bytes: Vec<u8>) -> Result<Self, DictionaryError> {
        if bytes.len() < ID.end {
            return Err(DictionaryError::NoId);
        }
        let id = content_id(&bytes);
        bytes[ID].copy_from_slice(&id.to_le_bytes());
        Self::from_bytes(bytes)
    }

    /// Whether the id is the one derived from the content, as [`crate::train`] gives it; others come from
    /// zstd's own trainer, which draws them at random.
    pub fn has_content_id(&self) -> bool {
        self.id == content_id(&self.bytes)
    }

    /// The id that frames name it by.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// SHA-256 of the file in hex: the name of this version.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The file's content.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Prepares it to compress at `level` and to decompress.
    pub fn prepare(&self, level: i32) -> Result<Dictionary, DictionaryError> {
        Dictionary::new(self.bytes.clone(), level)
    }
}

/// The first 31 bits of the SHA-256 of the dictionary with its id zeroed, raised out of the reserved
/// range where they fall into it.
fn content_id(bytes: &[u8]) -> u32 {
    let (head, tail) = bytes.split_at(ID.end.min(bytes.len()));
    let hash = Sha256::new()
        .chain_update(&head[..ID.start.min(head.len())])
        .chain_update([0; ID.end - ID.start])
        .chain_update(tail)
        .finalize();
    let id = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) >> 1;
    if id < ID_MIN { id + ID_MIN } else { id }
}

/// What names a dictionary on the link and on disk.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn sha256_hex(bytes: &[u8]) -> String {
    sha256(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TrainOptions, demo, train};

    fn trained() -> DictionaryFile {
        let samples: Vec<_> = (0..500).map(demo::message).collect();
        train(&samples, TrainOptions { size: 4096 }).unwrap()
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.dict");
        let dictionary = trained();
        dictionary.save(&path).unwrap();
        assert_eq!(DictionaryFile::load(&path).unwrap(), dictionary);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_id_follows_from_the_content() {
        let dictionary = trained();
        assert!(dictionary.has_content_id());
        assert!((ID_MIN..1 << 31).contains(&dictionary.id()));
        assert_eq!(dictionary.prepare(3).unwrap().id(), dictionary.id());

        let mut bytes = dictionary.bytes().to_vec();
        bytes[ID].copy_from_slice(&77_777u32.to_le_bytes());
        let foreign = DictionaryFile::from_bytes(bytes.clone()).unwrap();
        assert_eq!((foreign.id(), foreign.has_content_id()), (77_777, false));
        assert_ne!(foreign.sha256(), dictionary.sha256());
        assert_eq!(DictionaryFile::with_content_id(bytes.clone()).unwrap(), dictionary, "whatever id it had");

        *bytes.last_mut().unwrap() ^= 1;
        assert_ne!(DictionaryFile::with_content_id(bytes).unwrap().id(), dictionary.id());
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn what_is_no_dictionary_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, content: &[u8], message: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let error = DictionaryFile::load(&path).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(message), "{error}");
        };
        check("empty.dict", b"", "not a zstd dictionary");
        check("text.dict", b"not a dictionary at all", "not a zstd dictionary");
        check("cut.dict", &trained().bytes()[..20], "malformed");
        check("large.dict", &vec![0; DICTIONARY_BYTES_MAX + 1], "more than");
        let missing = DictionaryFile::load(&folder.path().join("missing.dict")).unwrap_err();
        assert!(matches!(missing, DictError::Io { .. }));
    }
}
