//! An HTTP/1.1 answer's body; its end gives the connection back.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Answer, Lease, describe};
use crate::{
    backend::headers,
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
};

/// Wraps the answer for its client.
pub(super) fn wrap(answer: Answer, lease: Lease, bodiless: bool) -> Response<Body> {
    let (mut parts, incoming) = answer.into_parts();
    headers::incoming(&mut parts.headers);
    parts.version = http::Version::default();
    let mut body = Pooled { incoming, lease: Some(lease) };
    if bodiless || body.incoming.is_end_stream() {
        body.finish();
    }
    Response::from_parts(parts, Body::new(body))
}

struct Pooled {
    incoming: Incoming,
    /// Dropped with the body before its end: that closes the connection.
    lease: Option<Lease>,
}

impl Pooled {
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.keep();
        }
    }

    fn broken(&mut self, error: &hyper::Error) -> RpcError {
        let name = self.lease.take().map(|lease| lease.pool.settings.name.clone());
        let name = name.as_deref().unwrap_or_default();
        let message = format!("backend {name}: the answer broke off: {}", describe(error));
        RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message)
    }
}

impl http_body::Body for Pooled {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(this.broken(&error))),
            None => None,
        };
        if frame.is_none() || this.incoming.is_end_stream() {
            this.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
