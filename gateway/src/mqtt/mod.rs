//! MQTT clients: the life of a connection, the sessions behind it, retained messages and wills.
//!
//! ```text
//!  serve ── greet ── authenticate ── Broker::attach ── Driver::run ── Broker::detach ── (will, expiry)
//!                                        │                │  ▲
//!                                        ▼                ▼  │ wakes
//!                                     Client: one session; the hub's mailbox
//! ```
//!
//! Sessions live in memory. What a client that asked for it must find again after the gateway's end lies in the
//! store too (kept/), and is there before anybody is told that it is.

mod attachment;
mod broker;
mod client;
mod departures;
mod driver;
mod enhanced;
mod greet;
mod hand_over;
mod inbox;
mod io;
mod kept;
mod message;
mod parked;
mod publish;
mod receipts;
mod restore;
mod retained;
mod subscribe;
mod sys;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{
    broker::Broker,
    departures::ensure_watched,
    kept::{Keeping, Unkept},
    parked::Parked,
    retained::{Retained, RetainedFull},
    sys::is_reserved,
};
pub(crate) use self::{
    client::Present,
    kept::{decode_retained as decode_message, encode_retained as encode_message},
    publish::{
        forward_only, has_route, publish_from_upstream, publish_here, publish_later, publish_locally, rename,
    },
};
use crate::{gateway::Gateway, parking::Patience, request::Origin, session::Clock, transport::Stream};

/// Serves one connection until it ends, or until it may park. `first_bytes` were read from the stream already.
pub async fn serve_parking(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    stream: Stream,
    first_bytes: Bytes,
) -> Option<Parked> {
    let patience = Patience::default().wait(gateway.snapshot().settings.limits.park_after);
    // Boxed: the task of an idle connection must not keep room for its beginning.
    let driver = Box::pin(greet::greet(gateway, origin, stream, first_bytes, patience)).await?;
    parked::run(driver).await
}

/// Serves one connection, on a stream of whatever kind, until it ends.
pub async fn serve<S>(gateway: Arc<Gateway>, origin: Arc<Origin>, stream: S, first_bytes: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Boxed: the task of an idle connection must not keep room for its beginning.
    if let Some(mut driver) = Box::pin(greet::greet(gateway, origin, stream, first_bytes, None)).await {
        driver.run().await;
    }
}

/// The driver's clock. Tokio's, so that tests can move it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What an instant is on the wall, for what the store keeps: one clock for all gateways of a process, since they
/// go by one [`now`].
pub(crate) fn clock() -> &'static Clock {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::system);
    &CLOCK
}
