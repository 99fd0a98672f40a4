//! The half of a binding that uniffi writes.

use std::path::Path;

use uniffi::{GenerateOptions, TargetLanguage};

use crate::bed::{library_folder, library_in, package};

pub(crate) fn write(language: TargetLanguage, folder: &Path) {
    let source = library_in(&library_folder());
    let options = GenerateOptions {
        languages: vec![language],
        source: source.to_str().unwrap().into(),
        out_dir: folder.to_str().unwrap().into(),
        config_override: Some(package().join("bindgen.toml").to_str().unwrap().into()),
        format: false,
        crate_filter: None,
        metadata_no_deps: true,
    };
    uniffi::generate(options).unwrap();
}
