//! Marks what no hop's compression table may hold: the link, and HTTP/2 on both sides, write it as never-indexed
//! literals. What came so marked over the link stays so.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use towline_protocols::hpack::NeverIndexed;

use crate::{error::RpcError, request::Body};

/// Marks the header fields of these names, and the body's trailers when they come.
pub(super) fn mark(names: &NeverIndexed, headers: &mut HeaderMap, body: Body) -> Body {
    mark_fields(names, headers);
    // Nobody sends credentials as trailers: bodies are only followed for names of the operator's.
    if !names.has_others() || http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::new(Marked { body, names: names.clone() })
}

fn mark_fields(names: &NeverIndexed, fields: &mut HeaderMap) {
    for (name, value) in fields {
        if names.holds(name.as_str().as_bytes()) {
            value.set_sensitive(true);
        }
    }
}

struct Marked {
    body: Body,
    names: NeverIndexed,
}

impl http_body::Body for Marked {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            mark_fields(&this.names, trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn fields() -> HeaderMap {
        let field = |name: &'static str| (http::HeaderName::from_static(name), "v".parse().unwrap());
        HeaderMap::from_iter([field("authorization"), field("x-pin"), field("x-pin"), field("accept")])
    }

    fn marked(fields: &HeaderMap) -> Vec<&str> {
        let marked = fields.iter().filter(|(_, value)| value.is_sensitive());
        marked.map(|(name, _)| name.as_str()).collect()
    }

    #[tokio::test]
    async fn header_fields_and_trailers_of_these_names_are_marked() {
        let names = NeverIndexed::new(&["x-pin"]).unwrap();
        let frames = futures_util::stream::iter([Ok(Frame::trailers(fields()))]);
        let mut headers = fields();
        let body = mark(&names, &mut headers, Body::new(StreamBody::new(frames)));
        assert_eq!(marked(&headers), ["authorization", "x-pin", "x-pin"]);
        let collected = body.collect().await.unwrap();
        assert_eq!(marked(collected.trailers().unwrap()), ["authorization", "x-pin", "x-pin"]);
    }
}
