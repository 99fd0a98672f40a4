//! The control machine of an open connection at rest.

use std::{sync::Arc, time::Instant};

use super::{Control, Heartbeat, Phase};
use crate::link::{Config, Peer, Role};

/// What is kept of a server's control machine while its connection is dormant.
#[derive(Debug)]
pub(in crate::link) struct Dormant {
    config: Arc<Config>,
    peer: Peer,
    heartbeat: Heartbeat,
}

impl Control {
    /// Whether the peer was taken in, nothing is to be sent and no event is to be taken.
    pub(in crate::link) fn is_idle(&self) -> bool {
        let is_open = self.phase == Phase::Open && self.introduced;
        is_open && self.out.is_empty() && self.messages.is_empty() && self.events.is_empty()
    }

    pub(in crate::link) fn rest(self) -> Dormant {
        Dormant { config: self.config, peer: self.peer, heartbeat: self.heartbeat }
    }
}

impl Dormant {
    pub(in crate::link) fn wake(self, now: Instant) -> Control {
        let Self { config, peer, heartbeat } = self;
        let control = Control::new(config, Role::Server, Phase::Open, now);
        Control { introduced: true, peer, heartbeat, ..control }
    }

    pub(in crate::link) fn poll_timeout(&self) -> Option<Instant> {
        // Only clients wait for the answers to PINGs.
        self.heartbeat.next(None)
    }
}
