//! Why a connection ends: what CLOSE says on the wire.

use std::{borrow::Cow, fmt};

/// CLOSE's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseCode {
    /// Nothing is wrong: the sender needs the connection no longer.
    Done = 0,
    /// A frame broke a rule of the protocol.
    ProtocolError = 1,
    /// A frame is longer than its receiver accepts.
    FrameTooLarge = 2,
    /// More message bytes were sent than there was credit for.
    FlowControl = 3,
    /// A header block could not be decoded; the tables of both sides differ now.
    HeaderCompression = 4,
    /// A newer connection owns the session, or this one's epoch is old.
    TakenOver = 5,
    /// The client did not prove who it is, or that the session is its own.
    Unauthorized = 6,
    /// The peer broke its promise of the next beat, or did not answer a PING.
    HeartbeatMissed = 7,
    /// The server goes away now; what ran is kept in the session.
    Shutdown = 8,
    /// A fault of the sender's own.
    Internal = 9,
    /// The peer does not take what is sent to it, or asks for more than may be queued for it.
    Overload = 10,
    /// A bound of the server on connections or sessions is met; later may do.
    LimitExceeded = 11,
    /// HELLO names by its hash what the server does not hold; nothing of the connection was acted upon.
    UnknownReference = 12,
    /// Who the client is cannot be found out at the moment, or has to be found out again: the same HELLO may do later.
    Unavailable = 13,
}

impl CloseCode {
    /// The code with this number; numbers unknown to this version mean a fault of the sender's own.
    pub fn from_wire(code: u8) -> Self {
        use CloseCode::*;
        const ALL: [CloseCode; 14] = [
            Done,
            ProtocolError,
            FrameTooLarge,
            FlowControl,
            HeaderCompression,
            TakenOver,
            Unauthorized,
            HeartbeatMissed,
            Shutdown,
            Internal,
            Overload,
            LimitExceeded,
            UnknownReference,
            Unavailable,
        ];
        ALL.get(usize::from(code)).copied().unwrap_or(Internal)
    }
}

/// A rule that the peer broke. The connection is over; its session is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// What CLOSE tells the peer.
    pub code: CloseCode,
    /// The rule, with the place in the frame where it was broken.
    pub rule: Cow<'static, str>,
}

impl LinkError {
    /// A broken rule and the code that tells of it.
    pub fn new(code: CloseCode, rule: impl Into<Cow<'static, str>>) -> Self {
        Self { code, rule: rule.into() }
    }

    pub(crate) fn protocol(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::new(CloseCode::ProtocolError, rule)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {:?}: {}", self.code, self.rule)
    }
}

impl std::error::Error for LinkError {}
