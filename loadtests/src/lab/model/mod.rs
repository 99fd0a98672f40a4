//! The link between phone and gateway as a machine without I/O: packets and the time go in, packets come out when they
//! are due. Everything that is decided by chance is decided by one seed.
//!
//! ```text
//!  phone --> address, faults --> up: Pipe   --> flights --> Nat --> edge
//!  phone <---------------------- down: Pipe <-- Nat, faults <------ edge
//!                                   ^
//!                    flights --> resolver: names of the laboratory
//! ```

mod dns;
mod faults;
mod loss;
mod nat;
mod outage;
mod packet;
mod pipe;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use dns::DnsFault;
pub use faults::Hostile;
pub use loss::Loss;
pub use nat::NatConfig;
pub use outage::Outages;
pub use pipe::Way;

use self::{
    faults::Faults,
    nat::Nat,
    outage::{Calendar, Outage},
    packet::{End, Head, Protocol},
    pipe::{Drop, Pipe},
};

/// The phone's first address; each hand-over gives it the next.
pub const PHONE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 2);
/// The resolver, which the link itself is.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 1);
/// The gateway.
pub const EDGE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The server of the peers that the gateway is compared with.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Where a captive portal leads to.
pub const PORTAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
/// Names of the laboratory's hosts.
pub const NAMES: [(&str, Ipv4Addr); 2] = [("edge.lab.test", EDGE), ("peer.lab.test", PEER)];
/// What the translation shows the far end first.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const DNS_PORT: u16 = 53;

/// Packets on their way at one time; more than any queue of a profile holds. Beyond, they are lost.
const FLIGHTS_MAX: usize = 1 << 16;
/// Silence of the phone after which its next packet wakes the radio anew.
const RADIO_SLEEPS: Duration = Duration::from_secs(1);

/// Everything that makes a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkConfig {
    /// From the phone.
    pub up: Way,
    /// To the phone.
    pub down: Way,
    /// When it carries nothing.
    pub outages: Option<Outages>,
    /// Address translation at its far end.
    pub nat: Option<NatConfig>,
    /// What is done to its users.
    pub hostile: Hostile,
}

/// An end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Phone,
    /// The servers'.
    Edge,
}

/// What happens to the link out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The client begins: faults that last for a time are counted from here.
    Begin,
    /// Nothing passes for so long.
    Blackout(Duration),
    /// The phone gets another address, after so long without any.
    HandOver(Duration),
    /// Whatever flows are known get no answer any more, and no refusal; others pass.
    HalfOpen,
    /// The translation forgets its mappings and gets another address.
    Rebind,
}

/// What one direction has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets that were offered.
    pub offered: u64,
    /// Bytes of IP packets that were offered.
    pub offered_bytes: u64,
    /// Packets that were delivered.
    pub delivered: u64,
    /// Bytes of IP packets that were delivered.
    pub delivered_bytes: u64,
    /// Packets lost on the way, by chance.
    pub lost: u64,
    /// Packets that met a full queue.
    pub queue_full: u64,
    /// Packets that met an outage.
    pub outage: u64,
    /// Packets that were dropped by address, translation or a fault.
    pub refused: u64,
    /// Times that a packet was offered after a second without one.
    pub wakes: u64,
}

/// What the link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// From the phone.
    pub up: Count,
    /// To the phone.
    pub down: Count,
}

/// A packet on its way.
#[derive(Debug)]
enum Flight {
    ToPhone(Vec<u8>),
    ToEdge(Vec<u8>),
    /// A query that the resolver has, until it answers.
    Resolving(Vec<u8>),
}

/// The link.
#[derive(Debug)]
pub struct Link {
    up: Pipe,
    down: Pipe,
    calendar: Calendar,
    nat: Option<Nat>,
    faults: Faults,
    phone: Ipv4Addr,
    /// The phone's address has changed and nobody has asked for it.
    moved: bool,
    /// By when they are due, then by when they came.
    flights: BTreeMap<(Duration, u64), Flight>,
    flight_number: u64,
    counts: Counts,
    last_offer: [Option<Duration>; 2],
}

impl Link {
    /// A link whose decisions follow from `seed`.
    pub fn new(config: &LinkConfig, seed: u64) -> Self {
        let mut seeds = fastrand::Rng::with_seed(seed);
        Self {
            up: Pipe::new(config.up, seeds.u64(..)),
            down: Pipe::new(config.down, seeds.u64(..)),
            calendar: Calendar::new(config.outages, seeds.u64(..)),
            nat: config.nat.map(|nat| Nat::new(nat, OUTSIDE)),
            faults: Faults::new(config.hostile),
            phone: PHONE,
            moved: false,
            flights: BTreeMap::new(),
            flight_number: 0,
            counts: Counts::default(),
            last_offer: [None; 2],
        }
    }

    /// Something happens at `now`.
    pub fn order(&mut self, now: Duration, order: Order) {
        let outage = |length, moves| Outage { from: now, until: now + length, holds: false, moves };
        match order {
            Order::Begin => self.faults.begin(now),
            Order::Blackout(length) => self.calendar.begin(outage(length, false)),
            Order::HandOver(gap) => self.calendar.begin(outage(gap, true)),
            Order::HalfOpen => {
                // Nor does what is on its way arrive.
                self.flights.clear();
                self.faults.kill_flows();
            }
            Order::Rebind => self.rebind(),
        }
    }

    /// The phone's address if it has changed since this was asked last: whoever owns the phone's side sets it there.
    pub fn take_move(&mut self, now: Duration) -> Option<Ipv4Addr> {
        self.look(now);
        std::mem::take(&mut self.moved).then_some(self.phone)
    }

    /// A packet enters the link at `from`.
    pub fn handle(&mut self, now: Duration, from: Side, packet: Vec<u8>) {
        self.count_offer(now, from, packet.len());
        let outage = self.look(now);
        let head = Head::read(&packet);
        if from == Side::Edge {
            return self.handle_down(now, outage, packet, head);
        }
        // An address that the phone had before leads nowhere.
        let is_own = head.is_none_or(|head| *head.source.ip() == self.phone);
        let is_ack = head.is_some_and(|head| head.is_ack);
        let Some(packet) = self.faults.outward(now, packet, head.as_ref()).filter(|_| is_own) else {
            self.counts.up.refused += 1;
            return;
        };
        let Some(at) = self.carry(now, Side::Phone, outage, packet.len(), is_ack) else { return };
        let asks = head.is_some_and(|head| head.protocol == Protocol::Udp && head.target == resolver());
        let flight = if asks { Flight::Resolving(packet) } else { Flight::ToEdge(packet) };
        let at = if asks { at + self.faults.dns(now).delay() } else { at };
        self.fly(at, flight);
    }

    fn handle_down(
        &mut self,
        now: Duration,
        outage: Option<Outage>,
        mut packet: Vec<u8>,
        head: Option<Head>,
    ) {
        if let Some(nat) = &mut self.nat {
            let Some(inside) = head.as_ref().and_then(|head| nat.inward(now, head)) else {
                self.counts.down.refused += 1;
                return;
            };
            packet::rewrite(&mut packet, End::Target, inside);
        }
        let head = Head::read(&packet);
        let Some(packet) = self.faults.inward(now, packet, head.as_ref()) else {
            self.counts.down.refused += 1;
            return;
        };
        self.send_down(now, outage, packet, head.is_some_and(|head| head.is_ack));
    }

    fn send_down(&mut self, now: Duration, outage: Option<Outage>, packet: Vec<u8>, is_ack: bool) {
        if let Some(at) = self.carry(now, Side::Edge, outage, packet.len(), is_ack) {
            self.fly(at, Flight::ToPhone(packet));
        }
    }

    /// When the next packet is due.
    pub fn due(&self) -> Option<Duration> {
        self.flights.first_key_value().map(|((at, _), _)| *at)
    }

    /// When the phone's address changes next, as far as that is known.
    pub fn next_outage_end(&self) -> Option<Duration> {
        self.calendar.next_end()
    }

    /// The next packet that is due at `now`, and the side that it leaves by.
    pub fn poll(&mut self, now: Duration) -> Option<(Side, Vec<u8>)> {
        while self.due().is_some_and(|at| at <= now) {
            let ((at, _), flight) = self.flights.pop_first()?;
            let (side, packet) = match flight {
                Flight::ToPhone(packet) => (Side::Phone, packet),
                Flight::ToEdge(packet) => match self.translate(at, packet) {
                    Some(packet) => (Side::Edge, packet),
                    None => continue,
                },
                Flight::Resolving(query) => {
                    self.resolve(at, &query);
                    continue;
                }
            };
            let count = if side == Side::Phone { &mut self.counts.down } else { &mut self.counts.up };
            count.delivered += 1;
            count.delivered_bytes += packet.len() as u64;
            return Some((side, packet));
        }
        None
    }

    /// What was carried so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn carry(
        &mut self,
        now: Duration,
        from: Side,
        outage: Option<Outage>,
        bytes: usize,
        is_ack: bool,
    ) -> Option<Duration> {
        let (pipe, count) = match from {
            Side::Phone => (&mut self.up, &mut self.counts.up),
            Side::Edge => (&mut self.down, &mut self.counts.down),
        };
        if self.flights.len() >= FLIGHTS_MAX {
            count.queue_full += 1;
            return None;
        }
        let starts = match outage {
            Some(outage) if outage.holds => outage.until,
            Some(_) => {
                count.outage += 1;
                return None;
            }
            None => now,
        };
        let verdict = pipe.offer(now, starts, bytes, is_ack);
        match verdict {
            Err(Drop::Queue) => count.queue_full += 1,
            Err(Drop::Loss) => count.lost += 1,
            Ok(_) => {}
        }
        verdict.ok()
    }

    fn fly(&mut self, at: Duration, flight: Flight) {
        self.flight_number += 1;
        self.flights.insert((at, self.flight_number), flight);
    }

    fn translate(&mut self, now: Duration, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let Some(nat) = &mut self.nat else { return Some(packet) };
        let outside = Head::read(&packet).and_then(|head| nat.outward(now, &head));
        let Some(outside) = outside else {
            self.counts.up.refused += 1;
            return None;
        };
        packet::rewrite(&mut packet, End::Source, outside);
        Some(packet)
    }

    fn resolve(&mut self, now: Duration, query: &[u8]) {
        let asked = Head::read(query).zip(packet::udp_payload(query));
        let Some((head, question)) = asked else { return };
        let Some(answer) = dns::answer(question, self.faults.dns(now), &NAMES) else { return };
        let outage = self.look(now);
        self.send_down(now, outage, packet::udp(resolver(), head.source, &answer), false);
    }

    fn look(&mut self, now: Duration) -> Option<Outage> {
        let (outage, moved) = self.calendar.look(now);
        if moved {
            self.phone = next(self.phone);
            self.moved = true;
            self.rebind();
        }
        outage
    }

    fn rebind(&mut self) {
        if let Some(nat) = &mut self.nat {
            nat.forget(next(nat.address()));
        }
    }

    fn count_offer(&mut self, now: Duration, from: Side, bytes: usize) {
        let (at, count) = match from {
            Side::Phone => (0, &mut self.counts.up),
            Side::Edge => (1, &mut self.counts.down),
        };
        count.offered += 1;
        count.offered_bytes += bytes as u64;
        let slept = self.last_offer[at].is_none_or(|last| now.saturating_sub(last) >= RADIO_SLEEPS);
        count.wakes += u64::from(slept);
        self.last_offer[at] = Some(now);
    }
}

fn resolver() -> SocketAddrV4 {
    SocketAddrV4::new(RESOLVER, DNS_PORT)
}

/// The address behind this one; the last octet stays within 2 to 250.
fn next(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, last] = address.octets();
    Ipv4Addr::new(a, b, c, if last >= 250 { 2 } else { last + 1 })
}

#[cfg(test)]
mod tests;
