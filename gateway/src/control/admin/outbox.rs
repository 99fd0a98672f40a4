//! Queues in the store by the admin listener: what waits for upstream brokers, and dead letters.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::{
    backend::replay,
    gateway::Gateway,
    outbox::{Letter, Outbox},
};

/// Letters that are shown or sent again by one request, unless it says less.
const LETTERS_MAX: usize = 1000;

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/outbox", get(list))
        .route("/outbox/{queue}", get(show).delete(purge))
        .route("/outbox/{queue}/replay", post(send_again))
}

#[derive(Serialize)]
struct ShownQueue {
    queue: String,
    messages: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct ShownLetter {
    number: u64,
    since_unix_ms: u64,
    topic: String,
    qos: u8,
    client_id: Option<String>,
    user: Option<String>,
    reason: Option<String>,
    /// Base64.
    payload: String,
}

#[derive(Serialize)]
struct ShownReplay {
    taken: usize,
    left: usize,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Range {
    /// Letters behind this number.
    #[serde(default)]
    after: u64,
    count: Option<usize>,
}

impl Range {
    fn count(&self) -> usize {
        self.count.unwrap_or(LETTERS_MAX).min(LETTERS_MAX)
    }
}

type Refusal = (StatusCode, String);

async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Vec<ShownQueue>> {
    let shown = |outbox: Arc<Outbox>| {
        let (messages, bytes) = outbox.size();
        ShownQueue { queue: outbox.name().to_owned(), messages, bytes }
    };
    Json(gateway.outboxes.all().into_iter().map(shown).collect())
}

async fn show(
    State(gateway): State<Arc<Gateway>>,
    Path(queue): Path<String>,
    Query(range): Query<Range>,
) -> Result<Json<Vec<ShownLetter>>, Refusal> {
    let letters = find(&gateway, &queue)?.list(range.after, range.count());
    Ok(Json(letters.into_iter().map(shown).collect()))
}

/// Gives up letters up to `count`, all without it.
async fn purge(
    State(gateway): State<Arc<Gateway>>,
    Path(queue): Path<String>,
    Query(range): Query<Range>,
) -> Result<String, Refusal> {
    let outbox = find(&gateway, &queue)?;
    let purged = outbox.purge(range.after, range.count.unwrap_or(usize::MAX));
    gateway
        .store
        .barrier()
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    Ok(format!("{purged} given up, {} left\n", outbox.size().0))
}

async fn send_again(
    State(gateway): State<Arc<Gateway>>,
    Path(queue): Path<String>,
    Query(range): Query<Range>,
) -> Result<Json<ShownReplay>, Refusal> {
    let outbox = find(&gateway, &queue)?;
    let replayed = replay(&gateway, &outbox, range.count()).await.ok_or_else(|| {
        let text = format!("{queue} holds no dead letters of a route that is there: nothing was sent\n");
        (StatusCode::CONFLICT, text)
    })?;
    Ok(Json(ShownReplay { taken: replayed.taken, left: replayed.left, error: replayed.error }))
}

fn find(gateway: &Gateway, queue: &str) -> Result<Arc<Outbox>, Refusal> {
    let found = gateway.outboxes.all().into_iter().find(|outbox| outbox.name() == queue);
    found.ok_or_else(|| {
        (StatusCode::NOT_FOUND, format!("there is no queue {queue}; GET /outbox lists them\n"))
    })
}

fn shown(letter: Letter) -> ShownLetter {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    ShownLetter {
        number: letter.number,
        since_unix_ms: letter.since_ms,
        topic: letter.message.topic.to_string(),
        qos: letter.message.qos,
        client_id: text(&letter.message.publisher),
        user: text(&letter.user),
        reason: text(&letter.reason),
        payload: BASE64.encode(&letter.message.payload),
    }
}
