//! Messages of shared subscriptions that a session leaves when it ends: other members get them (MQTT 5, section 4.8.2).
//!
//! ```text
//!  session ends ── Session::end ──> orphans ── Hub::hand_over ──> another member's queue
//!                                      │
//!                                      └── one commit: the message for that member, and that this one is done with it
//! ```
//!
//! A crash leaves a stored message in the queue of one of the two, so one of QoS 2 that was never sent goes out once.

use towline_protocols::mqtt::session::Orphan;

use super::message::Shared;
use crate::{gateway::Gateway, hub::Delivered};

/// Gives each to another member, or up where there is none. The one who left is in no group any more.
pub(super) fn hand_over(gateway: &Gateway, orphans: Vec<Orphan<Shared>>) {
    for Orphan { message: Shared { message, entry, share }, since } in orphans {
        let note = entry.as_ref().map(|entry| entry.done());
        let taken = share.and_then(|share| gateway.hub.hand_over(&share, &message, since, note));
        if matches!(taken, Some(Delivered::Sent | Delivered::Stored)) {
            gateway.metrics.mqtt_messages_handed_over.inc();
        }
        match (entry, taken) {
            (Some(entry), Some(_)) => entry.finish_noted(),
            (Some(entry), None) => entry.finish(),
            (None, _) => {}
        }
    }
}
