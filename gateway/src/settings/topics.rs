//! What topics mean beside their names: presence, delays, other names.

use std::time::Duration;

/// Events of clients that come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// They are published under this topic; empty: not at all.
    pub topic: String,
    /// Events that wait to be told.
    pub events_max: usize,
}

/// `$delayed/<seconds>/<topic>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// Whether such topics are known; otherwise they are topics like any.
    pub enabled: bool,
    /// Messages that wait.
    pub messages_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// The longest delay.
    pub delay_max: Duration,
}

/// Device shadows under `$shadow/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Whether there are any; otherwise such topics are topics like any.
    pub enabled: bool,
    /// Shadows that are kept, those that were deleted among them.
    pub things_max: usize,
    /// One shadow's state, bytes.
    pub bytes_max: usize,
}

/// Another name for topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// For what is published.
    pub publish: bool,
    /// For what is subscribed to.
    pub subscribe: bool,
    /// Topic filter that must match.
    pub topic: String,
    /// Regular expression that must match too.
    pub regex: Option<String>,
    /// The new name, with `$1` to `$9`, `%c` and `%u`.
    pub to: String,
}

impl Default for Presence {
    fn default() -> Self {
        Self { topic: String::new(), events_max: 16_384 }
    }
}

impl Default for Shadow {
    fn default() -> Self {
        Self { enabled: false, things_max: 100_000, bytes_max: 8 << 10 }
    }
}

impl Default for Delayed {
    fn default() -> Self {
        Self {
            enabled: true,
            messages_max: 100_000,
            bytes_max: 64 << 20,
            delay_max: Duration::from_secs(4_294_967),
        }
    }
}
