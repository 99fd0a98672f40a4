//! The policy of clients by the admin listener: what is in force, what became of it, and the ways to change it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    control::{
        config::DOCUMENT_BYTES_MAX,
        policy::{self, PolicyError},
    },
    gateway::Gateway,
    policy::{Document, Facts, ShownExperiment, level_name},
};

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/policy", get(show))
        .route("/policy/document", get(document))
        .route("/policy/client", get(client))
        .route("/policy/experiments", get(experiments))
        .route("/policy/check", post(check))
        .route("/policy/diff", post(diff))
        .route("/policy/push", post(push))
        .route("/policy/rollback", post(roll_back))
        .route("/policy/kill", post(kill))
        .route("/policy/resume", post(resume))
        .layer(DefaultBodyLimit::max(DOCUMENT_BYTES_MAX))
}

type Refused = (StatusCode, String);
type Answer = Result<Json<Value>, Refused>;

/// What is asked for; each way reads the ones that it needs.
#[derive(Deserialize)]
struct Wish {
    version: Option<u64>,
    id: Option<String>,
}

async fn show(State(gateway): State<Arc<Gateway>>) -> Answer {
    let edition = gateway.policies.edition();
    let history = policy::history(&gateway).map_err(|error| refused(&error.into()))?;
    let history: Vec<_> = history
        .iter()
        .rev()
        .map(|kept| json!({ "version": kept.version, "at_s": kept.at_s, "how": kept.how }))
        .collect();
    let (accepted, refused, refusals) = gateway.policies.answers();
    let names = |document: &Document| {
        json!({
            "name": document.name,
            "rules": document.rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(),
            "experiments": document.experiments.iter().map(|it| &*it.name).collect::<Vec<_>>(),
        })
    };
    Ok(Json(json!({
        "version": edition.version,
        "killed": edition.killed,
        "document": edition.document.as_ref().map(names),
        "accepted": accepted,
        "refused": refused,
        "refusals": refusals,
        "history": history,
    })))
}

/// The text of a version, by default of the newest.
async fn document(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>) -> Result<String, Refused> {
    let history = policy::history(&gateway).map_err(|error| refused(&error.into()))?;
    let kept = match wish.version {
        Some(version) => history.into_iter().find(|kept| kept.version == version),
        None => history.into_iter().next_back(),
    };
    kept.map(|kept| kept.text).ok_or_else(|| (StatusCode::NOT_FOUND, "no such version is kept\n".to_owned()))
}

/// What the document comes to for one client.
async fn client(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>) -> Answer {
    let id = wish.id.unwrap_or_default();
    let Some(session) = gateway.sessions.get(&id) else {
        return Err((StatusCode::NOT_FOUND, format!("no session of {id:?} is here\n")));
    };
    let known = session.facts();
    let facts = known.as_deref().cloned().unwrap_or_default();
    let edition = gateway.policies.edition();
    let resolved = edition.deciding().map(|document| document.resolve(&id, &facts)).unwrap_or_default();
    let set: serde_json::Map<_, _> =
        resolved.set.iter().map(|(name, value)| ((*name).to_owned(), json!(value.to_string()))).collect();
    let arms: serde_json::Map<_, _> = resolved
        .arms
        .iter()
        .map(|(experiment, arm)| (experiment.name.to_string(), json!(&*arm.name)))
        .collect();
    Ok(Json(json!({
        "client": id,
        "facts": known.is_some().then(|| shown(&facts)),
        "told_revision": session.policy_told(),
        "rules": resolved.rules,
        "experiments": arms,
        "set": set,
    })))
}

fn shown(facts: &Facts) -> Value {
    json!({
        "app": facts.app,
        "app_version": facts.app_version.map(|version| version.to_string()),
        "platform": facts.platform,
        "region": facts.region,
        "network": facts.network.name(),
        "carrier": facts.carrier,
        "quality": facts.level.map(level_name),
    })
}

async fn experiments(State(gateway): State<Arc<Gateway>>) -> Json<Vec<ShownExperiment>> {
    Json(gateway.policies.experiments())
}

async fn check(State(gateway): State<Arc<Gateway>>, text: String) -> Answer {
    let document = policy::parse(&gateway, &text).map_err(|mistakes| refused(&mistakes.into()))?;
    Ok(Json(json!({ "rules": document.rules.len(), "experiments": document.experiments.len() })))
}

async fn diff(State(gateway): State<Arc<Gateway>>, text: String) -> Result<String, Refused> {
    let new = policy::parse(&gateway, &text).map_err(|mistakes| refused(&mistakes.into()))?;
    let edition = gateway.policies.edition();
    Ok(policy::diff(edition.document.as_ref().unwrap_or(&Document::default()), &new))
}

async fn push(State(gateway): State<Arc<Gateway>>, text: String) -> Answer {
    version(policy::push(&gateway, &text).await)
}

async fn roll_back(State(gateway): State<Arc<Gateway>>, Query(wish): Query<Wish>) -> Answer {
    version(policy::roll_back(&gateway, wish.version).await)
}

async fn kill(State(gateway): State<Arc<Gateway>>) -> Answer {
    switch(&gateway, true).await
}

async fn resume(State(gateway): State<Arc<Gateway>>) -> Answer {
    switch(&gateway, false).await
}

async fn switch(gateway: &Arc<Gateway>, killed: bool) -> Answer {
    policy::kill(gateway, killed).await.map_err(|error| refused(&error))?;
    Ok(Json(json!({ "killed": killed })))
}

fn version(changed: Result<u64, PolicyError>) -> Answer {
    changed.map(|version| Json(json!({ "version": version }))).map_err(|error| refused(&error))
}

fn refused(error: &PolicyError) -> Refused {
    let status = match error {
        PolicyError::Mistakes(_) | PolicyError::NoVersion(_) => StatusCode::BAD_REQUEST,
        PolicyError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n"))
}
