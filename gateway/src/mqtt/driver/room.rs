//! A publisher that waits for room in its subscribers' queues, instead of having its messages dropped there.

use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::mqtt::QoS;

use super::Driver;
use crate::{access::Leave, mqtt::inbox::Incoming};

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Whether the publish had better wait. QoS 0 does not: nothing tells its publisher to.
    pub(super) fn lacks_room(&mut self, incoming: &Incoming) -> bool {
        if incoming.qos == QoS::AtMostOnce || incoming.leave != Leave::Granted {
            return false;
        }
        self.attachment.gateway.hub.look_for_room(&incoming.message, &mut self.last, self.now);
        self.last.scarce_room(self.now).is_some()
    }

    /// Ready when the first publish that waits need not wait for room. The client is read from meanwhile, until the
    /// inbox is full: what it acknowledges may be what others wait for.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.inbox.can_wait() {
            if self.waits_for_room.is_none() {
                let Some(room) = self.last.scarce_room(self.now) else { break };
                self.waits_for_room = Some(Box::pin(room.clone().wait()));
                self.attachment.gateway.metrics.limit_hit("mqtt.queue_half");
            }
            if let Some(waits) = &mut self.waits_for_room {
                ready!(waits.as_mut().poll(cx));
                self.waits_for_room = None;
                // How long that took decides whether there is more to wait for.
                self.now = crate::mqtt::now();
            }
        }
        Poll::Ready(())
    }
}
