//! Whether a connection's handshake is over. Until it is, what the connection yields came as early data
//! (RFC 8446, section 2.3), which anybody who saw it may have sent.
//!
//! ```text
//!  pending() --> Completion::complete() --> complete
//!          \---> dropped ----------------> ended: it never will be
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::Notify;

/// How a connection's handshake stands; clones speak of the same one. Costs nothing where the handshake was
/// over before the first byte was read.
#[derive(Clone, Debug, Default)]
pub struct Handshake(Option<Arc<Shared>>);

/// The transport's end of a [`Handshake`]. Dropping it says that the handshake broke.
#[derive(Debug)]
pub struct Completion(Arc<Shared>);

/// The connection ended before its handshake did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection ended before its handshake was complete")]
pub struct Ended;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    changed: Notify,
}

const PENDING: u8 = 0;
const COMPLETE: u8 = 1;
const ENDED: u8 = 2;

impl Handshake {
    /// One that was over before the first byte was read.
    pub fn complete() -> Self {
        Self(None)
    }

    /// One that is under way while early data is read.
    pub fn pending() -> (Completion, Self) {
        let shared = Arc::new(Shared { state: AtomicU8::new(PENDING), changed: Notify::new() });
        (Completion(Arc::clone(&shared)), Self(Some(shared)))
    }

    /// Whether the peer has finished the handshake: what was read is its own word, said to this gateway now.
    pub fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.state.load(Ordering::Acquire) == COMPLETE)
    }

    /// Waits for the end of the handshake. Safe to cancel.
    ///
    /// # Errors
    /// The connection ended before.
    pub async fn completed(&self) -> Result<(), Ended> {
        let Some(shared) = &self.0 else { return Ok(()) };
        loop {
            let changed = shared.changed.notified();
            match shared.state.load(Ordering::Acquire) {
                COMPLETE => return Ok(()),
                ENDED => return Err(Ended),
                _ => changed.await,
            }
        }
    }
}

impl Completion {
    /// The peer's Finished was verified.
    pub fn complete(self) {
        self.0.state.store(COMPLETE, Ordering::Release);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // Fails when it is complete.
        let _was = self.0.state.compare_exchange(PENDING, ENDED, Ordering::AcqRel, Ordering::Acquire);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn waiters_learn_how_it_ends() {
        let (completion, handshake) = Handshake::pending();
        let mut waiting = Box::pin(handshake.completed());
        assert_eq!((&mut waiting).now_or_never(), None);
        assert!(!handshake.is_complete());
        completion.complete();
        assert_eq!(waiting.now_or_never(), Some(Ok(())));
        assert!(handshake.is_complete());
        let (completion, handshake) = Handshake::pending();
        drop(completion);
        assert_eq!(handshake.completed().now_or_never(), Some(Err(Ended)));
        assert!(!handshake.is_complete(), "what broke is never complete");
        assert!(Handshake::complete().is_complete());
    }
}
