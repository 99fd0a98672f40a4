//! Header lists of the link and HTTP messages of the router, one made of the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE},
    uri::{Authority, PathAndQuery, Scheme},
};
use towline_protocols::{
    hpack::HeaderField,
    link::{Execution, RequestHead, RpcError, RpcErrorKind, SessionHeaders},
};

use crate::{
    gateway::Gateway,
    request::{Body, Origin, Request},
};

/// Fields that speak of one HTTP/1.1 connection; RFC 9113, section 8.2.2 bars them from multiplexed ones.
const CONNECTION_FIELDS: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Makes the router's request of a link request's head. `session_headers` fill in what it does not carry.
pub(super) fn request(
    head: &RequestHead,
    session_headers: Option<&SessionHeaders>,
    origin: &Arc<Origin>,
    body: Body,
    now: Instant,
) -> Result<Request, RpcError> {
    let mut http = http::Request::new(body);
    let pseudo = Pseudo::read(&head.fields)?;
    *http.method_mut() = pseudo.method;
    *http.uri_mut() = uri(pseudo.path, pseudo.authority, origin.encrypted)?;
    let headers = http.headers_mut();
    for field in head.fields.iter().filter(|field| !field.name.starts_with(b":")) {
        let (name, value) = header(field)?;
        headers.try_append(name, value).map_err(|_| too_many())?;
    }
    for field in session_headers.into_iter().flat_map(SessionHeaders::iter) {
        let (name, value) = header(&field)?;
        if !headers.contains_key(&name) {
            headers.try_append(name, value).map_err(|_| too_many())?;
        }
    }
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(malformed("a request names one host"));
    }
    if is_grpc(headers) {
        // The gateway puts prefixes before the messages: whatever it says, it is another length.
        headers.remove(CONTENT_LENGTH);
    }
    Ok(Request {
        origin: Arc::clone(origin),
        deadline: head.deadline.map(|left| now + left.min(DEADLINE_MAX)),
        priority: head.priority,
        idempotent: head.idempotent,
        http,
    })
}

/// A caller that would wait longer than a day does not exist; the bound keeps `Instant` from overflowing.
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);

/// Whether the messages are gRPC's, which carry a five-byte prefix on HTTP/2 and none on the link.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc_type(value.as_bytes()))
}

/// `application/grpc-web` and the like frame their messages otherwise.
fn is_grpc_type(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The same of a header list.
pub(super) fn is_grpc_list(fields: &[HeaderField]) -> bool {
    let content_type = fields.iter().find(|field| &*field.name == b"content-type");
    content_type.is_some_and(|field| is_grpc_type(&field.value))
}

/// The head of an answer as a header list, `:status` first.
pub(super) fn response_fields(response: &http::response::Parts) -> Vec<HeaderField> {
    list(Some(response.status), &response.headers)
}

/// Trailers as a header list.
pub(super) fn fields(headers: &HeaderMap) -> Vec<HeaderField> {
    list(None, headers)
}

/// All names and values stand in one block of memory: a list is kept and given up as a whole.
fn list(status: Option<StatusCode>, headers: &HeaderMap) -> Vec<HeaderField> {
    let carried = || headers.iter().filter(|(name, _)| !CONNECTION_FIELDS.contains(&name.as_str()));
    let text_bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let status_bytes = status.map_or(0, |status| status.as_str().len());
    let mut block = BytesMut::with_capacity(status_bytes + carried().map(text_bytes).sum::<usize>());
    let mut take = |text: &[u8]| {
        block.extend_from_slice(text);
        block.split().freeze()
    };
    let mut fields = Vec::with_capacity(headers.len() + 1);
    fields.extend(status.map(|status| HeaderField::new(":status", take(status.as_str().as_bytes()))));
    fields.extend(carried().map(|(name, value)| HeaderField {
        name: take(name.as_str().as_bytes()),
        value: take(value.as_bytes()),
        sensitive: value.is_sensitive(),
    }));
    fields
}

/// Trailers as the backend's HTTP takes them; fields that HTTP cannot carry are left out.
pub(super) fn trailers(fields: &[HeaderField]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in fields.iter().filter_map(|field| header(field).ok()) {
        // More than a map holds fit only into lists that an operator made very large.
        if trailers.try_append(name, value).is_err() {
            break;
        }
    }
    trailers
}

/// The error of an answer that cannot be sent, for it crosses a limit of the client: the machine did nothing,
/// and yet the request has run.
pub(super) fn answer_lost(error: RpcError) -> RpcError {
    RpcError { execution: Execution::Ran, ..error }
}

/// Whether RESET says that the client cannot read its answer for want of a dictionary: it asks for it again.
pub(super) fn is_unreadable(error: &RpcError) -> bool {
    error.kind == RpcErrorKind::UnknownDictionary && error.execution == Execution::Ran
}

/// Counts the limit that a request met, where its error names one.
pub(super) fn count_limit(gateway: &Gateway, error: &RpcError) {
    const LIMITS: [(&str, &str); 5] = [
        ("message_bytes_max", "limits.message_bytes_max"),
        ("header_list_bytes_max", "limits.header_list_bytes_max"),
        ("streams_max", "limits.streams_max"),
        ("qpack_blocked_streams", "session.qpack_blocked_streams"),
        ("qpack_instructions", "qpack_instructions"),
    ];
    if error.kind == RpcErrorKind::LimitExceeded
        && let Some((_, limit)) = LIMITS.into_iter().find(|(named, _)| error.message.contains(named))
    {
        gateway.metrics.limit_hit(limit);
    }
}

struct Pseudo {
    method: Method,
    path: PathAndQuery,
    authority: Option<Authority>,
}

impl Pseudo {
    /// RFC 9113, section 8.3.1: pseudo-header fields come first, once each.
    fn read(fields: &[HeaderField]) -> Result<Self, RpcError> {
        let (mut method, mut path, mut authority) = (None, None, None);
        let mut regular_seen = false;
        for field in fields {
            if !field.name.starts_with(b":") {
                regular_seen = true;
                continue;
            }
            if regular_seen {
                return Err(malformed("a pseudo-header field stands behind a regular one"));
            }
            let place = match &*field.name {
                b":method" => &mut method,
                b":path" => &mut path,
                b":authority" => &mut authority,
                // The transport is what it is; a scheme that says otherwise changes nothing.
                b":scheme" => continue,
                _ => return Err(malformed("a pseudo-header field is unknown")),
            };
            if place.replace(&field.value).is_some() {
                return Err(malformed("a pseudo-header field stands twice"));
            }
        }
        let method = method.ok_or_else(|| malformed(":method is missing"))?;
        let path = path.ok_or_else(|| malformed(":path is missing"))?;
        if **method == *b"CONNECT" {
            return Err(malformed("CONNECT asks for a tunnel; this gateway answers requests"));
        }
        let authority = authority.map(|value| Authority::from_maybe_shared(value.clone()));
        Ok(Self {
            method: Method::from_bytes(method).map_err(|_| malformed(":method is no token"))?,
            path: PathAndQuery::from_maybe_shared(path.clone())
                .ok()
                .filter(|path| path.as_str().starts_with('/'))
                .ok_or_else(|| malformed(":path is no absolute path"))?,
            authority: authority.transpose().map_err(|_| malformed(":authority is no host"))?,
        })
    }
}

fn uri(path: PathAndQuery, authority: Option<Authority>, encrypted: bool) -> Result<Uri, RpcError> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if authority.is_some() {
        parts.scheme = Some(if encrypted { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = authority;
    }
    Uri::from_parts(parts).map_err(|_| malformed(":path and :authority do not make a URI"))
}

fn header(field: &HeaderField) -> Result<(HeaderName, HeaderValue), RpcError> {
    // RFC 9113, section 8.2.1. A name is made one in lower case below: two of a list would become one field.
    if field.name.iter().any(u8::is_ascii_uppercase) {
        return Err(malformed("a field name has capitals"));
    }
    let name = HeaderName::from_bytes(&field.name).map_err(|_| malformed("a field name is no token"))?;
    let mut value = HeaderValue::from_maybe_shared(field.value.clone())
        .map_err(|_| malformed(&format!("the value of {name} holds a control character")))?;
    if CONNECTION_FIELDS.contains(&name.as_str()) || (name == TE && value != "trailers") {
        return Err(malformed(&format!("{name} speaks of one connection and is not carried")));
    }
    value.set_sensitive(field.is_secret());
    Ok((name, value))
}

fn malformed(rule: &str) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, rule)
}

/// `http::HeaderMap` has a bound of its own on names.
fn too_many() -> RpcError {
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, "too many header fields")
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};
    use towline_protocols::link::Header;

    use super::*;
    use crate::request::Protocol;

    fn check(fields: &[(&'static str, &'static str)], expected: Result<&str, &str>) {
        let fields = fields.iter().map(|(name, value)| HeaderField::from_static(name, value));
        check_list(fields.collect(), expected);
    }

    fn check_list(fields: Vec<HeaderField>, expected: Result<&str, &str>) {
        let head = RequestHead { fields, ..RequestHead::default() };
        let session = SessionHeaders::of(&[Header { name: "x-app".into(), value: "session".into() }]);
        let origin =
            Arc::new(Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, true));
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let shown = request(&head, Some(&session), &origin, body, Instant::now()).map(|request| {
            let app = request.http.headers()["x-app"].to_str().unwrap();
            format!("{} {} {app}", request.http.method(), request.http.uri())
        });
        let shown = shown.as_deref().map_err(|error| error.message.as_str());
        match (shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (shown, expected) => panic!("{shown:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_head_becomes_a_request() {
        let post = [(":method", "POST"), (":path", "/a.B/C?d")];
        check(&post, Ok("POST /a.B/C?d session"));
        check(&[post[0], post[1], ("x-app", "own")], Ok("POST /a.B/C?d own"));
        let host = (":authority", "api.example");
        check(&[post[0], host, post[1]], Ok("POST https://api.example/a.B/C?d session"));
    }

    #[test]
    fn more_names_than_a_map_holds_are_refused() {
        let names: Vec<_> = (0..30_000).map(|n| HeaderField::new(format!("x{n}"), "1")).collect();
        let post = [HeaderField::from_static(":method", "POST"), HeaderField::from_static(":path", "/")];
        check_list(post.into_iter().chain(names.clone()).collect(), Err("too many"));
        assert!(trailers(&names).len() > 20_000);
    }

    #[test]
    fn what_cannot_be_a_trailer_field_is_left_out() {
        let fields = [("grpc-status", "0"), ("Grpc-Message", "x"), ("b c", "d"), ("connection", "close")];
        let fields = fields.map(|(name, value)| HeaderField::from_static(name, value));
        assert_eq!(
            trailers(&fields),
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])
        );
    }

    #[test]
    fn a_head_that_breaks_a_rule_is_malformed() {
        let (method, path) = ((":method", "GET"), (":path", "/"));
        check(&[path], Err(":method is missing"));
        check(&[(":method", "CONNECT"), path], Err("tunnel"));
        check(&[method], Err(":path is missing"));
        check(&[method, (":path", "relative")], Err("absolute path"));
        check(&[method, path, path], Err("twice"));
        check(&[method, path, (":proto", "x")], Err("unknown"));
        check(&[method, ("a", "b"), path], Err("behind a regular one"));
        check(&[method, path, ("transfer-encoding", "chunked")], Err("one connection"));
        check(&[method, path, ("te", "gzip")], Err("one connection"));
        check(&[method, path, ("b c", "d")], Err("no token"));
        check(&[method, path, ("x-App", "d")], Err("capitals"));
        check(&[method, (":Path", "/")], Err("unknown"));
        check(&[method, path, ("host", "a"), ("host", "b")], Err("one host"));
        check(&[method, path, ("a", "x\ny")], Err("control character"));
    }
}
