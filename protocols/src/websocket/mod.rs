//! WebSocket (RFC 6455) as a server has it under a protocol that wants a stream of bytes: frames and their masks, what
//! a connection is asked and told beside the data, how it closes. The handshake is HTTP's.
//!
//! Data is handed on as it comes: it is unmasked where it lies, and no message is gathered. So a connection on which
//! nothing happens is a [`Reader`] and a [`Writer`] as they were made, and need not be kept.

mod reader;
mod writer;

pub use self::{
    reader::{Reader, Violation},
    writer::Writer,
};

/// What a control frame may carry (section 5.5).
pub const CONTROL_OCTETS_MAX: usize = 125;

/// Section 11.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// Status codes (section 7.4.1).
pub mod code {
    /// "The purpose for which the connection was established has been fulfilled."
    pub const NORMAL: u16 = 1000;
    /// What the peer sent is against the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// It sent a kind of data that is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// It sent text that is no UTF-8.
    pub const NOT_UTF_8: u16 = 1007;
    /// It sent a message that is too big.
    pub const TOO_BIG: u16 = 1009;
}

/// In the header's first octet: this is the message's last frame.
const FIN: u8 = 0x80;
/// In the header's second octet: the payload is masked.
const MASKED: u8 = 0x80;
/// In its place: the length follows in two octets, or in eight.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;
