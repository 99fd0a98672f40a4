//! Connections with and without a task.

use std::{future::Future, os::fd::BorrowedFd, pin::Pin, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::Slot;
use crate::{
    drain::{DrainGuard, DrainWatch},
    gateway::Gateway,
    http::{Upgraded, websocket},
    link, mqtt,
    parking::{Idle, Patience},
    request::Origin,
    transport::{Meter, Rewind, Stream},
};

/// A connection being served: ends when the connection does, when it may park, or when it speaks something else.
pub(super) struct Serving {
    future: Pin<Box<dyn Future<Output = Rest> + Send>>,
    /// It ends by itself when a drain's time is over, and says so to its peer.
    has_last_words: bool,
}

/// Why the server of a protocol has nothing more to do.
pub(super) enum Rest {
    /// The connection is over.
    Over,
    /// It may park.
    Quiet(Quiet),
    /// It goes on with another protocol.
    Became(Arc<Origin>, Serving),
}

/// What every connection holds while it is open, with or without a task.
pub(super) struct Held {
    /// Its place among the connections that are allowed.
    pub(super) slot: Slot,
    /// The drain waits for it.
    pub(super) _at_work: DrainGuard,
}

/// A connection that waits without a task.
pub struct Parked {
    // Goes before what says that the connection is over.
    quiet: Quiet,
    held: Held,
}

/// What its protocol keeps of it.
pub(super) enum Quiet {
    Mqtt(mqtt::Parked),
    Link(Box<link::Parked>),
}

/// Serves a connection until it ends or is parked.
pub(super) async fn attend(
    gateway: Arc<Gateway>,
    mut held: Held,
    mut serving: Serving,
    mut patience: Patience,
) {
    let mut drain = gateway.drain.watch();
    loop {
        let rest = tokio::select! {
            rest = &mut serving.future => rest,
            // What still runs at the drain's deadline is cut: dropping the stream closes it.
            () = end(&mut drain, serving.has_last_words) => return,
        };
        let quiet = match rest {
            Rest::Over => return,
            Rest::Quiet(quiet) => quiet,
            Rest::Became(origin, server) => {
                held.slot = held.slot.serving(&gateway, &origin.listener, origin.protocol);
                serving = server;
                continue;
            }
        };
        let parked = gateway.parking.park(Parked { held, quiet }, patience, drain.clone(), &gateway.metrics);
        // Given back, it has something to do.
        let Err(back) = parked else { return };
        patience = patience.after(Duration::ZERO, park_after(&gateway));
        (held, serving) = (back.held, back.quiet.resume(patience));
    }
}

/// Waits until a drain ends a connection.
pub(super) async fn end(drain: &mut DrainWatch, has_last_words: bool) {
    match has_last_words {
        true => drain.cut().await,
        false => drain.over().await,
    }
}

pub(super) fn mqtt(serving: impl Future<Output = Option<mqtt::Parked>> + Send + 'static) -> Serving {
    let future =
        Box::pin(async { serving.await.map_or(Rest::Over, |parked| Rest::Quiet(Quiet::Mqtt(parked))) });
    Serving { future, has_last_words: false }
}

pub(super) fn link(serving: impl Future<Output = Option<Box<link::Parked>>> + Send + 'static) -> Serving {
    let future =
        Box::pin(async { serving.await.map_or(Rest::Over, |parked| Rest::Quiet(Quiet::Link(parked))) });
    Serving { future, has_last_words: true }
}

/// HTTP does not park; what a connection becomes by it may.
pub(super) fn http(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    serving: impl Future<Output = Option<Upgraded<Rewind<Stream>>>> + Send + 'static,
) -> Serving {
    let future = Box::pin(async move {
        let Some(Upgraded { stream, first_bytes }) = serving.await else { return Rest::Over };
        let origin = websocket::origin(&origin);
        let (mut stream, unread) = stream.into_parts();
        stream.set_meter(Meter::new(&gateway.metrics, origin.protocol));
        let first_bytes = if unread.is_empty() { first_bytes } else { [first_bytes, unread].concat().into() };
        let stream = stream.into_websocket(first_bytes, websocket::rules(&gateway));
        Rest::Became(Arc::clone(&origin), mqtt(mqtt::serve_parking(gateway, origin, stream, Bytes::new())))
    });
    Serving { future, has_last_words: false }
}

fn park_after(gateway: &Gateway) -> Duration {
    gateway.snapshot().settings.limits.park_after
}

impl Quiet {
    fn gateway(&self) -> &Arc<Gateway> {
        match self {
            Self::Mqtt(parked) => parked.gateway(),
            Self::Link(parked) => parked.gateway(),
        }
    }

    fn resume(self, patience: Patience) -> Serving {
        match self {
            Self::Mqtt(parked) => mqtt(parked.resume(patience)),
            Self::Link(parked) => link(parked.resume(patience)),
        }
    }
}

impl Idle for Parked {
    fn socket(&self) -> BorrowedFd<'_> {
        match &self.quiet {
            Quiet::Mqtt(parked) => parked.socket(),
            Quiet::Link(parked) => parked.socket(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.quiet {
            Quiet::Mqtt(parked) => parked.deadline(),
            Quiet::Link(parked) => parked.deadline(),
        }
    }

    fn settle(&self, waker: &Waker) -> bool {
        match &self.quiet {
            Quiet::Mqtt(parked) => parked.settle(waker),
            Quiet::Link(parked) => parked.settle(waker),
        }
    }

    fn hears_drain(&self) -> bool {
        match &self.quiet {
            // The broker sends its clients away itself, spread over time.
            Quiet::Mqtt(_) => false,
            // It says so to its client, and does not come back.
            Quiet::Link(_) => true,
        }
    }

    fn resume(self, patience: Patience, stay: Duration) -> impl Future<Output = ()> + Send + 'static {
        let Self { held, quiet } = self;
        let gateway = Arc::clone(quiet.gateway());
        let patience = patience.after(stay, park_after(&gateway));
        attend(gateway, held, quiet.resume(patience), patience)
    }
}
