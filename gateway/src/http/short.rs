//! Where HTTP leads to the link: `POST /towline/1` (PROTOCOL.md, section 21).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt as _;

use super::problem;
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    link,
    request::{Body, Origin},
    settings::ListenerProtocol,
};

const PATH: &str = "/towline/1";
const CONTENT: HeaderValue = HeaderValue::from_static("application/towline");
const POST: HeaderValue = HeaderValue::from_static("POST");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Says which content types a resource takes (Linked Data Platform 1.0, section 7.1).
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// Whether a request for `path` is the link's: on listeners that admit it. Any other is for the router.
pub(super) fn is_of_link(gateway: &Gateway, origin: &Origin, path: &str) -> bool {
    path == PATH && is_admitted(gateway, origin)
}

/// Serves a request for the link. HELLO says who the client is: credentials of HTTP are not asked for.
pub(super) fn serve<B>(gateway: &Arc<Gateway>, origin: &Arc<Origin>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error: fmt::Display> + Send + 'static,
{
    refusal(gateway, origin, &request).unwrap_or_else(|| {
        let patience = patience(request.headers());
        let body = request.into_body().map_err(broken).boxed_unsync();
        let mut answer = Response::new(link::serve_post(gateway, origin, body, patience));
        answer.headers_mut().insert(CONTENT_TYPE, CONTENT);
        answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        answer
    })
}

fn is_admitted(gateway: &Gateway, origin: &Origin) -> bool {
    let snapshot = gateway.snapshot();
    let listener = snapshot.listener(&origin.listener);
    let admits = listener.is_some_and(|it| it.settings.protocols.contains(&ListenerProtocol::Link));
    snapshot.settings.short.enabled && admits
}

/// What a POST is answered of which no frame is read.
fn refusal<B>(gateway: &Gateway, origin: &Origin, request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    if request.method() != Method::POST {
        let mut answer = refused(StatusCode::METHOD_NOT_ALLOWED, "the link takes POST here");
        answer.headers_mut().insert(ALLOW, POST);
        return Some(answer);
    }
    if !headers.get(CONTENT_TYPE).is_some_and(is_frames) {
        let mut answer =
            refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the link takes application/towline here");
        answer.headers_mut().insert(ACCEPT_POST, CONTENT);
        return Some(answer);
    }
    // The body names a session and carries credentials; whoever repeats it early would have them checked.
    if !origin.handshake.is_complete() {
        return Some(problem::too_early("a POST of the link waits for the end of the handshake", false));
    }
    let bytes_max = gateway.snapshot().settings.short.body_bytes_max;
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        gateway.metrics.limit_hit("short.body_bytes_max");
        let text = format!("the body is larger than {bytes_max} bytes (short.body_bytes_max)");
        return Some(refused(StatusCode::PAYLOAD_TOO_LARGE, &text));
    }
    None
}

fn refused(status: StatusCode, text: &str) -> Response<Body> {
    problem::with_status(status, &RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, text))
}

/// Parameters of the type say nothing.
fn is_frames(value: &HeaderValue) -> bool {
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(CONTENT.as_bytes())
}

/// How long the client waits for outcomes: `Prefer: wait=10` (RFC 7240, section 4.3), which may be quoted (section 2).
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait = values.flat_map(|value| value.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse().ok())?
    });
    wait.map(|seconds: u32| Duration::from_secs(seconds.into()))
}

fn broken(error: impl fmt::Display) -> RpcError {
    RpcError::new(RpcErrorKind::Cancelled, Execution::NotRun, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{request::Protocol, transport::Handshake};

    #[test]
    fn a_client_says_how_long_it_waits() {
        for (values, expected) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, Wait = 3"], Some(3)),
            (&["handling=lenient", "wait=0;x=y"], Some(0)),
            (&["wait=\"7\""], Some(7)),
            (&["wait=\""], None),
            (&["wait=soon"], None),
            (&["await=3"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("prefer", HeaderValue::from_static(value));
            }
            assert_eq!(patience(&headers), expected.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn the_type_is_compared_without_its_parameters() {
        for (value, expected) in [
            ("application/towline", true),
            ("Application/Towline; v=1", true),
            ("application/towline2", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_frames(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }

    fn listener(protocols: &[ListenerProtocol]) -> Arc<Gateway> {
        let mut listener = crate::settings::Listener::plain("edge", ([127, 0, 0, 1], 0).into());
        listener.protocols = protocols.to_vec();
        let listeners = vec![listener];
        Gateway::build(crate::settings::Settings { listeners, ..Default::default() }).unwrap()
    }

    /// The status of the answer, if the request is the link's.
    fn status(
        gateway: &Arc<Gateway>,
        handshake: Handshake,
        request: Request<&'static str>,
    ) -> Option<StatusCode> {
        let origin = Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::Http, true);
        let origin = Arc::new(Origin { handshake, ..origin });
        let request = request.map(|body| http_body_util::Full::new(Bytes::from_static(body.as_bytes())));
        let is_of_link = is_of_link(gateway, &origin, request.uri().path());
        is_of_link.then(|| serve(gateway, &origin, request).status())
    }

    fn frames(path: &'static str) -> Request<&'static str> {
        Request::post(path).header(CONTENT_TYPE, CONTENT).body("").unwrap()
    }

    #[tokio::test]
    async fn early_data_is_to_be_sent_again_behind_the_handshake() {
        let gateway = listener(&[ListenerProtocol::Link, ListenerProtocol::Http]);
        let (completion, handshake) = Handshake::pending();
        let early = || frames("/towline/1");
        assert_eq!(status(&gateway, handshake.clone(), early()), Some(StatusCode::TOO_EARLY));
        completion.complete();
        assert_eq!(status(&gateway, handshake, early()), Some(StatusCode::OK));
    }

    #[tokio::test]
    async fn other_paths_and_listeners_without_the_link_are_the_routers() {
        let gateway = listener(&[ListenerProtocol::Link, ListenerProtocol::Http]);
        assert_eq!(status(&gateway, Handshake::complete(), frames("/towline/10")), None);
        assert_eq!(status(&gateway, Handshake::complete(), frames("/towline/1?x=y")), Some(StatusCode::OK));
        let without = listener(&[ListenerProtocol::Http]);
        assert_eq!(status(&without, Handshake::complete(), frames("/towline/1")), None);
    }
}
