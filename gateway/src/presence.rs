//! Who comes and goes: an event for each, published under `presence.topic`, and taken to a backend by a topic route
//! like any message.
//!
//! ```text
//!  MQTT, link --Event--> hub --> lane of the client (bounded) --> subscribers --> route, if one matches
//! ```
//!
//! Events of one client are told in their order. When a lane is full, events are dropped and counted, and the next one
//! says how many: whoever follows presence asks anew then.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    backend,
    gateway::Gateway,
    hub::Message,
    mqtt,
    request::{Origin, Protocol},
    settings::Settings,
};

/// Lanes: a backend that takes its time for one client's event holds up a part of the others only.
const LANES: usize = 64;
/// Events that wait in one lane at the least.
const LANE_EVENTS_MIN: usize = 16;

/// The beginning of all lanes. Part of the hub.
#[derive(Default)]
pub struct Presence {
    is_on: AtomicBool,
    lanes: OnceLock<Lanes>,
}

struct Lanes {
    senders: Vec<mpsc::Sender<Event>>,
    hasher: RandomState,
    /// Dropped since the last event that was not.
    lost: AtomicU64,
    limit_hits: prometheus::IntCounterVec,
    /// Taken by the tasks when they start.
    receivers: Mutex<Vec<mpsc::Receiver<Event>>>,
}

/// Somebody came or went.
#[derive(Debug)]
pub struct Event {
    client_id: Arc<str>,
    user: Option<Arc<str>>,
    protocol: &'static str,
    what: What,
    unix_ms: u64,
    lost: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A connection has its session.
    Connected,
    /// It is over; why.
    Disconnected(&'static str),
}

#[derive(Serialize)]
struct Shown<'e> {
    event: &'static str,
    client_id: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'e str>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    unix_ms: u64,
    /// Events of any client that were dropped before this one.
    lost: u64,
}

impl Presence {
    /// Makes the lanes, as the settings bound them.
    pub(crate) fn begin(&self, settings: &Settings, limit_hits: &prometheus::IntCounterVec) {
        let bound = (settings.presence.events_max / LANES).max(LANE_EVENTS_MIN);
        let (senders, receivers) = (0..LANES).map(|_| mpsc::channel(bound)).unzip();
        let (hasher, lost) = (RandomState::new(), AtomicU64::new(0));
        let receivers = Mutex::new(receivers);
        let limit_hits = limit_hits.clone();
        _ = self.lanes.set(Lanes { senders, hasher, lost, limit_hits, receivers });
        self.follow(settings);
    }

    /// Follows a reload.
    pub(crate) fn follow(&self, settings: &Settings) {
        self.is_on.store(!settings.presence.topic.is_empty(), Ordering::Relaxed);
    }

    /// Tells of a client. Never waits.
    pub(crate) fn tell(
        &self,
        client_id: &Arc<str>,
        user: Option<&Arc<str>>,
        protocol: &'static str,
        what: What,
    ) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let Some(lanes) = self.lanes.get() else { return };
        let unix_ms = mqtt::clock().unix_ms(mqtt::now());
        let (client_id, user) = (client_id.clone(), user.cloned());
        let lost = lanes.lost.swap(0, Ordering::Relaxed);
        let lane = lanes.hasher.hash_one(&client_id) as usize % LANES;
        let event = Event { client_id, user, protocol, what, unix_ms, lost };
        let sent = lanes.senders.get(lane).map(|sender| sender.try_send(event));
        if !matches!(sent, Some(Ok(()))) {
            lanes.lost.fetch_add(lost + 1, Ordering::Relaxed);
            lanes.limit_hits.with_label_values(&["presence.events_max"]).inc();
        }
    }
}

#[cfg(test)]
impl Presence {
    /// What waits to be told, before the tasks run.
    pub(crate) fn take_told(&self) -> Vec<(Arc<str>, What)> {
        let mut told = Vec::new();
        for receiver in self.lanes.get().into_iter().flat_map(|lanes| lanes.receivers.lock().split_off(0)) {
            let mut receiver = receiver;
            while let Ok(event) = receiver.try_recv() {
                told.push((event.client_id, event.what));
            }
        }
        told
    }
}

/// Starts the tasks that tell of events, once.
pub(crate) fn ensure_told(gateway: &Arc<Gateway>) {
    let Some(lanes) = gateway.hub.presence().lanes.get() else { return };
    for receiver in std::mem::take(&mut *lanes.receivers.lock()) {
        tokio::spawn(tell_all(Arc::downgrade(gateway), receiver));
    }
}

async fn tell_all(gateway: Weak<Gateway>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(gateway) = gateway.upgrade() else { return };
        publish(&gateway, &event).await;
    }
}

async fn publish(gateway: &Arc<Gateway>, event: &Event) {
    let prefix = gateway.snapshot().settings.presence.topic.clone();
    if prefix.is_empty() {
        return;
    }
    let message = Arc::new(Message {
        topic: format!("{prefix}/{}/{}", level(&event.client_id), event.what.name()).into(),
        payload: event.json(),
        qos: 1,
        payload_utf8: Some(true),
        content_type: Some("application/json".into()),
        ..Message::default()
    });
    mqtt::publish_locally(gateway, &message);
    let nobody = ([0, 0, 0, 0], 0).into();
    let origin = Origin::new("presence".into(), nobody, Protocol::Mqtt, true);
    if let Err(error) = backend::publish(gateway, &Arc::new(origin), &message).await {
        tracing::debug!(topic = %message.topic, %error, "a backend did not take a presence event");
    }
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected(_) => "disconnected",
        }
    }
}

impl Event {
    fn json(&self) -> Bytes {
        let reason = match self.what {
            What::Connected => None,
            What::Disconnected(reason) => Some(reason),
        };
        let shown = Shown {
            event: self.what.name(),
            client_id: &self.client_id,
            user: self.user.as_deref(),
            protocol: self.protocol,
            reason,
            unix_ms: self.unix_ms,
            lost: self.lost,
        };
        serde_json::to_vec(&shown).unwrap_or_default().into()
    }
}

/// A client id as one level of a topic: what has a meaning there is written as `%XX`.
fn level(client_id: &str) -> String {
    let mut level = String::with_capacity(client_id.len());
    for char in client_id.chars() {
        match char {
            '/' | '+' | '#' | '%' => level.push_str(&format!("%{:02X}", u32::from(char))),
            _ => level.push(char),
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_one_level_whatever_is_in_it() {
        assert_eq!(level("meter-7"), "meter-7");
        assert_eq!(level("a/b+#%é"), "a%2Fb%2B%23%25é");
    }

    #[test]
    fn what_a_full_lane_drops_is_told_with_the_next_event() {
        let presence = Presence::default();
        let mut settings = Settings::default();
        settings.presence.topic = "$SYS/presence".to_owned();
        settings.presence.events_max = 1;
        let metrics = crate::metrics::Metrics::new();
        presence.begin(&settings, &metrics.limit_hits);
        let id: Arc<str> = "a".into();
        for _ in 0..LANE_EVENTS_MIN + 3 {
            presence.tell(&id, None, "mqtt", What::Connected);
        }
        assert_eq!(metrics.limit_hits.with_label_values(&["presence.events_max"]).get(), 3);
        let lanes = presence.lanes.get().unwrap();
        for receiver in &mut *lanes.receivers.lock() {
            while receiver.try_recv().is_ok() {}
        }
        presence.tell(&id, None, "mqtt", What::Disconnected("connection_lost"));
        let mut receivers = lanes.receivers.lock();
        let event = receivers.iter_mut().find_map(|receiver| receiver.try_recv().ok()).unwrap();
        assert_eq!((event.lost, event.what), (3, What::Disconnected("connection_lost")));
    }
}
