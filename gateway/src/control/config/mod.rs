//! The configuration file: TOML in, [`Settings`] or every mistake out.

mod mistakes;
mod policy;
mod reader;
mod sections;

use std::{fs, path::Path};

use towline_crypto::Providers;

pub use self::mistakes::{Mistake, Mistakes};
pub use self::policy::{DOCUMENT_BYTES_MAX, parse_policy};
use self::reader::Reader;
use crate::settings::Settings;

/// Reads and checks a configuration file and the files that it names; listeners may name `providers`.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn load(path: &Path, providers: &Providers) -> Result<Settings, Mistakes> {
    let source = fs::read_to_string(path).map_err(|error| Mistakes::of_file(path, &error))?;
    parse_with(path, &source, providers)
}

/// As [`load`], from text, with the providers that are built in. `path` is named in mistakes, and relative paths
/// start from its folder.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn parse(path: &Path, source: &str) -> Result<Settings, Mistakes> {
    parse_with(path, source, &Providers::default())
}

/// As [`parse`]; listeners may name `providers`.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn parse_with(path: &Path, source: &str, providers: &Providers) -> Result<Settings, Mistakes> {
    let base = path.parent().unwrap_or(Path::new(""));
    let (settings, mistakes) = read(base, source, providers);
    if mistakes.is_empty() { Ok(settings) } else { Err(Mistakes::new(path, source, mistakes)) }
}

fn read(base: &Path, source: &str, providers: &Providers) -> (Settings, Vec<Mistake>) {
    let reader = Reader::new(base, providers);
    let document = reader.document(source);
    // After a syntax error the tables are best-effort: complaints about what is missing would mislead.
    let settings = if reader.is_clean() {
        sections::settings(reader.root(document.get_ref()))
    } else {
        Settings::default()
    };
    (settings, reader.into_mistakes())
}

#[cfg(test)]
mod tests;
