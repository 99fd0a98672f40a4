//! What an app waits for, one after the other, handed over so that nothing is lost between two threads.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

use crate::{cancel::Cancellation, engine::Engine, error::TowlineError};

/// Something that has a next item.
pub(crate) trait Feed: Send + 'static {
    /// What it hands out.
    type Item: Send + 'static;

    /// The next item; `None` behind the last. Dropped before it is ready, it has taken nothing.
    fn next(&mut self) -> impl Future<Output = Option<Self::Item>> + Send;
}

/// A handle by which an app waits for one item after the other.
pub(crate) trait Listens: Send + Sync + 'static {
    /// Where they come from.
    type Feed: Feed;

    /// The same, for who asks.
    fn source(&self) -> &Source<Self::Feed>;

    /// The app is done with the item that was handed out last.
    fn handled(&self) {}
}

/// A feed for askers on other threads. Those that ask while another waits come behind it.
pub(crate) struct Source<F: Feed> {
    feed: Arc<Turns<F>>,
    /// An item whose asker was gone when it came.
    returned: Arc<Slot<F::Item>>,
    stopped: Arc<Cancellation>,
}

struct Slot<T>(Mutex<Option<T>>);

impl<F: Feed> Source<F> {
    pub(crate) fn new(feed: F) -> Self {
        let returned = Arc::new(Slot(Mutex::new(None)));
        Self { feed: Arc::new(Turns::new(feed)), returned, stopped: Cancellation::new() }
    }

    /// Ends every wait, present and later ones: there is no next item.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    /// The feed itself, for what else it tells.
    pub(crate) fn feed(&self) -> Arc<Turns<F>> {
        Arc::clone(&self.feed)
    }

    /// Calls `work` where what was handed out last has come to its asker, and nobody waits for the next.
    pub(crate) fn settled(&self, work: impl FnOnce(&mut F)) {
        if let Ok(mut feed) = self.feed.try_lock()
            && self.returned.is_empty()
        {
            work(&mut feed);
        }
    }

    /// The next item; `None` behind the last. Who stops waiting leaves it to the next asker.
    pub(crate) async fn next(&self) -> Result<Option<F::Item>, TowlineError> {
        let (feed, returned) = (Arc::clone(&self.feed), Arc::clone(&self.returned));
        let stopped = Arc::clone(&self.stopped);
        let next = async move {
            let mut turn = feed.lock_owned().await;
            let item = tokio::select! {
                biased;
                () = stopped.cancelled() => None,
                item = async {
                    match returned.take() {
                        Some(item) => Some(item),
                        None => turn.next().await,
                    }
                } => item,
            };
            Ok(Handed { item, returned, _turn: turn })
        };
        Ok(Engine::get()?.run(next).await?.item.take())
    }
}

impl<T> Slot<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn put(&self, item: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(item);
    }
}

/// An item on its way to who asked; if that one is gone it goes back, before the next one's turn comes.
struct Handed<F: Feed> {
    item: Option<F::Item>,
    returned: Arc<Slot<F::Item>>,
    _turn: OwnedMutexGuard<F>,
}

impl<F: Feed> Drop for Handed<F> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.returned.put(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::sync::mpsc;

    use super::*;

    struct Numbers(mpsc::Receiver<u32>);

    impl Feed for Numbers {
        type Item = u32;

        async fn next(&mut self) -> Option<u32> {
            self.0.recv().await
        }
    }

    #[tokio::test]
    async fn what_an_asker_left_behind_is_the_next_ones() {
        let (sender, numbers) = mpsc::channel(4);
        let source = Source::new(Numbers(numbers));
        for number in 1..=100 {
            let mut left = Box::pin(source.next());
            assert!(left.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // It comes to an asker that goes away meanwhile, or a moment later.
            sender.send(number).await.unwrap();
            if number % 2 == 0 {
                std::thread::yield_now();
            }
            drop(left);
            assert_eq!(source.next().await.unwrap(), Some(number));
            let mut is_settled = false;
            source.settled(|_| is_settled = true);
            assert!(is_settled);
        }
        drop(sender);
        assert_eq!(source.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_item_that_nobody_has_got_is_not_settled() {
        let (_sender, numbers) = mpsc::channel(4);
        let source = Source::new(Numbers(numbers));
        source.returned.put(1);
        source.settled(|_| panic!("it was not handed out"));
        assert_eq!(source.next().await.unwrap(), Some(1));
        let mut is_settled = false;
        source.settled(|_| is_settled = true);
        assert!(is_settled);
    }
}
