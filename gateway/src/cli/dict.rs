//! `towline dict`: trains dictionaries from sampled messages and header lists.

mod headers;

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use towline_dictionaries::{
    DictError, DictionaryFile, Gain, SIZE_DEFAULT, TrainOptions, demo, hold_back, measure, read_samples,
    train,
};
use towline_protocols::{
    compress::LEVEL_DEFAULT,
    hpack::{HeaderDictionary, HeaderDictionaryError},
};

use self::headers::TrainHeadersArgs;
use super::{
    Failure,
    admin::{Admin, other},
};

/// Trains and inspects compression dictionaries.
#[derive(Debug, Args)]
pub struct DictArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a dictionary on a folder of messages, one file each.
    ///
    /// Every tenth file (in order of names) is held back and shows what the dictionary is worth.
    Train(TrainArgs),
    /// Train a header dictionary on header lists, of a file or of what a running gateway sampled.
    ///
    /// Every client is shown it, so it takes a value only if several clients have shown it. Every tenth list is held
    /// back and shows what the dictionary is worth; one that saves nothing is not written. Publish it with
    /// `towline dict publish --kind headers`.
    TrainHeaders(TrainHeadersArgs),
    /// Show a dictionary's id, version and size.
    Show {
        /// A file made by `towline dict train`, `towline dict train-headers` or `zstd --train`.
        file: PathBuf,
    },
    /// Show what a running gateway publishes.
    List(Admin),
    /// Let a running gateway train on what it sampled, and publish the result if it is better.
    Retrain {
        /// `payload` or `headers`.
        #[arg(long, default_value = "payload")]
        kind: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Publish a dictionary at a running gateway.
    Publish {
        /// The dictionary.
        file: PathBuf,
        /// `payload` or `headers`.
        #[arg(long, default_value = "payload")]
        kind: String,
        /// The share of clients that it is for.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
        #[command(flatten)]
        admin: Admin,
    },
    /// Change the share of clients that a version is for; one that was rolled back is in use again.
    Rollout {
        /// The version, as `list` shows it.
        // Its id is not its name, which is that of the option `--version`.
        #[arg(id = "dictionary", value_name = "VERSION")]
        version: u64,
        /// The share.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
        #[command(flatten)]
        admin: Admin,
    },
    /// Withdraw the newest dictionary in use; the one before is used again.
    Rollback {
        /// `payload` or `headers`.
        #[arg(long, default_value = "payload")]
        kind: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Write the messages that the built-in dictionary was trained on, to try the trainer with.
    Samples {
        /// The folder to write to; it is made if need be.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The folder with the messages.
    folder: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The most bytes that the dictionary may have.
    #[arg(long, default_value_t = SIZE_DEFAULT)]
    size: usize,
    /// The zstd level that the gain is measured at: the one that the gateway will compress at.
    #[arg(long, default_value_t = LEVEL_DEFAULT, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

/// Runs the command and prints what it found.
pub(super) fn run(args: DictArgs) -> Result<(), Failure> {
    let report = match args.command {
        Command::List(admin) => admin.ask("GET", "/dictionaries", Bytes::new())?,
        Command::Retrain { kind, admin } => {
            admin.ask("POST", &format!("/dictionaries/retrain?kind={kind}"), Bytes::new())?
        }
        Command::TrainHeaders(args) => headers::train(&args)?,
        Command::Publish { file, kind, percent, admin } => {
            let bytes = fs::read(&file).map_err(|error| other(&file.display(), &error))?;
            admin.ask(
                "POST",
                &format!("/dictionaries/publish?kind={kind}&percent={percent}"),
                bytes.into(),
            )?
        }
        Command::Rollout { version, percent, admin } => {
            let wish = format!("/dictionaries/rollout?version={version}&percent={percent}");
            admin.ask("POST", &wish, Bytes::new())?
        }
        Command::Rollback { kind, admin } => {
            admin.ask("POST", &format!("/dictionaries/rollback?kind={kind}"), Bytes::new())?
        }
        Command::Train(args) => train_folder(&args).map_err(failed)?,
        Command::Show { file } => show(&file)?,
        Command::Samples { folder } => write_samples(&folder).map_err(failed)?,
    };
    println!("{report}");
    Ok(())
}

fn failed(error: DictError) -> Failure {
    Failure::Other(error.to_string())
}

/// Headers if it begins as a header dictionary does, payloads otherwise.
fn show(file: &Path) -> Result<String, Failure> {
    let bytes = fs::read(file).map_err(|error| other(&file.display(), &error))?;
    match HeaderDictionary::parse(bytes) {
        Ok(dictionary) => Ok(headers::describe(&dictionary)),
        Err(HeaderDictionaryError::FirstLine | HeaderDictionaryError::TooLarge) => {
            Ok(describe(&DictionaryFile::load(file).map_err(failed)?))
        }
        Err(error) => Err(other(&file.display(), &error)),
    }
}

fn train_folder(args: &TrainArgs) -> Result<String, DictError> {
    let (training, held_back) = hold_back(read_samples(&args.folder)?);
    let dictionary = train(&training, TrainOptions { size: args.size })?;
    let gain = measure(&dictionary, &held_back, args.level)?;
    dictionary.save(&args.output)?;
    Ok(format!(
        "trained on  {} messages, {} held back\nwritten to  {}\n{}\n{}",
        training.len(),
        held_back.len(),
        args.output.display(),
        describe(&dictionary),
        describe_gain(&gain, args.level)
    ))
}

fn describe(dictionary: &DictionaryFile) -> String {
    format!(
        "id          {}\nsha256      {}\nsize        {} bytes",
        dictionary.id(),
        dictionary.sha256(),
        dictionary.bytes().len()
    )
}

fn describe_gain(gain: &Gain, level: i32) -> String {
    if gain.messages == 0 {
        return "gain        not measured: too few messages to hold one back".to_owned();
    }
    format!(
        "gain        {:.1} % fewer bytes: {} held-back messages of {} bytes take {} compressed without it, \
         {} with it (level {level})",
        gain.percent(),
        gain.messages,
        gain.bytes,
        gain.bytes_without,
        gain.bytes_with
    )
}

fn write_samples(folder: &Path) -> Result<String, DictError> {
    fs::create_dir_all(folder).map_err(|source| DictError::Io { path: folder.to_owned(), source })?;
    for seed in demo::TRAINING_SEEDS {
        let path = folder.join(format!("demo-{seed:05}"));
        fs::write(&path, demo::message(seed)).map_err(|source| DictError::Io { path, source })?;
    }
    Ok(format!("written     {} messages to {}", demo::TRAINING_SEEDS.count(), folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_trained_on_and_the_dictionary_shown() {
        let folder = tempfile::tempdir().unwrap();
        let samples = folder.path().join("samples");
        let output = folder.path().join("trained.dict");
        write_samples(&samples).unwrap();
        let args = TrainArgs { folder: samples, output: output.clone(), size: 8192, level: 3 };
        let report = train_folder(&args).unwrap();
        let dictionary = DictionaryFile::load(&output).unwrap();
        assert!(dictionary.bytes().len() <= 8192);
        assert!(report.contains("trained on  5400 messages, 600 held back"), "{report}");
        assert!(report.contains(&describe(&dictionary)), "{report}");
        assert!(report.contains("% fewer bytes: 600 held-back messages"), "{report}");
    }

    #[test]
    fn a_folder_with_too_few_samples_is_refused_and_nothing_written() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("trained.dict");
        let samples = folder.path().join("samples");
        fs::create_dir(&samples).unwrap();
        fs::write(samples.join("one"), "message").unwrap();
        let args = TrainArgs { folder: samples, output: output.clone(), size: 8192, level: 3 };
        assert!(matches!(train_folder(&args), Err(DictError::TooFewSamples(1))));
        assert!(!output.exists());
    }
}
