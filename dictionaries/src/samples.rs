//! Samples from a folder, each file one message.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use crate::DictError;

/// The largest sample. zstd's trainer looks at the first 128 KiB only, and larger messages gain nothing
/// from a dictionary.
pub const SAMPLE_BYTES_MAX: usize = 128 * 1024;

/// The most samples: what a trainer can learn from more is measured in tenths of a percent.
pub const SAMPLES_MAX: usize = 100_000;

/// All samples together: they are held in memory twice while training.
pub const SAMPLES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Reads every file of a folder, in order of names, so that the same folder gives the same dictionary.
/// Empty files are left out.
pub fn read_samples(folder: &Path) -> Result<Vec<Vec<u8>>, DictError> {
    let mut samples = Vec::new();
    let mut bytes_total = 0;
    for path in sorted_files(folder)? {
        let sample = read_sample(&path)?;
        bytes_total += sample.len();
        if bytes_total > SAMPLES_BYTES_MAX {
            return Err(DictError::SamplesTooLarge(folder.to_owned()));
        }
        if !sample.is_empty() {
            samples.push(sample);
        }
    }
    Ok(samples)
}

/// Splits samples into those to train on and every tenth, to measure with.
pub fn hold_back<S>(samples: Vec<S>) -> (Vec<S>, Vec<S>) {
    let (held_back, training): (Vec<_>, Vec<_>) =
        samples.into_iter().enumerate().partition(|(position, _)| position % 10 == 9);
    let without_position = |list: Vec<(usize, S)>| list.into_iter().map(|(_, sample)| sample).collect();
    (without_position(training), without_position(held_back))
}

fn sorted_files(folder: &Path) -> Result<Vec<PathBuf>, DictError> {
    let io_error = |source| DictError::Io { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        paths.push(entry.map_err(io_error)?.path());
        if paths.len() > SAMPLES_MAX {
            return Err(DictError::TooManySamples(folder.to_owned()));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_sample(path: &Path) -> Result<Vec<u8>, DictError> {
    let io_error = |source| DictError::Io { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(DictError::NotASample(path.to_owned()));
    }
    let mut sample = Vec::new();
    let file = File::open(path).map_err(io_error)?;
    file.take(SAMPLE_BYTES_MAX as u64 + 1).read_to_end(&mut sample).map_err(io_error)?;
    if sample.len() > SAMPLE_BYTES_MAX {
        return Err(DictError::SampleTooLarge(path.to_owned()));
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_in_order_of_names_without_empty_ones() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("b", "second"), ("a", "first"), ("c", "")] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        assert_eq!(read_samples(folder.path()).unwrap(), [b"first".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn a_sample_of_the_limit_passes_and_one_byte_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample");
        fs::write(&path, vec![1; SAMPLE_BYTES_MAX]).unwrap();
        assert_eq!(read_samples(folder.path()).unwrap().len(), 1);
        fs::write(&path, vec![1; SAMPLE_BYTES_MAX + 1]).unwrap();
        assert!(matches!(read_samples(folder.path()), Err(DictError::SampleTooLarge(at)) if at == path));
    }

    #[test]
    fn a_folder_inside_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        assert!(matches!(read_samples(folder.path()), Err(DictError::NotASample(_))));
    }

    #[test]
    fn every_tenth_sample_is_held_back() {
        let (training, held_back) = hold_back((0..25).collect());
        assert_eq!(held_back, [9, 19]);
        assert_eq!(training.len(), 23);
        assert!(!training.contains(&9));
    }
}
