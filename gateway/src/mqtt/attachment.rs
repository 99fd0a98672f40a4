//! A client's connection in its session, and how the two part.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use towline_protocols::mqtt::Version;

use super::client::Client;
use crate::{gateway::Gateway, request::Origin};

/// A hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A client's connection in its session. To drop it without [`Attachment::detach`] is the loss of the client,
/// unless the gateway itself goes.
pub(super) struct Attachment {
    pub(super) gateway: Arc<Gateway>,
    pub(super) client: Arc<Client>,
    pub(super) epoch: u32,
    /// What the connection speaks, also when the session is another's.
    pub(super) version: Version,
    /// Why the connection ends, as it is told of.
    pub(super) ending: &'static str,
    is_detached: bool,
}

/// A client that has its session.
pub(super) struct Admitted {
    pub(super) attachment: Attachment,
    /// With client id and user.
    pub(super) origin: Arc<Origin>,
    /// What the client is told stands on a change that has to be durable first.
    pub(super) waits: bool,
}

/// When a connection has to end, of a time on the wall.
pub(super) fn ends_at(until: SystemTime) -> Instant {
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    let now = super::now();
    // What is beyond the clock is for ever, as far as connections go.
    now.checked_add(left).unwrap_or_else(|| now + FOR_EVER)
}

/// Why a connection's client is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// It took leave: its will is void [MQTT-3.14.4-3].
    Left,
    /// It is lost, or wants its will published.
    Lost,
    /// It is the gateway that goes. "The Server MAY defer publication of Will Messages until a subsequent
    /// restart" (3.1.2.5).
    Shutdown,
}

impl Attachment {
    pub(super) fn new(gateway: Arc<Gateway>, client: Arc<Client>, epoch: u32, version: Version) -> Self {
        Self { gateway, client, epoch, version, ending: "connection_lost", is_detached: false }
    }

    /// Ends the client's connection in its session.
    pub(super) fn detach(&mut self, parting: Parting) {
        if !std::mem::replace(&mut self.is_detached, true) {
            self.gateway.mqtt.detach(&self.gateway, &self.client, self.epoch, parting, self.ending);
        }
    }

    /// Writes what the session is with this connection.
    pub(super) fn record(&self) {
        let mut inner = self.client.lock();
        if inner.epoch == self.epoch {
            self.client.record(&mut inner);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let is_draining = self.gateway.drain.is_draining();
        if is_draining {
            self.ending = "server_shutting_down";
        }
        self.detach(if is_draining { Parting::Shutdown } else { Parting::Lost });
    }
}
