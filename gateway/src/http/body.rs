//! Bodies between hyper and the router.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use super::problem;
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    request::Body,
};

/// A flag and a length before every gRPC message.
const GRPC_PREFIX_BYTES: usize = 5;

/// A client's body within its bound: the whole of it for plain HTTP, every message of it for gRPC, whose
/// streams have no end to speak of.
pub(super) struct Bounded<B> {
    incoming: B,
    gateway: Arc<Gateway>,
    bound: Bound,
    bytes_max: usize,
}

enum Bound {
    /// Bytes left.
    Whole(usize),
    /// Walks from prefix to prefix.
    Messages(Prefixes),
}

/// Where a gRPC stream stands.
#[derive(Default)]
struct Prefixes {
    /// Bytes left of the message that runs.
    message: usize,
    /// The next prefix, as far as it is here.
    prefix: [u8; GRPC_PREFIX_BYTES],
    prefix_len: usize,
}

impl<B> Bounded<B> {
    pub(super) fn new(incoming: B, grpc: bool, gateway: Arc<Gateway>) -> Self {
        let bytes_max = gateway.snapshot().settings.limits.message_bytes_max;
        let bound = match grpc {
            true => Bound::Messages(Prefixes::default()),
            false => Bound::Whole(bytes_max),
        };
        Self { incoming, gateway, bound, bytes_max }
    }

    fn check(&mut self, data: &Bytes) -> Result<(), RpcError> {
        let within = match &mut self.bound {
            Bound::Whole(left) => match left.checked_sub(data.len()) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            },
            Bound::Messages(prefixes) => prefixes.walk(data, self.bytes_max),
        };
        if within {
            return Ok(());
        }
        Err(too_large(&self.gateway, self.bytes_max))
    }
}

impl Prefixes {
    /// Whether every message that begins in `data` is within the bound.
    fn walk(&mut self, mut data: &[u8], bytes_max: usize) -> bool {
        while !data.is_empty() {
            let skip = self.message.min(data.len());
            self.message -= skip;
            data.advance(skip);
            let take = (GRPC_PREFIX_BYTES - self.prefix_len).min(data.len());
            self.prefix[self.prefix_len..][..take].copy_from_slice(&data[..take]);
            self.prefix_len += take;
            data.advance(take);
            if self.prefix_len == GRPC_PREFIX_BYTES {
                let [_flag, length @ ..] = self.prefix;
                self.message = u32::from_be_bytes(length) as usize;
                self.prefix_len = 0;
                if self.message > bytes_max {
                    return false;
                }
            }
        }
        true
    }
}

/// Counts a body that is over its bound, and says so.
pub(super) fn too_large(gateway: &Gateway, bytes_max: usize) -> RpcError {
    gateway.metrics.limit_hit("limits.message_bytes_max");
    let message = format!("the request body is larger than message_bytes_max = {bytes_max} bytes");
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::MayHaveRun, message)
}

impl<B> http_body::Body for Bounded<B>
where
    B: http_body::Body<Data = Bytes, Error: fmt::Display> + Unpin,
{
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(client_left(&error)))),
        };
        if let Some(data) = frame.data_ref()
            && let Err(error) = this.check(data)
        {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn client_left(error: &impl fmt::Display) -> RpcError {
    let message = format!("the request's body broke off: {error}");
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, message)
}

/// A gRPC answer whose stream breaks off tells its client why: an error becomes the trailers that end it.
pub(super) struct WithStatus {
    body: Option<Body>,
}

impl WithStatus {
    pub(super) fn new(body: Body) -> Self {
        Self { body: Some(body) }
    }
}

impl http_body::Body for WithStatus {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(error)) => {
                this.body = None;
                Poll::Ready(Some(Ok(Frame::trailers(problem::grpc_trailers(&error)))))
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the same stream in pieces of every size.
    #[track_caller]
    fn check(stream: &[u8], bytes_max: usize, expected: bool) {
        for size in 1..=stream.len() {
            let mut prefixes = Prefixes::default();
            let within = stream.chunks(size).all(|chunk| prefixes.walk(chunk, bytes_max));
            assert_eq!(within, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn every_grpc_message_is_measured_however_the_stream_is_cut() {
        let two = b"\0\0\0\0\x03abc\0\0\0\0\x04abcd";
        check(two, 4, true);
        check(two, 3, false);
        check(b"\0\0\0\0\0\0\0\0\0\0", 0, true);
    }
}
