//! What is remembered of networks, across stays on them and runs of the app.

use std::time::Duration;

use super::window::weight;
use crate::policy::{FORGET_AFTER_S, NETWORKS_MAX, NetworkKey, NetworkKind};

/// What one network was like. What is `None` was never seen there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impression {
    /// The median round trip.
    pub round_trip: Option<Duration>,
    /// The mean deviation from it.
    pub jitter: Option<Duration>,
    /// The median time to the first byte of an answer, without the server's own.
    pub request: Option<Duration>,
    /// The share of packets that were lost.
    pub loss: Option<f64>,
    /// Bytes per second that came.
    pub receive_rate: Option<f64>,
    /// Bytes per second that were sent.
    pub send_rate: Option<f64>,
    /// What 99 of 100 of each [`super::Step`] did not exceed.
    pub highest: [Option<Duration>; super::STEPS],
}

impl Impression {
    /// With what was seen since. Times that 99 of 100 kept fall slowly: what was rare then is rarer still in a short stay.
    pub(super) fn followed_by(&self, seen: &Self) -> Self {
        let mut highest = seen.highest;
        for (new, old) in highest.iter_mut().zip(self.highest) {
            *new = match (*new, old) {
                (Some(new), Some(old)) if new < old => Some(new + (old - new).mul_f64(HIGHEST_KEPT)),
                (new, old) => new.or(old),
            };
        }
        Self {
            round_trip: seen.round_trip.or(self.round_trip),
            jitter: seen.jitter.or(self.jitter),
            request: seen.request.or(self.request),
            loss: seen.loss.or(self.loss),
            receive_rate: seen.receive_rate.or(self.receive_rate),
            send_rate: seen.send_rate.or(self.send_rate),
            highest,
        }
    }
}

/// What is kept each time of how much longer things took before.
const HIGHEST_KEPT: f64 = 0.75;

/// What Chromium's estimator takes networks of a kind for before it has seen anything of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// A round trip of the transport.
    pub round_trip: Duration,
    /// From a request to its answer's first byte.
    pub request: Duration,
    /// Bytes per second that come.
    pub receive_rate: f64,
}

impl Prior {
    /// Of networks of that kind; `None` where nobody said what kind it is.
    pub fn of(kind: NetworkKind) -> Option<Self> {
        let (request, round_trip, kbps) = match kind {
            NetworkKind::Unknown | NetworkKind::None => return None,
            NetworkKind::Ethernet => (90, 33, 1456),
            NetworkKind::Wifi => (116, 66, 2658),
            NetworkKind::Cellular2g => (1726, 1531, 74),
            // Of a generation that nobody said: one that hardly any place is without.
            NetworkKind::Cellular | NetworkKind::Cellular3g => (273, 209, 749),
            NetworkKind::Cellular4g | NetworkKind::Cellular5g => (137, 80, 1708),
        };
        let [request, round_trip] = [request, round_trip].map(Duration::from_millis);
        Some(Self { round_trip, request, receive_rate: f64::from(kbps) * BYTES_PER_KBIT })
    }
}

/// Bytes per second of a kilobit per second.
pub(super) const BYTES_PER_KBIT: f64 = 1000.0 / 8.0;

/// What is known of each network, the one used last first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impressions(Vec<Remembered>);

/// One network's part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remembered {
    /// The network.
    pub network: NetworkKey,
    /// Seconds since 1970 when it was used last.
    pub used_s: u64,
    /// What it was like.
    pub impression: Impression,
}

impl Impressions {
    /// Of what a file held, the one used last first.
    pub fn restore(remembered: impl IntoIterator<Item = Remembered>, unix_s: u64) -> Self {
        let is_fresh = |it: &Remembered| unix_s.saturating_sub(it.used_s) <= FORGET_AFTER_S;
        Self(remembered.into_iter().filter(is_fresh).take(NETWORKS_MAX).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.0.iter()
    }

    /// What one was like, and how much that still counts: 1 was just seen.
    pub(super) fn get(
        &self,
        network: NetworkKey,
        unix_s: u64,
        half_life: Duration,
    ) -> Option<(Impression, f64)> {
        let known = self.0.iter().find(|it| it.network == network)?;
        let age = Duration::from_secs(unix_s.saturating_sub(known.used_s));
        Some((known.impression, weight(age, half_life))).filter(|(_, weight)| *weight >= WEIGHT_MIN)
    }

    pub(super) fn note(&mut self, network: NetworkKey, unix_s: u64, seen: &Impression) {
        let place = self.0.iter().position(|it| it.network == network);
        let before = place.map(|place| self.0.remove(place));
        let impression = before.map(|before| before.impression).unwrap_or_default().followed_by(seen);
        // A clock that is set back makes nothing older.
        let used_s = unix_s.max(before.map_or(0, |before| before.used_s));
        self.0.truncate(NETWORKS_MAX - 1);
        self.0.insert(0, Remembered { network, used_s, impression });
    }
}

/// What counts for less says nothing any more.
const WEIGHT_MIN: f64 = 1.0 / 64.0;
