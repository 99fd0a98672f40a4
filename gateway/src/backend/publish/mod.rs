//! A published message on its way to a backend: as a gRPC call, an HTTP call, or to an MQTT broker.
//!
//! ```text
//! publish --> route --> batch? --> attempts --> calls: gRPC, HTTP | upstream
//!                                     |
//!                                     +-- not taken --> dead letters: a queue in the store, a topic
//! ```

mod batch;
mod calls;
mod dead;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::time::sleep;

pub(crate) use self::calls::{framed, grpc_headers, unframed};
pub use self::{
    batch::Batcher,
    dead::{Replayed, replay},
};
use super::Connections;
use crate::{
    error::{RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    request::Origin,
    router::{self, Route},
};

/// What a backend wants published to the message's response topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Payload, opaque.
    pub payload: Bytes,
    /// MQTT's content type, or the link's.
    pub content_type: Option<Arc<str>>,
}

/// Takes a message to the backend of the first route whose topic filter matches; `Ok(None)` without a
/// reply, and at once if no route matches. `Ok` only after the backend accepted the message, or it is kept as one that
/// no backend takes, so that QoS 1 can be acknowledged then.
///
/// # Errors
/// Says why the backend did not take it; leave the message unacknowledged.
pub async fn publish(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let started = Instant::now();
    let (route, captures) =
        match gateway.snapshot().routes.match_topic(&message.topic, origin.identity.as_deref()) {
            None => return Ok(None),
            Some((route, captures)) => (route.clone(), captures),
        };
    let outcome = match router::admit(&route, origin) {
        Ok(()) => deliver(gateway, &route, captures, origin, message).await,
        Err(error) => Err(error),
    };
    router::observe(gateway, &route, started, outcome.as_ref().err());
    outcome
}

async fn deliver(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    captures: Vec<&str>,
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let delivered = match &route.batcher {
        Some(batcher) => batcher.hand_in(gateway, route, captures, origin, message).await,
        None => forward(gateway, route, &captures, origin, message).await,
    };
    match delivered {
        Err(error) if dead::is_kept(route) => {
            dead::keep(gateway, route, origin, message, error).await.map(|()| None)
        }
        delivered => delivered,
    }
}

/// One message, with as many attempts as the route allows.
async fn forward(
    gateway: &Arc<Gateway>,
    route: &Route,
    captures: &[&str],
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let mut attempts = Attempts::new(route);
    loop {
        let error = match attempt(gateway, route, captures, origin, message).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        attempts.pause(gateway, error).await?;
    }
}

async fn attempt(
    gateway: &Arc<Gateway>,
    route: &Route,
    captures: &[&str],
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    if matches!(route.backend.connections, Connections::Mqtt) {
        let (upstreams, settings) = (&gateway.upstreams, &route.backend.settings);
        return upstreams.publish(gateway, settings, origin, message, route.timeout()).await.map(|()| None);
    }
    calls::call_one(route, captures, origin, message).await
}

/// Attempts at one call.
struct Attempts<'r> {
    route: &'r Route,
    made: usize,
}

impl<'r> Attempts<'r> {
    fn new(route: &'r Route) -> Self {
        Self { route, made: 0 }
    }

    /// Waits until there may be another one.
    ///
    /// # Errors
    /// There may be none: `error` itself.
    async fn pause(&mut self, gateway: &Gateway, error: RpcError) -> Result<(), RpcError> {
        let retry = &self.route.delivery.retry;
        self.made += 1;
        if !is_temporary(&error) {
            return Err(error);
        }
        if self.made >= retry.attempts_max {
            if retry.attempts_max > 1 {
                gateway.metrics.limit_hit("routes.retry.attempts");
            }
            return Err(error);
        }
        gateway.metrics.publish_retries.with_label_values(&[&*self.route.name]).inc();
        let doublings = u32::try_from(self.made - 1).unwrap_or(u32::MAX).min(20);
        let longest = retry.backoff_min.saturating_mul(1 << doublings).min(retry.backoff_max);
        // Full jitter, so that publishers do not come back in step.
        sleep(longest.mul_f64(fastrand::f64())).await;
        Ok(())
    }
}

/// Whether another attempt may do better. A message may be delivered twice, as QoS 1 allows.
fn is_temporary(error: &RpcError) -> bool {
    match error.kind {
        RpcErrorKind::BackendUnavailable | RpcErrorKind::BackendFailed | RpcErrorKind::DeadlineExceeded => {
            true
        }
        RpcErrorKind::LimitExceeded => error.retry_after.is_some(),
        _ => false,
    }
}
