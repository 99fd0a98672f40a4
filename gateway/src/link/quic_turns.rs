//! Whose turn it is to write, among the streams of one QUIC connection.
//!
//! quinn sends first what it holds of urgent streams. But it holds a window of all streams together, and whatever is freed
//! of that goes to whoever asks first: an image that has filled it would leave a payment half of the line. So while a more
//! urgent stream waits for room, another one lets it ask first, and then takes little:
//!
//! ```text
//!  room is freed   payment: takes what it can, waits again
//!                  image:   gives way once, then asks for a packet's worth -- no room is left, or the payment wants none
//! ```
//!
//! quinn does not say what a stream waits for. Where that is its own client, which does not read it, there is room left
//! after it has asked, and the others go on in small steps.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use towline_protocols::link::Priority;

/// What a stream writes at one time while a more urgent one waits.
const STEP_BYTES: usize = 2 << 10;
/// Urgencies, of which 0 is the most urgent.
const URGENCIES: usize = 8;

/// How many streams of a connection wait for room, by urgency.
#[derive(Default)]
pub(super) struct Turns([AtomicUsize; URGENCIES]);

/// One stream's part in it.
pub(super) struct Turn {
    turns: Arc<Turns>,
    urgency: usize,
    /// It counts among those that wait.
    waits: bool,
    /// It has let others ask first.
    gave_way: bool,
}

impl Turn {
    pub(super) fn new(turns: Arc<Turns>) -> Self {
        Self { turns, urgency: Priority::NORMAL.urgency().into(), waits: false, gave_way: false }
    }

    /// Before the stream has anything to write.
    pub(super) fn set_priority(&mut self, priority: Priority) {
        self.leave();
        self.urgency = usize::from(priority.urgency()).min(URGENCIES - 1);
    }

    /// Polls `write`, which is to write so many bytes at the most. Safe to cancel.
    pub(super) async fn write<T>(&mut self, mut write: impl FnMut(&mut Context<'_>, usize) -> Poll<T>) -> T {
        poll_fn(|cx| {
            let is_behind = self.turns.has_before(self.urgency);
            if is_behind && !std::mem::replace(&mut self.gave_way, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.gave_way = false;
            let written = write(cx, if is_behind { STEP_BYTES } else { usize::MAX });
            if written.is_pending() && !std::mem::replace(&mut self.waits, true) {
                self.turns.0[self.urgency].fetch_add(1, Ordering::Relaxed);
            }
            written
        })
        .await
    }

    /// The stream has nothing to write.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.turns.0[self.urgency].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Turns {
    /// Whether a stream waits that is more urgent.
    fn has_before(&self, urgency: usize) -> bool {
        self.0[..urgency].iter().any(|waiting| waiting.load(Ordering::Relaxed) > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What a stream did when it was polled once.
    #[derive(Debug, PartialEq, Eq)]
    enum Did {
        GaveWay,
        FoundNoRoom,
        Wrote(usize),
    }

    fn turn(turns: &Arc<Turns>, priority: Priority) -> Turn {
        let mut turn = Turn::new(Arc::clone(turns));
        turn.set_priority(priority);
        turn
    }

    fn poll(turn: &mut Turn, room: usize) -> Did {
        let mut asked = false;
        let mut writing = Box::pin(turn.write(|_, most| {
            asked = true;
            if room > 0 { Poll::Ready(room.min(most)) } else { Poll::Pending }
        }));
        let polled = writing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(writing);
        match polled {
            Poll::Ready(bytes) => Did::Wrote(bytes),
            Poll::Pending if asked => Did::FoundNoRoom,
            Poll::Pending => Did::GaveWay,
        }
    }

    #[test]
    fn what_is_less_urgent_lets_what_waits_for_room_ask_first_and_takes_little() {
        let turns = Arc::default();
        let mut image = turn(&turns, Priority::BACKGROUND);
        let mut payment = turn(&turns, Priority::CRITICAL);
        let mut other = turn(&turns, Priority::CRITICAL);
        assert_eq!(poll(&mut image, 9000), Did::Wrote(9000));
        assert_eq!(poll(&mut image, 0), Did::FoundNoRoom);
        assert_eq!(poll(&mut payment, 0), Did::FoundNoRoom);
        for _ in 0..2 {
            assert_eq!(poll(&mut image, 9000), Did::GaveWay);
            assert_eq!(poll(&mut payment, 9000), Did::Wrote(9000), "it has more to write");
            assert_eq!(poll(&mut image, 9000), Did::Wrote(STEP_BYTES), "nobody else took it");
        }
        assert_eq!(poll(&mut other, 9000), Did::Wrote(9000));
        payment.leave();
        assert_eq!(poll(&mut image, 9000), Did::Wrote(9000));
    }

    #[test]
    fn a_stream_that_is_gone_holds_nobody_up() {
        let turns = Arc::default();
        let mut image = turn(&turns, Priority::BACKGROUND);
        let mut payment = turn(&turns, Priority::CRITICAL);
        assert_eq!(poll(&mut payment, 0), Did::FoundNoRoom);
        assert_eq!(poll(&mut payment, 0), Did::FoundNoRoom);
        assert_eq!(poll(&mut image, 9000), Did::GaveWay);
        drop(payment);
        assert_eq!(poll(&mut image, 9000), Did::Wrote(9000));
        assert!(turns.0.iter().all(|waiting| waiting.load(Ordering::Relaxed) == 0));
    }
}
