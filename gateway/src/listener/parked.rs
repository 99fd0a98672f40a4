//! Connections with and without a task.

use std::{future::Future, os::fd::BorrowedFd, pin::Pin, sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use super::Slot;
use crate::{
    drain::DrainGuard,
    gateway::Gateway,
    link, mqtt,
    parking::{Idle, Patience},
};

/// A connection being served: ends when the connection does, or when it may park.
pub(super) type Serving = Pin<Box<dyn Future<Output = Option<Quiet>> + Send>>;

/// What every connection holds while it is open, with or without a task.
pub(super) struct Held {
    pub(super) gateway: Arc<Gateway>,
    /// Its place among the connections that are allowed.
    pub(super) _slot: Slot,
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
pub(super) async fn attend(mut held: Held, mut serving: Serving, mut patience: Patience) {
    let mut drain = held.gateway.drain.watch();
    loop {
        let quiet = tokio::select! {
            quiet = &mut serving => quiet,
            // What still runs at the drain's deadline is cut: dropping the stream closes it.
            () = drain.over() => return,
        };
        let Some(quiet) = quiet else { return };
        let gateway = held.gateway.clone();
        let parked = gateway.parking.park(Parked { held, quiet }, patience, drain.clone(), &gateway.metrics);
        // Given back, it has something to do.
        let Err(back) = parked else { return };
        patience = patience.after(Duration::ZERO, park_after(&gateway));
        (held, serving) = (back.held, back.quiet.resume(patience));
    }
}

pub(super) fn mqtt(serving: impl Future<Output = Option<mqtt::Parked>> + Send + 'static) -> Serving {
    Box::pin(async { serving.await.map(Quiet::Mqtt) })
}

pub(super) fn link(serving: impl Future<Output = Option<Box<link::Parked>>> + Send + 'static) -> Serving {
    Box::pin(async { serving.await.map(Quiet::Link) })
}

/// A protocol whose connections do not park.
pub(super) fn never(serving: impl Future<Output = ()> + Send + 'static) -> Serving {
    Box::pin(async {
        serving.await;
        None
    })
}

fn park_after(gateway: &Gateway) -> Duration {
    gateway.snapshot().settings.limits.park_after
}

impl Quiet {
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
            Quiet::Link(parked) => parked.hears_drain(),
        }
    }

    fn resume(self, patience: Patience, stay: Duration) -> impl Future<Output = ()> + Send + 'static {
        let Self { held, quiet } = self;
        let patience = patience.after(stay, park_after(&held.gateway));
        attend(held, quiet.resume(patience), patience)
    }
}
