//! Who is there and who wants what: clients by id and by user, subscriptions by topic filter, and the
//! way of a message to them. Apps on the link and devices on MQTT are alike here.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use towline_protocols::link::Priority;

/// A message on its way to one or many clients. Built once, shared by all who get it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Topic name, no wildcards.
    pub topic: Arc<str>,
    /// Payload, opaque.
    pub payload: Bytes,
    /// 0 or 1 (2 where MQTT carries it).
    pub qos: u8,
    /// Whether the publisher asked to retain it.
    pub retain: bool,
    /// How urgent it is.
    pub priority: Priority,
    /// When it stops being worth delivering.
    pub expires: Option<Instant>,
    /// Client id of its publisher; `None` for a backend.
    pub publisher: Option<Arc<str>>,
    /// MQTT 5 payload format indicator: the payload is said to be UTF-8.
    pub payload_utf8: bool,
    /// MQTT's content type, or the link's.
    pub content_type: Option<Arc<str>>,
    /// MQTT 5 response topic.
    pub response_topic: Option<Arc<str>>,
    /// MQTT 5 correlation data.
    pub correlation_data: Option<Bytes>,
    /// MQTT 5 user properties, in order.
    pub user_properties: Vec<(Arc<str>, Arc<str>)>,
}

/// What became of a message for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Handed to the client's live connection.
    Sent,
    /// Kept until the client comes back, within its session's bounds.
    Stored,
    /// Not delivered: a bound was met, it expired, or the client is away and keeps no messages.
    Dropped,
}

/// Where a client's messages go: its link session or its MQTT session. Must not block.
pub trait Mailbox: Send + Sync {
    /// Takes one message. `qos` is the smaller of the message's and the subscription's;
    /// `retained` says that it is a retained message sent because of a new subscription.
    fn deliver(&self, message: &Arc<Message>, qos: u8, retained: bool) -> Delivered;
    /// Whether a connection is up.
    fn is_connected(&self) -> bool;
}
