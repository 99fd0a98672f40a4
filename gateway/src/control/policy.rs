//! Policy documents as an operator handles them: pushed, kept with their history, rolled back, switched off.
//!
//! The store keeps the newest documents as text, each under its version; a rollback is a new version with an old text,
//! so that what was in force when can be told. A push is answered when it is on disk.

mod diff;

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

pub use self::diff::diff;
use super::{
    config::{Mistakes, parse_policy},
    experiments,
};
use crate::{
    gateway::Gateway,
    policy::{Bounds, Document, Edition},
    store::{StoreError, Table, Write},
};

/// Documents that are kept; beyond, the oldest is forgotten.
pub const HISTORY_MAX: usize = 32;
/// The key of the kill switch, behind those of all versions.
const KILLED: [u8; 8] = u64::MAX.to_be_bytes();

/// One document of the history.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Kept {
    /// Counts what was pushed to this gateway.
    pub version: u64,
    /// When, seconds since 1970.
    pub at_s: u64,
    /// What led to it: "push", or "rollback to 3".
    pub how: String,
    /// The document.
    pub text: String,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The document has mistakes.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// There is no such version.
    #[error("{0}")]
    NoVersion(String),
    /// It could not be kept.
    #[error("the policy could not be stored, and is not in force: {0}")]
    Store(#[from] StoreError),
}

/// What documents have to go together with.
pub fn bounds(gateway: &Gateway) -> Bounds {
    let settings = &gateway.snapshot().settings;
    Bounds { base: settings.client_policy.clone(), heartbeat_max: settings.session.heartbeat_max }
}

/// Puts in force what was when the gateway ended. A document that this version or configuration of the gateway does not
/// take stays in the history, and the configuration's policy is in force.
///
/// # Errors
/// The store cannot be read.
pub fn restore(gateway: &Gateway) -> Result<(), StoreError> {
    let (history, killed) = read(gateway)?;
    let Some(kept) = history.last() else { return Ok(()) };
    let document = parse(gateway, &kept.text);
    let document = document.inspect_err(|mistakes| {
        let version = kept.version;
        tracing::error!(version, "the policy document in the store is not taken any more:\n{mistakes}");
    });
    put(gateway, Edition { version: kept.version, document: document.ok(), killed });
    experiments::restore(gateway, &history)
}

/// Checks a document and puts it in force. Says its version.
///
/// # Errors
/// What is wrong with it; what was in force stays.
pub async fn push(gateway: &Arc<Gateway>, text: &str) -> Result<u64, PolicyError> {
    replace(gateway, text, "push".to_owned()).await
}

/// Puts an earlier document in force again, by default the one before. Says its new version.
///
/// # Errors
/// There is none, or it is not taken any more; what was in force stays.
pub async fn roll_back(gateway: &Arc<Gateway>, to: Option<u64>) -> Result<u64, PolicyError> {
    let (history, _) = read(gateway)?;
    let wanted = match to {
        Some(version) => history.iter().find(|kept| kept.version == version),
        None => history.iter().rev().nth(1),
    };
    let kept = wanted.ok_or_else(|| {
        let versions: Vec<_> = history.iter().map(|kept| kept.version.to_string()).collect();
        PolicyError::NoVersion(match to {
            Some(version) => format!("there is no version {version}; kept are {}", versions.join(", ")),
            None => "there is no version before the one in force".to_owned(),
        })
    })?;
    replace(gateway, &kept.text, format!("rollback to {}", kept.version)).await
}

/// The kill switch: with it, the document decides on nothing, and clients do what the configuration says.
///
/// # Errors
/// It could not be stored, and is as it was.
pub async fn kill(gateway: &Arc<Gateway>, killed: bool) -> Result<(), PolicyError> {
    let _turn = gateway.policies.changing.lock().await;
    let write = match killed {
        true => Write::Put { table: Table::Policies, key: KILLED.to_vec(), value: vec![1] },
        false => Write::Delete { table: Table::Policies, key: KILLED.to_vec() },
    };
    gateway.store.append(write).await?;
    let Edition { version, ref document, .. } = *gateway.policies.edition();
    put(gateway, Edition { version, document: document.clone(), killed });
    tell(gateway);
    Ok(())
}

/// All documents that are kept, the oldest first.
///
/// # Errors
/// The store cannot be read.
pub fn history(gateway: &Gateway) -> Result<Vec<Kept>, StoreError> {
    read(gateway).map(|(history, _)| history)
}

/// Reads a document with this gateway's bounds.
///
/// # Errors
/// Every mistake.
pub fn parse(gateway: &Gateway, text: &str) -> Result<Document, Mistakes> {
    parse_policy(Path::new("policy"), text, &bounds(gateway))
}

/// Has the connections of all clients whose policy is another one tell them.
pub fn tell(gateway: &Arc<Gateway>) {
    let gateway = Arc::clone(gateway);
    // A million clients take some seconds.
    tokio::task::spawn_blocking(move || {
        let base = gateway.snapshot().settings.client_policy.clone();
        for session in gateway.sessions.all() {
            session.look_for_policy(|facts| {
                gateway.policies.policy_for(&base, session.client_id(), facts).revision
            });
        }
    });
}

async fn replace(gateway: &Arc<Gateway>, text: &str, how: String) -> Result<u64, PolicyError> {
    let document = parse(gateway, text)?;
    let _turn = gateway.policies.changing.lock().await;
    let (history, killed) = read(gateway)?;
    let version = history.last().map_or(0, |kept| kept.version) + 1;
    let at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = Kept { version, at_s, how: how.clone(), text: text.to_owned() };
    let value = serde_json::to_vec(&kept).map_err(|error| gateway.store.damaged(&error.to_string()))?;
    gateway.store.append(Write::Put { table: Table::Policies, key: key(version), value }).await?;
    let too_many = (history.len() + 1).saturating_sub(HISTORY_MAX);
    for old in history.iter().take(too_many) {
        gateway.store.must_write(Write::Delete { table: Table::Policies, key: key(old.version) });
        // Nobody asks for what is forgotten, and labels are bounded.
        let _ = gateway.metrics.policy_refusals.remove_label_values(&[&old.version.to_string()]);
    }
    put(gateway, Edition { version, document: Some(document), killed });
    tell(gateway);
    tracing::info!(version, how, "another policy document is in force");
    Ok(version)
}

fn put(gateway: &Gateway, edition: Edition) {
    let deciding = if edition.deciding().is_some() { edition.version } else { 0 };
    gateway.metrics.policy_version.set(i64::try_from(deciding).unwrap_or(i64::MAX));
    gateway.policies.put(edition);
}

fn read(gateway: &Gateway) -> Result<(Vec<Kept>, bool), StoreError> {
    let mut killed = false;
    let mut history = Vec::new();
    for (key, value) in gateway.store.scan(Table::Policies)? {
        if key == KILLED {
            killed = true;
            continue;
        }
        let kept = serde_json::from_slice(&value);
        history.push(kept.map_err(|error| gateway.store.damaged(&format!("a policy document: {error}")))?);
    }
    Ok((history, killed))
}

fn key(version: u64) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}
