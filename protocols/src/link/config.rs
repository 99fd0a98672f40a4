//! What a side accepts and how it behaves; shared by all its connections.

use std::{sync::Arc, time::Duration};

use super::{LimitsMessage, LinkError, rest::Resting};
use crate::{
    compress::{Compressor, DICTIONARIES_MAX, Shelf},
    hpack::HeaderShelf,
};

/// Behaviour of one side. One per process or listener, behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the peer may use.
    pub limits: Limits,
    /// Dictionaries held, the best first. They may change while connections live.
    pub dictionaries: Shelf,
    /// Header dictionaries held. They may change while connections live.
    pub header_dictionaries: HeaderShelf,
    /// How messages are compressed; `None` sends them as they are.
    pub compressor: Option<Compressor>,
    /// Server: the longest promise of silence that it accepts.
    pub heartbeat_max: Duration,
    /// Server: how late a promised beat may be. Weak networks delay by seconds.
    pub heartbeat_grace: Duration,
    /// Client: how long a PING may stay unanswered, with nothing else arriving, before the connection
    /// counts as dead.
    pub ping_timeout: Duration,
    /// Name and version of this software, sent in WELCOME.
    pub agent: String,
    /// What connections at rest have in common.
    pub resting: Resting,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            dictionaries: Shelf::default(),
            header_dictionaries: HeaderShelf::default(),
            compressor: Some(Compressor::default()),
            heartbeat_max: Duration::from_secs(300),
            heartbeat_grace: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
            agent: concat!("towline/", env!("CARGO_PKG_VERSION")).to_owned(),
            resting: Resting::default(),
        }
    }
}

/// Bounds of what the sender of HELLO or WELCOME accepts. The default is what holds before the peer has
/// said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One frame's payload, bytes.
    pub frame_bytes_max: u32,
    /// Message bytes of one request in flight (TCP).
    pub stream_window: u32,
    /// Message bytes of all requests in flight (TCP).
    pub connection_window: u32,
    /// Dynamic table of the HPACK (TCP) or QPACK (QUIC) decoder, bytes.
    pub header_table_bytes: u32,
    /// Streams whose header section may wait for insertions (QUIC).
    pub qpack_blocked_streams: u32,
    /// One header list, bytes as RFC 7541 section 4.1 counts.
    pub header_list_bytes_max: u32,
    /// One message after decompression, bytes.
    pub message_bytes_max: u32,
    /// Requests open at one time.
    pub streams_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            header_table_bytes: 4096,
            qpack_blocked_streams: 0,
            header_list_bytes_max: 16 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            streams_max: 100,
        }
    }
}

/// 16 KiB of message or header list, and room for the fields around it.
const FRAME_BYTES_MAX_DEFAULT: u32 = 16 * 1024 + 256;
/// Beyond this a frame of bulk would make a payment wait too long on a slow link.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// What frames need beside a header list: lengths, numbers, table size updates.
const FRAME_OVERHEAD_BYTES: u32 = 64;
/// Flow control counts in signed 32 bits, so windows keep clear of the sign.
const WINDOW_MAX: u32 = 1 << 30;

impl Limits {
    /// Raises what is below the protocol's minimum, which is what a peer may use before it knows better,
    /// and lowers what cannot be.
    pub fn clamped(mut self) -> Self {
        let least = Self::default();
        self.frame_bytes_max = self.frame_bytes_max.clamp(least.frame_bytes_max, FRAME_BYTES_MAX);
        self.stream_window = self.stream_window.clamp(least.stream_window, WINDOW_MAX);
        self.connection_window = self.connection_window.clamp(least.connection_window, WINDOW_MAX);
        let header_list_max = self.frame_bytes_max - FRAME_OVERHEAD_BYTES;
        self.header_list_bytes_max = self.header_list_bytes_max.min(header_list_max);
        self.message_bytes_max = self.message_bytes_max.min(WINDOW_MAX);
        self.streams_max = self.streams_max.max(1);
        self
    }
}

/// What is known of the peer: its limits, and how to compress for it.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// What it accepts; the protocol's defaults until it has spoken.
    pub limits: Limits,
    /// How to compress what is sent to it; `None` until it has spoken, or when it takes none.
    pub compressor: Option<Compressor>,
    /// Ids of the dictionaries that it can read, the most preferred first.
    pub dictionaries: Arc<[u32]>,
}

impl Config {
    /// What HELLO or WELCOME says of this side.
    pub fn announcement(&self) -> LimitsMessage {
        let (limits, default) = (self.limits.clamped(), Limits::default());
        // What is not said has the default, and costs the first flight nothing.
        let news = |value: u32, default: u32| if value == default { 0 } else { value };
        LimitsMessage {
            frame_bytes_max: news(limits.frame_bytes_max, default.frame_bytes_max),
            stream_window: news(limits.stream_window, default.stream_window),
            connection_window: news(limits.connection_window, default.connection_window),
            header_table_bytes: news(limits.header_table_bytes, default.header_table_bytes),
            no_header_table: limits.header_table_bytes == 0,
            qpack_blocked_streams: limits.qpack_blocked_streams,
            header_list_bytes_max: news(limits.header_list_bytes_max, default.header_list_bytes_max),
            message_bytes_max: news(limits.message_bytes_max, default.message_bytes_max),
            streams_max: news(limits.streams_max, default.streams_max),
            dictionaries: self.dictionaries.ids(),
            compression: true,
            message_rests: true,
        }
    }

    /// What the peer's announcement means for this side. The dictionary is chosen by [`super::Control`].
    pub fn peer(&self, announced: Option<&LimitsMessage>) -> Result<Peer, LinkError> {
        let Some(announced) = announced else { return Ok(Peer::default()) };
        let default = Limits::default();
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let limits = Limits {
            frame_bytes_max: or(announced.frame_bytes_max, default.frame_bytes_max),
            stream_window: or(announced.stream_window, default.stream_window),
            connection_window: or(announced.connection_window, default.connection_window),
            header_table_bytes: match announced.no_header_table {
                true => 0,
                false => or(announced.header_table_bytes, default.header_table_bytes),
            },
            qpack_blocked_streams: announced.qpack_blocked_streams,
            header_list_bytes_max: or(announced.header_list_bytes_max, default.header_list_bytes_max),
            message_bytes_max: or(announced.message_bytes_max, default.message_bytes_max),
            streams_max: or(announced.streams_max, default.streams_max),
        };
        if limits.frame_bytes_max < default.frame_bytes_max
            || limits.stream_window < default.stream_window
            || limits.connection_window < default.connection_window
        {
            return Err(LinkError::protocol("frame_bytes_max and windows must not be below the defaults"));
        }
        let compressor = self.compressor.clone().filter(|_| announced.compression);
        // Who announces more is used with the first of them.
        let dictionaries = announced.dictionaries.iter().copied().take(DICTIONARIES_MAX).collect();
        Ok(Peer { limits: limits.clamped(), compressor, dictionaries })
    }
}
