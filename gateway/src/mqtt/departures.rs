//! When wills and sessions of absent clients are due, and the task that sees to them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use towline_protocols::mqtt::{ReasonCode, Text};

use super::{client::Closing, sys};
use crate::{delayed, gateway::Gateway, presence};

/// In how many batches at the most clients are sent away: few enough to be cheap, many enough to be a slope.
const SPREAD_STEPS_MAX: usize = 256;
/// What connected clients are told when the gateway drains.
pub(super) static SHUTTING_DOWN: Closing =
    Closing { reason: ReasonCode::ServerShuttingDown, text: "the gateway is shutting down" };

/// At most one entry for each absent client, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Departures {
    due: Mutex<BTreeSet<(Instant, Arc<str>)>>,
    /// The earliest entry has changed.
    changed: Notify,
    is_watched: AtomicBool,
}

impl Departures {
    pub(super) fn insert(&self, at: Instant, id: Arc<str>) {
        let mut due = self.due.lock();
        due.insert((at, id));
        if due.first().is_some_and(|(first, _)| *first == at) {
            self.changed.notify_one();
        }
    }

    pub(super) fn remove(&self, at: Instant, id: &Arc<str>) {
        self.due.lock().remove(&(at, id.clone()));
    }

    pub(super) fn pop_due(&self, now: Instant) -> Option<Arc<str>> {
        let mut due = self.due.lock();
        if due.first()?.0 > now {
            return None;
        }
        due.pop_first().map(|(_, id)| id)
    }

    fn next(&self) -> Option<Instant> {
        self.due.lock().first().map(|(at, _)| *at)
    }
}

/// Starts the task that settles departures and tells MQTT clients of a drain, once: at the start, for what was due
/// while the gateway was away, or at the first connection.
pub fn ensure_watched(gateway: &Arc<Gateway>) {
    if !gateway.mqtt.departures.is_watched.swap(true, Ordering::Relaxed) {
        tokio::spawn(watch(gateway.clone()));
        tokio::spawn(delayed::watch(Arc::downgrade(gateway)));
        presence::ensure_told(gateway);
        tokio::spawn(sys::publish_repeatedly(Arc::downgrade(gateway)));
    }
}

/// Ends when the gateway drains: what is due after that is due at the next start, if the store keeps it.
async fn watch(gateway: Arc<Gateway>) {
    let mut drain = gateway.drain.watch();
    let departures = &gateway.mqtt.departures;
    loop {
        let next = departures.next();
        tokio::select! {
            _ = drain.draining() => break,
            () = departures.changed.notified() => {}
            () = sleep_until(next) => gateway.mqtt.settle_departures(&gateway, super::now()),
        }
    }
    send_away(&gateway).await;
}

/// Where clients are to go when the gateway drains: a list of names and ports with spaces between them (MQTT 5,
/// section 4.11).
pub(super) fn server_reference(gateway: &Gateway) -> Option<Text> {
    let snapshot = gateway.snapshot();
    let endpoints = &snapshot.settings.drain_endpoints;
    if endpoints.is_empty() { None } else { Text::new(endpoints.join(" ")).ok() }
}

/// Spreads the ends of the connections over `drain_spread`, so that those who come back elsewhere do not do
/// so all at once. MQTT has no word for "later".
async fn send_away(gateway: &Gateway) {
    let (spread, timeout) = {
        let snapshot = gateway.snapshot();
        (snapshot.settings.drain_spread, snapshot.settings.drain_timeout)
    };
    let clients = gateway.mqtt.connected();
    let batches = clients.len().clamp(1, SPREAD_STEPS_MAX);
    let step = spread.min(timeout).div_f64(batches as f64);
    for batch in clients.chunks(clients.len().div_ceil(batches).max(1)) {
        for client in batch {
            client.close(&SHUTTING_DOWN);
        }
        tokio::time::sleep(step).await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
