//! The control machine of an open connection at rest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Control, Heartbeat, Phase};
use crate::link::{Role, rest::Common};

/// What is kept of a server's control machine while its connection is dormant.
#[derive(Debug)]
pub(in crate::link) struct Dormant {
    common: Arc<Common>,
    /// All that a server's heartbeat is judged by.
    last_received: Instant,
    silence_max: Option<Duration>,
}

impl Control {
    /// Whether the peer was taken in, nothing is to be sent and no event is to be taken.
    pub(in crate::link) fn is_idle(&self) -> bool {
        let is_open = self.phase == Phase::Open && self.introduced;
        is_open
            && self.out.is_empty()
            && self.messages.is_empty()
            && self.events.is_empty()
            && !self.has_piece()
    }

    pub(in crate::link) fn rest(self) -> Dormant {
        let (last_received, silence_max) = self.heartbeat.promise();
        let header_dictionary = self.header_dictionary().cloned();
        let Self { config, peer, dictionaries_off, .. } = self;
        let resting = config.resting.clone();
        let common = resting.share(Common { config, peer, header_dictionary, dictionaries_off });
        Dormant { common, last_received, silence_max }
    }
}

impl Dormant {
    pub(in crate::link) fn wake(self, now: Instant) -> Control {
        let Self { common, last_received, silence_max } = self;
        let Common { config, peer, header_dictionary, dictionaries_off } = &*common;
        let mut control = Control::new(Arc::clone(config), Role::Server, Phase::Open, now);
        control.set_header_dictionary(header_dictionary.clone());
        let heartbeat = Heartbeat::promised(last_received, silence_max);
        let (peer, dictionaries_off) = (peer.clone(), *dictionaries_off);
        Control { introduced: true, peer, dictionaries_off, heartbeat, ..control }
    }

    pub(in crate::link) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.last_received + self.silence_max?)
    }
}
