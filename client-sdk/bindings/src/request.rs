//! Requests and their answers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use towline_client::{CallRequest, CallResponse, Priority};

use crate::{error::TowlineError, listen::Transport};

/// A header field. Values that are not UTF-8 come with replacement characters; binary ones are base64 in gRPC.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Header {
    /// Name; lower case in answers.
    pub name: String,
    /// Value.
    pub value: String,
}

/// One request: a gRPC method unless `method` says that it is plain HTTP.
#[derive(Clone, Default, uniffi::Record)]
pub struct Request {
    /// Path with query; for gRPC `/package.Service/Method`.
    pub path: String,
    /// For gRPC the encoded message without prefix, for HTTP the body. A stream sends it first unless it is empty.
    #[uniffi(default = None)]
    pub message: Option<Vec<u8>>,
    /// HTTP method, as `GET`. None: a gRPC method.
    #[uniffi(default = None)]
    pub method: Option<String>,
    /// Host that the router sees, where it matters.
    #[uniffi(default = None)]
    pub authority: Option<String>,
    /// Header fields beside the session's.
    #[uniffi(default = [])]
    pub headers: Vec<Header>,
    /// How long the caller waits, whatever the network does; the client's `deadline` if nothing is said.
    #[uniffi(default = None)]
    pub deadline: Option<Duration>,
    /// Urgency against the other calls of this client: 0 (first) to 7 (last), 3 if nothing is said.
    #[uniffi(default = 3)]
    pub priority: u8,
    /// Whether running it twice does no harm; if nothing is said, as RFC 9110 says of the HTTP method.
    #[uniffi(default = None)]
    pub idempotent: Option<bool>,
    /// Refuse to send it in the clear.
    #[uniffi(default = false)]
    pub needs_encryption: bool,
}

/// The answer to one request.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<Header>,
    /// The messages: one for a unary gRPC method; for HTTP the body in parts.
    pub messages: Vec<Vec<u8>>,
    /// Trailers.
    pub trailers: Vec<Header>,
    /// The gRPC status, if it is a gRPC answer.
    pub grpc_status: Option<GrpcStatus>,
    /// How it went.
    pub timeline: Timeline,
}

/// A gRPC status.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct GrpcStatus {
    /// The number, 0 is OK.
    pub code: u32,
    /// The code's name in gRPC's documents.
    pub name: String,
    /// The text.
    pub text: String,
}

/// How a call went, for the app's metrics.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Timeline {
    /// The transport that brought the end of the answer; of a call that failed, the last that carried it. `None`: it
    /// was given to none.
    pub transport: Option<Transport>,
    /// Connections that carried the request or waited for its answer; 1 where nothing broke, 0 where it was given to
    /// none.
    pub attempts: u32,
    /// From the call until it was given to its first connection, or to its end if it never was.
    pub queue: Duration,
    /// Looking up the address, where the call waited for that connection to be made.
    pub dns: Option<Duration>,
    /// From the address to a connection of TCP; QUIC's handshake, whose keys are part of it.
    pub connect: Option<Duration>,
    /// From there to a completed TLS handshake.
    pub tls: Option<Duration>,
    /// From being given to its first connection until the last byte of the request was handed to the system.
    pub send: Option<Duration>,
    /// From being given to its first connection to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the call to its end.
    pub elapsed: Duration,
    /// The request's messages, as often as they were sent.
    pub request: MessageBytes,
    /// The answer's messages.
    pub response: MessageBytes,
}

/// Bytes of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct MessageBytes {
    /// As the app gave or got them.
    pub plain: u64,
    /// As they travelled: compressed, where that made them smaller.
    pub wire: u64,
}

impl Request {
    /// A gRPC method with its encoded message.
    pub fn grpc(path: impl Into<String>, message: impl Into<Vec<u8>>) -> Self {
        let priority = Priority::NORMAL.urgency();
        Self { path: path.into(), message: Some(message.into()), priority, ..Self::default() }
    }

    pub(crate) fn into_call(self) -> Result<CallRequest, TowlineError> {
        if !self.path.starts_with('/') {
            return Err(TowlineError::argument("path", "begins with a slash: it is no URL"));
        }
        let message = self.message.unwrap_or_default();
        let mut call = match &self.method {
            None => CallRequest::grpc(self.path, message),
            Some(method) => CallRequest::http(method_of(method)?, self.path, message),
        };
        for (place, header) in self.headers.iter().enumerate() {
            let (name, value) = field(place, header)?;
            call = call.header(name, value);
        }
        if self.priority > Priority::BACKGROUND.urgency() {
            return Err(TowlineError::argument("priority", format!("{} is not 0 to 7", self.priority)));
        }
        call.priority = Priority::new(self.priority);
        call.authority = self.authority;
        call.deadline = self.deadline;
        call.idempotent = self.idempotent.unwrap_or(call.idempotent);
        call.needs_encryption = self.needs_encryption;
        Ok(call)
    }
}

fn method_of(text: &str) -> Result<Method, TowlineError> {
    let wrong = |_| TowlineError::argument("method", format!("`{text}` is no HTTP method"));
    Method::from_bytes(text.as_bytes()).map_err(wrong)
}

/// Values may be tokens: an error does not show them.
fn field(place: usize, header: &Header) -> Result<(HeaderName, HeaderValue), TowlineError> {
    let wrong = |what: &str, reason: &str| TowlineError::argument(format!("headers[{place}].{what}"), reason);
    let name = HeaderName::from_bytes(header.name.as_bytes())
        .map_err(|_| wrong("name", &format!("`{}` is no name of a header field", header.name)))?;
    let value = HeaderValue::from_str(&header.value)
        .map_err(|_| wrong("value", "holds a character that no header field may have"))?;
    Ok((name, value))
}

pub(crate) fn headers_of(map: &HeaderMap) -> Vec<Header> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.as_str().to_owned(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    map.iter().map(header).collect()
}

impl From<towline_client::GrpcStatus> for GrpcStatus {
    fn from(status: towline_client::GrpcStatus) -> Self {
        Self { code: status.code, name: status.name().to_owned(), text: status.message }
    }
}

impl From<CallResponse> for Response {
    fn from(response: CallResponse) -> Self {
        Self {
            status: response.status,
            headers: headers_of(&response.headers),
            grpc_status: response.grpc_status().map(Into::into),
            messages: response.messages.into_iter().map(Into::into).collect(),
            trailers: headers_of(&response.trailers),
            timeline: response.timeline.into(),
        }
    }
}

impl From<towline_client::Timeline> for Timeline {
    fn from(timeline: towline_client::Timeline) -> Self {
        Self {
            transport: timeline.transport.map(Into::into),
            attempts: timeline.attempts,
            queue: timeline.queue,
            dns: timeline.dns,
            connect: timeline.connect,
            tls: timeline.tls,
            send: timeline.send,
            first_byte: timeline.first_byte,
            elapsed: timeline.elapsed,
            request: timeline.request.into(),
            response: timeline.response.into(),
        }
    }
}

impl From<towline_client::MessageBytes> for MessageBytes {
    fn from(bytes: towline_client::MessageBytes) -> Self {
        Self { plain: bytes.plain, wire: bytes.wire }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: fn(&mut Request), argument: &str) {
        let mut request = Request::grpc("/a.B/C", Vec::new());
        change(&mut request);
        match request.into_call() {
            Err(TowlineError::Argument { argument: named, .. }) => assert_eq!(named, argument),
            other => panic!("{argument}: {other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        check(|request| request.path = "https://edge/a.B/C".into(), "path");
        check(|request| request.method = Some("GET /".into()), "method");
        check(|request| request.priority = 8, "priority");
        check(
            |request| request.headers = vec![Header { name: "a b".into(), value: "".into() }],
            "headers[0].name",
        );
        check(
            |request| request.headers = vec![Header { name: "a".into(), value: "\n".into() }],
            "headers[0].value",
        );
    }

    #[test]
    fn an_http_method_says_whether_it_is_idempotent() {
        let mut request = Request::grpc("/x", Vec::new());
        request.method = Some("PUT".into());
        assert!(request.clone().into_call().unwrap().idempotent);
        request.idempotent = Some(false);
        assert!(!request.into_call().unwrap().idempotent);
        assert!(!Request::grpc("/x", Vec::new()).into_call().unwrap().idempotent);
    }
}
