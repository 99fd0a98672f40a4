//! Publishes of one connection that wait for a backend, in order.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use towline_protocols::mqtt::{PacketId, QoS, ReasonCode};

use super::publish;
use crate::{access::Leave, gateway::Gateway, hub::Message, request::Origin};

type Forward = Pin<Box<dyn Future<Output = Result<(), ReasonCode>> + Send>>;

/// A publish that was taken off the wire and not answered.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) packet_id: Option<PacketId>,
    /// Without leave it is answered in its turn, and nothing else.
    pub(super) leave: Leave,
    pub(super) way: Way,
}

/// Where a publish goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To its subscribers.
    Here,
    /// First to a backend, which has to accept it; perhaps together with what follows.
    Routed { is_batched: bool },
    /// To the shadow of a thing.
    Shadow,
    /// To its subscribers and backend, but not yet.
    Later(Duration),
    /// Its topic is none that one may publish to.
    Nowhere(ReasonCode),
}

impl Way {
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Routed { .. })
    }
}

/// One that is with its backend.
enum Begun {
    Waits(Forward),
    Done(Result<(), ReasonCode>),
}

/// Bounded: its owner stops reading when it is full.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Incoming>,
    bytes: usize,
    /// Of the first ones, those that are with their backend: one, or as many as may be in a batch.
    forwards: VecDeque<Begun>,
}

impl Inbox {
    /// Whether `count_max` publishes, or payloads of `bytes_max`, wait.
    pub(super) fn is_full(&self, count_max: usize, bytes_max: usize) -> bool {
        self.waiting.len() >= count_max || self.bytes >= bytes_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the first publish goes to subscribers alone, and its publisher can wait for them.
    pub(super) fn can_wait(&self) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| first.qos != QoS::AtMostOnce && !first.way.is_routed())
    }

    pub(super) fn push(&mut self, incoming: Incoming) {
        self.bytes += incoming.message.payload.len();
        self.waiting.push_back(incoming);
    }

    /// The first publish, once its backend has taken or refused it. Publishes without a route are handed out
    /// in their turn. Pending with nothing inside is not woken.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        gateway: &Arc<Gateway>,
        origin: &Arc<Origin>,
    ) -> Poll<(Incoming, Result<(), ReasonCode>)> {
        self.begin(cx, gateway, origin);
        let Some(first) = self.waiting.front() else { return Poll::Pending };
        let mut result = Ok(());
        if first.way.is_routed() {
            let Some(begun) = self.forwards.front_mut() else { return Poll::Pending };
            result = std::task::ready!(begun.poll(cx));
            self.forwards.pop_front();
        }
        let Some(first) = self.waiting.pop_front() else { return Poll::Pending };
        self.bytes -= first.message.payload.len();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Poll::Ready((first, result))
    }

    /// Begins the first publish, and those behind it that may be in a batch with it: they take their place there at
    /// once, and are answered in their turn.
    fn begin(&mut self, cx: &mut Context<'_>, gateway: &Arc<Gateway>, origin: &Arc<Origin>) {
        let mut may_follow = self.forwards.len().checked_sub(1).is_none_or(|last| self.is_batched(last));
        while let Some(next) = self.waiting.get(self.forwards.len()) {
            let is_first = self.forwards.is_empty();
            let Way::Routed { is_batched } = next.way else { return };
            let follows = may_follow && is_batched;
            if !is_first && !follows {
                return;
            }
            may_follow = is_batched;
            let mut begun = Begun::Waits(Box::pin(publish::forward(
                gateway.clone(),
                origin.clone(),
                next.message.clone(),
            )));
            if let Poll::Ready(result) = begun.poll(cx) {
                begun = Begun::Done(result);
            }
            self.forwards.push_back(begun);
        }
    }

    fn is_batched(&self, index: usize) -> bool {
        self.waiting.get(index).is_some_and(|incoming| incoming.way == Way::Routed { is_batched: true })
    }
}

impl Begun {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReasonCode>> {
        match self {
            Self::Waits(forward) => forward.as_mut().poll(cx),
            Self::Done(result) => Poll::Ready(*result),
        }
    }
}
