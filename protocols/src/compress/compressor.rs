//! From a message to a frame, where that makes it smaller.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, compress_bound};

use super::{Dictionary, DictionarySet, Effort, Kind, choice::Choices};

/// zstd's own default: beyond it, each level costs much more time than it saves bytes on small messages.
pub const LEVEL_DEFAULT: i32 = 3;

/// Below this, a frame's header (6 to 14 bytes) eats what compression saves.
pub const MESSAGE_BYTES_MIN_DEFAULT: usize = 64;

/// The largest message that is compressed: zstd's context grows with it, and each thread keeps its own.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How to compress for one peer. Cheap to clone; clones share what they have learnt of which messages get smaller,
/// and hold no other state between messages.
#[derive(Clone, Debug)]
pub struct Compressor {
    level: i32,
    message_bytes_min: usize,
    dictionary: Option<Dictionary>,
    choices: Choices,
    /// Where somebody knows the network.
    effort: Option<Effort>,
}

/// A message that compression made smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// One whole zstd frame, which names its content size and its dictionary.
    pub frame: Bytes,
    /// The message's size before.
    pub bytes_before: usize,
}

impl Compressed {
    /// How much shorter the frame is than the message; at least 1.
    pub fn bytes_saved(&self) -> usize {
        self.bytes_before - self.frame.len()
    }
}

impl Compressor {
    /// Compresses messages of at least `message_bytes_min` without a dictionary at `level`.
    pub fn new(level: i32, message_bytes_min: usize) -> Self {
        Self { level, message_bytes_min, dictionary: None, choices: Choices::default(), effort: None }
    }

    /// Uses the best of `ours` that a peer with `peer_ids` can read, if there is one. The dictionary's
    /// own level then counts.
    pub fn with_common_dictionary(mut self, ours: &DictionarySet, peer_ids: &[u32]) -> Self {
        self.dictionary = ours.best_common(peer_ids).cloned();
        self
    }

    /// Uses this dictionary and its level.
    pub fn with_dictionary(mut self, dictionary: Dictionary) -> Self {
        self.dictionary = Some(dictionary);
        self
    }

    /// Follows that effort in place of a fixed level.
    pub fn with_effort(mut self, effort: Effort) -> Self {
        self.effort = Some(effort);
        self
    }

    /// The dictionary in use.
    pub fn dictionary(&self) -> Option<&Dictionary> {
        self.dictionary.as_ref()
    }

    /// The same for a message of a kind of which it is remembered what came of it: kinds that do not get
    /// smaller are tried less and less.
    pub fn compress_kind(&self, kind: Kind, message: &[u8]) -> Option<Compressed> {
        if !self.takes(message) {
            return None;
        }
        // Where the network is faster than the processor, that says nothing of the kind.
        let level = self.level(self.choices.size(kind, message.len()))?;
        if !self.choices.advise(kind, message.len()) {
            return None;
        }
        let compressed = self.compress_at(level, message);
        let bytes_after = compressed.as_ref().map_or(message.len(), |compressed| compressed.frame.len());
        self.choices.learn(kind, message.len(), bytes_after);
        compressed
    }

    fn takes(&self, message: &[u8]) -> bool {
        (self.message_bytes_min.max(1)..=MESSAGE_BYTES_MAX).contains(&message.len())
    }

    /// Compresses one message, or returns `None` when it should be sent as it is: too short, too long, or
    /// not made smaller.
    pub fn compress(&self, message: &[u8]) -> Option<Compressed> {
        if !self.takes(message) {
            return None;
        }
        self.compress_at(self.level(None)?, message)
    }

    /// The level for a message that has so much left; `None` where it is sent as it is.
    fn level(&self, size: Option<f64>) -> Option<i32> {
        match self.effort.as_ref().and_then(Effort::pace) {
            Some(pace) => pace.level(size),
            None => Some(self.level),
        }
    }

    fn compress_at(&self, level: i32, message: &[u8]) -> Option<Compressed> {
        let frame = self.compress_frame(level, message)?;
        // Copied, since the vector has room for the worst case and the frame may be kept for a while.
        if frame.len() >= message.len() {
            return None;
        }
        if let Some(dictionary) = &self.dictionary {
            dictionary.usage().wrote(message.len(), frame.len());
        }
        Some(Compressed { frame: Bytes::copy_from_slice(&frame), bytes_before: message.len() })
    }

    fn compress_frame(&self, level: i32, message: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(compress_bound(message.len()));
        CONTEXT.with_borrow_mut(|context| {
            let context = match context {
                Some(context) => context,
                None => context.insert(CCtx::try_create()?),
            };
            match &self.dictionary {
                Some(dictionary) => {
                    context.compress_using_cdict(&mut frame, message, dictionary.encoder(level))
                }
                None => context.compress(&mut frame, message, level),
            }
            .ok()
        })?;
        Some(frame)
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new(LEVEL_DEFAULT, MESSAGE_BYTES_MIN_DEFAULT)
    }
}

thread_local! {
    /// A context holds working memory only: each frame begins by forgetting the one before.
    static CONTEXT: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
}
