//! Dictionaries by the admin listener: what is published, and the ways to change it.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use towline_protocols::{compress::DICTIONARY_BYTES_MAX, link::DictionaryKind};

use crate::{
    dictionaries::{
        Entry, Judgement, LibraryError, kind_of, retrain, shown_hash, shown_kind, train_headers_now,
    },
    gateway::Gateway,
};

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/dictionaries", get(list))
        .route("/dictionaries/retrain", post(train))
        .route("/dictionaries/train-headers", post(train_headers))
        .route("/dictionaries/publish", post(publish))
        .route("/dictionaries/rollout", post(roll_out))
        .route("/dictionaries/rollback", post(roll_back))
        .layer(DefaultBodyLimit::max(DICTIONARY_BYTES_MAX))
}

/// One dictionary as it is shown.
#[derive(Serialize)]
struct Shown {
    /// 0: of the configuration, or built in.
    version: u64,
    kind: &'static str,
    hash: String,
    id: u32,
    bytes: usize,
    rollout_percent: u8,
    withdrawn: bool,
    gain_percent: Option<f64>,
}

impl Shown {
    fn of(entry: &Entry) -> Self {
        Self {
            version: entry.version,
            kind: shown_kind(entry.kind),
            hash: shown_hash(&entry.hash),
            id: entry.id(),
            bytes: entry.bytes.len(),
            rollout_percent: entry.rollout,
            withdrawn: entry.withdrawn,
            gain_percent: entry.gain_percent,
        }
    }
}

/// What is to be changed; each way reads the ones that it needs.
#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    version: u64,
    #[serde(default = "everybody")]
    percent: u8,
    kind: Option<String>,
}

fn everybody() -> u8 {
    100
}

impl Wish {
    fn kind(&self) -> Result<DictionaryKind, Refused> {
        let name = self.kind.as_deref().unwrap_or("payload");
        kind_of(name).ok_or_else(|| refused("kind is payload or headers"))
    }
}

type Refused = (StatusCode, String);
type Answer = Result<Json<serde_json::Value>, Refused>;

async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Vec<Shown>> {
    Json(gateway.dictionaries.edition().entries.iter().map(Shown::of).collect())
}

async fn train(
    State(gateway): State<Arc<Gateway>>,
    Query(wish): Query<Wish>,
) -> Result<Json<Judgement>, Refused> {
    let kind = wish.kind()?;
    retrain(&gateway, kind).await.map(Json).map_err(|error| conflict(&error))
}

/// A header dictionary of what is sampled now, for the operator to look at; nothing is published.
async fn train_headers(State(gateway): State<Arc<Gateway>>) -> Answer {
    let trained = tokio::task::spawn_blocking(move || train_headers_now(&gateway)).await;
    let trained = trained.map_err(|error| conflict(&error))?.map_err(|error| conflict(&error))?;
    Ok(Json(serde_json::json!({
        "samples": trained.samples,
        "gain": trained.gain,
        // Names and values that are sampled are ASCII.
        "text": String::from_utf8_lossy(trained.dictionary.text()),
    })))
}

fn conflict(error: &dyn std::fmt::Display) -> Refused {
    (StatusCode::CONFLICT, format!("{error}\n"))
}

async fn publish(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>, file: Bytes) -> Answer {
    let kind = wish.kind()?;
    let published = gateway.dictionaries.publish(kind, file, wish.percent, None);
    version(published)
}

async fn roll_out(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>) -> Answer {
    let changed = gateway.dictionaries.roll_out(wish.version, wish.percent);
    version(changed.map(|()| wish.version))
}

async fn roll_back(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>) -> Answer {
    let kind = wish.kind()?;
    version(gateway.dictionaries.roll_back(kind))
}

fn version(changed: Result<u64, LibraryError>) -> Answer {
    match changed {
        Ok(version) => Ok(Json(serde_json::json!({ "version": version }))),
        Err(error) => Err(refused(&error.to_string())),
    }
}

fn refused(text: &str) -> Refused {
    (StatusCode::BAD_REQUEST, format!("{text}\n"))
}
