//! What a request says of its body's length, held against the body. An HTTP/1.1 backend finds the next request on its
//! connection by it: where more is declared than comes, it takes other clients' requests for the rest of the body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};

use super::outgoing::Payload;
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
};

/// The length that the header fields declare, if they do.
///
/// # Errors
/// `content-length` is there twice, or is no number (RFC 9110, section 8.6).
pub(super) fn declared(headers: &HeaderMap) -> Result<Option<u64>, RpcError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    match (number(first), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(malformed("content-length must be one number", Execution::NotRun)),
    }
}

/// Digits alone, which `parse` alone does not demand.
fn number(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Holds a body against its declared length: at once where it is here, and as it comes otherwise.
///
/// # Errors
/// It is longer or shorter already.
pub(super) fn held_to(payload: Payload, declared: Option<u64>) -> Result<Payload, RpcError> {
    let Some(declared) = declared else { return Ok(payload) };
    let differs = || malformed("the body is not as long as content-length says", Execution::NotRun);
    match payload {
        Payload::Whole(data) if data.len() as u64 == declared => Ok(Payload::Whole(data)),
        Payload::Whole(_) => Err(differs()),
        Payload::Stream { first, rest } => {
            let ahead = first.as_ref().map_or(0, Bytes::len) as u64;
            let left = declared.checked_sub(ahead).ok_or_else(differs)?;
            Ok(Payload::Stream { first, rest: Body::new(Measured { body: rest, left }) })
        }
    }
}

/// A body of which so many bytes have to come.
struct Measured {
    body: Body,
    left: u64,
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? else {
            return Poll::Ready(this.over().err().map(Err));
        };
        match frame.data_ref() {
            Some(data) => this.take(data.len())?,
            None => this.over()?,
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Measured {
    fn take(&mut self, bytes: usize) -> Result<(), RpcError> {
        let left = self.left.checked_sub(bytes as u64);
        self.left = left
            .ok_or_else(|| malformed("the body is longer than content-length says", Execution::MayHaveRun))?;
        Ok(())
    }

    fn over(&mut self) -> Result<(), RpcError> {
        match std::mem::take(&mut self.left) {
            0 => Ok(()),
            _ => Err(malformed("the body is shorter than content-length says", Execution::MayHaveRun)),
        }
    }
}

fn malformed(text: &str, execution: Execution) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, execution, text)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// What becomes of a body that comes in `parts`, none of which is here at first.
    async fn streamed(declared: u64, parts: &[&'static str]) -> Result<String, RpcError> {
        let frames: Vec<_> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        let rest = Body::new(StreamBody::new(stream::iter(frames)));
        let Payload::Stream { rest, .. } = held_to(Payload::Stream { first: None, rest }, Some(declared))?
        else {
            panic!("a stream stays one");
        };
        Ok(String::from_utf8(rest.collect().await?.to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_body_that_comes_is_held_to_its_length() {
        assert_eq!(streamed(6, &["abc", "def"]).await.unwrap(), "abcdef");
        for (declared, text) in [(5, "longer"), (7, "shorter")] {
            let error = streamed(declared, &["abc", "def"]).await.unwrap_err();
            assert_eq!((error.kind, error.execution), (RpcErrorKind::Malformed, Execution::MayHaveRun));
            assert!(error.message.contains(text), "{error}");
        }
    }

    #[test]
    fn what_is_here_already_counts() {
        let rest = || Body::new(StreamBody::new(stream::iter([])));
        let begun = || Payload::Stream { first: Some(Bytes::from_static(b"abc")), rest: rest() };
        assert!(held_to(begun(), Some(3)).is_ok_and(|payload| !matches!(payload, Payload::Whole(_))));
        assert!(held_to(begun(), Some(2)).is_err_and(|error| error.execution == Execution::NotRun));
        assert!(held_to(Payload::Whole(Bytes::new()), Some(50)).is_err());
        assert!(held_to(Payload::Whole(Bytes::new()), Some(0)).is_ok());
        assert!(held_to(Payload::Whole(Bytes::from_static(b"abc")), None).is_ok());
    }
}
