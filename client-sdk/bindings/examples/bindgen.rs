//! Writes the generated half of a language's binding: `bindgen LANGUAGE LIBRARY FOLDER`, where the language is kotlin,
//! swift or python, and the library is a build of this crate for the machine that this runs on.

use std::{env, process::ExitCode};

use uniffi::{GenerateOptions, TargetLanguage};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [language, library, folder] = arguments.as_slice() else {
        eprintln!("usage: bindgen kotlin|swift|python LIBRARY FOLDER");
        return ExitCode::from(2);
    };
    let language = match language.as_str() {
        "kotlin" => TargetLanguage::Kotlin,
        "swift" => TargetLanguage::Swift,
        "python" => TargetLanguage::Python,
        other => {
            eprintln!("`{other}` is none of kotlin, swift, python");
            return ExitCode::from(2);
        }
    };
    let options = GenerateOptions {
        languages: vec![language],
        source: library.into(),
        out_dir: folder.into(),
        config_override: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/bindgen.toml").into()),
        format: false,
        crate_filter: None,
        metadata_no_deps: true,
    };
    match uniffi::generate(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
