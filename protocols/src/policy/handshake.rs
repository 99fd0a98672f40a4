//! Which key exchange the ClientHello of a connection offers.
//!
//! ```text
//!            sends less than slow_rate, or is weak
//!   quick ───────────────────────────────────────────> slow
//!         <───────────────────────────────────────────
//!            sends slow_rate x quick_share, and is not weak
//!
//!   quick: X25519MLKEM768        slow: X25519, as far as `resumptions` and `whole` allow
//! ```
//!
//! A share of X25519MLKEM768 has 1216 octets towards the gateway and 1120 back (draft-ietf-tls-ecdhe-mlkem, section 4.1),
//! where X25519 has 32: the first flight becomes two packets, and on a network that sends 10 KB in a second it is there an
//! eighth of a second later.
//!
//! What that buys is that nobody who records a connection now can read it once there are quantum computers. A session that
//! began with the hybrid keeps this when it is resumed with X25519 alone: the secret that its ticket stands for goes into the
//! keys as well (RFC 8446, section 7.1), and was agreed upon by the hybrid. A whole handshake with X25519 alone does without.

#[cfg(test)]
mod tests;

use super::{Level, parameters::parameters};

parameters! {
    /// Which key exchange a client offers where bytes are slow.
    pub struct HandshakePolicy in "handshake" {
        /// Off: every handshake is hybrid, X25519MLKEM768, however slow the network: for operators who require post-quantum
        /// key exchange always.
        enabled: bool = true, false => true;
        /// On a slow network a session that began with a hybrid handshake is resumed with X25519 alone. What is said stays
        /// safe from who records it and has a quantum computer one day, as the session's own secret goes into the keys;
        /// but not if the gateway's ticket keys become known besides. A gateway that refuses the ticket gets a hybrid
        /// handshake.
        resumptions: bool = true, false => true;
        /// On a slow network whole handshakes are made with X25519 alone too. That gives up what post-quantum key exchange is
        /// for: who records such a connection, or has made the network slow to bring it about, can read it once there are
        /// quantum computers. For operators to whom the first second on 2G is worth more.
        whole: bool = false, false => true;
        /// A network is slow that sends fewer bytes per second than this, by what was seen of it or is usual for its kind.
        slow_rate: u64 = 25_000, 0 => 100_000_000;
        /// It is slow until it sends so many times as much.
        quick_share: f64 = 1.5, 1.0 => 10.0;
        /// One whose level is weak or poor is slow as well: of two packets one is lost sooner. Off: the rate alone counts.
        when_weak: bool = true, false => true;
    }
}

/// What a client offers in its ClientHello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// A share of X25519MLKEM768, and of X25519 besides, for gateways without.
    #[default]
    Hybrid,
    /// Of X25519 alone if a session is resumed that began with the hybrid; the hybrid otherwise.
    ClassicalResumed,
    /// Of X25519 alone.
    Classical,
}

/// Whether the network in use is slow, as handshakes go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    is_slow: bool,
}

impl Handshakes {
    /// What to offer on a network of that level, which is seen or expected to send so many bytes per second. One of which
    /// nothing is known is not slow.
    pub fn offer(
        &mut self,
        policy: &HandshakePolicy,
        level: Option<Level>,
        rate: Option<f64>,
    ) -> KeyExchange {
        let slow_rate = policy.slow_rate as f64;
        let bound = if self.is_slow { slow_rate * policy.quick_share } else { slow_rate };
        let is_weak = policy.when_weak && level.is_some_and(|level| level <= Level::Weak);
        self.is_slow = is_weak || rate.is_some_and(|rate| rate < bound);
        match self.is_slow && policy.enabled {
            true if policy.whole => KeyExchange::Classical,
            true if policy.resumptions => KeyExchange::ClassicalResumed,
            _ => KeyExchange::Hybrid,
        }
    }
}
