//! An [`RpcError`] as HTTP clients and gRPC clients understand it.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};

use crate::{
    auth::Refusal,
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
    router::kind_name,
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Whether the backend executed the request: `not-run`, `may-have-run`, `ran`.
const EXECUTION: HeaderName = HeaderName::from_static("towline-execution");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// What clients are asked to wait while nobody can say who they are.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"towline\", charset=\"UTF-8\"");

/// The answer to a request that has none. gRPC clients get a trailers-only answer, which is always
/// HTTP 200; others a status and a JSON object.
pub(super) fn answer(error: &RpcError, grpc: bool) -> Response<Body> {
    let mut response = match grpc {
        true => trailers_only(grpc_trailers(error)),
        false => problem(http_status(error), error),
    };
    if let Some(after) = error.retry_after {
        let seconds = after.as_millis().div_ceil(1000);
        if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    response
}

/// The answer to a request of a client without a certificate that names it; no credential would help.
pub(super) fn nameless(grpc: bool) -> Response<Body> {
    let message = "this listener wants a client certificate that names its bearer";
    let error = RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, message);
    if grpc {
        let mut trailers = grpc_trailers(&error);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("16"));
        return trailers_only(trailers);
    }
    problem(StatusCode::FORBIDDEN, &error)
}

/// The answer to a request without a right credential.
pub(super) fn unauthorized(grpc: bool) -> Response<Body> {
    let message = "this listener wants HTTP Basic credentials (`authorization: Basic ...`)";
    let error = RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, message);
    if grpc {
        let mut trailers = grpc_trailers(&error);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("16"));
        return trailers_only(trailers);
    }
    let mut response = problem(StatusCode::UNAUTHORIZED, &error);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, BASIC);
    response
}

/// The answer to a request of a client that the hook does not admit, or that nobody could be asked about.
pub(super) fn not_admitted(refusal: &Refusal, grpc: bool) -> Response<Body> {
    let kind = match refusal.is_temporary() {
        true => RpcErrorKind::BackendUnavailable,
        false => RpcErrorKind::PermissionDenied,
    };
    let mut error = RpcError::new(kind, Execution::NotRun, refusal.to_string());
    error.retry_after = refusal.is_temporary().then_some(RETRY_AFTER);
    answer(&error, grpc)
}

/// The answer to a request of early data that waited in vain (RFC 8470, section 5.2).
pub(super) fn too_early(why: &str, grpc: bool) -> Response<Body> {
    let error = RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, why);
    if grpc { trailers_only(grpc_trailers(&error)) } else { problem(StatusCode::TOO_EARLY, &error) }
}

/// An answer of plain HTTP whose status the error's kind does not tell.
pub(super) fn with_status(status: StatusCode, error: &RpcError) -> Response<Body> {
    problem(status, error)
}

/// The error as the trailers that end a gRPC answer.
pub(super) fn grpc_trailers(error: &RpcError) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(error)));
    let message = percent_encoded(&error.message);
    if let Ok(message) = HeaderValue::try_from(message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers.insert(EXECUTION, HeaderValue::from_static(execution_name(error.execution)));
    trailers
}

fn trailers_only(trailers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.headers_mut() = trailers;
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

fn problem(status: StatusCode, error: &RpcError) -> Response<Body> {
    let text = serde_json::json!({
        "kind": kind_name(error.kind),
        "execution": execution_name(error.execution),
        "message": error.message,
    });
    let mut response = Response::new(whole(format!("{text}\n").into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM);
    headers.insert(EXECUTION, HeaderValue::from_static(execution_name(error.execution)));
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110, section 15.5.22 and RFC 2817: which protocol to use.
        headers.insert(header::UPGRADE, HeaderValue::from_static("TLS/1.3"));
    }
    response
}

fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never| match never {}))
}

fn http_status(error: &RpcError) -> StatusCode {
    use RpcErrorKind::*;
    match (error.kind, error.retry_after) {
        (NoRoute, _) => StatusCode::NOT_FOUND,
        (BackendUnavailable | Draining, _) => StatusCode::SERVICE_UNAVAILABLE,
        (DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (BackendFailed, _) => StatusCode::BAD_GATEWAY,
        // With a pause it is the gateway's bound, without it is the request that is too large.
        (LimitExceeded, Some(_)) => StatusCode::SERVICE_UNAVAILABLE,
        (LimitExceeded, None) => StatusCode::PAYLOAD_TOO_LARGE,
        (PermissionDenied, _) => StatusCode::FORBIDDEN,
        (EncryptionRequired, _) => StatusCode::UPGRADE_REQUIRED,
        (Malformed | UnknownDictionary, _) => StatusCode::BAD_REQUEST,
        (OutcomeExpired | SessionLost | TakenElsewhere, _) => StatusCode::GONE,
        // What nginx made customary for a client that left; nobody is there to read it.
        (Cancelled, _) => StatusCode::REQUEST_TIMEOUT,
        (Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// gRPC's status codes. UNAVAILABLE invites clients to try again, so it is said only when nothing ran.
fn grpc_status(error: &RpcError) -> &'static str {
    use RpcErrorKind::*;
    match (error.kind, error.execution) {
        (Cancelled, _) => "1",
        (Malformed | UnknownDictionary, _) => "3",
        (DeadlineExceeded, _) => "4",
        (PermissionDenied, _) => "7",
        (LimitExceeded, _) => "8",
        (EncryptionRequired, _) => "9",
        (NoRoute, _) => "12",
        (BackendUnavailable | Draining | BackendFailed, Execution::NotRun) => "14",
        (BackendUnavailable | Draining | BackendFailed | Internal, _) => "13",
        (OutcomeExpired | SessionLost | TakenElsewhere, _) => "15",
    }
}

fn execution_name(execution: Execution) -> &'static str {
    match execution {
        Execution::NotRun => "not-run",
        Execution::MayHaveRun | Execution::NotNow => "may-have-run",
        Execution::Ran => "ran",
    }
}

/// `Percent-Encoded` of the gRPC protocol: `%` and everything outside printable ASCII.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_message_survives_any_text() {
        assert_eq!(percent_encoded("50% of\n\u{e9}"), "50%25 of%0A%C3%A9");
    }

    #[test]
    fn only_what_did_not_run_invites_a_retry() {
        for (execution, status) in
            [(Execution::NotRun, "14"), (Execution::MayHaveRun, "13"), (Execution::Ran, "13")]
        {
            let error = RpcError::new(RpcErrorKind::BackendFailed, execution, "x");
            assert_eq!(answer(&error, true).headers()[GRPC_STATUS], status);
        }
    }
}
