//! What the gateway tells of itself under `$SYS/broker`, in the words that mosquitto's users know.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::clock;
use crate::{gateway::Gateway, hub::Message};

/// How often it is looked whether the interval has changed.
const LOOK: Duration = Duration::from_secs(60);

/// Whether clients must not publish there: MQTT 5, section 4.7.2, leaves topics with a `$` to servers.
pub fn is_reserved(topic: &str) -> bool {
    topic.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Publishes every `mqtt.sys_interval`, until the gateway is gone or drains.
pub(super) async fn publish_repeatedly(gateway: Weak<Gateway>) {
    let begun = super::now();
    let mut last = None;
    while let Some(pause) = publish_when_due(&gateway, begun, &mut last) {
        tokio::time::sleep(pause).await;
    }
}

/// Publishes if the interval has passed since the last time. Returns when to look again.
fn publish_when_due(gateway: &Weak<Gateway>, begun: Instant, last: &mut Option<Instant>) -> Option<Duration> {
    let gateway = gateway.upgrade().filter(|gateway| !gateway.drain.is_draining())?;
    let (interval, now) = (gateway.snapshot().settings.mqtt.sys_interval, super::now());
    if interval.is_zero() {
        gateway.mqtt.retained.set_system(Vec::new());
        *last = None;
        return Some(LOOK);
    }
    let passed = last.map_or(interval, |last| now.saturating_duration_since(last));
    if passed < interval {
        return Some(LOOK.min(interval - passed));
    }
    *last = Some(now);
    publish(&gateway, begun);
    Some(LOOK.min(interval))
}

fn publish(gateway: &Gateway, begun: Instant) {
    let messages = messages(gateway, begun);
    // Who subscribes later gets the last ones.
    gateway.mqtt.retained.set_system(messages.clone());
    for message in messages {
        gateway.hub.publish(&message);
    }
}

fn messages(gateway: &Gateway, begun: Instant) -> Vec<Arc<Message>> {
    let (mqtt, counters) = (&gateway.mqtt, &gateway.mqtt.counters);
    let (connected, total) = (mqtt.connected().len(), mqtt.sessions());
    let sent = gateway.metrics.deliveries.with_label_values(&["sent"]).get();
    let values = [
        ("version", format!("towline {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", super::now().saturating_duration_since(begun).as_secs())),
        ("timestamp", (clock().unix_ms(super::now()) / 1000).to_string()),
        ("clients/connected", connected.to_string()),
        ("clients/disconnected", total.saturating_sub(connected).to_string()),
        ("clients/total", total.to_string()),
        ("retained messages/count", mqtt.retained.len().to_string()),
        ("publish/messages/received", counters.published.get().to_string()),
        ("publish/messages/sent", sent.to_string()),
        ("publish/messages/dropped", mqtt.common.dropped.get().to_string()),
        ("store/commits", gateway.store.counts().commits.get().to_string()),
    ];
    let message = |(name, value): (&str, String)| {
        let topic = format!("$SYS/broker/{name}").into();
        Arc::new(Message { topic, payload: Bytes::from(value), retain: true, ..Message::default() })
    };
    values.into_iter().map(message).collect()
}
