//! One request on an HTTP connection and its answer.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, Version,
    header::{ALT_SVC, CONTENT_LENGTH, HOST},
};
use towline_protocols::link::Priority;

use super::{
    auth::Gate,
    body::{self, Bounded, WithStatus},
    dcz, early, problem, short,
};
use crate::{
    backend::is_grpc,
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    request::{Body, Origin, Protocol, Request},
    router,
    settings::ListenerProtocol,
};

/// What the requests of one connection share.
pub(crate) struct Front {
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    gate: Gate,
    /// Where HTTP/3 is found.
    alt_svc: Option<HeaderValue>,
}

impl Front {
    pub(crate) fn new(gateway: Arc<Gateway>, origin: Arc<Origin>) -> Self {
        let gate = Gate::new(&gateway, &origin);
        let alt_svc = alt_svc(&gateway, &origin);
        Self { gateway, origin, gate, alt_svc }
    }

    /// Takes a request to its backend. Whatever goes wrong becomes an answer.
    pub(crate) async fn answer<B>(&self, request: HttpRequest<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: fmt::Display> + Unpin + Send + 'static,
    {
        let mut response = self.ask(request).await;
        if let Some(alt_svc) = &self.alt_svc {
            response.headers_mut().entry(ALT_SVC).or_insert_with(|| alt_svc.clone());
        }
        response
    }

    async fn ask<B>(&self, request: HttpRequest<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: fmt::Display> + Unpin + Send + 'static,
    {
        if short::is_of_link(&self.gateway, &self.origin, request.uri().path()) {
            return short::serve(&self.gateway, &self.origin, request);
        }
        let grpc = is_grpc(request.headers());
        let (mut parts, incoming) = request.into_parts();
        if self.gate.demands_password()
            && let Err(refused) = early::complete(&self.gateway, &self.origin, grpc).await
        {
            return refused;
        }
        let admitted = self.gate.admit(&self.gateway, &self.origin, &mut parts.headers).await;
        let origin = match admitted {
            Ok(origin) => origin,
            Err(refusal) => return self.gate.refusal(&refusal, grpc),
        };
        let hosts = parts.headers.get_all(HOST).iter().count();
        if hosts > 1 || (parts.version == Version::HTTP_11 && hosts == 0) {
            let message = match parts.version {
                Version::HTTP_11 => "HTTP/1.1 wants exactly one Host header (RFC 9112, section 3.2)",
                // Behind :authority too: a backend might see another one than the route was found by.
                _ => "a request names one host",
            };
            let error = RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message);
            return problem::answer(&error, grpc);
        }
        if parts.method == Method::CONNECT {
            let message = "CONNECT asks for a tunnel; this gateway answers requests";
            let error = RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message);
            return problem::answer(&error, grpc);
        }
        let bytes_max = self.gateway.snapshot().settings.limits.message_bytes_max;
        if !grpc && declared_length(&parts.headers).is_some_and(|length| length > bytes_max as u64) {
            let error = body::too_large(&self.gateway, bytes_max);
            let error = RpcError { execution: Execution::NotRun, ..error };
            return problem::answer(&error, grpc);
        }
        if let Some(dictionary) = dcz::serve(&self.gateway, &parts.method, parts.uri.path()) {
            return dictionary;
        }
        let wish = if grpc { None } else { dcz::Wish::of(&parts.headers, self.origin.encrypted) };
        let deadline = if grpc { grpc_timeout(&parts.headers) } else { None };
        let mut request = Request {
            origin,
            deadline: deadline.and_then(|timeout| Instant::now().checked_add(timeout)),
            priority: priority(&parts.headers),
            idempotent: false,
            http: HttpRequest::from_parts(
                parts,
                Body::new(Bounded::new(incoming, grpc, self.gateway.clone())),
            ),
        };
        // Found once: another route, after a reload, might not be one that takes early data.
        let route = match router::find(&self.gateway, &request) {
            Ok(route) => route,
            Err(error) => return problem::answer(&error, grpc),
        };
        if let Err(refused) = early::pass(&self.gateway, &mut request, &route, grpc).await {
            return refused;
        }
        match router::carry(&self.gateway, &route, Box::new(request)).await {
            Ok(answer) if grpc => answer.map(|body| Body::new(WithStatus::new(body))),
            Ok(answer) => match wish {
                Some(wish) => dcz::encode(&self.gateway, &wish, answer).await,
                None => answer,
            },
            Err(error) => problem::answer(&error, grpc),
        }
    }
}

/// How long a client may remember where HTTP/3 is, seconds.
const ALT_SVC_SECONDS: u32 = 86_400;

/// RFC 7838, section 2.1: only who proved to be the origin may say where else it is.
fn alt_svc(gateway: &Gateway, origin: &Origin) -> Option<HeaderValue> {
    let snapshot = gateway.snapshot();
    let listener = &snapshot.listener(&origin.listener)?.settings;
    let serves = listener.quic && listener.protocols.contains(&ListenerProtocol::Http);
    let port = listener.alt_svc_port.unwrap_or(listener.bind.port());
    let tells = origin.protocol == Protocol::Http && origin.encrypted && serves && port != 0;
    tells.then(|| HeaderValue::try_from(format!("h3=\":{port}\"; ma={ALT_SVC_SECONDS}")).ok())?
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.as_bytes();
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The urgency of the `priority` header (RFC 9218, section 4).
pub(crate) fn priority(headers: &HeaderMap) -> Priority {
    let Some(value) = headers.get("priority").and_then(|value| value.to_str().ok()) else {
        return Priority::NORMAL;
    };
    let urgency = value.split(',').find_map(|part| part.trim().strip_prefix("u=")?.parse().ok());
    urgency.filter(|urgency| *urgency <= 7).map_or(Priority::NORMAL, Priority::new)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn header(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn grpc_timeouts_have_units() {
        for (value, expected) in [
            ("250m", Some(Duration::from_millis(250))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("5", None),
        ] {
            assert_eq!(grpc_timeout(&header("grpc-timeout", value)), expected, "{value}");
        }
    }

    #[test]
    fn urgency_is_rfc_9218s() {
        for (value, expected) in [("u=0, i", 0), ("i, u=7", 7), ("u=9", 3), ("i", 3)] {
            assert_eq!(priority(&header("priority", value)).urgency(), expected, "{value}");
        }
    }
}
