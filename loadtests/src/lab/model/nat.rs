//! The carrier's address translation, at the far end of the link.
//!
//! ```text
//!  phone 10.91.0.2:40000 -----> 198.51.100.1:20000 -----> gateway
//!                  mapping: kept while packets pass; then forgotten, and nobody is told
//! ```

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::packet::{Head, Protocol};

/// Mappings that are kept; beyond, the one that was quiet for longest is forgotten.
const MAPPINGS_MAX: usize = 4096;
/// Ports below are left alone, as carriers do.
const PORT_MIN: u16 = 20_000;

/// What the translation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatConfig {
    /// A mapping of UDP is forgotten after so long without a packet.
    pub udp_idle: Duration,
    /// A mapping of TCP is.
    pub tcp_idle: Duration,
    /// UDP from a port whose mapping was forgotten is dropped, as TCP without a mapping is; otherwise it gets another
    /// mapping, so that the gateway sees a new address.
    pub drops_stale_udp: bool,
}

/// By which ports of the phone are told apart.
type Inside = (Protocol, SocketAddrV4);

#[derive(Clone, Copy, Debug)]
struct Mapping {
    outside: u16,
    /// When a packet passed last, either way.
    used: Duration,
    /// Forgotten, but its port is still told from one that was never seen.
    stale: bool,
}

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Nat {
    config: NatConfig,
    address: Ipv4Addr,
    mappings: BTreeMap<Inside, Mapping>,
    inside: BTreeMap<(Protocol, u16), Inside>,
    next: u16,
}

impl Nat {
    pub(super) fn new(config: NatConfig, address: Ipv4Addr) -> Self {
        Self { config, address, mappings: BTreeMap::new(), inside: BTreeMap::new(), next: PORT_MIN }
    }

    /// The source that the far end sees; `None` drops the packet.
    pub(super) fn outward(&mut self, now: Duration, head: &Head) -> Option<SocketAddrV4> {
        let key = (head.protocol, head.source);
        self.age(now, key);
        let port = match self.mappings.get_mut(&key) {
            Some(mapping) if !mapping.stale => {
                mapping.used = now;
                mapping.outside
            }
            known => {
                let stale = known.is_some();
                let admits = match head.protocol {
                    Protocol::Tcp => head.opens,
                    Protocol::Udp => !(stale && self.config.drops_stale_udp),
                };
                if !admits {
                    return None;
                }
                self.map(now, key)
            }
        };
        Some(SocketAddrV4::new(self.address, port))
    }

    /// The phone's port that a packet from outside is for; `None` drops it.
    pub(super) fn inward(&mut self, now: Duration, head: &Head) -> Option<SocketAddrV4> {
        if *head.target.ip() != self.address {
            return None;
        }
        let key = *self.inside.get(&(head.protocol, head.target.port()))?;
        self.age(now, key);
        let mapping = self.mappings.get_mut(&key).filter(|mapping| !mapping.stale)?;
        mapping.used = now;
        Some(key.1)
    }

    /// What the far end sees.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Forgets every mapping, and has another address if the carrier gives one.
    pub(super) fn forget(&mut self, address: Ipv4Addr) {
        self.address = address;
        self.inside.clear();
        self.mappings.values_mut().for_each(|mapping| mapping.stale = true);
    }

    fn age(&mut self, now: Duration, key: Inside) {
        let idle = if key.0 == Protocol::Tcp { self.config.tcp_idle } else { self.config.udp_idle };
        let Some(mapping) = self.mappings.get_mut(&key) else { return };
        if !mapping.stale && now.saturating_sub(mapping.used) > idle {
            mapping.stale = true;
            self.inside.remove(&(key.0, mapping.outside));
        }
    }

    fn map(&mut self, now: Duration, key: Inside) -> u16 {
        if self.mappings.len() >= MAPPINGS_MAX {
            self.evict();
        }
        while self.inside.contains_key(&(key.0, self.next)) {
            self.next = self.next.checked_add(1).unwrap_or(PORT_MIN);
        }
        let outside = self.next;
        self.next = self.next.checked_add(1).unwrap_or(PORT_MIN);
        self.inside.insert((key.0, outside), key);
        self.mappings.insert(key, Mapping { outside, used: now, stale: false });
        outside
    }

    fn evict(&mut self) {
        let oldest = self.mappings.iter().min_by_key(|(_, mapping)| mapping.used).map(|(key, _)| *key);
        if let Some(key) = oldest
            && let Some(mapping) = self.mappings.remove(&key)
            && !mapping.stale
        {
            self.inside.remove(&(key.0, mapping.outside));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn nat(drops_stale_udp: bool) -> Nat {
        Nat::new(NatConfig { udp_idle: s(30), tcp_idle: s(60), drops_stale_udp }, OUTSIDE)
    }

    fn head(protocol: Protocol, source: &str, target: &str, opens: bool) -> Head {
        Head {
            protocol,
            source: source.parse().unwrap(),
            target: target.parse().unwrap(),
            opens,
            is_ack: false,
        }
    }

    fn udp_out() -> Head {
        head(Protocol::Udp, "10.91.0.2:4000", "10.99.0.1:443", false)
    }

    fn answer(to: SocketAddrV4, protocol: Protocol) -> Head {
        head(protocol, "10.99.0.1:443", &to.to_string(), false)
    }

    #[test]
    fn a_mapping_lasts_while_packets_pass_and_its_timeout_is_not_met() {
        let mut nat = nat(false);
        let outside = nat.outward(s(0), &udp_out()).unwrap();
        assert_eq!(nat.inward(s(30), &answer(outside, Protocol::Udp)), Some(udp_out().source));
        assert_eq!(nat.outward(s(60), &udp_out()), Some(outside));
        assert_eq!(nat.inward(s(91), &answer(outside, Protocol::Udp)), None, "forgotten in silence");
    }

    #[test]
    fn udp_that_was_forgotten_gets_another_port_or_is_dropped() {
        for (drops, passes) in [(false, true), (true, false)] {
            let mut nat = nat(drops);
            let first = nat.outward(s(0), &udp_out());
            let second = nat.outward(s(31), &udp_out());
            assert_eq!(second.is_some(), passes);
            assert_ne!(first, second);
            let fresh = head(Protocol::Udp, "10.91.0.2:4001", "10.99.0.1:443", false);
            assert!(nat.outward(s(31), &fresh).is_some(), "a new socket always passes");
        }
    }

    #[test]
    fn tcp_without_a_mapping_passes_only_as_it_opens() {
        let mut nat = nat(false);
        let (open, later) = (
            head(Protocol::Tcp, "10.91.0.2:5000", "10.99.0.1:443", true),
            head(Protocol::Tcp, "10.91.0.2:5000", "10.99.0.1:443", false),
        );
        assert_eq!(nat.outward(s(0), &later), None);
        let outside = nat.outward(s(0), &open).unwrap();
        assert_eq!(nat.outward(s(59), &later), Some(outside));
        assert_eq!(nat.outward(s(120), &later), None);
        assert_eq!(nat.inward(s(120), &answer(outside, Protocol::Tcp)), None);
    }

    #[test]
    fn a_rebinding_moves_all_flows() {
        let mut nat = nat(false);
        let before = nat.outward(s(0), &udp_out()).unwrap();
        nat.forget(Ipv4Addr::new(198, 51, 100, 2));
        assert_eq!(nat.inward(s(1), &answer(before, Protocol::Udp)), None);
        let after = nat.outward(s(1), &udp_out()).unwrap();
        assert_eq!(after.ip(), &Ipv4Addr::new(198, 51, 100, 2));
        assert_eq!(nat.inward(s(1), &answer(after, Protocol::Udp)), Some(udp_out().source));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut nat = nat(false);
        for port in 1..=u16::try_from(MAPPINGS_MAX + 100).unwrap() {
            let source = format!("10.91.0.2:{port}");
            let out = head(Protocol::Udp, &source, "10.99.0.1:443", false);
            assert!(nat.outward(Duration::from_millis(port.into()), &out).is_some());
        }
        assert_eq!((nat.mappings.len(), nat.inside.len()), (MAPPINGS_MAX, MAPPINGS_MAX));
    }
}
