//! The requests that ask for a WebSocket, and their answers.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    uri::Authority,
};
use http_body_util::{BodyExt as _, Empty};

use crate::{request::Body, settings::Listener};

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_OCTETS: usize = 16;
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// "The WebSocket Subprotocol name selected and returned by the Server MUST be 'mqtt'" [MQTT-6.0.0-4]. Clients of
/// MQTT 3.1 know another.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// How a request asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// RFC 6455, section 4.1.
    Upgrade,
    /// RFC 8441, section 4.
    Tunnel,
}

/// Why a request gets no WebSocket.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
    pub(super) header: Option<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, why: &'static str) -> Self {
        Self { status, why, header: None }
    }
}

/// Whether a request asks for a WebSocket. Any other is not for this room.
pub(super) fn asked<B>(request: &Request<B>) -> Option<Asked> {
    if request.version() == Version::HTTP_2 {
        let protocol = request.extensions().get::<hyper::ext::Protocol>();
        let asks =
            request.method() == Method::CONNECT && protocol.is_some_and(|it| it.as_str() == "websocket");
        return asks.then_some(Asked::Tunnel);
    }
    has_token(request.headers(), &UPGRADE, "websocket").then_some(Asked::Upgrade)
}

/// The answer behind which the WebSocket begins.
pub(super) fn check<B>(
    listener: &Listener,
    request: &Request<B>,
    asked: Asked,
    encrypted: bool,
) -> Result<Response<Body>, Refused> {
    let headers = request.headers();
    check_origin(listener, request, encrypted)?;
    if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        let refused =
            Refused::new(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13 (RFC 6455)");
        return Err(Refused { header: Some((SEC_WEBSOCKET_VERSION, VERSION)), ..refused });
    }
    let subprotocol = subprotocol(headers).ok_or(Refused::new(
        StatusCode::BAD_REQUEST,
        "MQTT over WebSocket wants Sec-WebSocket-Protocol: mqtt [MQTT-6.0.0-3]",
    ))?;
    let mut answer = Response::new(Body::new(Empty::new().map_err(|never| match never {})));
    let said = answer.headers_mut();
    said.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    if asked == Asked::Upgrade {
        let accept = accept(request)?;
        said.insert(SEC_WEBSOCKET_ACCEPT, accept);
        said.insert(UPGRADE, WEBSOCKET);
        said.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(answer)
}

/// A browser says whose page it is that connects. Any page may connect anywhere, so what the browser itself brings
/// along must open nothing: a password in CONNECT is the page's own, but a client certificate, or to be in a network
/// where nobody is asked, is not. Some clients that are no browsers name the server itself, and pages of the server
/// are its own.
fn check_origin<B>(listener: &Listener, request: &Request<B>, encrypted: bool) -> Result<(), Refused> {
    let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if listener.admits_web_origin(origin)
        || listener.websocket_origins.is_none() && is_the_servers(origin, request, encrypted)
    {
        return Ok(());
    }
    let why = "pages of this Origin may not connect (listeners.websocket_origins)";
    Err(Refused::new(StatusCode::FORBIDDEN, why))
}

/// Whether `origin` is where the request goes to. In plaintext a page's own name may have come to mean this address
/// (DNS rebinding); nobody outside can have an address or a name without a dot mean something else.
fn is_the_servers<B>(origin: &str, request: &Request<B>, encrypted: bool) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.or(request.uri().authority().map(|it| it.as_str())) else { return false };
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    same && (encrypted || !name.contains('.') || name.parse::<IpAddr>().is_ok())
}

fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    SUBPROTOCOLS
        .into_iter()
        .find(|known| tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|token| token == *known))
}

/// RFC 6455, section 4.2: the value that proves that the request was understood.
fn accept<B>(request: &Request<B>) -> Result<HeaderValue, Refused> {
    let malformed = |why| Refused::new(StatusCode::BAD_REQUEST, why);
    let headers = request.headers();
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(malformed(
            "a WebSocket is asked for by GET and HTTP/1.1, or by extended CONNECT and HTTP/2",
        ));
    }
    if headers.get_all(HOST).iter().count() != 1 {
        return Err(malformed("HTTP/1.1 wants exactly one Host header (RFC 9112, section 3.2)"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(malformed("Connection: Upgrade is missing (RFC 6455, section 4.1)"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if !BASE64.decode(key).is_ok_and(|key| key.len() == KEY_OCTETS) {
        return Err(malformed("Sec-WebSocket-Key must be 16 octets in base64 (RFC 6455, section 4.1)"));
    }
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    HeaderValue::try_from(BASE64.encode(hash.finish())).map_err(|_| malformed("Sec-WebSocket-Key"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|each| each.eq_ignore_ascii_case(token))
}

/// The members of a list that may stand in several lines.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}
