//! The heads of a request and of its answer as bytes (RFC 9112, sections 2 to 6).

use std::{borrow::Cow, mem::MaybeUninit};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use towline_protocols::http1::Chunked;

use crate::backend::{
    headers,
    outgoing::{Outgoing, Payload},
};

/// An answer's head, informational ones before it included.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Its fields.
const FIELDS_MAX: usize = 100;

/// An answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Another request may follow on the connection.
    pub(super) keeps_alive: bool,
}

/// Where an answer's body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    UntilClose,
}

/// What a backend sent is no head of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the answer's head is malformed: {0}")]
    Head(httparse::Error),
    #[error("the answer's head has {0}, which HTTP does not allow")]
    Field(Cow<'static, str>),
    #[error("the answer's head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer says in two ways how long it is")]
    Length,
    #[error("switched protocols unasked")]
    Switched,
}

/// Writes a request's head, in origin form. True: its body goes in chunks.
pub(super) fn put(request: &mut Outgoing, out: &mut BytesMut) -> bool {
    headers::join_cookies(&mut request.headers);
    let Outgoing { method, authority, path, headers, payload } = request;
    for text in [method.as_str(), " ", path.as_str(), " HTTP/1.1\r\nhost: ", authority.as_str(), "\r\n"] {
        out.put_slice(text.as_bytes());
    }
    for (name, value) in headers.iter() {
        put_field(name, value, out);
    }
    let is_declared = headers.contains_key(CONTENT_LENGTH);
    let chunked = matches!(payload, Payload::Stream { .. }) && !is_declared;
    match payload {
        // A method that does not usually have a body has one all the same.
        Payload::Stream { .. } if chunked => {
            put_field(&TRANSFER_ENCODING, &HeaderValue::from_static("chunked"), out);
        }
        // An empty one is told of by every common client where the method has a body, and demanded by some servers
        // (RFC 9110, section 8.6).
        Payload::Whole(body) if !is_declared && (!body.is_empty() || wants_body(method)) => {
            put_field(&CONTENT_LENGTH, &HeaderValue::from(body.len()), out);
        }
        _ => {}
    }
    out.put_slice(b"\r\n");
    chunked
}

fn wants_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Writes one field line.
pub(super) fn put_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    for text in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.put_slice(text);
    }
}

/// The head of the answer to a request, and what is behind it, of which `input` is emptied; `None` when more has to
/// arrive first. Informational answers before it are passed over.
///
/// # Errors
/// It is none, or cannot be told from what follows.
pub(super) fn take(input: &mut BytesMut, request_is_head: bool) -> Result<Option<(Head, Bytes)>, Invalid> {
    while !input.is_empty() {
        let Some((head, rest)) = first(input, request_is_head)? else { return Ok(None) };
        if !head.status.is_informational() {
            return Ok(Some((head, rest)));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // The connection speaks something else now.
            return Err(Invalid::Switched);
        }
        *input = BytesMut::from(rest);
    }
    Ok(None)
}

/// The first head of `input`, and what is behind it.
fn first(input: &mut BytesMut, request_is_head: bool) -> Result<Option<(Head, Bytes)>, Invalid> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    // Values are slices of what came.
    let bytes = std::mem::take(input).freeze();
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, &bytes, &mut fields);
    match parsed.map_err(Invalid::Head)? {
        httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => Err(Invalid::TooLong),
        httparse::Status::Partial => {
            *input = BytesMut::from(bytes);
            Ok(None)
        }
        httparse::Status::Complete(length) if length > HEAD_BYTES_MAX => Err(Invalid::TooLong),
        httparse::Status::Complete(length) => {
            let head = read(&response, &bytes, request_is_head)?;
            Ok(Some((head, bytes.slice(length..))))
        }
    }
}

fn read(
    response: &httparse::Response<'_, '_>,
    bytes: &Bytes,
    request_is_head: bool,
) -> Result<Head, Invalid> {
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Invalid::Head(httparse::Error::Status))?;
    let is_http11 = response.version == Some(1);
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    let mut length = Length::default();
    let (mut closes, mut stays) = (false, is_http11);
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Invalid::Field("a field name that is no token".into()))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| Invalid::Field(format!("a control character in {name}").into()))?;
        match name {
            CONNECTION => {
                closes |= options(field.value).any(|option| option.eq_ignore_ascii_case(b"close"));
                stays |= options(field.value).any(|option| option.eq_ignore_ascii_case(b"keep-alive"));
            }
            CONTENT_LENGTH => length.declared(field.value)?,
            TRANSFER_ENCODING => length.encoded(field.value),
            _ => {}
        }
        headers.try_append(name, value).map_err(|_| Invalid::Field("too many fields".into()))?;
    }
    let framing = length.framing(status, is_http11, request_is_head)?;
    Ok(Head { status, headers, framing, keeps_alive: stays && !closes })
}

/// The items of a list.
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// What a head says of its body's length.
#[derive(Default)]
struct Length {
    declared: Option<u64>,
    /// There is a transfer coding; whether the last one is `chunked`.
    chunked: Option<bool>,
}

impl Length {
    /// The same number may stand there several times (RFC 9112, section 6.3, item 5).
    fn declared(&mut self, value: &[u8]) -> Result<(), Invalid> {
        for number in options(value) {
            let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(number).ok().filter(|_| is_number);
            let number = number.and_then(|number| number.parse().ok());
            let number = number.ok_or(Invalid::Field("a content-length that is no number".into()))?;
            if self.declared.replace(number).is_some_and(|before| before != number) {
                return Err(Invalid::Length);
            }
        }
        Ok(())
    }

    fn encoded(&mut self, value: &[u8]) {
        let last = options(value).last().unwrap_or_default();
        self.chunked = Some(last.eq_ignore_ascii_case(b"chunked"));
    }

    /// RFC 9112, section 6.3.
    fn framing(self, status: StatusCode, is_http11: bool, request_is_head: bool) -> Result<Framing, Invalid> {
        let is_bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if request_is_head || is_bodiless || status.is_informational() {
            return Ok(Framing::Length(0));
        }
        match (self.chunked, self.declared) {
            (Some(_), _) if !is_http11 => Err(Invalid::Field("a transfer coding in HTTP/1.0".into())),
            (Some(true), _) => Ok(Framing::Chunked(Chunked::default())),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(false), _) | (None, None) => Ok(Framing::UntilClose),
        }
    }
}

/// The trailer section of a body in chunks.
///
/// # Errors
/// As of [`take`].
pub(super) fn trailers(lines: &Bytes) -> Result<HeaderMap, Invalid> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let parsed = httparse::parse_headers(lines, &mut fields).map_err(Invalid::Head)?;
    let httparse::Status::Complete((length, fields)) = parsed else {
        return Err(Invalid::Head(httparse::Error::NewLine));
    };
    if length != lines.len() {
        return Err(Invalid::Head(httparse::Error::NewLine));
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(lines.slice_ref(field.value));
        if let (Ok(name), Ok(value)) = (name, value) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use http::{
        header::COOKIE,
        uri::{Authority, PathAndQuery},
    };
    use http_body_util::{BodyExt as _, Empty};

    use super::*;
    use crate::request::Body;

    fn written(method: Method, fields: &[(HeaderName, &'static str)], payload: Payload) -> String {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| _ = headers.append(name, value));
        let (authority, path) = (Authority::from_static("a:1"), PathAndQuery::from_static("/p?q"));
        let mut out = BytesMut::new();
        put(&mut Outgoing { method, authority, path, headers, payload }, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn whole(body: &'static str) -> Payload {
        Payload::Whole(Bytes::from_static(body.as_bytes()))
    }

    fn streamed() -> Payload {
        Payload::Stream { first: None, rest: Body::new(Empty::new().map_err(|never| match never {})) }
    }

    #[test]
    fn a_request_says_what_it_is_and_how_long() {
        let head = "/p?q HTTP/1.1\r\nhost: a:1\r\n";
        assert_eq!(written(Method::GET, &[], whole("")), format!("GET {head}\r\n"));
        assert_eq!(written(Method::POST, &[], whole("")), format!("POST {head}content-length: 0\r\n\r\n"));
        let three = [(CONTENT_LENGTH, "3")];
        for (fields, payload) in [(&[][..], whole("abc")), (&three, whole("abc")), (&three, streamed())] {
            assert_eq!(
                written(Method::DELETE, fields, payload),
                format!("DELETE {head}content-length: 3\r\n\r\n")
            );
        }
    }

    #[test]
    fn a_body_of_unknown_length_goes_in_chunks_whatever_the_method() {
        for method in [Method::GET, Method::POST] {
            assert!(written(method, &[], streamed()).ends_with("\r\ntransfer-encoding: chunked\r\n\r\n"));
        }
    }

    #[test]
    fn all_cookies_stand_in_one_field() {
        let request = written(Method::GET, &[(COOKIE, "a=1"), (COOKIE, "b=2")], whole(""));
        assert!(request.ends_with("\r\ncookie: a=1; b=2\r\n\r\n"), "{request}");
    }

    /// Status, framing, whether the connection stays, and what is behind the head.
    fn check_for(request_is_head: bool, bytes: &str, expected: &str) {
        let shown = |taken: Result<Option<(Head, Bytes)>, Invalid>| match taken {
            Ok(None) => "more".to_owned(),
            Err(error) => error.to_string(),
            Ok(Some((head, rest))) => {
                let framing = match head.framing {
                    Framing::Length(length) => length.to_string(),
                    Framing::Chunked(_) => "chunked".to_owned(),
                    Framing::UntilClose => "until close".to_owned(),
                };
                let stays = if head.keeps_alive { "stays" } else { "closes" };
                format!("{} {framing} {stays} {}", head.status.as_u16(), String::from_utf8_lossy(&rest))
            }
        };
        let mut input = BytesMut::from(bytes);
        assert_eq!(shown(take(&mut input, request_is_head)), expected, "{bytes:?}");
        // In two pieces it says the same, unless the first is an answer by itself.
        let head = bytes.find("\r\n\r\n").unwrap_or(bytes.len());
        for cut in 1..head {
            let mut input = BytesMut::from(&bytes[..cut]);
            if let Ok(None) = take(&mut input, request_is_head) {
                input.extend_from_slice(&bytes.as_bytes()[cut..]);
                assert_eq!(shown(take(&mut input, request_is_head)), expected, "{bytes:?} cut at {cut}");
            }
        }
    }

    fn check(bytes: &str, expected: &str) {
        check_for(false, bytes, expected);
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nbody");
        check(&with("content-length: 4\r\n"), "200 4 stays body");
        check(&with("Content-Length: 4\r\ncontent-length: 4, 4\r\n"), "200 4 stays body");
        check(&with("transfer-encoding: chunked\r\n"), "200 chunked stays body");
        check(&with("content-length: 9\r\nTransfer-Encoding: gzip, Chunked\r\n"), "200 chunked stays body");
        check(&with("transfer-encoding: gzip\r\n"), "200 until close stays body");
        check(&with(""), "200 until close stays body");
        check("HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n", "204 0 stays ");
        check("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", "304 0 stays ");
        check_for(
            true,
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
            "200 4 stays ".replace('4', "0").as_str(),
        );
    }

    #[test]
    fn a_connection_stays_as_both_sides_agree() {
        let with = |version: u8, fields: &str| {
            format!("HTTP/1.{version} 200 OK\r\ncontent-length: 0\r\n{fields}\r\n")
        };
        check(&with(1, "connection: close\r\n"), "200 0 closes ");
        check(&with(1, "connection: x, Close\r\nconnection: keep-alive\r\n"), "200 0 closes ");
        check(&with(0, ""), "200 0 closes ");
        check(&with(0, "connection: Keep-Alive\r\n"), "200 0 stays ");
    }

    #[test]
    fn informational_answers_are_passed_over() {
        let last = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        check(
            &format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{last}"),
            "200 0 stays ",
        );
        check("HTTP/1.1 100 Continue\r\n\r\n", "more");
        check("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nraw", "switched protocols unasked");
    }

    #[test]
    fn an_answer_whose_end_is_in_doubt_is_refused() {
        let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nbody");
        check(
            &with("content-length: 4\r\ncontent-length: 5\r\n"),
            "the answer says in two ways how long it is",
        );
        for length in ["+4", "-4", "4 4", "0x4", "99999999999999999999", ""] {
            let said = "the answer's head has a content-length that is no number, which HTTP does not allow";
            check(&with(&format!("content-length: {length}\r\n")), said);
        }
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        check(old, "the answer's head has a transfer coding in HTTP/1.0, which HTTP does not allow");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for bytes in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n a: c\r\n\r\n",
        ] {
            let mut input = BytesMut::from(bytes);
            assert!(matches!(take(&mut input, false), Err(Invalid::Head(_))), "{bytes:?}");
        }
        let mut endless = BytesMut::from("HTTP/1.1 200 OK\r\nx: ");
        endless.resize(HEAD_BYTES_MAX + 1, b'x');
        assert!(matches!(take(&mut endless, false), Err(Invalid::TooLong)));
    }

    #[test]
    fn trailers_are_field_lines() {
        let lines = |text: &'static str| trailers(&Bytes::from_static(text.as_bytes()));
        assert_eq!(lines("x-sum: 1\r\nx-sum: 2\r\n\r\n").unwrap().get_all("x-sum").iter().count(), 2);
        assert!(lines("x-sum\r\n\r\n").is_err());
        assert!(lines("a: b\n\nc: d\r\n\r\n").is_err());
    }
}
