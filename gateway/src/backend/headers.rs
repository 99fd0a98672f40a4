//! What a backend sees of a request's headers, and a client of an answer's.

use std::time::Instant;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};

use super::now;
use crate::request::{Origin, Protocol};

/// The client id of the link or MQTT session that a request came by.
const CLIENT: HeaderName = HeaderName::from_static("x-towline-client");
/// The authenticated user.
const USER: HeaderName = HeaderName::from_static("x-towline-user");
/// The client's certificate (RFC 9440).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Names that begin so are the gateway's too.
const OWN_PREFIX: &str = "x-towline-";
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// They concern one connection, not the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// The gateway's word, which a client must not speak for it.
const GATEWAY_OWNED: [HeaderName; 6] = [
    CLIENT_CERT,
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
    GRPC_TIMEOUT,
];

/// They are for the gateway: the backend gets a TE of its own where it needs one, "100 Continue" has been said, and the
/// host stands apart.
const NOT_FORWARDED: [HeaderName; 3] = [header::TE, header::EXPECT, header::HOST];

/// They say where a request goes, how it is framed and who sends it, which a trailer must not (RFC 9110,
/// section 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::HOST,
    header::TE,
    header::TRAILER,
];

/// Turns a client's request headers into what the backend gets; `own` are the gateway's beside the usual.
pub(super) fn outgoing(
    headers: &mut HeaderMap,
    own: HeaderMap,
    version: Version,
    origin: &Origin,
    deadline: Option<Instant>,
) {
    strip(headers, |name| NOT_FORWARDED.contains(name) || is_forged(name));
    headers.extend(own);
    headers.append(header::VIA, HeaderValue::from_static(via(version)));
    for (name, value) in origin.told.get_or_make(|| told(origin)) {
        headers.insert(name.clone(), value.clone());
    }
    if is_grpc(headers) {
        headers.insert(header::TE, TRAILERS);
        if let Some(deadline) = deadline {
            headers.insert(GRPC_TIMEOUT, grpc_timeout(deadline));
        }
    }
}

/// What a backend is told of where a request came from.
fn told(origin: &Origin) -> Vec<(HeaderName, HeaderValue)> {
    let mut told = Vec::with_capacity(5);
    if let Ok(peer) = HeaderValue::from_str(&origin.peer.ip().to_string()) {
        told.push((FORWARDED_FOR, peer));
    }
    told.extend(origin.client_id.as_ref().map(|client| (CLIENT, text(client))));
    told.extend(origin.user.as_ref().map(|user| (USER, text(user))));
    let certificate = origin.identity.as_ref().and_then(|identity| identity.client_cert.clone());
    told.extend(certificate.map(|certificate| (CLIENT_CERT, certificate)));
    for (_, value) in &mut told {
        // Many clients share a connection to a backend: what each has of its own would push what all have in
        // common out of the connection's table (RFC 7541, section 2.3.2).
        value.set_sensitive(true);
    }
    told.push((FORWARDED_PROTO, HeaderValue::from_static(proto(origin))));
    told
}

/// What HTTP/2 and its like may send in several fields is one in HTTP/1.1 (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(cookies) = headers.entry(header::COOKIE) else { return };
    if cookies.iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(header::COOKIE, joined);
    }
}

/// Leaves of a client's trailers what it may say: some backends read them as headers.
pub(super) fn outgoing_trailers(trailers: &mut HeaderMap) {
    strip(trailers, |name| NOT_IN_TRAILERS.contains(name) || is_forged(name));
}

/// Turns an HTTP/1.1 backend's answer headers into what the client gets.
pub(super) fn incoming(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // It says how long the body is, whatever else is said (RFC 9112, section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    strip(headers, |_| false);
}

/// Whether the content type is gRPC's, with or without a suffix such as `+proto`.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| {
            // `application/grpc-web` is another protocol.
            matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        })
    })
}

/// The protocol that the message was received by (RFC 9110, section 7.6.3).
fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_3 => "3.0 towline",
        Version::HTTP_2 => "2.0 towline",
        _ => "1.1 towline",
    }
}

/// Whether a backend would take the field for the gateway's word. Some read `_` as `-`, as CGI made usual.
fn is_forged(name: &HeaderName) -> bool {
    let spelled = |own: &str| {
        let read_as = |byte| if byte == b'_' { b'-' } else { byte };
        name.as_str().len() == own.len() && name.as_str().bytes().map(read_as).eq(own.bytes())
    };
    let is_own = name.as_str().get(..OWN_PREFIX.len()).is_some_and(|start| {
        start.bytes().zip(OWN_PREFIX.bytes()).all(|(byte, own)| byte == own || (byte == b'_' && own == b'-'))
    });
    is_own || GATEWAY_OWNED.iter().chain(&[FORWARDED_FOR, FORWARDED_PROTO]).any(|own| spelled(own.as_str()))
}

/// Takes out what concerns one connection, and what else `goes`. There is hardly ever any of it: to look at the names
/// that are there is a third of the work of asking for each that may be.
fn strip(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let named = headers.get_all(header::CONNECTION).iter().flat_map(options);
    // RFC 8470, section 5.1: that one is never an option of a connection, and the backend must see it.
    let named = named.filter(|name| name != "early-data");
    let present = headers.keys().filter(|name| HOP_BY_HOP.contains(name) || goes(name)).cloned();
    let gone: Vec<HeaderName> = named.chain(present).collect();
    for name in gone {
        headers.remove(name);
    }
}

/// The header names that a `Connection` header lists.
fn options(value: &HeaderValue) -> Vec<HeaderName> {
    let bytes = value.as_bytes().split(|byte| *byte == b',');
    bytes.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok()).collect()
}

fn proto(origin: &Origin) -> &'static str {
    match (origin.protocol, origin.encrypted) {
        (Protocol::MqttWebSocket, true) => "wss",
        (Protocol::MqttWebSocket, false) => "ws",
        (Protocol::Mqtt | Protocol::MqttQuic, true) => "mqtts",
        (Protocol::Mqtt | Protocol::MqttQuic, false) => "mqtt",
        (_, true) => "https",
        (_, false) => "http",
    }
}

/// Names are UTF-8; a byte that cannot stand in a header is percent-encoded.
pub(super) fn text(value: &str) -> HeaderValue {
    use std::fmt::Write;
    if let Ok(value) = HeaderValue::from_str(value) {
        return value;
    }
    let mut encoded = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static(""))
}

/// At most eight digits and a unit; rounded up to whole milliseconds.
fn grpc_timeout(deadline: Instant) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let left = deadline.saturating_duration_since(now());
    let millis = left.as_micros().div_ceil(1000);
    let value = match millis <= DIGITS_MAX {
        true => format!("{millis}m"),
        false => format!("{}S", (millis / 1000).min(DIGITS_MAX)),
    };
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("99999999S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(client: Option<&str>, user: Option<&str>) -> Origin {
        Origin {
            client_id: client.map(Into::into),
            user: user.map(Into::into),
            ..Origin::new("test".into(), ([192, 0, 2, 7], 5000).into(), Protocol::Http, true)
        }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_client_cannot_speak_for_the_gateway() {
        let mut headers = map(&[
            ("x-towline-user", "root"),
            ("x-towline-client", "other"),
            ("x-towline-topic", "forged"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("forwarded", "for=10.0.0.1"),
            ("x-kept", "yes"),
        ]);
        outgoing(&mut headers, HeaderMap::new(), Version::HTTP_11, &origin(None, Some("ann")), None);
        assert_eq!(headers.get("x-towline-user").expect("set"), "ann");
        assert!(!headers.contains_key("x-towline-client") && !headers.contains_key("forwarded"));
        assert!(!headers.contains_key("x-towline-topic"));
        let forwarded: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(forwarded, ["192.0.2.7"]);
        assert_eq!(headers.get("x-forwarded-proto").expect("set"), "https");
        assert_eq!(headers.get("x-kept").expect("kept"), "yes");
    }

    #[test]
    fn nor_by_another_spelling_or_in_a_trailer() {
        let forged = [
            ("x_towline_user", "root"),
            ("x-towline_user", "root"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x_real_ip", "10.0.0.1"),
            ("x_kept", "yes"),
        ];
        let mut headers = map(&forged);
        outgoing(&mut headers, HeaderMap::new(), Version::HTTP_11, &origin(None, None), None);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["via", "x-forwarded-for", "x-forwarded-proto", "x_kept"]);
        let mut trailers = map(&forged);
        trailers.extend(map(&[("x-towline-user", "root"), ("host", "b"), ("x-checksum", "1")]));
        outgoing_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-checksum", "x_kept"]);
    }

    #[test]
    fn a_chunked_answer_has_no_other_length() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "4")]);
        incoming(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("upgrade", "websocket"),
            ("connection", "early-data, x-second-hop"),
            ("x-second-hop", "1"),
            ("early-data", "1"),
            ("expect", "100-continue"),
            ("host", "a.example"),
            ("accept", "*/*"),
        ]);
        outgoing(&mut headers, HeaderMap::new(), Version::HTTP_11, &origin(None, None), None);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "early-data", "via", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn cookies_are_one_field_in_http1() {
        let mut headers = map(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        let mut headers = map(&[("cookie", "a=1")]);
        join_cookies(&mut headers);
        assert_eq!(headers["cookie"], "a=1");
    }

    #[test]
    fn names_that_no_header_can_carry_are_percent_encoded() {
        assert_eq!(text("ann"), "ann");
        assert_eq!(text("a\nb%"), "a%0Ab%25");
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&map(&[("content-type", content_type)])), expected, "{content_type}");
        }
    }
}
