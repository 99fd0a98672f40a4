//! Unary calls: what goes in, what comes out, and how a gRPC status is read from it.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use towline_protocols::link::Priority;

use crate::{
    durable::Durable,
    error::{CallError, Execution, GrpcStatus, RpcError, RpcErrorKind},
    timeline::Timeline,
};

/// One request. [`CallRequest::grpc`] and [`CallRequest::http`] fill in what is usual.
#[derive(Clone)]
pub struct CallRequest {
    /// HTTP method.
    pub method: Method,
    /// Path with query; for gRPC `/package.Service/Method`.
    pub path: String,
    /// Host that the router sees, where it matters.
    pub authority: Option<String>,
    /// Header fields beside the session's.
    pub headers: HeaderMap,
    /// The message: for gRPC one encoded message without prefix, for HTTP the body.
    pub message: Bytes,
    /// How long the caller waits, whatever the network does; `None` takes `Limits::deadline_default`.
    pub deadline: Option<Duration>,
    /// Urgency against the other calls of this client.
    pub priority: Priority,
    /// Whether running it twice does no harm; then it is tried again even where it may have run, and where the backend
    /// asks for it to come later.
    pub idempotent: bool,
    /// Whether it may travel encrypted only; where the client's connections are not, it is refused with
    /// [`RpcErrorKind::EncryptionRequired`] and never sent.
    pub needs_encryption: bool,
    /// Outlives the app's process: see [`CallRequest::durable`].
    pub durable: Option<Durable>,
}

impl CallRequest {
    /// A gRPC method with its encoded request message.
    pub fn grpc(path: impl Into<String>, message: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        Self { headers, ..Self::http(Method::POST, path, message) }
    }

    /// A plain HTTP request. GET, HEAD, PUT, DELETE and OPTIONS are idempotent (RFC 9110, section 9.2.2).
    pub fn http(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            idempotent: method.is_idempotent(),
            method,
            path: path.into(),
            authority: None,
            headers: HeaderMap::new(),
            message: body.into(),
            deadline: None,
            priority: Priority::NORMAL,
            needs_encryption: false,
            durable: None,
        }
    }

    /// Adds a header field.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Bounds how long the caller waits.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the urgency.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Lets the call outlive the app's process: it is on disk before its first byte leaves, a run of the app with the same
    /// identity file goes on with it, and its outcome is kept until [`crate::Client::acknowledge`] of `key`; `tag` is
    /// handed out beside it. Unless the call names a deadline, it waits for [`crate::DurablePolicy::age_max`].
    pub fn durable(mut self, key: impl Into<String>, tag: impl Into<Bytes>) -> Self {
        self.durable = Some(Durable { key: key.into(), tag: tag.into() });
        self
    }

    /// Declares that running it twice does no harm.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Declares that it must not travel in the clear.
    pub fn needs_encryption(mut self) -> Self {
        self.needs_encryption = true;
        self
    }
}

/// Header values may be tokens: only their names are shown.
impl fmt::Debug for CallRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("message_bytes", &self.message.len())
            .field("deadline", &self.deadline)
            .field("priority", &self.priority)
            .field("idempotent", &self.idempotent)
            .field("needs_encryption", &self.needs_encryption)
            .field("durable", &self.durable.as_ref().map(|durable| &durable.key))
            .finish_non_exhaustive()
    }
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub struct CallResponse {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The messages: one for a unary gRPC method; for HTTP the body in parts.
    pub messages: Vec<Bytes>,
    /// Trailers; where gRPC answered without a message its status is among the headers.
    pub trailers: HeaderMap,
    /// How it went.
    pub timeline: Timeline,
}

impl CallResponse {
    /// The gRPC status, from the trailers or, for an answer of trailers only, from the headers.
    /// `None` when there is none: the answer is no gRPC answer.
    pub fn grpc_status(&self) -> Option<GrpcStatus> {
        status_of(&self.trailers).or_else(|| status_of(&self.headers))
    }

    /// The one message of a unary gRPC method, or the status that took its place.
    ///
    /// # Errors
    /// The status when it is not OK; [`RpcErrorKind::BackendFailed`] when the answer is no gRPC answer.
    pub fn into_grpc(mut self) -> Result<Bytes, CallError> {
        let status = self.grpc_status().ok_or_else(|| self.not_grpc("it has no grpc-status"))?;
        if status.code != 0 {
            return Err(CallError::Grpc(status));
        }
        match self.messages.len() {
            1 => Ok(self.messages.swap_remove(0)),
            count => Err(self.not_grpc(&format!("a unary method answers one message, here are {count}"))),
        }
    }

    /// The body of an HTTP answer in one piece.
    pub fn body(&self) -> Bytes {
        match self.messages.as_slice() {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            parts => {
                let mut body = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| body.extend_from_slice(part));
                body.freeze()
            }
        }
    }

    fn not_grpc(&self, reason: &str) -> CallError {
        let text = format!("HTTP {}: no answer of a gRPC backend: {reason}", self.status);
        CallError::Rpc(RpcError::new(RpcErrorKind::BackendFailed, Execution::Ran, text))
    }
}

/// Reads `grpc-status` and `grpc-message`.
pub(crate) fn status_of(fields: &HeaderMap) -> Option<GrpcStatus> {
    let code = fields.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = fields.get("grpc-message").map(|value| percent_decoded(value.as_bytes()));
    Some(GrpcStatus { code, message: message.unwrap_or_default() })
}

/// gRPC over HTTP/2, "Responses": grpc-message is percent-encoded UTF-8; what does not decode is kept.
fn percent_decoded(mut rest: &[u8]) -> String {
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let decoded = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(
        messages: &[&'static [u8]],
        headers: &[(&'static str, &str)],
        trailers: &[(&'static str, &str)],
    ) -> CallResponse {
        let map = |fields: &[(&'static str, &str)]| {
            fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect()
        };
        CallResponse {
            status: 200,
            headers: map(headers),
            messages: messages.iter().map(|message| Bytes::from_static(message)).collect(),
            trailers: map(trailers),
            timeline: Timeline::default(),
        }
    }

    #[test]
    fn a_unary_answer_is_its_message() {
        let answer = response(&[b"hi"], &[], &[("grpc-status", "0")]);
        assert_eq!(answer.into_grpc().unwrap(), "hi");
    }

    #[test]
    fn a_status_is_found_in_trailers_or_headers() {
        let fields = [("grpc-status", "5"), ("grpc-message", "no order 50%25 of %E2%82%AC")];
        let expected = GrpcStatus { code: 5, message: "no order 50% of €".into() };
        assert_eq!(response(&[], &[], &fields).into_grpc().unwrap_err(), CallError::Grpc(expected.clone()));
        assert_eq!(response(&[], &fields, &[]).into_grpc().unwrap_err(), CallError::Grpc(expected));
    }

    #[test]
    fn what_is_no_grpc_answer_says_so() {
        let check = |answer: CallResponse, reason: &str| {
            let error = answer.into_grpc().unwrap_err();
            assert!(matches!(&error, CallError::Rpc(e) if e.kind == RpcErrorKind::BackendFailed));
            assert!(error.to_string().contains(reason), "{error}");
        };
        check(response(&[b"<html>"], &[], &[]), "no grpc-status");
        check(response(&[], &[], &[("grpc-status", "0")]), "here are 0");
        check(response(&[b"a", b"b"], &[], &[("grpc-status", "0")]), "here are 2");
    }

    #[test]
    fn escapes_that_are_none_are_kept() {
        for (encoded, decoded) in [("100%", "100%"), ("%zz", "%zz"), ("%4", "%4"), ("%41%", "A%")] {
            assert_eq!(percent_decoded(encoded.as_bytes()), decoded);
        }
    }
}
