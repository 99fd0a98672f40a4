//! How fast a listener's clients may be (`rate` of a listener).

use std::time::Duration;

/// Rates per second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Messages that one client publishes, by MQTT or on the link.
    pub device_messages: u32,
    /// Bytes that one MQTT client sends; of an app on the link those of its publishes.
    pub device_bytes: u32,
    /// Messages that all clients of the listener publish together.
    pub messages: u32,
    /// Bytes that they send together.
    pub bytes: u32,
    /// Connections that are accepted.
    pub connects: u32,
    /// Connections that are accepted from one address.
    pub address_connects: u32,
    /// How long at its rate a client that was quiet may send at one time.
    pub burst: Duration,
    /// A client that is held back for so long without a pause is sent away; zero: never.
    pub patience: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            device_messages: 0,
            device_bytes: 0,
            messages: 0,
            bytes: 0,
            connects: 0,
            address_connects: 0,
            burst: Duration::from_secs(1),
            patience: Duration::from_secs(60),
        }
    }
}
