//! The alerts that Towline sends by itself (RFC 8446, section 6).

/// Why a TLS connection ends, as its peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Alert {
    /// The sender writes no more.
    CloseNotify = 0,
    /// A message that does not belong here.
    UnexpectedMessage = 10,
    /// A record that does not decrypt.
    BadRecordMac = 20,
    /// A record longer than the protocol allows.
    RecordOverflow = 22,
    /// Nothing that both sides can do.
    HandshakeFailure = 40,
    /// A value out of its range, or inconsistent with another.
    IllegalParameter = 47,
    /// A message that cannot be parsed.
    DecodeError = 50,
    /// A version that is not spoken here.
    ProtocolVersion = 70,
    /// This side's own fault.
    InternalError = 80,
    /// None of the offered protocols is spoken here (RFC 7301, section 3.2).
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The two octets of an alert message: its level and its description.
    pub fn encode(self) -> [u8; 2] {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = if self == Self::CloseNotify { WARNING } else { FATAL };
        [level, self as u8]
    }
}
