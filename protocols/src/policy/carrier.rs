//! By what the link is held while nobody looks at the app.
//!
//! A NAT that forgets UDP after half a minute may keep TCP for ten. Who looks at an app has more of QUIC: it moves along
//! with networks, and a lost packet holds back one call alone. In the background the link waits, and what it costs is
//! beats, each of which wakes the radio. The link moves beside itself (`handover`), when a PONG has come: the radio is
//! awake then, and the network passes.
//!
//! ```text
//!            in the background for `after`, QUIC's time-out
//!            is found, TCP has `gain` times fewer beats                   made
//!  as raced ────────────────────────────────────────────> moves ───────────────────> held by TCP
//!    ^  ^                                                   |                          |     |
//!    |  +── not made: not again for `retry_after` ──────────+                          |     | another network
//!    +──── made by QUIC, or not made <── moves back <── looked at for `back_after` ────+     |
//!    +───────────────────────────────────────────────────────────────────────────────────────+
//! ```

use std::time::{Duration, Instant};

use super::{
    AppMode, AppState, Heartbeat, Transport,
    parameters::{hours, minutes, parameters, seconds},
};

parameters! {
    /// By what the link is held while the app is in the background: QUIC, or TCP where that needs fewer beats.
    pub struct CarrierPolicy in "carrier" {
        /// Off: the link stays on what it was made by. It does so where `handover.enabled` or `heartbeat.enabled` is off, too.
        enabled: bool = true, false => true;
        /// The app has been in the background for so long, and on that network, before the link moves.
        after: Duration = minutes(2), Duration::ZERO => hours(1);
        /// Somebody has looked at the app for so long before the link moves back to QUIC: a glance is not worth a handshake.
        back_after: Duration = seconds(10), Duration::ZERO => hours(1);
        /// TCP is to need so many times fewer beats than QUIC, whose time-out has to be found.
        gain: f64 = 2.0, 1.1 => 100.0;
        /// How far apart beats over TCP are hoped to come where nothing has failed there yet.
        hope: Duration = minutes(4), seconds(10) => hours(1);
        /// Where no connection could be made by the other carrier, none is tried again for so long.
        retry_after: Duration = minutes(30), minutes(1) => hours(24);
    }
}

/// Decides for the line of one client, which may use both.
#[derive(Clone, Debug, Default)]
pub struct Carrier {
    /// Since when the app is in the background on this network.
    hidden: Option<Instant>,
    /// Since when it is not, after it was.
    shown: Option<Instant>,
    /// How much the app is wanted.
    app: AppState,
    /// The line is on TCP because of this strategy.
    is_held: bool,
    /// What a connection is being made by, to move there.
    moves_to: Option<Transport>,
    /// When that failed last.
    failed: Option<Instant>,
}

impl Carrier {
    /// How much the app is wanted.
    pub fn set_app(&mut self, app: AppState, now: Instant) {
        self.app = app;
        (self.hidden, self.shown) = match app.mode {
            AppMode::Background => (self.hidden.or(Some(now)), None),
            AppMode::Unknown | AppMode::Foreground => (None, self.shown.or(Some(now))),
        };
    }

    /// The device is on another network: the way to a gateway is raced for there.
    pub fn network_changed(&mut self, now: Instant) {
        self.hidden = self.hidden.map(|_| now);
        (self.is_held, self.moves_to, self.failed) = (false, None, None);
    }

    /// A line is up by that transport.
    pub fn begin(&mut self, transport: Transport) {
        let is_moved = self.moves_to.take() == Some(transport);
        self.is_held = transport == Transport::Tcp && (is_moved || self.is_held);
    }

    /// The network has just carried a word to the gateway and back, on a line by `present` beside which nothing else is
    /// under way. What the line is to move to.
    pub fn moves(
        &mut self,
        policy: &CarrierPolicy,
        heartbeat: &Heartbeat,
        present: Transport,
        now: Instant,
    ) -> Option<Transport> {
        if let Some(vain) = self.moves_to.take() {
            // Who cannot go back to QUIC stays, as if TCP had won the race.
            (self.failed, self.is_held) = (Some(now), self.is_held && vain != Transport::Quic);
        }
        let is_over = |since: Instant, time: Duration| now.saturating_duration_since(since) >= time;
        let wanted = match self.hidden.filter(|_| policy.enabled) {
            None => {
                let has_waited = self.shown.is_none_or(|shown| is_over(shown, policy.back_after));
                (self.is_held && has_waited).then_some(Transport::Quic)
            }
            Some(hidden) => {
                let has_waited = is_over(hidden, policy.after);
                let has_failed = self.failed.is_some_and(|at| now < at + policy.retry_after);
                (has_waited && !has_failed && self.gains(policy, heartbeat)).then_some(Transport::Tcp)
            }
        };
        self.moves_to = wanted.filter(|wanted| *wanted != present);
        self.moves_to
    }

    /// What the line is to move to, while a connection is being made for that.
    pub fn moves_to(&self) -> Option<Transport> {
        self.moves_to
    }

    /// What is tried first where the line has to be made anew.
    pub fn prefers(&self) -> Option<Transport> {
        (self.is_held && self.hidden.is_some()).then_some(Transport::Tcp)
    }

    fn gains(&self, policy: &CarrierPolicy, heartbeat: &Heartbeat) -> bool {
        let Some(quic) = heartbeat.found(Transport::Quic) else { return false };
        // In doze nothing is tried, so that what is hoped for would not come.
        let tcp = match heartbeat.found(Transport::Tcp) {
            None if self.app.dozing => return false,
            found => found.unwrap_or_else(|| heartbeat.outlook(Transport::Tcp, policy.hope)),
        };
        tcp >= quic.mul_f64(policy.gain)
    }
}

#[cfg(test)]
mod tests;
