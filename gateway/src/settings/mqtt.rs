//! What MQTT clients and their sessions may take (`[mqtt]`).

use std::time::Duration;

use super::{QueuePolicy, ShareStrategy};
use crate::access::Pattern;

/// MQTT.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Largest packet, bytes.
    pub packet_bytes_max: usize,
    /// Upper bound on a session's expiry interval.
    pub session_expiry_max: Duration,
    /// Keep-alive imposed on clients that ask for none or more; zero imposes nothing.
    pub keep_alive_max: Duration,
    /// QoS 1 and 2 publishes of one client that are not finished.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages in flight to one client.
    pub in_flight_max: u16,
    /// Messages queued for one session, count.
    pub queue_max: usize,
    /// Messages queued for one session, bytes.
    pub queue_bytes_max: usize,
    /// What is queued for all sessions, bytes.
    pub held_bytes_max: usize,
    /// How long a message waits for its client; zero: as long as the session lives.
    pub queue_age_max: Duration,
    /// What is dropped when a session's queue is full.
    pub queue_policy: QueuePolicy,
    /// Topic filters of one session.
    pub subscriptions_max: usize,
    /// Which member of a shared subscription gets a message.
    pub share_strategy: ShareStrategy,
    /// Time between what the gateway says of itself under `$SYS/broker`; zero says nothing.
    pub sys_interval: Duration,
    /// Levels of a topic name or filter.
    pub topic_levels_max: usize,
    /// Retained messages, count.
    pub retained_max: usize,
    /// Retained messages, bytes.
    pub retained_bytes_max: usize,
    /// Topic aliases accepted from one client.
    pub topic_alias_max: u16,
    /// What a client's response topics are to begin with, for clients that ask.
    pub response_information: Option<Pattern>,
    /// MQTT sessions kept, live or away.
    pub sessions_max: usize,
    /// A client's WebSocket message, which may hold several packets or a part of one, bytes.
    pub websocket_message_bytes_max: usize,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024,
            session_expiry_max: Duration::from_secs(86_400),
            keep_alive_max: Duration::from_secs(1200),
            receive_maximum: 64,
            in_flight_max: 1024,
            queue_max: 1000,
            queue_bytes_max: 4 * 1024 * 1024,
            held_bytes_max: 4 * 1024 * 1024 * 1024,
            queue_age_max: Duration::ZERO,
            queue_policy: QueuePolicy::Qos0,
            subscriptions_max: 1024,
            share_strategy: ShareStrategy::RoundRobin,
            sys_interval: Duration::from_secs(60),
            topic_levels_max: 32,
            retained_max: 100_000,
            retained_bytes_max: 256 * 1024 * 1024,
            topic_alias_max: 16,
            response_information: None,
            sessions_max: 500_000,
            websocket_message_bytes_max: 4 << 20,
        }
    }
}
