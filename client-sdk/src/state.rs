//! What the app is told about its line.

use std::fmt;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC.
    Quic,
    /// TCP, with TLS unless the configuration says plaintext.
    Tcp,
    /// Short connections: an HTTPS POST for each call.
    Post,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Post => "post",
        })
    }
}

/// The state of the line. Calls are taken in every state but [`ConnectionState::Closed`].
///
/// ```text
///            +------------------------------+
///            v                              |
///  start -> Connecting -> Online -> Offline-+      Closed: by close(), or for good
///            |  ^                    ^
///            |  +--------------------|---+
///            +--- attempt failed ----+             Online -> Connecting: goes on over a second connection
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// An attempt is under way, or one that was made beside the line's connection, which still worked, waits for WELCOME.
    Connecting,
    /// The gateway said WELCOME.
    Online {
        /// By what.
        transport: Transport,
        /// Whether the session was still there: its requests and pushes go on.
        resumed: bool,
        /// Whether the gateway took the first flight as early data (0-RTT).
        early_data: bool,
    },
    /// Between attempts.
    Offline {
        /// Why the last one ended.
        reason: String,
    },
    /// The client was closed, or the gateway refused it for good.
    Closed {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Online { transport, resumed, early_data } => {
                let session = if *resumed { "session resumed" } else { "new session" };
                let early = if *early_data { ", early data" } else { "" };
                write!(f, "online ({transport}, {session}{early})")
            }
            Self::Offline { reason } => write!(f, "offline: {reason}"),
            Self::Closed { reason } => write!(f, "closed: {reason}"),
        }
    }
}
