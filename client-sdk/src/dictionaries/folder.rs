//! Fetched dictionaries on disk: `<hash in hex>.<kind>`, each checked against its name when it is read.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use towline_dictionaries::sha256;
use towline_protocols::{compress::DICTIONARY_BYTES_MAX, link::DictionaryKind};

use super::fetch::Fetched;

/// The folder of one identity.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn beside(identity: &Path) -> Self {
        let mut path = identity.as_os_str().to_owned();
        path.push(".dictionaries");
        Self { path: path.into() }
    }

    /// Every dictionary in it that is whole, the newest first. What is not is removed; a folder that cannot be
    /// read holds none, since dictionaries can be fetched again.
    pub(super) fn read(&self) -> Vec<Fetched> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut found: Vec<(SystemTime, Fetched)> = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            match read_file(&path) {
                Some(dictionary) => found.push(dictionary),
                None => drop(fs::remove_file(&path)),
            }
        }
        found.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        found.into_iter().map(|(_, dictionary)| dictionary).collect()
    }

    /// Writes beside and renames, so that a crash leaves no half of one.
    pub(super) fn write(&self, dictionary: &Fetched) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let path = self.path_of(dictionary);
        let beside = path.with_extension("part");
        fs::write(&beside, &dictionary.bytes)?;
        fs::rename(&beside, &path)
    }

    pub(super) fn remove(&self, dictionary: &Fetched) {
        // It is not read again in any case: what is too much is dropped when the folder is read.
        let _ = fs::remove_file(self.path_of(dictionary));
    }

    fn path_of(&self, dictionary: &Fetched) -> PathBuf {
        let name = match dictionary.kind {
            DictionaryKind::Headers => "headers",
            _ => "payload",
        };
        self.path.join(format!("{}.{name}", hex(&dictionary.hash)))
    }
}

fn read_file(path: &Path) -> Option<(SystemTime, Fetched)> {
    let kind = match path.extension()?.to_str()? {
        "payload" => DictionaryKind::Payload,
        "headers" => DictionaryKind::Headers,
        _ => return None,
    };
    let facts = fs::metadata(path).ok()?;
    if facts.len() > DICTIONARY_BYTES_MAX as u64 {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let hash = sha256(&bytes);
    let named = path.file_stem()?.to_str()? == hex(&hash);
    let dictionary = Fetched { hash: hash.to_vec().into(), kind, bytes: bytes.into() };
    named.then_some((facts.modified().ok()?, dictionary))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
