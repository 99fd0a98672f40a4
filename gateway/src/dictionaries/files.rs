//! Published dictionaries in `data_dir/dictionaries`: a file each, and an index with what is known of them.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use towline_dictionaries::sha256;
use towline_protocols::link::DictionaryKind;

use super::{Entry, library::prepare};

/// What the index keeps of a dictionary.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    hash: String,
    kind: String,
    version: u64,
    rollout: u8,
    withdrawn: bool,
    gain_percent: Option<f64>,
}

const INDEX: &str = "index.json";

/// Reads what was published, the newest first. What is damaged is left out, and the log says so: a dictionary
/// is never worth a gateway that does not start.
pub(super) fn read(folder: &Path, level: i32) -> Vec<Entry> {
    let Ok(text) = fs::read(folder.join(INDEX)) else { return Vec::new() };
    let records: Vec<Record> = match serde_json::from_slice(&text) {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!("{}: {error}; no published dictionary is used", folder.join(INDEX).display());
            return Vec::new();
        }
    };
    let read = records.iter().filter_map(|record| {
        let path = path_of(folder, &record.hash, &record.kind);
        entry(&path, record, level)
            .inspect_err(|problem| tracing::warn!("{}: {problem}; it is left out", path.display()))
            .ok()
    });
    read.collect()
}

fn entry(path: &Path, record: &Record, level: i32) -> Result<Entry, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let hash = sha256(&bytes);
    if hex(&hash) != record.hash {
        return Err("is not the dictionary that its name says".to_owned());
    }
    let kind = kind_of(&record.kind).ok_or("is of no kind that is known")?;
    let (dictionary, headers) = prepare(kind, &bytes, level).map_err(|error| error.to_string())?;
    let Record { version, rollout, withdrawn, gain_percent, .. } = *record;
    let bytes = bytes.into();
    Ok(Entry { hash, kind, version, rollout, withdrawn, gain_percent, bytes, dictionary, headers })
}

/// Writes what is not there yet, then the index, then removes what it does not name.
pub(super) fn write(folder: &Path, entries: &[Entry]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in entries {
        let path = path_of(folder, &hex(&entry.hash), kind_name(entry.kind));
        if !path.exists() {
            replace(&path, &entry.bytes)?;
        }
    }
    let records: Vec<Record> = entries.iter().map(Record::of).collect();
    let text = serde_json::to_vec_pretty(&records).map_err(io::Error::other)?;
    replace(&folder.join(INDEX), &text)?;
    remove_others(folder, &records)
}

fn remove_others(folder: &Path, records: &[Record]) -> io::Result<()> {
    let named: Vec<PathBuf> =
        records.iter().map(|record| path_of(folder, &record.hash, &record.kind)).collect();
    for found in fs::read_dir(folder)? {
        let path = found?.path();
        if path.file_name().is_some_and(|name| name != INDEX) && !named.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("part");
    fs::write(&beside, bytes)?;
    fs::rename(beside, path)
}

fn path_of(folder: &Path, hash: &str, kind: &str) -> PathBuf {
    folder.join(format!("{hash}.{kind}"))
}

/// The kind as it is written.
pub(crate) fn kind_name(kind: DictionaryKind) -> &'static str {
    match kind {
        DictionaryKind::Headers => "headers",
        DictionaryKind::Payload | DictionaryKind::Endpoints | DictionaryKind::Unspecified => "payload",
    }
}

/// The kind of that name.
pub(crate) fn kind_of(name: &str) -> Option<DictionaryKind> {
    match name {
        "payload" => Some(DictionaryKind::Payload),
        "headers" => Some(DictionaryKind::Headers),
        _ => None,
    }
}

/// A hash as it is written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Record {
    fn of(entry: &Entry) -> Self {
        let Entry { version, rollout, withdrawn, gain_percent, .. } = *entry;
        let (hash, kind) = (hex(&entry.hash), kind_name(entry.kind).to_owned());
        Self { hash, kind, version, rollout, withdrawn, gain_percent }
    }
}
