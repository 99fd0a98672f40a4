//! New dictionaries of what the gateway sees: trained on samples, judged on others, published if they are worth it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use towline_dictionaries::{
    DictError, DictionaryFile, TrainOptions,
    headers::{
        HeaderOptions, TrainedHeaders, hold_back_headers, measure_headers, train_and_measure_headers,
        train_headers,
    },
    hold_back, measure, train,
};
use towline_protocols::{compress::DictionaryError, hpack::HeaderDictionary, link::DictionaryKind};

use super::{Library, LibraryError, files::kind_name};
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
    /// Messages or header lists trained on.
    pub samples: usize,
    /// Those judged on.
    pub held_back: usize,
    /// Bytes of those held back without a dictionary: messages compressed where that helps, header lists each as the
    /// first of its connection.
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
pub async fn retrain(gateway: &Arc<Gateway>, kind: DictionaryKind) -> Result<Judgement, RetrainError> {
    let gateway = Arc::clone(gateway);
    // Seconds of computing: not on a thread that serves connections.
    let done = tokio::task::spawn_blocking(move || retrain_now(&gateway, kind)).await;
    done.unwrap_or(Err(RetrainError::Interrupted))
}

/// Trains a header dictionary on what is sampled now, and publishes nothing. It takes seconds of computing.
///
/// # Errors
/// There is too little to train on, or the dictionary would save nothing.
pub fn train_headers_now(gateway: &Gateway) -> Result<TrainedHeaders, DictError> {
    let options = header_options(&gateway.snapshot().settings.dictionaries);
    train_and_measure_headers(gateway.dictionaries.headers.samples(), options)
}

fn retrain_now(gateway: &Gateway, kind: DictionaryKind) -> Result<Judgement, RetrainError> {
    let (settings, level) = {
        let snapshot = gateway.snapshot();
        (snapshot.settings.dictionaries.clone(), snapshot.settings.compression.level)
    };
    let library = &gateway.dictionaries;
    let current = library.edition().current(kind).map(|entry| entry.bytes.clone());
    let (bytes, mut judgement) = match kind {
        DictionaryKind::Headers => headers(library, &settings, current)?,
        _ => payload(library, &settings, current, level)?,
    };
    if is_worth_it(&judgement, &settings) {
        let gain = Some(percent_less(judgement.bytes_without, judgement.bytes_new));
        judgement.published = Some(library.publish(kind, bytes, settings.rollout_percent, gain)?);
    }
    tracing::info!(?judgement, kind = kind_name(kind), "dictionary trained");
    Ok(judgement)
}

fn is_worth_it(judgement: &Judgement, settings: &Dictionaries) -> bool {
    judgement.held_back > 0 && judgement.gain_percent >= f64::from(settings.gain_percent_min)
}

fn payload(
    library: &Library,
    settings: &Dictionaries,
    current: Option<Bytes>,
    level: i32,
) -> Result<(Bytes, Judgement), RetrainError> {
    let (training, held_back) = hold_back(library.sampler.samples());
    let candidate = train(&training, TrainOptions { size: settings.size })?;
    let new = measure(&candidate, &held_back, level)?;
    let bytes_current = match current {
        Some(current) => measure(&DictionaryFile::from_bytes(current)?, &held_back, level)?.bytes_with,
        None => new.bytes_without,
    };
    let judgement =
        Judgement::of(training.len(), new.messages, [new.bytes_without, bytes_current, new.bytes_with]);
    Ok((candidate.bytes().clone(), judgement))
}

fn headers(
    library: &Library,
    settings: &Dictionaries,
    current: Option<Bytes>,
) -> Result<(Bytes, Judgement), RetrainError> {
    let (training, held_back) = hold_back_headers(library.headers.samples());
    let candidate = Arc::new(train_headers(&training, header_options(settings))?);
    let new = measure_headers(&candidate, &held_back);
    let octets_current = match current {
        Some(current) => {
            let current = HeaderDictionary::parse(current).map_err(DictError::Headers)?;
            measure_headers(&Arc::new(current), &held_back).first_with
        }
        None => new.first_without,
    };
    let judgement =
        Judgement::of(training.len(), new.lists, [new.first_without, octets_current, new.first_with]);
    Ok((candidate.text().clone(), judgement))
}

fn header_options(settings: &Dictionaries) -> HeaderOptions {
    HeaderOptions {
        size: settings.header_bytes_max,
        fields: settings.header_fields_max,
        clients_min: settings.header_clients_min,
    }
}

impl Judgement {
    /// Bytes without, with the current, and with the new dictionary.
    fn of(samples: usize, held_back: usize, bytes: [usize; 3]) -> Self {
        let [bytes_without, bytes_current, bytes_new] = bytes;
        let gain_percent = percent_less(bytes_current, bytes_new);
        Self { samples, held_back, bytes_without, bytes_current, bytes_new, gain_percent, published: None }
    }
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
        retrain_in_background(&gateway, DictionaryKind::Payload).await;
        if gateway.dictionaries.headers.is_wanted() {
            retrain_in_background(&gateway, DictionaryKind::Headers).await;
        }
    }
}

async fn retrain_in_background(gateway: &Arc<Gateway>, kind: DictionaryKind) {
    let outcome = match retrain(gateway, kind).await {
        Ok(Judgement { published: Some(_), .. }) => "published",
        Ok(_) => "not_better",
        Err(error) => {
            tracing::info!(kind = kind_name(kind), "no new dictionary: {error}");
            "failed"
        }
    };
    gateway.metrics.dictionary_trainings.with_label_values(&[kind_name(kind), outcome]).inc();
}

#[cfg(test)]
mod tests {
    use towline_protocols::hpack::HeaderField;

    use super::*;
    use crate::settings::{Backend, BackendKind, Route, Settings};

    #[tokio::test(start_paused = true)]
    async fn what_routes_sample_is_trained_on_in_the_background() {
        let mut settings = Settings::side_by_side();
        settings.dictionaries.retrain = Duration::from_secs(3600);
        settings.backends.push(Backend::new("b", BackendKind::Http1, "127.0.0.1:1"));
        let mut route = Route::new("all", "b");
        route.sampling.headers_every = 1;
        settings.routes.push(route);
        let folder = tempfile::tempdir().unwrap();
        settings.data_dir = folder.path().into();
        let gateway = Gateway::build(settings.clone()).unwrap();
        for client in 0..200 {
            let list = [HeaderField::from_static("x-app-version", "7.1 beta")];
            gateway.dictionaries.headers.keep(&format!("phone-{client}"), &list, &settings);
        }
        let began = Instant::now();
        tokio::spawn(watch(Arc::downgrade(&gateway)));
        let current = || gateway.dictionaries.edition().current(DictionaryKind::Headers).cloned();
        while current().is_none() {
            assert!(began.elapsed() < Duration::from_secs(2 * 3600), "nothing is published");
            sleep(Duration::from_secs(1)).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(3600));
        let trained =
            |kind, outcome| gateway.metrics.dictionary_trainings.with_label_values(&[kind, outcome]).get();
        assert_eq!(trained("payload", "failed"), 1, "no message was sampled");
    }
}
