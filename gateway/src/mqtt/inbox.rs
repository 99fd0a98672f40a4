//! Publishes of one connection that wait for a backend, in order.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use towline_protocols::mqtt::{PacketId, QoS, ReasonCode};

use super::publish;
use crate::{gateway::Gateway, hub::Message, request::Origin};

type Forward = Pin<Box<dyn Future<Output = Result<(), ReasonCode>> + Send>>;

/// A publish that was taken off the wire and not answered.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) packet_id: Option<PacketId>,
    /// The ACL does not permit it: it is answered in its turn, and nothing else.
    pub(super) is_denied: bool,
    /// Whether a backend has to accept it.
    pub(super) is_routed: bool,
}

/// Bounded: its owner stops reading when it is full.
#[derive(Default)]
pub(super) struct Inbox {
    /// The first is with the backend, if `forward` is set.
    waiting: VecDeque<Incoming>,
    bytes: usize,
    forward: Option<Forward>,
}

impl Inbox {
    /// Whether `count_max` publishes, or payloads of `bytes_max`, wait.
    pub(super) fn is_full(&self, count_max: usize, bytes_max: usize) -> bool {
        self.waiting.len() >= count_max || self.bytes >= bytes_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
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
        let Some(first) = self.waiting.front() else { return Poll::Pending };
        let result = if first.is_routed {
            let begin = || -> Forward {
                Box::pin(publish::forward(gateway.clone(), origin.clone(), first.message.clone()))
            };
            let forward = self.forward.get_or_insert_with(begin);
            std::task::ready!(forward.as_mut().poll(cx))
        } else {
            Ok(())
        };
        self.forward = None;
        let Some(first) = self.waiting.pop_front() else { return Poll::Pending };
        self.bytes -= first.message.payload.len();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Poll::Ready((first, result))
    }
}
