//! Whose turn it is to write, among the streams of one QUIC connection.
//!
//! quinn sends first what it holds of urgent streams. But it holds a window of all streams together, and whatever is freed
//! of that goes to whoever asks: an image that has filled it would leave a payment half of the line. So a stream waits
//! while a more urgent one waits for room:
//!
//! ```text
//!  payment   writes, finds no room: waits ------ room: writes ---- has no more: leaves
//!  image     ... waits for room ------- comes when the payment has left, or has moved nothing for long -->
//! ```
//!
//! A stream that moves nothing for long has a client that does not read it, for all that is known: quinn does not say what
//! a stream waits for.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use towline_protocols::link::Priority;

/// How long a stream that moves nothing holds others up: round trips of most networks are shorter.
const PATIENCE: Duration = Duration::from_secs(1);

/// The streams of a connection that wait for room.
#[derive(Default)]
pub(super) struct Turns {
    /// No more than its streams.
    waiting: Mutex<Vec<Waiting>>,
    changed: Notify,
}

struct Waiting {
    stream: u64,
    urgency: u8,
    /// Others that are less urgent wait until then.
    until: Instant,
}

/// One stream's part in it.
pub(super) struct Turn {
    turns: Arc<Turns>,
    stream: u64,
    urgency: u8,
    waits: bool,
}

impl Turn {
    /// That of the connection's stream of this number.
    pub(super) fn new(turns: Arc<Turns>, stream: u64) -> Self {
        Self { turns, stream, urgency: Priority::NORMAL.urgency(), waits: false }
    }

    /// Before the stream has anything to write.
    pub(super) fn set_priority(&mut self, priority: Priority) {
        self.urgency = priority.urgency();
    }

    /// Polls `write` while it is the stream's turn. Safe to cancel.
    pub(super) async fn write<T>(&mut self, mut write: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        loop {
            // Of what changes from here on it hears.
            let turns = Arc::clone(&self.turns);
            let changed = turns.changed.notified();
            if let Some(until) = turns.held_up(self.urgency, Instant::now()) {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                () = changed => {}
                written = poll_fn(&mut write) => {
                    self.moved();
                    return written;
                }
                // Asked only where there is no room.
                () = std::future::ready(()), if !self.waits => self.wait(),
            }
        }
    }

    /// The stream has nothing to write.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.turns.waiting.lock().retain(|waiting| waiting.stream != self.stream);
            self.turns.changed.notify_waiters();
        }
    }

    fn wait(&mut self) {
        self.waits = true;
        let until = Instant::now() + PATIENCE;
        let mut waiting = self.turns.waiting.lock();
        let holds_up = waiting.iter().any(|other| other.urgency > self.urgency);
        waiting.push(Waiting { stream: self.stream, urgency: self.urgency, until });
        drop(waiting);
        if holds_up {
            self.turns.changed.notify_waiters();
        }
    }

    fn moved(&mut self) {
        if self.waits {
            let until = Instant::now() + PATIENCE;
            let mut waiting = self.turns.waiting.lock();
            let mine = waiting.iter_mut().find(|waiting| waiting.stream == self.stream);
            mine.into_iter().for_each(|mine| mine.until = until);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Turns {
    /// Until when a stream of that urgency has to wait, if nothing changes.
    fn held_up(&self, urgency: u8, now: Instant) -> Option<Instant> {
        let waiting = self.waiting.lock();
        let urgent = waiting.iter().filter(|waiting| waiting.urgency < urgency && waiting.until > now);
        urgent.map(|waiting| waiting.until).max()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt as _;

    use super::*;

    fn turn(turns: &Arc<Turns>, stream: u64, priority: Priority) -> Turn {
        let mut turn = Turn::new(Arc::clone(turns), stream);
        turn.set_priority(priority);
        turn
    }

    /// Whether it may write, where there is room.
    fn may_write(turn: &mut Turn) -> bool {
        turn.write(|_| Poll::Ready(())).now_or_never().is_some()
    }

    fn finds_no_room(turn: &mut Turn) {
        assert!(turn.write(|_| Poll::<()>::Pending).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_less_urgent_waits_for_what_waits_for_room() {
        let turns = Arc::default();
        let mut image = turn(&turns, 1, Priority::BACKGROUND);
        let mut payment = turn(&turns, 2, Priority::CRITICAL);
        let mut other = turn(&turns, 3, Priority::CRITICAL);
        assert!(may_write(&mut image) && may_write(&mut payment), "there is room for all");
        finds_no_room(&mut payment);
        assert!(!may_write(&mut image) && may_write(&mut other));
        assert!(may_write(&mut payment) && !may_write(&mut image), "it has more to write");
        payment.leave();
        assert!(may_write(&mut image));
        finds_no_room(&mut payment);
        drop(payment);
        assert!(may_write(&mut image));
        assert!(turns.waiting.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_room_is_overtaken_by_what_is_more_urgent() {
        let turns = Arc::default();
        let mut image = turn(&turns, 1, Priority::BACKGROUND);
        let mut payment = turn(&turns, 2, Priority::CRITICAL);
        let asked = Cell::new(0);
        let has_room = Cell::new(false);
        let mut writing = Box::pin(image.write(|_| {
            asked.set(asked.get() + 1);
            if has_room.get() { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert!(writing.as_mut().now_or_never().is_none());
        finds_no_room(&mut payment);
        has_room.set(true);
        let before = asked.get();
        assert!(writing.as_mut().now_or_never().is_none());
        assert_eq!(asked.get(), before, "the room is the payment's");
        payment.leave();
        assert!(writing.as_mut().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_nothing_holds_nobody_up_for_ever() {
        let turns = Arc::default();
        let mut image = turn(&turns, 1, Priority::BACKGROUND);
        let mut payment = turn(&turns, 2, Priority::CRITICAL);
        finds_no_room(&mut payment);
        image.write(|_| Poll::Ready(())).await;
        assert!(may_write(&mut image), "nobody reads the payment");
        assert!(may_write(&mut payment));
        assert!(!may_write(&mut image), "it moves again");
    }
}
