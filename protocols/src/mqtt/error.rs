//! What a peer did wrong.

use std::fmt;

use super::ReasonCode;

/// A broken rule of the standard, or a bound that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqttError {
    /// What an MQTT 5 peer is told.
    pub reason: ReasonCode,
    /// The rule, with its number in the standard where it has one.
    pub rule: &'static str,
}

impl MqttError {
    /// The bytes do not parse (0x81).
    pub const fn malformed(rule: &'static str) -> Self {
        Self { reason: ReasonCode::MalformedPacket, rule }
    }

    /// The packet parses, but may not be sent like that or now (0x82).
    pub const fn protocol(rule: &'static str) -> Self {
        Self { reason: ReasonCode::ProtocolError, rule }
    }

    /// Any other reason.
    pub const fn new(reason: ReasonCode, rule: &'static str) -> Self {
        Self { reason, rule }
    }
}

impl fmt::Display for MqttError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.rule, self.reason as u8)
    }
}

impl std::error::Error for MqttError {}
