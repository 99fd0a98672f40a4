//! The server's side of a connection and of the session behind it, without I/O.
//!
//! A [`Session`] outlives connections: the messages that wait for the client and those in flight. A
//! [`Connection`] is one stretch of it: versions, keep-alive, aliases, quotas. Before there is either, a
//! [`Greeting`] waits for CONNECT.
//!
//! ```text
//!  Greeting --CONNECT--> Connection::accept --handle_bytes--> Event ... --> end
//!     |                        ^    |
//!     +--error, refused        |    +--poll_transmit--> bytes
//!                           Session <--push-- messages from anywhere, at any time
//! ```

mod connection;
mod greeting;
mod held;
mod store;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::{
    connection::{Connection, Event, Welcome},
    greeting::{Answer, Greeting},
    held::Held,
    store::{Bound, Orphan, Phase, Push, Session, Terms},
};
use super::{Limits, PacketId, SharedHeads, Text};

/// What an operator allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds on incoming packets.
    pub limits: Limits,
    /// Time from the first byte to a whole CONNECT.
    pub connect_timeout: Duration,
    /// Upper bound on a session's expiry interval; also the interval of MQTT 3 sessions that are not clean.
    pub session_expiry_max: Duration,
    /// Longest keep-alive of an MQTT 5 client; zero leaves it to the client. MQTT 3 cannot tell clients.
    pub keep_alive_max: Duration,
    /// QoS 1 and 2 publishes of a client that are not finished, at one time.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages in flight to a client, at one time; the client may want fewer.
    pub in_flight_max: u16,
    /// Topic aliases, in each direction.
    pub topic_alias_max: u16,
    /// Levels of a topic name.
    pub topic_levels_max: usize,
    /// Messages queued for one session, count.
    pub queue_max: usize,
    /// Messages queued for and in flight to one session, bytes.
    pub queue_bytes_max: usize,
    /// What all sessions hold, wherever their settings come from.
    pub held: Held,
    /// Of that, bytes: beyond, one message at a time waits for a client, or as many as take 4 KiB.
    pub held_bytes_max: usize,
    /// How long a message may wait for its client; zero: as long as the session lives.
    pub queue_age_max: Duration,
    /// What is dropped when a session's queue is full.
    pub queue_policy: QueuePolicy,
    /// User properties of a CONNACK that accepts. A client that takes packets too small for them goes without.
    pub user_properties: Vec<(Text, Text)>,
}

/// What is dropped when a session's queue is full. What is in flight stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueuePolicy {
    /// Messages of QoS 0, oldest first; where there are none, the one that comes.
    #[default]
    Qos0,
    /// The messages that wait longest.
    Oldest,
    /// The one that comes.
    Newest,
}

/// An application message as its owner keeps it. Cloning it is cheap: it is shared by all sessions that it
/// is queued for.
pub trait ApplicationMessage: Clone {
    /// Its parts.
    fn view(&self) -> MessageView<'_>;

    /// Where its encoded form is kept, if others get it as well.
    fn heads(&self) -> Option<&SharedHeads> {
        None
    }

    /// Whether it may be sent already.
    fn standing(&self) -> Standing {
        Standing::Ready
    }

    /// The identifier that it has to be sent with, if its owner has given it one: a client that was sent it once
    /// knows a repetition by that. Messages of one session have different ones unless 65534 lie between them.
    fn packet_id(&self) -> Option<PacketId> {
        None
    }

    /// QoS 2: the client has it and will be told to release it. Returns what stands for it until that is done.
    #[must_use]
    fn released(&self) -> Self {
        self.clone()
    }

    /// Whether a shared subscription asked for it, whose other members may have it instead of this client.
    fn is_shared(&self) -> bool {
        false
    }

    /// The session is done with it: the client has it, or it was given up.
    fn finish(&self) {}
}

/// Whether a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Ready,
    /// Not yet, and nothing behind it: its owner still makes it safe.
    Waits,
    /// It never may: its owner has lost it.
    Lost,
}

/// What a message costs beside what its publisher chose: its fixed fields and its places in queues.
const MESSAGE_BYTES: usize = 256;
/// What a user property costs beside its text: two counted strings and their places.
const USER_PROPERTY_BYTES: usize = 96;

/// The parts of an application message.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a Bytes,
    /// When it stops being worth delivering.
    pub expires: Option<Instant>,
    /// Whether the payload is said to be UTF-8; `None`: nothing is said.
    pub payload_utf8: Option<bool>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Response topic.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties, in order.
    pub user_properties: &'a [(Arc<str>, Arc<str>)],
}

impl MessageView<'_> {
    /// What it costs to keep the message, bytes: all that its publisher chose counts, so that no part of it
    /// goes around a bound.
    pub fn cost(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let user_properties: usize = self
            .user_properties
            .iter()
            .map(|(name, value)| USER_PROPERTY_BYTES + name.len() + value.len())
            .sum();
        MESSAGE_BYTES
            + self.topic.len()
            + self.payload.len()
            + text(self.content_type)
            + text(self.response_topic)
            + self.correlation_data.map_or(0, <[u8]>::len)
            + user_properties
    }
}
