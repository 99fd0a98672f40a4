//! One request on an HTTP/3 connection: from its stream to the exchange that all versions of HTTP share, and
//! back.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use h3::{
    error::{Code, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tracing::debug;

use super::{
    body::{self, RequestBody},
    streams::{FrameTooLarge, Sending, Streams, Ticket},
};
use crate::{gateway::Gateway, http::Front, request::Body};

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its answer was sent to the end.
    Answered,
    /// The client gave it up, broke a rule or took nothing of the answer.
    Failed,
}

/// RFC 9114, section 4.2: a message with one of these is malformed.
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Serves a request from its first byte to the end of its answer.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    front: Arc<Front>,
    resolver: RequestResolver<Streams, Bytes>,
    ticket: Ticket,
) -> Ended {
    let limit = gateway.snapshot().settings.limits.first_message_timeout;
    let (request, stream) = match timeout(limit, Box::pin(resolver.resolve_request())).await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => {
            report(&gateway, &error);
            return Ended::Failed;
        }
        Err(_) => {
            gateway.metrics.limit_hit("limits.first_message_timeout");
            return Ended::Failed;
        }
    };
    let Ticket { shared, stopped } = ticket;
    let (mut send, recv) = stream.split();
    if is_malformed(request.headers()) {
        send.stop_stream(Code::H3_MESSAGE_ERROR);
        return Ended::Failed;
    }
    shared.set_urgency(crate::http::priority(request.headers()).urgency());
    let body = RequestBody::new(recv, shared, Arc::clone(&gateway), request.headers());
    let answered = {
        let answering = answer(&gateway, &front, request.map(|()| body), &mut send);
        let mut answering = Box::pin(answering);
        tokio::select! {
            answered = &mut answering => answered,
            () = stopped => Err(Lost(Code::H3_REQUEST_CANCELLED)),
        }
    };
    match answered {
        Ok(()) => Ended::Answered,
        Err(Lost(code)) => {
            // Dropped, the stream would end as if the answer were whole.
            send.stop_stream(code);
            Ended::Failed
        }
    }
}

/// An answer that cannot be sent to its end; the code says why.
struct Lost(Code);

impl From<StreamError> for Lost {
    fn from(error: StreamError) -> Self {
        debug!("HTTP/3 answer lost: {error}");
        Self(Code::H3_REQUEST_CANCELLED)
    }
}

async fn answer(
    gateway: &Gateway,
    front: &Front,
    request: Request<RequestBody>,
    send: &mut RequestStream<Sending, Bytes>,
) -> Result<(), Lost> {
    let (parts, mut body) = front.answer(request).await.into_parts();
    written(gateway, send.send_response(Response::from_parts(parts, ()))).await?;
    relay(gateway, &mut body, send).await?;
    written(gateway, send.finish()).await
}

/// Carries the body over as fast as the client takes it.
async fn relay(
    gateway: &Gateway,
    body: &mut Body,
    send: &mut RequestStream<Sending, Bytes>,
) -> Result<(), Lost> {
    while let Some(frame) = body.frame().await {
        // The head is gone: a broken stream is all that can be said.
        let frame = frame.map_err(|_| Lost(Code::H3_INTERNAL_ERROR))?;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => written(gateway, send.send_data(data)).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    written(gateway, send.send_trailers(trailers)).await?;
                }
            }
        }
    }
    Ok(())
}

/// A client that takes nothing for `write_timeout` is given up.
async fn written(
    gateway: &Gateway,
    writing: impl Future<Output = Result<(), StreamError>>,
) -> Result<(), Lost> {
    let limit = gateway.snapshot().settings.limits.write_timeout;
    match timeout(limit, writing).await {
        Ok(written) => Ok(written?),
        Err(_) => {
            gateway.metrics.limit_hit("limits.write_timeout");
            Err(Lost(Code::H3_REQUEST_CANCELLED))
        }
    }
}

fn is_malformed(headers: &HeaderMap) -> bool {
    CONNECTION_SPECIFIC.iter().any(|name| headers.contains_key(name))
        || headers.get_all(TE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
        || headers.get_all(CONTENT_LENGTH).iter().count() > 1
        || headers.get(CONTENT_LENGTH).is_some_and(|value| body::length(value).is_none())
}

fn report(gateway: &Gateway, error: &StreamError) {
    let too_large = match error {
        StreamError::HeaderTooBig { .. } => true,
        StreamError::Undefined { 0: error, .. } => error.is::<FrameTooLarge>(),
        _ => false,
    };
    if too_large {
        gateway.metrics.limit_hit("limits.header_list_bytes_max");
    }
    debug!("HTTP/3 request refused: {error}");
}
