//! Fewer, larger writes: a connection's task takes its turn after those that feed it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

/// Polls `future` one turn of the scheduler after it was woken. What the other ready tasks have to send
/// by then goes out in the same system call, which is half the cost of a small request. With nothing else
/// to run, the turn comes at once.
pub(crate) struct OneTurnLater<'f, F> {
    future: Pin<&'f mut F>,
    turn_came: bool,
}

impl<'f, F> OneTurnLater<'f, F> {
    pub(crate) fn new(future: Pin<&'f mut F>) -> Self {
        Self { future, turn_came: false }
    }
}

impl<F: Future> Future for OneTurnLater<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.turn_came = !self.turn_came;
        if self.turn_came {
            // A task that wakes itself goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.future.as_mut().poll(cx)
    }
}

/// Lets the tasks that are ready now go first; with none, the turn comes at once.
pub(crate) async fn one_turn() {
    let mut turn_came = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut turn_came, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, pin::pin};

    use super::*;

    #[tokio::test]
    async fn what_is_ready_goes_first() {
        let order = RefCell::new(Vec::new());
        let mut connection = pin!(async { order.borrow_mut().push("flush") });
        let feed = async { order.borrow_mut().push("feed") };
        tokio::join!(OneTurnLater::new(connection.as_mut()), feed);
        assert_eq!(*order.borrow(), ["feed", "flush"]);
    }
}
