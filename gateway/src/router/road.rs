//! The one road of a request: match, policy, deadline, backend, metrics.

use std::{sync::Arc, time::Instant};

use super::{Route, never_indexed::mark, path::has_dot_segment};
use crate::{
    dictionaries::sampled,
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    http::dcz,
    request::{Body, Origin, Request},
};

/// The route that a request takes.
///
/// # Errors
/// There is none, or its path says nothing.
pub fn find(gateway: &Gateway, request: &Request) -> Result<Arc<Route>, RpcError> {
    if has_dot_segment(request.http.uri().path()) {
        gateway.metrics.requests.with_label_values(&["", kind_name(RpcErrorKind::Malformed)]).inc();
        return Err(dot_segment());
    }
    // The path and headers are matched in place: the URI and header map are borrowed, not copied.
    let snapshot = gateway.snapshot();
    let route = snapshot.routes.match_request(&request.http, request.origin.identity.as_deref());
    route.cloned().ok_or_else(|| {
        gateway.metrics.requests.with_label_values(&["", kind_name(RpcErrorKind::NoRoute)]).inc();
        no_route(request)
    })
}

/// Takes a request along the route that was found for it to its backend, and brings the head of the answer back; its
/// body streams. Dropping the future, or the answer's body, cancels the call.
///
/// # Errors
/// Says why there is no answer, and whether the backend may have run the request.
pub async fn carry(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    request: Box<Request>,
) -> Result<http::Response<Body>, RpcError> {
    let started = Instant::now();
    let mut answer = match admit(route, &request.origin) {
        Ok(()) => guarded_call(gateway, route, request).await,
        Err(error) => Err(error),
    };
    observe(gateway, route, started, answer.as_ref().err());
    if let Ok(answer) = &mut answer
        && route.dcz
    {
        answer.extensions_mut().insert(dcz::Allowed);
    }
    answer
}

/// Calls the backend, with secrets marked as such both ways.
async fn guarded_call(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    mut request: Box<Request>,
) -> Result<http::Response<Body>, RpcError> {
    let names = gateway.snapshot().settings.session.never_indexed.clone();
    let (mut parts, body) = request.http.into_parts();
    let body = mark(&names, &mut parts.headers, body);
    request.http = http::Request::from_parts(parts, body);
    let (mut parts, body) = sampled_call(gateway, route, request).await?.into_parts();
    let body = mark(&names, &mut parts.headers, body);
    Ok(http::Response::from_parts(parts, body))
}

/// Calls the backend; where the route is sampled, both bodies pass the sampler.
async fn sampled_call(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    mut request: Box<Request>,
) -> Result<http::Response<Body>, RpcError> {
    if route.sampling.every == 0 {
        return route.backend.call(route, request).await;
    }
    let (parts, body) = request.http.into_parts();
    let body = sampled(gateway, &route.sampling, &parts.headers, body);
    request.http = http::Request::from_parts(parts, body);
    let (parts, body) = route.backend.call(route, request).await?.into_parts();
    let body = sampled(gateway, &route.sampling, &parts.headers, body);
    Ok(http::Response::from_parts(parts, body))
}

/// Whether policy lets the route be used from there.
///
/// # Errors
/// `EncryptionRequired` when the route demands an encrypted transport.
pub(crate) fn admit(route: &Route, origin: &Origin) -> Result<(), RpcError> {
    if !route.encrypted_only || origin.encrypted {
        return Ok(());
    }
    let message = format!("route {} is served over TLS and QUIC only; connect encrypted", route.name);
    Err(RpcError::new(RpcErrorKind::EncryptionRequired, Execution::NotRun, message))
}

fn dot_segment() -> RpcError {
    let message = "the path has a segment `.` or `..`; send it resolved";
    RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message)
}

fn no_route(request: &Request) -> RpcError {
    let message = format!("no route matches {} {}", request.http.method(), request.http.uri().path());
    RpcError::new(RpcErrorKind::NoRoute, Execution::NotRun, message)
}

/// Counts an outcome and its time.
pub(crate) fn observe(gateway: &Gateway, route: &Route, started: Instant, error: Option<&RpcError>) {
    let meters = route.meters(&gateway.metrics);
    match error {
        None => meters.ok.inc(),
        Some(error) => {
            gateway.metrics.requests.with_label_values(&[&*route.name, kind_name(error.kind)]).inc();
        }
    }
    meters.seconds.observe(started.elapsed().as_secs_f64());
}

/// The kind as metrics and problem bodies spell it.
pub(crate) fn kind_name(kind: RpcErrorKind) -> &'static str {
    match kind {
        RpcErrorKind::Cancelled => "cancelled",
        RpcErrorKind::DeadlineExceeded => "deadline_exceeded",
        RpcErrorKind::NoRoute => "no_route",
        RpcErrorKind::BackendUnavailable => "backend_unavailable",
        RpcErrorKind::BackendFailed => "backend_failed",
        RpcErrorKind::LimitExceeded => "limit_exceeded",
        RpcErrorKind::Draining => "draining",
        RpcErrorKind::PermissionDenied => "permission_denied",
        RpcErrorKind::EncryptionRequired => "encryption_required",
        RpcErrorKind::Malformed => "malformed",
        RpcErrorKind::OutcomeExpired => "outcome_expired",
        RpcErrorKind::TakenElsewhere => "taken_elsewhere",
        RpcErrorKind::SessionLost => "session_lost",
        RpcErrorKind::UnknownDictionary => "unknown_dictionary",
        RpcErrorKind::Internal => "internal",
    }
}
