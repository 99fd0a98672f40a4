//! New dictionaries of what the gateway sees: trained on samples, judged on others, published if they are worth it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use towline_dictionaries::{DictError, DictionaryFile, TrainOptions, hold_back, measure, train};
use towline_protocols::{compress::DictionaryError, link::DictionaryKind};

use super::LibraryError;
use crate::{gateway::Gateway, settings::Dictionaries};

/// Why there is no new dictionary.
#[derive(Debug, thiserror::Error)]
pub enum RetrainError {
    /// Too little was sampled, or nothing that has parts in common.
    #[error(transparent)]
    Training(#[from] DictError),
    /// A dictionary cannot be used.
    #[error(transparent)]
    Dictionary(#[from] DictionaryError),
    /// It cannot be published.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The work was cut.
    #[error("the training was interrupted")]
    Interrupted,
}

/// What became of a training.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Judgement {
    /// Messages trained on.
    pub samples: usize,
    /// Messages judged on.
    pub held_back: usize,
    /// Bytes of the held-back messages, compressed without a dictionary where that helps.
    pub bytes_without: usize,
    /// With the dictionary in use now.
    pub bytes_current: usize,
    /// With the new one.
    pub bytes_new: usize,
    /// What the new one saves of `bytes_current`, percent.
    pub gain_percent: f64,
    /// Its version, if it was published.
    pub published: Option<u64>,
}

/// Trains on what is sampled now, and publishes the result if it is better by `dictionaries.gain_percent_min`.
///
/// # Errors
/// There is too little to train on, or the result cannot be kept.
pub async fn retrain(gateway: &Arc<Gateway>) -> Result<Judgement, RetrainError> {
    let gateway = Arc::clone(gateway);
    // Seconds of computing: not on a thread that serves connections.
    let done = tokio::task::spawn_blocking(move || retrain_now(&gateway)).await;
    done.unwrap_or(Err(RetrainError::Interrupted))
}

fn retrain_now(gateway: &Gateway) -> Result<Judgement, RetrainError> {
    let (settings, level) = {
        let snapshot = gateway.snapshot();
        (snapshot.settings.dictionaries.clone(), snapshot.settings.compression.level)
    };
    let library = &gateway.dictionaries;
    let (training, held_back) = hold_back(library.sampler.samples());
    let candidate = train(&training, TrainOptions { size: settings.size })?;
    let edition = library.edition();
    let current = edition.current(DictionaryKind::Payload).map(|entry| entry.bytes.clone());
    let mut judgement = judge(&candidate, current, &held_back, level)?;
    judgement.samples = training.len();
    if is_worth_it(&judgement, &settings) {
        let gain = Some(percent_less(judgement.bytes_without, judgement.bytes_new));
        let bytes = candidate.bytes().clone();
        let version = library.publish(DictionaryKind::Payload, bytes, settings.rollout_percent, gain)?;
        judgement.published = Some(version);
    }
    tracing::info!(?judgement, "dictionary trained");
    Ok(judgement)
}

fn is_worth_it(judgement: &Judgement, settings: &Dictionaries) -> bool {
    judgement.held_back > 0 && judgement.gain_percent >= f64::from(settings.gain_percent_min)
}

fn judge(
    candidate: &DictionaryFile,
    current: Option<Bytes>,
    held_back: &[Bytes],
    level: i32,
) -> Result<Judgement, RetrainError> {
    let new = measure(candidate, held_back, level)?;
    let bytes_current = match current {
        Some(current) => measure(&DictionaryFile::from_bytes(current)?, held_back, level)?.bytes_with,
        None => new.bytes_without,
    };
    Ok(Judgement {
        samples: 0,
        held_back: new.messages,
        bytes_without: new.bytes_without,
        bytes_current,
        bytes_new: new.bytes_with,
        gain_percent: percent_less(bytes_current, new.bytes_with),
        published: None,
    })
}

fn percent_less(before: usize, after: usize) -> f64 {
    if before == 0 { 0.0 } else { 100.0 * (1.0 - after as f64 / before as f64) }
}

/// How often a changed `dictionaries.retrain` is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Trains again and again, as often as the settings say.
pub async fn watch(gateway: Weak<Gateway>) {
    let mut last = Instant::now();
    loop {
        sleep(LOOK).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let every = gateway.snapshot().settings.dictionaries.retrain;
        if every.is_zero() || last.elapsed() < every {
            continue;
        }
        last = Instant::now();
        let outcome = match retrain(&gateway).await {
            Ok(Judgement { published: Some(_), .. }) => "published",
            Ok(_) => "not_better",
            Err(error) => {
                tracing::info!("no new dictionary: {error}");
                "failed"
            }
        };
        gateway.metrics.dictionary_trainings.with_label_values(&[outcome]).inc();
    }
}
