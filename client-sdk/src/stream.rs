//! Streaming calls: two handles of one request, each with its own back-pressure.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::sleep_until;
use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

use crate::{
    call::status_of,
    client::{OpenCall, closed},
    error::GrpcStatus,
    timeline::Timeline,
};

/// The sending half. Dropping it without [`StreamSender::finish`] leaves the request without an end;
/// dropping the receiver too cancels it.
pub struct StreamSender {
    call: Option<Arc<OpenCall>>,
}

/// The receiving half.
pub struct StreamReceiver {
    call: Result<Arc<OpenCall>, RpcError>,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct StreamHead {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
}

impl StreamSender {
    /// Queues a message, and waits first while what was queued before has not left. Safe to cancel.
    ///
    /// # Errors
    /// The stream is over, and the message was not sent; the receiver knows why.
    pub async fn send(&mut self, message: impl Into<Bytes>) -> Result<(), RpcError> {
        let message = message.into();
        let call = self.call.as_ref().ok_or_else(over)?;
        loop {
            let writable = call.wakers.writable.notified();
            let sent = call.shared.with(|core| {
                let state = core.call(call.key).filter(|state| state.is_sendable()).ok_or_else(over)?;
                if !state.has_room() {
                    return Ok(false);
                }
                state.push_message(message.clone());
                core.touch(call.key);
                Ok(true)
            });
            if sent? {
                return Ok(());
            }
            tokio::select! {
                () = writable => {}
                () = sleep_until(call.deadline.into()) => call.expire(),
            }
        }
    }

    /// Ends this half: no message follows.
    ///
    /// # Errors
    /// The stream is over already.
    pub async fn finish(&mut self) -> Result<(), RpcError> {
        let call = self.call.take().ok_or_else(over)?;
        call.shared.with(|core| {
            core.call(call.key).filter(|state| state.is_sendable()).ok_or_else(over)?.finish();
            core.touch(call.key);
            Ok(())
        })
    }
}

impl StreamReceiver {
    pub(crate) fn pair(call: Result<Arc<OpenCall>, RpcError>) -> (StreamSender, Self) {
        (StreamSender { call: call.as_ref().ok().cloned() }, Self { call })
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn head(&mut self) -> Result<StreamHead, RpcError> {
        self.wait(|call| {
            let incoming = &call.incoming;
            match (&incoming.headers, &incoming.end) {
                (Some(headers), _) => {
                    Some(Ok(StreamHead { status: incoming.status, headers: headers.clone() }))
                }
                (None, Some(Err(error))) => Some(Err(error.clone())),
                (None, Some(Ok(()))) => Some(Err(closed())),
                (None, None) => None,
            }
        })
        .await
    }

    /// How the call goes, or went.
    pub fn timeline(&self) -> Timeline {
        self.call.as_ref().map(|call| call.timeline()).unwrap_or_default()
    }

    /// The next message; `None` behind the last one. Messages that are not taken hold their sender back.
    /// Safe to cancel.
    ///
    /// # Errors
    /// Why the stream broke off. Asked again, it says so again.
    pub async fn message(&mut self) -> Result<Option<Bytes>, RpcError> {
        let message = self
            .wait(|call| match (call.take_message(), &call.incoming.end) {
                (Some(message), _) => Some(Ok(Some(message))),
                (None, Some(end)) => Some(end.clone().map(|()| None)),
                (None, None) => None,
            })
            .await?;
        if let (Some(_), Ok(call)) = (&message, &self.call) {
            call.shared.with(|core| core.touch(call.key));
        }
        Ok(message)
    }

    /// The trailers, once [`StreamReceiver::message`] has returned `None`.
    pub fn trailers(&self) -> HeaderMap {
        self.read(|call| Some(call.incoming.trailers.clone())).unwrap_or_default()
    }

    /// The gRPC status, once [`StreamReceiver::message`] has returned `None`.
    pub fn grpc_status(&self) -> Option<GrpcStatus> {
        self.read(|call| {
            let incoming = &call.incoming;
            status_of(&incoming.trailers).or_else(|| status_of(incoming.headers.as_ref()?))
        })
    }

    fn read<T>(&self, step: impl FnOnce(&mut crate::core::Call) -> Option<T>) -> Option<T> {
        let call = self.call.as_ref().ok()?;
        call.shared.with(|core| step(core.call(call.key)?))
    }

    async fn wait<T>(
        &self,
        mut step: impl FnMut(&mut crate::core::Call) -> Option<Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let call = self.call.as_ref().map_err(Clone::clone)?;
        loop {
            let readable = call.wakers.readable.notified();
            let found = call.shared.with(|core| match core.call(call.key) {
                Some(state) => step(state),
                None => Some(Err(closed())),
            });
            if let Some(found) = found {
                return found;
            }
            tokio::select! {
                () = readable => {}
                () = sleep_until(call.deadline.into()) => call.expire(),
            }
        }
    }
}

fn over() -> RpcError {
    let text = "the stream is over: its receiver knows why";
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text)
}
