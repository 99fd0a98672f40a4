//! A request on its way out: head and body, as fast as the backend takes them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header::TRAILER};
use tokio::io::AsyncWrite;

use super::head;
use crate::{
    backend::outgoing::{Outgoing, Payload, poll_frame},
    error::RpcError,
    request::Body,
    transport::{give_buffer, take_buffer},
};

/// What of a body goes by way of the buffer, so that it leaves with what stands before it.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// What is still to be sent.
pub(super) struct Upload {
    /// The head, and what frames the body.
    out: BytesMut,
    /// Of the body; stands behind `out`.
    data: Bytes,
    /// Stands behind `data`.
    tail: &'static [u8],
    rest: Rest,
    flush_due: bool,
    sent_any: bool,
}

enum Rest {
    Nothing,
    /// The length is known, and the body was held to it.
    Plain(Body),
    Chunks {
        body: Body,
        /// The fields that the request's head announces as trailers; others are left out (RFC 9110, section 6.5.1).
        announced: Vec<HeaderName>,
    },
}

/// Why a request ended early.
pub(super) enum Stop {
    /// The client's half broke.
    Client(RpcError),
    /// The backend takes no more.
    Backend(io::Error),
}

impl Upload {
    /// Takes the body, unless it is whole.
    pub(super) fn new(request: &mut Outgoing) -> Self {
        let mut out = take_buffer();
        let chunked = head::put(request, &mut out);
        let (first, rest) = match request.payload.take() {
            Payload::Whole(body) => (Some(body), Rest::Nothing),
            Payload::Stream { first, rest: body } if chunked => {
                let announced = announced(&request.headers);
                (first, Rest::Chunks { body, announced })
            }
            Payload::Stream { first, rest } => (first, Rest::Plain(rest)),
        };
        let mut upload = Self { out, data: Bytes::new(), tail: b"", rest, flush_due: false, sent_any: false };
        if let Some(first) = first {
            upload.put(first);
        }
        upload
    }

    /// Whether nothing has been given to the connection.
    pub(super) fn is_unsent(&self) -> bool {
        !self.sent_any
    }

    /// Sends what the connection takes; ready when all has left.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            ready!(self.poll_send(wire, cx)).map_err(Stop::Backend)?;
            let frame = match &mut self.rest {
                Rest::Nothing => return Poll::Ready(Ok(())),
                Rest::Plain(body) | Rest::Chunks { body, .. } => ready!(poll_frame(body, cx)),
            };
            match frame.transpose().map_err(Stop::Client)? {
                None => self.end(&HeaderMap::new()),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.put(data),
                    Err(frame) => self.end(&frame.into_trailers().unwrap_or_default()),
                },
            }
        }
    }

    fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.out.is_empty() || !self.data.is_empty() || !self.tail.is_empty() {
            let count = match self.data.is_empty() && self.tail.is_empty() {
                true => ready!(Pin::new(&mut *wire).poll_write(cx, &self.out))?,
                false => {
                    let slices = [&self.out[..], &self.data, self.tail].map(IoSlice::new);
                    ready!(Pin::new(&mut *wire).poll_write_vectored(cx, &slices))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_out = count.min(self.out.len());
            self.out.advance(of_out);
            let of_data = (count - of_out).min(self.data.len());
            self.data.advance(of_data);
            self.tail.advance(count - of_out - of_data);
            (self.sent_any, self.flush_due) = (true, true);
        }
        if self.out.capacity() > 0 {
            give_buffer(std::mem::take(&mut self.out));
        }
        // TLS keeps what the socket did not take until it is flushed.
        if self.flush_due {
            ready!(Pin::new(wire).poll_flush(cx))?;
            self.flush_due = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Puts a part of the body behind what waits; there is no part waiting.
    fn put(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let is_chunk = matches!(self.rest, Rest::Chunks { .. });
        if is_chunk {
            self.out.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        let tail: &[u8] = if is_chunk { b"\r\n" } else { b"" };
        match data.len() {
            ..=COPIED_BYTES_MAX => [&data, tail].into_iter().for_each(|part| self.out.put_slice(part)),
            _ => (self.data, self.tail) = (data, tail),
        }
    }

    fn end(&mut self, trailers: &HeaderMap) {
        if let Rest::Chunks { announced, .. } = std::mem::replace(&mut self.rest, Rest::Nothing) {
            self.out.put_slice(b"0\r\n");
            for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
                head::put_field(name, value, &mut self.out);
            }
            self.out.put_slice(b"\r\n");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.out.capacity() > 0 {
            give_buffer(std::mem::take(&mut self.out));
        }
    }
}

/// The fields that `Trailer` names.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().map(|value| value.as_bytes());
    let names = values.flat_map(|value| value.split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use http::{
        HeaderValue, Method,
        uri::{Authority, PathAndQuery},
    };
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// What is sent for a body of these parts, to a connection that takes `piece` bytes at a time.
    fn sent(
        fields: &[(&'static str, &'static str)],
        parts: &[&'static str],
        trailers: bool,
        piece: usize,
    ) -> String {
        let mut frames: Vec<Result<_, RpcError>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        if trailers {
            let field = |name: &'static str| (HeaderName::from_static(name), HeaderValue::from_static("1"));
            frames.push(Ok(Frame::trailers(HeaderMap::from_iter([field("x-sum"), field("x-other")]))));
        }
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut upload = Upload::new(&mut Outgoing {
            method: Method::POST,
            authority: Authority::from_static("a"),
            path: PathAndQuery::from_static("/"),
            headers: fields.iter().map(field).collect(),
            payload: Payload::Stream { first: None, rest: Body::new(StreamBody::new(stream::iter(frames))) },
        });
        let mut wire = Slow { taken: Vec::new(), piece };
        let polled = upload.poll(&mut wire, &mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        let taken = String::from_utf8(wire.taken).unwrap();
        taken.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    struct Slow {
        taken: Vec<u8>,
        piece: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let count = buf.len().min(self.piece);
            self.taken.extend_from_slice(&buf[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_streamed_body_is_framed_as_its_head_says() {
        let long: &str = "x".repeat(COPIED_BYTES_MAX + 1).leak();
        for piece in [1, 7, usize::MAX] {
            assert_eq!(sent(&[("content-length", "5")], &["ab", "cde"], false, piece), "abcde");
            assert_eq!(sent(&[], &["ab", "", "cde"], false, piece), "2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
            assert_eq!(
                sent(&[], &[long, "y"], false, piece),
                format!("1001\r\n{long}\r\n1\r\ny\r\n0\r\n\r\n")
            );
            assert_eq!(sent(&[], &[], false, piece), "0\r\n\r\n");
        }
    }

    #[test]
    fn trailers_are_sent_where_the_head_announces_them() {
        assert_eq!(sent(&[("trailer", "a, X-Sum")], &["a"], true, 3), "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
        assert_eq!(sent(&[], &["a"], true, 3), "1\r\na\r\n0\r\n\r\n");
    }
}
