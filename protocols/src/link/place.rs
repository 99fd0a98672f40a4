//! How far one half of a request has come.

use super::{LimitsMessage, Partial, Waiting};

/// A place in a half: behind whole messages, and some bytes of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Whole messages.
    pub messages: u64,
    /// Bytes of the message behind them, as they are when decompressed.
    pub bytes: u64,
}

impl Place {
    /// Behind so many whole messages.
    pub const fn behind(messages: u64) -> Self {
        Self { messages, bytes: 0 }
    }

    /// Where the message begins that it lies in.
    pub const fn of_message(self) -> Self {
        Self::behind(self.messages)
    }
}

impl Waiting {
    /// What the client has of the answer.
    pub fn received(&self) -> Place {
        Place { messages: self.messages_received, bytes: self.bytes_received }
    }
}

impl Partial {
    /// What the server has of the request.
    pub fn received(&self) -> Place {
        Place { messages: self.messages_received, bytes: self.bytes_received }
    }
}

impl LimitsMessage {
    /// Whether the sender of `announced` goes on inside a message (PROTOCOL.md, section 9).
    pub fn allow_rests(announced: Option<&Self>) -> bool {
        announced.is_some_and(|announced| announced.message_rests)
    }
}
