//! Fewer, larger writes: a connection's task takes its turn after those that feed it.
//!
//! What the other ready tasks have to send by then goes out in the same system call, which is half the cost of a
//! small request. A turn is tokio's `yield_now`: it comes when the driver of I/O was asked again, at once if nothing
//! else is ready, and calls no idle thread to help, as a task that wakes itself would.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};

/// Turns that a client's connection lets pass. One gathers what one read of a backend brought; in a few more the
/// answers that follow are here as well, and a client that got its answers together asks for the next ones together.
/// Beyond that nothing is gained.
pub(crate) const CLIENT_TURNS: u8 = 3;
/// A turn is long where many tasks are ready or one of them computes: no further one is waited for after this.
const TURNS_TIME_MAX: Duration = Duration::from_millis(4);

/// Counts turns.
struct Turns {
    left: u8,
    since: Option<Instant>,
}

impl Turns {
    fn new(turns: u8) -> Self {
        Self { left: turns, since: None }
    }

    /// Whether another turn is to pass first; the task will be polled again behind it.
    fn passes(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        // The first one costs no look at the clock.
        if let Some(since) = self.since {
            if since.elapsed() > TURNS_TIME_MAX {
                return false;
            }
        } else if left > 0 {
            self.since = Some(Instant::now());
        }
        self.left = left;
        pass_turn(cx);
        true
    }
}

/// Has the task polled again behind those that are ready.
pub(crate) fn pass_turn(cx: &mut Context<'_>) {
    // Its first poll is what does it.
    _ = pin!(yield_now()).poll(cx);
}

/// Polls `future` some turns of the scheduler after it was woken.
pub(crate) struct TurnsLater<'f, F> {
    future: Pin<&'f mut F>,
    turns: u8,
    coming: Turns,
}

impl<'f, F> TurnsLater<'f, F> {
    pub(crate) fn new(turns: u8, future: Pin<&'f mut F>) -> Self {
        Self { future, turns, coming: Turns::new(turns) }
    }
}

impl<F: Future> Future for TurnsLater<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.coming.passes(cx) {
            return Poll::Pending;
        }
        self.coming = Turns::new(self.turns);
        self.future.as_mut().poll(cx)
    }
}

/// Lets the tasks that are ready go first, for so many turns.
pub(crate) async fn turns(count: u8) {
    let mut coming = Turns::new(count);
    poll_fn(|cx| if coming.passes(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_goes_first() {
        let order = RefCell::new(Vec::new());
        let mut connection = pin!(async { order.borrow_mut().push("flush") });
        let feed = async { order.borrow_mut().push("feed") };
        tokio::join!(TurnsLater::new(1, connection.as_mut()), feed);
        assert_eq!(*order.borrow(), ["feed", "flush"]);
    }

    #[tokio::test]
    async fn so_does_what_becomes_ready_within_the_turns() {
        let order = RefCell::new(Vec::new());
        let flush = async {
            turns(CLIENT_TURNS).await;
            order.borrow_mut().push("flush");
        };
        let feed = async {
            for _ in 1..CLIENT_TURNS {
                yield_now().await;
            }
            order.borrow_mut().push("feed");
        };
        tokio::join!(flush, feed);
        assert_eq!(*order.borrow(), ["feed", "flush"]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_further_turn_is_waited_for_once_they_have_taken_long() {
        let passed = RefCell::new(0);
        let mut coming = Turns::new(u8::MAX);
        poll_fn(|cx| {
            if !coming.passes(cx) {
                return Poll::Ready(());
            }
            *passed.borrow_mut() += 1;
            Poll::Pending
        })
        .now_or_never();
        tokio::time::advance(2 * TURNS_TIME_MAX).await;
        poll_fn(|cx| if coming.passes(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
        assert_eq!(*passed.borrow(), 1);
    }
}
