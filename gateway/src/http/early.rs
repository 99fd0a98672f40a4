//! Requests in early data (RFC 8470). One on a route that the operator declared idempotent goes on, marked, so
//! that its backend may refuse it with 425; any other waits until the handshake is complete.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Response};

use super::problem;
use crate::{
    early::{self, InVain},
    gateway::Gateway,
    request::{Body, Request},
    router::Route,
};

/// RFC 8470, section 5.1.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");
const YES: HeaderValue = HeaderValue::from_static("1");

/// Lets a request go on to its route, marked if it came as early data, or holds it until it did not.
///
/// # Errors
/// The answer to a request whose handshake was not completed: 425, to be sent again behind a handshake.
pub(crate) async fn pass(
    gateway: &Arc<Gateway>,
    request: &mut Request,
    route: &Route,
    grpc: bool,
) -> Result<(), Response<Body>> {
    if request.origin.handshake.is_complete() {
        return Ok(());
    }
    if route.idempotent {
        early::count(gateway, &request.origin, "served");
        // A client that is an intermediary may have set it; whatever it said, this is what the backend must know.
        request.http.headers_mut().insert(EARLY_DATA, YES);
        return Ok(());
    }
    let origin = Arc::clone(&request.origin);
    complete(gateway, &origin, grpc).await
}

/// Holds what came as early data until the handshake is complete.
///
/// # Errors
/// As [`pass`].
pub(super) async fn complete(
    gateway: &Arc<Gateway>,
    origin: &Arc<crate::request::Origin>,
    grpc: bool,
) -> Result<(), Response<Body>> {
    early::wait(gateway, origin).await.map_err(|why: InVain| problem::too_early(&why.to_string(), grpc))
}
