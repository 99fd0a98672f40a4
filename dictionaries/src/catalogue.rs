//! The dictionaries that come with the program.

use std::path::Path;

use bytes::Bytes;
use towline_protocols::compress::DictionarySet;

use crate::{DictError, DictionaryFile};

/// One dictionary of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What it is for.
    pub name: &'static str,
    /// The id that frames name it by.
    pub id: u32,
    /// SHA-256 of the file in hex.
    pub sha256: &'static str,
    /// What it was trained on.
    pub trained_on: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

/// Every built-in dictionary, the most preferred first.
///
/// The demo dictionary is made again by `towline dict samples DIR` and
/// `towline dict train DIR -o FILE --size 16384`; another version of zstd may make a slightly different one.
pub const BUILTIN: [Builtin; 1] = [Builtin {
    name: "demo",
    id: 1_671_752_491,
    sha256: "cf25f28bbe65cc483d2ada2a929302682c045ab092a417968bd61a0a69e8fb59",
    trained_on: "messages of the demo backend: nine in ten of demo::TRAINING_SEEDS",
    bytes: include_bytes!("../trained/demo-1671752491.dict"),
}];

/// The built-in dictionaries, each checked against its id and hash.
pub fn builtin() -> Result<Vec<DictionaryFile>, DictError> {
    BUILTIN.iter().map(Builtin::file).collect()
}

/// The built-in dictionaries prepared to compress at `level`: what a gateway or a client holds when
/// nothing else is configured.
pub fn builtin_set(level: i32) -> Result<DictionarySet, DictError> {
    load_set::<&Path>(&[], level)
}

/// The dictionaries of `files`, the most preferred first, and behind them the built-in ones, prepared to
/// compress at `level`.
pub fn load_set<P: AsRef<Path>>(files: &[P], level: i32) -> Result<DictionarySet, DictError> {
    let mut set = DictionarySet::new();
    for path in files {
        let path = path.as_ref();
        let in_file = |source| DictError::File { path: path.to_owned(), source };
        let dictionary = DictionaryFile::load(path)?;
        set.insert(dictionary.prepare(level).map_err(in_file)?).map_err(in_file)?;
    }
    for dictionary in builtin()? {
        set.insert(dictionary.prepare(level)?)?;
    }
    Ok(set)
}

impl Builtin {
    fn file(&self) -> Result<DictionaryFile, DictError> {
        let file = DictionaryFile::of_hash(Bytes::from_static(self.bytes), self.sha256)?;
        if file.id() != self.id {
            return Err(DictError::IdDiffers { found: file.id(), expected: self.id });
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use towline_protocols::compress::{Compressor, LEVEL_DEFAULT, decompress};

    use super::*;
    use crate::{SIZE_DEFAULT, TrainOptions, demo, measure, train};

    #[test]
    fn every_file_is_what_the_catalogue_says() {
        for (entry, file) in BUILTIN.iter().zip(builtin().unwrap()) {
            assert_eq!((file.id(), file.sha256()), (entry.id, entry.sha256));
            assert_eq!(DictionaryFile::from_bytes(entry.bytes).unwrap(), file, "zstd takes it");
            assert!(file.has_content_id());
            assert!(file.bytes().len() <= SIZE_DEFAULT);
        }
    }

    #[test]
    fn a_file_that_differs_from_its_entry_is_refused() {
        let changed = Builtin { sha256: "00", ..BUILTIN[0] };
        assert!(matches!(changed.file(), Err(DictError::HashDiffers { .. })));
        let changed = Builtin { id: 40_000, ..BUILTIN[0] };
        assert!(matches!(changed.file(), Err(DictError::IdDiffers { expected: 40_000, .. })));
    }

    #[test]
    fn on_messages_it_was_not_trained_on_the_demo_dictionary_saves_a_quarter_and_more() {
        let held_back: Vec<_> = demo::HELD_BACK_SEEDS.map(demo::message).collect();
        let gain = measure(&builtin().unwrap()[0], &held_back, LEVEL_DEFAULT).unwrap();
        println!(
            "{} held-back messages: {} bytes, {} compressed without, {} with the dictionary: {:.1} % less",
            gain.messages,
            gain.bytes,
            gain.bytes_without,
            gain.bytes_with,
            gain.percent()
        );
        assert!(gain.percent() >= 25.0, "{gain:?}");
    }

    #[test]
    fn files_are_preferred_to_the_built_in_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.dict");
        let samples: Vec<_> = (0..500).map(demo::message).collect();
        let own = train(&samples, TrainOptions { size: 4096 }).unwrap();
        own.save(&path).unwrap();
        let built_in = folder.path().join("demo.dict");
        builtin().unwrap()[0].save(&built_in).unwrap();

        let ids = |files: &[&Path]| load_set(files, LEVEL_DEFAULT).unwrap().ids();
        assert_eq!(ids(&[]), [BUILTIN[0].id]);
        assert_eq!(ids(&[&path]), [own.id(), BUILTIN[0].id]);
        assert_eq!(ids(&[&built_in, &path]), [BUILTIN[0].id, own.id()], "the same one twice counts once");

        let missing = load_set(&[folder.path().join("missing.dict")], LEVEL_DEFAULT).unwrap_err();
        assert!(missing.to_string().contains("missing.dict"), "{missing}");
    }

    #[test]
    fn held_back_messages_come_back() {
        let set = builtin_set(LEVEL_DEFAULT).unwrap();
        let compressor = Compressor::default().with_common_dictionary(&set, &set.ids());
        let mut compressed_count = 0;
        for message in demo::HELD_BACK_SEEDS.take(200).map(demo::message) {
            if let Some(compressed) = compressor.compress(&message) {
                compressed_count += 1;
                assert_eq!(decompress(&compressed.frame, &set, message.len()).unwrap(), message);
            }
        }
        assert!(compressed_count > 100, "{compressed_count} of 200 were compressed");
    }
}
