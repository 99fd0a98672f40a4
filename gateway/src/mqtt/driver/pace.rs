//! A client that is too fast: not read from for a while, sent away in the end.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::mqtt::ReasonCode;

use super::{Driver, End};
use crate::{
    gateway::Gateway,
    mqtt::client::Closing,
    rate::{Limit, Pace},
};

const TOO_MANY_MESSAGES: Closing = Closing {
    reason: ReasonCode::MessageRateTooHigh,
    text: "more messages per second than the listener admits",
};
const TOO_MANY_BYTES: Closing =
    Closing { reason: ReasonCode::QuotaExceeded, text: "more bytes per second than the listener admits" };

/// The pace of a new connection; `None` where nothing is limited.
pub(super) fn of(gateway: &Gateway, listener: &Arc<str>) -> Option<Box<Pace>> {
    let shared = gateway.rates.of(&gateway.snapshot(), listener)?;
    Some(Box::new(Pace::new(shared)))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn note_bytes(&mut self, bytes: usize) {
        let limit = self.pace.as_mut().and_then(|pace| pace.note_bytes(bytes));
        self.count_pause(limit);
    }

    pub(super) fn note_message(&mut self) {
        let limit = self.pace.as_mut().and_then(|pace| pace.note_message());
        self.count_pause(limit);
    }

    pub(super) fn is_held_back(&self) -> bool {
        self.pace.as_ref().is_some_and(|pace| pace.is_paused())
    }

    /// Ready when the client may go on.
    pub(super) fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(pace) = &mut self.pace else { return Poll::Pending };
        std::task::ready!(pace.poll(cx));
        match pace.is_out_of_patience() {
            None => Poll::Ready(Ok(())),
            Some(Limit::DeviceBytes | Limit::Bytes) => Poll::Ready(Err(End::Closed(TOO_MANY_BYTES))),
            Some(Limit::DeviceMessages | Limit::Messages) => Poll::Ready(Err(End::Closed(TOO_MANY_MESSAGES))),
        }
    }

    fn count_pause(&self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.attachment.gateway.metrics.limit_hit(limit.name());
        }
    }
}
