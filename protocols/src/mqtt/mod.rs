//! MQTT 3.1 (MQIsdp), 3.1.1 and 5.0: every packet in both directions, topic rules, and the server's side of a
//! connection as a machine without I/O.
//!
//! ```text
//!   bytes -> decode() -> Packet -> session::Connection -> Event      (to the broker)
//!   bytes <- encode() <- Packet <- session::Connection <- deliver()  (from the broker)
//! ```
//!
//! Rules are cited by the numbers of the MQTT 5.0 standard; where an older version differs, the code says so.

mod decode;
mod encode;
mod error;
mod packet;
mod properties;
mod reason;
pub mod session;
mod text;
pub mod topic;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::{FixedHeader, Limits, decode};
pub use encode::{PublishHead, SharedHeads, encode};
pub use error::MqttError;
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, LastWill, Packet, PacketId, PacketKind, Publish, QoS,
    RetainHandling, Suback, Subscribe, Subscription, SubscriptionOptions, Unsuback, Unsubscribe, Version,
};
pub use properties::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubackProperties, SubscribeProperties, SubscriptionId, UnsubscribeProperties,
    WillProperties,
};
pub use reason::ReasonCode;
pub use text::{Binary, Secret, Text};
