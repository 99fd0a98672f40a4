//! Header lists from a file, one a line.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use serde::Deserialize;
use towline_protocols::hpack::HeaderField;

use super::HeaderSample;
use crate::{DictError, SAMPLES_BYTES_MAX, SAMPLES_MAX};

/// One line, as JSON:
///
/// ```text
/// {"client":"a1","fields":[[":method","POST"],[":path","/shop.Orders/Get"],["x-app-version","7.1"]]}
/// ```
///
/// `client` is any text that tells clients apart; `fields` are the list's, in order, with names in lower case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: String,
    fields: Vec<(String, String)>,
}

/// Reads a file of header lists; empty lines count for nothing. Of each list the same is left out as where a gateway
/// samples.
///
/// # Errors
/// Names the first line that is none, or the bound that the file goes beyond.
pub fn read_header_samples(
    path: &Path,
    is_left_out: impl Fn(&[u8]) -> bool,
) -> Result<Vec<HeaderSample>, DictError> {
    let io_error = |source| DictError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_error)?;
    if file.metadata().map_err(io_error)?.len() > SAMPLES_BYTES_MAX as u64 {
        return Err(DictError::SamplesTooLarge(path.to_owned()));
    }
    let mut samples = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file.take(SAMPLES_BYTES_MAX as u64)).lines()) {
        let line = line.map_err(io_error)?;
        if line.trim().is_empty() {
            continue;
        }
        if samples.len() == SAMPLES_MAX {
            return Err(DictError::TooManySamples(path.to_owned()));
        }
        let list =
            list(&line).map_err(|problem| DictError::Line { path: path.to_owned(), number, problem })?;
        samples.push(HeaderSample::of(list.0, &list.1, &is_left_out));
    }
    Ok(samples)
}

fn list(line: &str) -> Result<(u64, Vec<HeaderField>), String> {
    let Line { client, fields } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    let is_name = |name: &str| {
        let name = name.strip_prefix(':').unwrap_or(name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
    };
    if let Some((name, _)) = fields.iter().find(|(name, _)| !is_name(name)) {
        return Err(format!("\"{name}\" is not the name of a field, in lower case"));
    }
    let fields = fields.into_iter().map(|(name, value)| HeaderField::new(name, value));
    Ok((hasher.finish(), fields.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(text: &str) -> Result<Vec<HeaderSample>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lists.jsonl");
        std::fs::write(&path, text).unwrap();
        read_header_samples(&path, |name| name == b"x-mine").map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read_line_by_line() {
        let samples = read(concat!(
            "{\"client\":\"a\",\"fields\":[[\":method\",\"GET\"],[\"cookie\",\"a=b\"],[\"x-mine\",\"1\"]]}\n",
            "\n",
            "{\"client\":\"b\",\"fields\":[[\":method\",\"GET\"]]}\n",
        ));
        let samples = samples.unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].fields, [HeaderField::from_static(":method", "GET")]);
        assert_eq!(samples[0].fields, samples[1].fields);
        assert_ne!(samples[0].client, samples[1].client);
    }

    #[test]
    fn a_line_that_is_no_list_is_named() {
        let good = "{\"client\":\"a\",\"fields\":[]}\n";
        for (wrong, problem) in [
            ("{\"fields\":[]}", "client"),
            ("{\"client\":\"a\",\"fields\":[[\"a\"]]}", "tuple"),
            ("{\"client\":\"a\",\"fields\":[[\"A\",\"b\"]]}", "\"A\" is not the name"),
            ("{\"client\":\"a\",\"fields\":[],\"x\":1}", "unknown field"),
        ] {
            let error = read(&format!("{good}{wrong}\n")).unwrap_err();
            assert!(error.contains("lists.jsonl:2: ") && error.contains(problem), "{error}");
        }
    }
}
