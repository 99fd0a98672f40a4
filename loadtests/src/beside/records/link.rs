//! A slow link in simulated time: when which byte of an answer can be used.

use std::time::Duration;

/// Octets of TLS records in a full packet (RFC 6691: 1500 less headers and timestamps).
pub(super) const PACKET: usize = 1448;
/// Headers of a packet below TLS: IPv4, TCP with timestamps.
const HEADERS: usize = 52;

/// A link that delays, and sends one packet after another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Link {
    pub(super) bits_per_second: u32,
    /// From a request to the first bit of its answer.
    pub(super) round_trip: Duration,
}

/// One packet of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Octets of records in it.
    pub(super) length: usize,
    /// Octets of content that can be used once it is there, those of earlier packets included.
    pub(super) usable: usize,
}

/// When an answer could be used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usable {
    /// Its first octet, milliseconds after the request.
    pub(super) first_ms: f64,
    /// Its first 16 KiB, or all of it.
    pub(super) page_ms: f64,
    /// All of it.
    pub(super) all_ms: f64,
    /// Mean time that octets lay at the receiver before the rest of their record came.
    pub(super) held_ms: f64,
}

const PAGE: usize = 16 * 1024;

impl Link {
    /// Sends the packets of an answer.
    pub(super) fn deliver(&self, packets: &[Packet]) -> Usable {
        let total = packets.last().map_or(0, |packet| packet.usable);
        let wire: usize = packets.iter().map(|packet| packet.length).sum();
        let mut usable = Usable::default();
        let (mut now, mut arrived, mut held, mut before) = (self.round_trip.as_secs_f64() * 1e3, 0, 0.0, 0);
        for packet in packets {
            let took = ((packet.length + HEADERS) * 8) as f64 * 1e3 / f64::from(self.bits_per_second);
            now += took;
            arrived += packet.length;
            // Content that has come, in proportion, less what can be used, waits until the next packet.
            let content = (arrived as f64 / wire as f64 * total as f64).min(total as f64);
            held += (content - packet.usable as f64).max(0.0) * took;
            let reaches = |mark: usize| before < mark && packet.usable >= mark;
            if reaches(1) {
                usable.first_ms = now;
            }
            if reaches(PAGE.min(total)) {
                usable.page_ms = now;
            }
            before = packet.usable;
        }
        usable.all_ms = now;
        usable.held_ms = held / total.max(1) as f64;
        usable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1500 octets, headers included, take 100 ms.
    const LINK: Link = Link { bits_per_second: 120_000, round_trip: Duration::from_millis(50) };

    fn packets(usable: &[usize]) -> Vec<Packet> {
        usable.iter().map(|&usable| Packet { length: PACKET, usable }).collect()
    }

    #[test]
    fn an_octet_is_usable_when_its_record_is_whole() {
        let small = LINK.deliver(&packets(&[1000, 2000, 3000, 4000]));
        let large = LINK.deliver(&packets(&[0, 0, 0, 4000]));
        assert_eq!((small.first_ms, large.first_ms), (150.0, 450.0));
        assert_eq!((small.all_ms, large.all_ms), (450.0, 450.0));
        assert_eq!(small.held_ms, 0.0);
        // 1000 octets wait for three packets, 1000 for two, 1000 for one.
        assert_eq!(large.held_ms, 150.0);
    }

    #[test]
    fn a_page_is_the_first_16_kib() {
        let answer = LINK.deliver(&packets(&[16_000, 17_000, 40_000]));
        assert_eq!(answer.page_ms, 250.0);
    }
}
