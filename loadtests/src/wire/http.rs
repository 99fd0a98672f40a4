//! HTTP/1.1 and HTTP/2 on one connection each, and unary gRPC on the latter.

use std::{cell::RefCell, fmt, future::Future};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;

use super::stream::Stream;
use crate::{
    fault::{Fault, FaultKind},
    plan::{RequestWork, Target, Transport},
};

/// One HTTP connection.
pub struct HttpClient {
    sender: Sender,
    origin: String,
}

enum Sender {
    /// One request at a time; the sender is away while one runs.
    Http1(RefCell<Option<http1::SendRequest<Full<Bytes>>>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// HTTP/1.1 on `stream`.
    pub async fn http1(stream: Stream, target: &Target) -> Result<Self, Fault> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| fault(&e))?;
        spawn_quietly(connection);
        Ok(Self { sender: Sender::Http1(RefCell::new(Some(sender))), origin: origin(target) })
    }

    /// HTTP/2 on `stream`; in plaintext with prior knowledge.
    pub async fn http2(stream: Stream, target: &Target) -> Result<Self, Fault> {
        let handshake = http2::handshake(LocalExecutor, TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|e| fault(&e))?;
        spawn_quietly(connection);
        sender.ready().await.map_err(|e| fault(&e))?;
        Ok(Self { sender: Sender::Http2(sender), origin: origin(target) })
    }

    /// Sends one request and reads its whole answer.
    pub async fn call(&self, work: &RequestWork) -> Result<(), Fault> {
        let request = self.request(work)?;
        let response = match &self.sender {
            Sender::Http2(sender) => {
                let response = sender.clone().send_request(request).await.map_err(|e| fault(&e))?;
                return finish(response, work.grpc).await;
            }
            Sender::Http1(slot) => slot,
        };
        let taken = response.borrow_mut().take();
        let mut sender =
            taken.ok_or_else(|| Fault::new(FaultKind::Closed, "an earlier request broke it off"))?;
        sender.ready().await.map_err(|e| fault(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| fault(&e))?;
        let result = finish(answer, work.grpc).await;
        *response.borrow_mut() = Some(sender);
        result
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(slot) => slot.borrow().as_ref().is_some_and(|sender| !sender.is_closed()),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    fn request(&self, work: &RequestWork) -> Result<Request<Full<Bytes>>, Fault> {
        let http1 = matches!(self.sender, Sender::Http1(_));
        // HTTP/1.1 takes the origin form and a Host field; HTTP/2 takes both from the URI.
        let uri = if http1 { work.path.clone() } else { format!("{}{}", self.origin, work.path) };
        let uri: Uri =
            uri.parse().map_err(|e| Fault::new(FaultKind::Other, format!("{}: {e}", work.path)))?;
        let method = if work.grpc || !work.body.is_empty() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(uri);
        if http1 {
            request = request.header(header::HOST, self.origin.split_once("//").map_or("", |(_, host)| host));
        }
        if work.grpc {
            request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        }
        let body = if work.grpc { grpc_frame(&work.body) } else { Bytes::copy_from_slice(&work.body) };
        request.body(Full::new(body)).map_err(|e| Fault::new(FaultKind::Other, e))
    }
}

/// Checks the status, reads the body to its end, and checks gRPC's status, which stands in the trailers
/// or, without a body, in the headers.
async fn finish(response: Response<Incoming>, grpc: bool) -> Result<(), Fault> {
    let (head, mut body) = response.into_parts();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        if let Ok(fields) = frame.map_err(|e| fault(&e))?.into_trailers() {
            trailers = fields;
        }
    }
    if !head.status.is_success() {
        return Err(Fault::new(FaultKind::Status, format!("HTTP {}", head.status)));
    }
    let status = || trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    match grpc.then(status) {
        None => Ok(()),
        Some(Some(status)) if status == "0" => Ok(()),
        Some(Some(status)) => Err(Fault::new(FaultKind::Status, format!("grpc-status {status:?}"))),
        Some(None) => Err(Fault::new(FaultKind::Protocol, "the answer has no grpc-status")),
    }
}

/// gRPC's length-prefixed message, uncompressed.
fn grpc_frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn origin(target: &Target) -> String {
    let scheme = if target.transport == Transport::Plain { "http" } else { "https" };
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    format!("{scheme}://{host}:{}", target.address.port())
}

fn fault(error: &hyper::Error) -> Fault {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<std::io::Error>() {
            return Fault::io(error);
        }
        source = inner.source();
    }
    let closed = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
    Fault::new(if closed { FaultKind::Closed } else { FaultKind::Protocol }, error)
}

/// The connection's own failure shows in the requests on it.
fn spawn_quietly(connection: impl Future + 'static) {
    tokio::task::spawn_local(async move {
        connection.await;
    });
}

/// Puts hyper's tasks on the worker's one thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_message_is_prefixed_with_its_length() {
        assert_eq!(grpc_frame(b"abc").as_ref(), b"\0\0\0\0\x03abc");
        assert_eq!(grpc_frame(b"").as_ref(), [0; 5]);
    }
}
