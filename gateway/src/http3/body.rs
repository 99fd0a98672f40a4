//! A request's body on HTTP/3, as the other versions of HTTP yield theirs.

use std::{
    fmt,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h3::{error::Code, server::RequestStream};
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::streams::{Receiving, StreamShared};
use crate::gateway::Gateway;

/// A streamed request body. Reads no further than its reader.
pub(super) struct RequestBody {
    stream: RequestStream<Receiving, Bytes>,
    shared: Arc<StreamShared>,
    gateway: Arc<Gateway>,
    at: At,
    /// Bytes that `content-length` promises and that have not come.
    promised: Option<u64>,
    /// What came after a frame that was handed on: whoever gets it sees whether it was the last.
    next: Option<Result<Frame<Bytes>, Broken>>,
    /// How long the client may be silent.
    timeout: Duration,
    silent: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

/// `content-length`: digits alone, which `parse` alone does not demand.
pub(super) fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Why a body broke off.
#[derive(Debug)]
pub(super) struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestBody {
    pub(super) fn new(
        stream: RequestStream<Receiving, Bytes>,
        shared: Arc<StreamShared>,
        gateway: Arc<Gateway>,
        headers: &HeaderMap,
    ) -> Self {
        let promised = headers.get(CONTENT_LENGTH).and_then(length);
        let timeout = gateway.snapshot().settings.limits.idle_timeout;
        Self { stream, shared, gateway, at: At::Data, promised, next: None, timeout, silent: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.at == At::Data {
            match ready!(self.stream.poll_recv_data(cx)) {
                Ok(Some(mut data)) => {
                    let data = data.copy_to_bytes(data.remaining());
                    self.shared.took(data.len());
                    return Poll::Ready(Some(self.take(data.len()).map(|()| Frame::data(data))));
                }
                Ok(None) => self.at = At::Trailers,
                Err(error) => return Poll::Ready(Some(Err(self.fail(error.to_string())))),
            }
        }
        if self.at == At::Trailers {
            let trailers = ready!(self.stream.poll_recv_trailers(cx));
            self.at = At::End;
            match trailers {
                Err(error) => return Poll::Ready(Some(Err(Broken(error.to_string())))),
                Ok(_) if self.promised.is_some_and(|left| left > 0) => {
                    return Poll::Ready(Some(Err(self.malformed("is shorter than its content-length"))));
                }
                Ok(Some(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => {}
            }
        }
        Poll::Ready(None)
    }

    /// RFC 9114, section 4.1.2: a body that is not as long as it says is malformed; a backend that believed
    /// the header would take the rest for another request.
    fn take(&mut self, bytes: usize) -> Result<(), Broken> {
        let Some(promised) = &mut self.promised else { return Ok(()) };
        match promised.checked_sub(bytes as u64) {
            Some(left) => {
                *promised = left;
                Ok(())
            }
            None => Err(self.malformed("is longer than its content-length")),
        }
    }

    fn malformed(&mut self, what: &str) -> Broken {
        self.stream.stop_sending(Code::H3_MESSAGE_ERROR);
        self.fail(format!("the request's body {what} (RFC 9114, section 4.1.2)"))
    }

    fn fail(&mut self, reason: String) -> Broken {
        self.at = At::End;
        Broken(reason)
    }

    /// Resolves with an error when the client was silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let timeout = self.timeout;
        let silent = self.silent.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(silent.as_mut().poll(cx));
        self.gateway.metrics.limit_hit("limits.idle_timeout");
        self.stream.stop_sending(Code::H3_REQUEST_CANCELLED);
        Poll::Ready(self.fail("no byte of it came within idle_timeout".to_owned()))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(next));
        }
        match this.poll_next(cx) {
            Poll::Pending => this.poll_silence(cx).map(|broken| Some(Err(broken))),
            Poll::Ready(frame) => {
                this.silent = None;
                if let Some(Ok(_)) = &frame
                    && let Poll::Ready(next) = this.poll_next(cx)
                {
                    this.next = next;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End && self.next.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.promised.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
