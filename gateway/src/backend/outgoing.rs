//! A request as it goes to a backend: headers set right, and as much of the body as is there already.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body as _, Frame, SizeHint};

use super::{headers, length};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    request::{Body, Request},
    settings,
};

/// One request, ready to be sent.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) authority: Authority,
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

/// A body. Most requests are one message that is there when the head is; they are sent without a task
/// of their own and can be sent again.
pub(super) enum Payload {
    Whole(Bytes),
    Stream { first: Option<Bytes>, rest: Body },
}

impl Outgoing {
    /// Applies the header policy and looks what of the body is there.
    pub(super) fn prepare(
        request: Request,
        own: HeaderMap,
        backend: &settings::Backend,
    ) -> Result<Box<Self>, RpcError> {
        let (parts, body) = request.http.into_parts();
        let authority = authority(&parts, backend)?;
        let Parts { method, uri, version, mut headers, .. } = parts;
        headers::outgoing(&mut headers, own, version, &request.origin, request.deadline);
        let path = uri.into_parts().path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        // Nothing has left for the backend yet, whatever the error says.
        let unsent = |error| RpcError { execution: Execution::NotRun, ..error };
        let declared = length::declared(&headers)?;
        let payload = length::held_to(Payload::gather(body).map_err(unsent)?, declared)?;
        Ok(Box::new(Self { method, authority, path, headers, payload }))
    }

    /// Whether the body is at hand, so that the request can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.payload, Payload::Whole(_))
    }

    /// For one attempt, the head for HTTP/2 by way of `scheme`, and the body: a copy where another attempt may follow.
    pub(super) fn http2(&mut self, scheme: Scheme) -> (http::Request<()>, Payload) {
        let headers = if self.is_whole() { self.headers.clone() } else { mem::take(&mut self.headers) };
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(scheme);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut head = http::Request::new(());
        *head.method_mut() = self.method.clone();
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *head.headers_mut() = headers;
        (head, self.payload.take())
    }
}

impl Payload {
    /// A copy of what is whole, and what is not itself.
    pub(super) fn take(&mut self) -> Self {
        match self {
            Self::Whole(body) => Self::Whole(body.clone()),
            Self::Stream { .. } => mem::replace(self, Self::Whole(Bytes::new())),
        }
    }

    /// Takes what the body yields without waiting. Whoever sends it asks for the rest, and is woken for that.
    fn gather(mut body: Body) -> Result<Self, RpcError> {
        if body.is_end_stream() {
            return Ok(Self::Whole(Bytes::new()));
        }
        let first = match poll_frame(&mut body, &mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return Ok(Self::Stream { first: None, rest: body }),
            Poll::Ready(None) => return Ok(Self::Whole(Bytes::new())),
            Poll::Ready(Some(frame)) => frame?,
        };
        match first.into_data() {
            Ok(data) if body.is_end_stream() => Ok(Self::Whole(data)),
            Ok(data) => Ok(Self::Stream { first: Some(data), rest: body }),
            // A client's trailers carry nothing that a backend asked for.
            Err(_trailers) => Ok(Self::Whole(Bytes::new())),
        }
    }
}

/// As a [`super::Service`] takes it.
impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        match self.get_mut() {
            Self::Whole(data) if data.is_empty() => Poll::Ready(None),
            Self::Whole(data) => Poll::Ready(Some(Ok(Frame::data(mem::take(data))))),
            Self::Stream { first, rest } => match first.take() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => poll_frame(rest, cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(data) => data.is_empty(),
            Self::Stream { first, rest } => first.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Self::Stream { first, rest } => {
                let ahead = first.as_ref().map_or(0, |data| data.len() as u64);
                let rest = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + ahead);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + ahead);
                }
                hint
            }
        }
    }
}

/// The body's next frame, with what a client may say in trailers.
pub(super) fn poll_frame(
    body: &mut Body,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
    let frame = Pin::new(body).poll_frame(cx);
    frame.map_ok(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            headers::outgoing_trailers(trailers);
        }
        frame
    })
}

/// The host that the client asked for; the backend's own where it named none.
fn authority(parts: &Parts, backend: &settings::Backend) -> Result<Authority, RpcError> {
    let named = parts.headers.get(HOST).map(|host| host.as_bytes()).filter(|host| !host.is_empty());
    let authority = match parts.uri.authority() {
        Some(authority) => Ok(authority.clone()),
        None => Authority::try_from(named.unwrap_or(backend.address.as_bytes())),
    };
    // User information is not part of a host, and what stands behind the `@` decided on the route.
    authority.ok().filter(|authority| !authority.as_str().contains('@')).ok_or_else(|| {
        let message = "Host is not a host name with an optional port (RFC 9110, section 7.2)";
        RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message)
    })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_trailer_cannot_speak_for_the_gateway() {
        let trailers = [("x-towline-user", "root"), ("x-checksum", "1")];
        let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let frames = [
            Frame::data(Bytes::from_static(b"a")),
            Frame::data(Bytes::from_static(b"b")),
            Frame::trailers(HeaderMap::from_iter(trailers)),
        ];
        let body = Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, RpcError>))));
        let collected = Payload::gather(body).unwrap().collect().await.unwrap();
        let left: Vec<_> = collected.trailers().unwrap().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["x-checksum"]);
    }
}
