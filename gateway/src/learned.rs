//! What clients have learnt of networks, kept for those who come next: how long NATs let a quiet connection live, by
//! kind of network, carrier and transport.
//!
//! A newcomer is told a low quantile, since one beat too many costs less than a connection. A client counts once for
//! each kind of network, with what it said last.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use parking_lot::Mutex;
use towline_protocols::{
    link::LearntBeat,
    policy::{NetworkKind, Transport},
};

/// Kinds of networks that are remembered; beyond, the one that nobody has told of for longest is forgotten.
const KINDS_MAX: usize = 1024;
/// Clients that count for one kind, the newest.
const CLIENTS_MAX: usize = 64;
/// Fewer clients say nothing of a network: one of them may be wrong, or lie.
const CLIENTS_MIN: usize = 5;
/// The share of clients that may have found less than what is offered.
const SHARE_BELOW: f64 = 0.1;
/// Longer names are no carrier's.
const CARRIER_BYTES_MAX: usize = 64;
/// What is told has to lie in between; seconds.
const SECONDS: std::ops::RangeInclusive<u32> = 10..=3600;
/// A time-out is found when the shortest fatal silence is less than so many times the longest that was outlived.
const FOUND_WITHIN: f64 = 1.2;
/// So often a silence has to have been fatal: once may have been a tunnel.
const OBSERVATIONS_MIN: u32 = 2;

/// What clients have told.
#[derive(Debug, Default)]
pub struct Learned {
    table: Mutex<Table>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Table {
    kinds: HashMap<Kind, Told>,
    /// Counts what was told.
    clock: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    network: NetworkKind,
    carrier: String,
    transport: Transport,
}

#[derive(Debug, Default)]
struct Told {
    /// Clients by hash, and the silence that their connections outlive, seconds; the newest last.
    clients: Vec<(u64, u32)>,
    /// When it was told last, by the table's clock.
    at: u64,
}

impl Kind {
    /// Nothing is learnt of networks of which nothing is known.
    fn new(network: u32, carrier: &str, transport: Transport) -> Option<Self> {
        let network = NetworkKind::from_number(u8::try_from(network).ok()?);
        let is_known = !matches!(network, NetworkKind::Unknown | NetworkKind::None);
        (is_known && carrier.len() <= CARRIER_BYTES_MAX).then(|| Self {
            network,
            carrier: carrier.to_owned(),
            transport,
        })
    }
}

impl Learned {
    /// A client says what it has found on a network of that number and carrier. Whether something else had to be
    /// forgotten for that.
    pub fn tell(&self, client_id: &str, network: u32, carrier: &str, beat: &LearntBeat) -> bool {
        let transport = if beat.transport == 0 { Transport::Tcp } else { Transport::Quic };
        let Some(kind) = Kind::new(network, carrier, transport).filter(|_| is_found(beat)) else {
            return false;
        };
        let client = self.hasher.hash_one(client_id);
        self.table.lock().tell(kind, client, beat.survived_s)
    }

    /// The silence that nearly all connections on such networks outlive.
    pub fn offer(&self, network: u32, carrier: &str, transport: Transport) -> Option<Duration> {
        let kind = Kind::new(network, carrier, transport)?;
        let mut found: Vec<u32> = {
            let table = self.table.lock();
            table.kinds.get(&kind)?.clients.iter().map(|(_, seconds)| *seconds).collect()
        };
        if found.len() < CLIENTS_MIN {
            return None;
        }
        found.sort_unstable();
        let below = (found.len() as f64 * SHARE_BELOW) as usize;
        found.get(below).map(|seconds| Duration::from_secs((*seconds).into()))
    }
}

impl Table {
    fn tell(&mut self, kind: Kind, client: u64, seconds: u32) -> bool {
        self.clock += 1;
        let mut forgets = false;
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS_MAX {
            let oldest = self.kinds.iter().min_by_key(|(_, told)| told.at).map(|(kind, _)| kind.clone());
            oldest.into_iter().for_each(|oldest| _ = self.kinds.remove(&oldest));
            forgets = true;
        }
        let told = self.kinds.entry(kind).or_default();
        told.at = self.clock;
        told.clients.retain(|(known, _)| *known != client);
        if told.clients.len() >= CLIENTS_MAX {
            told.clients.remove(0);
        }
        told.clients.push((client, seconds));
        forgets
    }
}

/// Whether the client knows the time-out, and not only that it is longer than what it has tried.
fn is_found(beat: &LearntBeat) -> bool {
    let (survived, fatal) = (f64::from(beat.survived_s), f64::from(beat.fatal_s));
    beat.observations >= OBSERVATIONS_MIN
        && SECONDS.contains(&beat.survived_s)
        && beat.fatal_s > 0
        && fatal >= survived
        && fatal <= survived * FOUND_WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;

    const LTE: u32 = 7;

    fn beat(survived_s: u32, fatal_s: u32) -> LearntBeat {
        LearntBeat { survived_s, fatal_s, observations: 2, ..LearntBeat::default() }
    }

    fn offered(learned: &Learned) -> Option<u64> {
        learned.offer(LTE, "46001", Transport::Tcp).map(|found| found.as_secs())
    }

    #[test]
    fn newcomers_are_told_what_nearly_all_found_once_several_have() {
        let learned = Learned::default();
        for client in 0..20_u32 {
            assert_eq!(offered(&learned), (client >= 5).then_some(if client >= 10 { 281 } else { 280 }));
            learned.tell(&format!("phone-{client}"), LTE, "46001", &beat(280 + client, 310));
        }
        assert_eq!(learned.offer(LTE, "46001", Transport::Quic), None);
        assert_eq!(learned.offer(LTE, "46000", Transport::Tcp), None);
        assert_eq!(learned.offer(3, "46001", Transport::Tcp), None);
    }

    #[test]
    fn one_client_counts_once_and_liars_for_little() {
        let learned = Learned::default();
        for _ in 0..20 {
            learned.tell("liar", LTE, "46001", &beat(3600, 3600));
        }
        assert_eq!(offered(&learned), None);
        for client in 0..30 {
            learned.tell(&format!("phone-{client}"), LTE, "46001", &beat(200, 210));
        }
        assert_eq!(offered(&learned), Some(200));
        learned.tell("liar", LTE, "46001", &beat(10, 11));
        assert_eq!(offered(&learned), Some(200));
    }

    #[test]
    fn what_is_not_found_or_not_possible_is_not_believed() {
        let learned = Learned::default();
        for client in 0..20 {
            let name = format!("phone-{client}");
            for wrong in
                [beat(280, 0), beat(0, 60), beat(200, 400), beat(9, 10), beat(4000, 4001), beat(60, 50)]
            {
                learned.tell(&name, LTE, "46001", &wrong);
            }
            let once = LearntBeat { observations: 1, ..beat(280, 290) };
            learned.tell(&name, LTE, "46001", &once);
            learned.tell(&name, 0, "46001", &beat(280, 290));
            learned.tell(&name, 999, "46001", &beat(280, 290));
            learned.tell(&name, LTE, &"x".repeat(65), &beat(280, 290));
        }
        assert_eq!(offered(&learned), None);
        assert!(learned.table.lock().kinds.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let learned = Learned::default();
        let mut forgot = 0;
        for carrier in 0..2 * KINDS_MAX {
            forgot += usize::from(learned.tell("phone", LTE, &carrier.to_string(), &beat(280, 290)));
        }
        for client in 0..2 * CLIENTS_MAX {
            learned.tell(&client.to_string(), LTE, "2047", &beat(280, 290));
        }
        let table = learned.table.lock();
        assert_eq!((table.kinds.len(), forgot), (KINDS_MAX, KINDS_MAX));
        assert!(table.kinds.values().all(|told| told.clients.len() <= CLIENTS_MAX));
    }
}
