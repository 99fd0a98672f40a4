//! One request and its answer on an HTTP/2 stream.
//!
//! A body that is whole goes out with the head. Another is pumped: by the calling future until the
//! answer's head is there, then by a task of its own, so that neither direction waits for the other.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Response, uri::Scheme};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::connection::Lease;
use crate::{
    backend::{
        Failed, Progress,
        dial::{failed, unavailable},
        outgoing::{Outgoing, Payload, poll_frame},
    },
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
    settings,
};

/// Sends the request and waits for the answer's head. Dropping the future resets the stream.
pub(super) async fn run(
    lease: Lease,
    backend: &settings::Backend,
    outgoing: &mut Outgoing,
    progress: &Progress,
) -> Result<Response<Body>, Failed> {
    let scheme = if backend.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let (head, payload) = outgoing.http2(scheme);
    let bodiless = matches!(&payload, Payload::Whole(body) if body.is_empty());
    let broken = |error: h2::Error| {
        lease.retire();
        Failed::stale(unavailable(backend, &error))
    };
    // No `ready` before: the pool counts streams, so that none has to queue in h2.
    let sent = lease.sender().send_request(head, bodiless);
    let (response, mut stream) = sent.map_err(broken)?;
    progress.sent();
    let pump = match payload {
        Payload::Whole(_) if bodiless => None,
        Payload::Whole(body) => {
            stream.send_data(body, true).map_err(|error| classify(&lease, backend, &error))?;
            None
        }
        Payload::Stream { first, rest } => Some(Pump { stream, chunk: first, body: rest }),
    };
    let (answer, pump) = await_head(response, pump, &lease, backend).await?;
    let (parts, stream) = answer.into_parts();
    let pump = pump.map(|pump| tokio::spawn(pump.run()).abort_handle());
    let backend = backend.name.clone();
    let body = Answer { stream, data_over: false, _pump: pump.map(AbortOnDrop), _lease: lease, backend };
    Ok(Response::from_parts(parts, Body::new(body)))
}

async fn await_head(
    mut response: ResponseFuture,
    mut pump: Option<Pump>,
    lease: &Lease,
    backend: &settings::Backend,
) -> Result<(Response<RecvStream>, Option<Pump>), Failed> {
    let answer = poll_fn(|cx| {
        if let Some(running) = &mut pump
            && let Poll::Ready(outcome) = running.poll(cx)
        {
            pump = None;
            // The client's half failed: it gets its own error. A backend that stopped listening
            // says more in its answer.
            if let Err(Stop::Client(error)) = outcome {
                return Poll::Ready(Err(Failed::finally(error)));
            }
        }
        let answer = ready!(Pin::new(&mut response).poll(cx));
        Poll::Ready(answer.map_err(|error| classify(lease, backend, &error)))
    });
    let answer = answer.await?;
    Ok((answer, pump))
}

/// What an h2 error says about the request.
fn classify(lease: &Lease, backend: &settings::Backend, error: &h2::Error) -> Failed {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_go_away() || error.is_io() {
        lease.retire();
    }
    // A server that sends GOAWAY has not processed and will not process the streams above the one that
    // it names (RFC 9113, section 6.8); h2 reports the GOAWAY on those only. REFUSED_STREAM says the
    // same of one stream (section 8.7).
    if refused || (error.is_go_away() && error.is_remote()) {
        return Failed::stale(unavailable(backend, error));
    }
    let failure = failed(backend, error);
    match error.is_io() {
        true => Failed::stale(failure),
        false => Failed::finally(failure),
    }
}

/// Carries a request's body to the backend.
struct Pump {
    stream: SendStream<Bytes>,
    /// Taken from the body and not sent yet.
    chunk: Option<Bytes>,
    body: Body,
}

/// Why a pump ended early.
enum Stop {
    /// The client's half broke.
    Client(RpcError),
    /// The backend wants no more.
    Backend,
}

impl Pump {
    async fn run(mut self) {
        drop(poll_fn(|cx| self.poll(cx)).await);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            if let Some(chunk) = self.chunk.take() {
                self.chunk = ready!(self.poll_send(chunk, cx))?;
                continue;
            }
            let Poll::Ready(frame) = poll_frame(&mut self.body, cx) else {
                // A reset must end the pump also while the client sends nothing.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(Err(Stop::Backend)),
                    Poll::Pending => Poll::Pending,
                };
            };
            match frame {
                None => return Poll::Ready(self.finish(None)),
                Some(Err(error)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Stop::Client(error)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.chunk = Some(data),
                    Err(frame) => return Poll::Ready(self.finish(frame.into_trailers().ok())),
                },
            }
        }
    }

    /// Sends as much of the chunk as flow control allows; ready with what is left.
    fn poll_send(&mut self, mut chunk: Bytes, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Stop>> {
        if chunk.is_empty() {
            return Poll::Ready(Ok(None));
        }
        self.stream.reserve_capacity(chunk.len());
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Stop::Backend)),
                Poll::Pending => {
                    self.chunk = Some(chunk);
                    return Poll::Pending;
                }
            }
        }
        let part = chunk.split_to(chunk.len().min(self.stream.capacity()));
        self.stream.send_data(part, false).map_err(|_| Stop::Backend)?;
        Poll::Ready(Ok(Some(chunk).filter(|rest| !rest.is_empty())))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stop> {
        let sent = match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| Stop::Backend)
    }
}

/// The answer's body. Dropping it before its end resets the stream.
struct Answer {
    stream: RecvStream,
    data_over: bool,
    _pump: Option<AbortOnDrop>,
    _lease: Lease,
    backend: std::sync::Arc<str>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        if !this.data_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The client's own flow control holds back what comes after this.
                    drop(this.stream.flow_control().release_capacity(data.len()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return this.broken(&error),
                None => this.data_over = true,
            }
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => this.broken(&error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Answer {
    fn broken(&self, error: &h2::Error) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        // The answer was whole and the server wants no more of the request (RFC 9113, section 8.1).
        if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) {
            return Poll::Ready(None);
        }
        let message = format!("backend {}: the answer broke off: {error}", self.backend);
        let error = RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message);
        Poll::Ready(Some(Err(error)))
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
