//! What networks do to their users on purpose or by neglect: portals, blocked ports, bad resolvers, flows that die in
//! silence.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    DNS_PORT, DnsFault, PORTAL,
    packet::{self, End, Head, Protocol},
};

/// Flows that are told apart; those beyond never die.
const FLOWS_MAX: usize = 4096;
/// What a portal lets nobody pass by.
const WEB_PORTS: [u16; 2] = [80, 443];
const HTTPS_PORT: u16 = 443;

/// What is done to whoever uses the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostile {
    /// UDP to port 443 is dropped, and stays so.
    pub udp_blocked: bool,
    /// Web traffic is led to the portal, other traffic is dropped.
    pub portal: bool,
    /// What is wrong with the resolver.
    pub dns: DnsFault,
    /// Portal and resolver are as they should be so long after the client began; `None`: never.
    pub lasts: Option<Duration>,
}

/// A flow as the phone sees it.
type Flow = (Protocol, SocketAddrV4, SocketAddrV4);

/// The faults of a run.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    hostile: Hostile,
    /// When the client began.
    began: Option<Duration>,
    /// What the portal has taken, and where it was to go.
    led: BTreeMap<SocketAddrV4, SocketAddrV4>,
    flows: BTreeSet<Flow>,
    dead: BTreeSet<Flow>,
}

impl Faults {
    pub(super) fn new(hostile: Hostile) -> Self {
        let (led, flows, dead) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { hostile, began: None, led, flows, dead }
    }

    pub(super) fn begin(&mut self, now: Duration) {
        self.began = Some(now);
    }

    /// Every flow that is known gets no answer from here on.
    pub(super) fn kill_flows(&mut self) {
        self.dead.append(&mut self.flows);
    }

    /// What is wrong with the resolver.
    pub(super) fn dns(&self, now: Duration) -> DnsFault {
        if self.lasts(now) { self.hostile.dns } else { DnsFault::None }
    }

    /// A packet of the phone, as it goes on; `None` drops it.
    pub(super) fn outward(
        &mut self,
        now: Duration,
        mut packet: Vec<u8>,
        head: Option<&Head>,
    ) -> Option<Vec<u8>> {
        let Some(head) = head else { return (!self.is_captive(now)).then_some(packet) };
        if head.target.port() == DNS_PORT {
            return Some(packet);
        }
        self.know((head.protocol, head.source, head.target))?;
        if self.is_blocked(head.protocol, head.target.port()) {
            return None;
        }
        let leads =
            self.is_captive(now) && head.protocol == Protocol::Tcp && WEB_PORTS.contains(&head.target.port());
        if head.opens {
            self.led.remove(&head.source);
            if leads && self.led.len() < FLOWS_MAX {
                self.led.insert(head.source, head.target);
            }
        }
        if head.protocol == Protocol::Tcp && self.led.contains_key(&head.source) {
            packet::rewrite(&mut packet, End::Target, SocketAddrV4::new(PORTAL, head.target.port()));
            return Some(packet);
        }
        (!self.is_captive(now)).then_some(packet)
    }

    /// A packet for the phone, as it arrives; `None` drops it.
    pub(super) fn inward(
        &mut self,
        now: Duration,
        mut packet: Vec<u8>,
        head: Option<&Head>,
    ) -> Option<Vec<u8>> {
        let Some(head) = head else { return (!self.is_captive(now)).then_some(packet) };
        let mut from = head.source;
        if head.protocol == Protocol::Tcp
            && *from.ip() == PORTAL
            && let Some(meant) = self.led.get(&head.target)
        {
            from = *meant;
            packet::rewrite(&mut packet, End::Source, from);
        } else if self.is_captive(now) {
            return None;
        }
        self.know((head.protocol, head.target, from))?;
        (!self.is_blocked(head.protocol, from.port())).then_some(packet)
    }

    /// Remembers a flow; `None` if it is dead.
    fn know(&mut self, flow: Flow) -> Option<()> {
        if self.dead.contains(&flow) {
            return None;
        }
        if self.flows.len() + self.dead.len() < FLOWS_MAX {
            self.flows.insert(flow);
        }
        Some(())
    }

    fn is_blocked(&self, protocol: Protocol, port: u16) -> bool {
        self.hostile.udp_blocked && protocol == Protocol::Udp && port == HTTPS_PORT
    }

    fn is_captive(&self, now: Duration) -> bool {
        self.hostile.portal && self.lasts(now)
    }

    fn lasts(&self, now: Duration) -> bool {
        let Some(began) = self.began else { return false };
        self.hostile.lasts.is_none_or(|lasts| now < began + lasts)
    }
}
