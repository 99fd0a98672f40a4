//! What waits for the hook to say whether the client may have it, or who it is. One thing at a time: what follows is not read
//! meanwhile, so that all is answered in the order in which it came.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::mqtt::Subscribe;

use super::{Driver, End};
use crate::{
    access::Leave,
    auth::Refusal,
    mqtt::{
        enhanced::{Exchange, Step},
        inbox::Incoming,
        publish,
        receipts::Receipt,
        subscribe,
    },
};

/// A question to the hook.
pub(super) type Asking = Pin<Box<dyn Future<Output = Asked> + Send>>;

/// What the hook was asked about.
pub(super) enum Asked {
    Publish(Incoming),
    /// With what is to be said of each filter.
    Subscribe(Box<Subscribe>, Vec<Leave>),
    /// How an exchange goes on, and what was withdrawn before it was asked.
    Authenticated(Box<Exchange>, Result<Step, Refusal>, u64),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Asks whether the client may publish that.
    pub(super) fn ask_leave(&mut self, incoming: Incoming) {
        let (gateway, origin) = (Arc::clone(&self.attachment.gateway), Arc::clone(&self.origin));
        self.asking = Some(Box::pin(async move {
            let leave = publish::ask_leave(&gateway, &origin, &incoming.message, incoming.way).await;
            Asked::Publish(Incoming { leave, ..incoming })
        }));
    }

    /// Subscribes, or asks first; `leaves` is what is known of each filter.
    pub(super) fn ask_or_subscribe(
        &mut self,
        subscribe: Box<Subscribe>,
        leaves: Vec<Option<Leave>>,
    ) -> Result<(), End> {
        if leaves.iter().all(Option::is_some) {
            return self.subscribe(&subscribe, &leaves.into_iter().flatten().collect::<Vec<_>>());
        }
        let (gateway, origin) = (Arc::clone(&self.attachment.gateway), Arc::clone(&self.origin));
        self.asking = Some(Box::pin(async move {
            let leaves = subscribe::ask_leaves(&gateway, &origin, &subscribe, leaves).await;
            Asked::Subscribe(subscribe, leaves)
        }));
        Ok(())
    }

    /// Goes on once the hook has answered.
    pub(super) fn poll_asking(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(asking) = &mut self.asking else { return Poll::Pending };
        let asked = ready!(asking.as_mut().poll(cx));
        self.asking = None;
        Poll::Ready(match asked {
            Asked::Publish(incoming) => self.take_in(incoming),
            Asked::Subscribe(subscribe, leaves) => self.subscribe(&subscribe, &leaves),
            Asked::Authenticated(exchange, step, as_of) => self.authenticated(exchange, step, as_of),
        })
    }

    fn subscribe(&mut self, subscribe: &Subscribe, leaves: &[Leave]) -> Result<(), End> {
        let subscribed = subscribe::subscribe(&self.attachment, subscribe, leaves);
        self.answer_durably(Receipt::Subscribed(subscribed))
    }
}
