//! What the packets and bytes of a line show of the network.

use std::{sync::Arc, time::Instant};

use towline_protocols::policy::{Event, Meter};

use crate::{connect::PathCounts, core::Shared};

/// Looks at one line.
pub(super) struct Gauge {
    shared: Arc<Shared>,
    sending: Meter,
    /// QUIC's counts at the last look that was told.
    told: PathCounts,
    /// At the last look.
    looked: PathCounts,
}

/// So few packets are told with the next ones.
const PACKETS_MIN: u64 = 10;
/// An upload sends so many times what comes back to it.
const UPLOAD_SHARE: u64 = 4;
/// Fewer bytes between two looks are no upload.
const UPLOAD_BYTES_MIN: u64 = 4 << 10;

impl Gauge {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (told, looked) = Default::default();
        Self { shared, sending: Meter::default(), told, looked }
    }

    /// To be called at each turn of a line on QUIC, which counts its packets.
    pub(super) fn look(&mut self, counts: PathCounts, now: Instant) {
        if counts.packets_sent < self.told.packets_sent {
            self.told = counts;
        }
        let sent = counts.packets_sent - self.told.packets_sent;
        if sent >= PACKETS_MIN {
            let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
            let lost = few(counts.packets_lost.saturating_sub(self.told.packets_lost));
            let (round_trip, sent) = (counts.round_trip, few(sent));
            self.shared.quality.on(Event::Path { round_trip, sent, lost });
            self.told = counts;
        }
        let before = std::mem::replace(&mut self.looked, counts);
        let arrived = counts.bytes_sent.saturating_sub(before.bytes_sent);
        let came = counts.bytes_received.saturating_sub(before.bytes_received);
        if arrived >= UPLOAD_BYTES_MIN && arrived >= came * UPLOAD_SHARE {
            self.sent(arrived, now);
        }
    }

    /// The gateway has so many bytes more than when this was said before.
    pub(super) fn sent(&mut self, bytes: u64, now: Instant) {
        let rate = self.sending.moved(now, bytes, self.shared.quality.expected_round_trip());
        if let Some(rate) = rate {
            self.shared.quality.on(Event::Sent(rate));
        }
    }

    /// All that was sent has arrived.
    pub(super) fn sent_all(&mut self) {
        if let Some(rate) = self.sending.end() {
            self.shared.quality.on(Event::Sent(rate));
        }
    }
}
