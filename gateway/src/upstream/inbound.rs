//! What a broker brings: published here in its order, and acknowledged when what it is for is durable.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use rumqttc::v5::mqttbytes::v5::Publish;

use super::{Shared, hops, packet};
use crate::{gateway::Gateway, mqtt, request::Origin, store::StoreError};

/// Publishes that are taken from the broker and not acknowledged; also the receive maximum that it is told.
pub(super) const WAITING_MAX: u16 = 64;

type Written = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;
type Publishing = Pin<Box<dyn Future<Output = Option<Written>> + Send>>;
type Acknowledging = Pin<Box<dyn Future<Output = (u16, Result<(), StoreError>)> + Send>>;

/// The broker's publishes of one connection.
pub(super) struct Inbound {
    gateway: Weak<Gateway>,
    shared: Arc<Shared>,
    origin: Arc<Origin>,
    /// The gateway that the broker is.
    source: Option<Arc<str>>,
    waiting: VecDeque<Publish>,
    /// The first one, while a backend has it.
    running: Option<(u16, Publishing)>,
    acknowledging: FuturesOrdered<Acknowledging>,
}

impl Inbound {
    pub(super) fn new(
        gateway: Weak<Gateway>,
        shared: Arc<Shared>,
        origin: Arc<Origin>,
        source: Option<Arc<str>>,
    ) -> Self {
        let (waiting, acknowledging) = (VecDeque::new(), FuturesOrdered::new());
        Self { gateway, shared, origin, source, waiting, running: None, acknowledging }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() + self.acknowledging.len() < usize::from(WAITING_MAX)
    }

    pub(super) fn push(&mut self, publish: Publish) {
        self.waiting.push_back(publish);
    }

    /// The next one that may be acknowledged, by its packet identifier. Safe to cancel.
    ///
    /// # Errors
    /// The store failed: the broker is to send it again.
    pub(super) async fn next(&mut self) -> Result<u16, StoreError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<u16, StoreError>> {
        while self.poll_publish(cx).is_ready() {}
        match ready!(self.acknowledging.poll_next_unpin(cx)) {
            Some((id, written)) => Poll::Ready(written.map(|()| id)),
            // Something comes with the next push, whose caller asks again.
            None => Poll::Pending,
        }
    }

    fn poll_publish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.running.is_none() {
            let Some(publish) = self.waiting.pop_front() else { return Poll::Pending };
            let (gateway, shared, origin) = (self.gateway.clone(), self.shared.clone(), self.origin.clone());
            let (id, source) = (publish.pkid, self.source.clone());
            self.running = Some((id, Box::pin(publish_here(gateway, shared, origin, source, publish))));
        }
        let Some((id, running)) = &mut self.running else { return Poll::Pending };
        let (id, written) = (*id, ready!(running.as_mut().poll(cx)));
        self.running = None;
        if id > 0 {
            let acknowledging = async move {
                match written {
                    Some(written) => (id, written.await),
                    None => (id, Ok(())),
                }
            };
            self.acknowledging.push_back(Box::pin(acknowledging));
        }
        Poll::Ready(())
    }
}

/// Returns what the acknowledgement has to wait for.
async fn publish_here(
    gateway: Weak<Gateway>,
    shared: Arc<Shared>,
    origin: Arc<Origin>,
    source: Option<Arc<str>>,
    publish: Publish,
) -> Option<Written> {
    let Some(gateway) = gateway.upgrade() else {
        return Some(Box::pin(async { Err(StoreError::Closed) }));
    };
    let backend = &shared.settings;
    let mut message = match packet::message(&publish, backend, gateway.hub.levels_max()) {
        Ok(message) => message,
        Err(what) => {
            shared.counters.refused.inc();
            tracing::debug!(backend = %backend.name, what, "a message of an upstream broker is left out");
            return None;
        }
    };
    hops::add(source.as_ref(), &mut message);
    if !hops::is_welcome(&shared.node, &message, backend.upstream.hops_max) {
        shared.counters.looped.inc();
        return None;
    }
    shared.counters.received.inc();
    hops::add(Some(&shared.node), &mut message);
    let waits = mqtt::publish_from_upstream(&gateway, &origin, &Arc::new(message)).await;
    waits.then(|| -> Written { Box::pin(gateway.store.begin_barrier()) })
}
