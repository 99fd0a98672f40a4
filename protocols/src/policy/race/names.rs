//! The addresses of names, as DNS said last: used at once, however old, while they are looked up again.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::RacePolicy;
use crate::policy::NetworkKey;

/// Names that are remembered, those of each network counting apart; beyond, the one that was found longest ago is
/// forgotten.
const NAMES_MAX: usize = 64;
/// Addresses of one name that are remembered.
const ADDRESSES_MAX: usize = 16;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its addresses, as DNS ordered them.
    pub addresses: Vec<IpAddr>,
    /// They need not be looked up again.
    pub is_fresh: bool,
    /// Nothing got through to them when they were used last.
    pub is_doubted: bool,
}

/// What is remembered of one name on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// The network.
    pub network: NetworkKey,
    /// The name.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long ago they were found.
    pub found_ago: Duration,
}

/// The memory.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The newest first.
    entries: VecDeque<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    network: NetworkKey,
    host: String,
    addresses: Vec<IpAddr>,
    found: Instant,
    /// Nothing got through to them since.
    is_doubted: bool,
}

impl Names {
    /// What is known of a name: of that network, or else of the one where it was found last, as a guess.
    pub fn get(&self, policy: &RacePolicy, network: NetworkKey, host: &str, now: Instant) -> Option<Found> {
        let age = |entry: &Entry| now.saturating_duration_since(entry.found);
        let mut known = self.entries.iter().filter(|it| it.host == host && age(it) < policy.kept);
        let own = known.clone().find(|entry| entry.network == network);
        let entry = own.or_else(|| known.next()).filter(|_| policy.enabled)?;
        let is_fresh = own.is_some() && !entry.is_doubted && age(entry) < policy.names_fresh;
        Some(Found { addresses: entry.addresses.clone(), is_fresh, is_doubted: entry.is_doubted })
    }

    /// DNS has answered; that a name has no address unmakes no earlier answer.
    pub fn learn(&mut self, network: NetworkKey, host: &str, mut addresses: Vec<IpAddr>, now: Instant) {
        if addresses.is_empty() {
            return;
        }
        addresses.truncate(ADDRESSES_MAX);
        self.entries.retain(|entry| entry.network != network || entry.host != host);
        self.entries.truncate(NAMES_MAX - 1);
        let host = host.to_owned();
        self.entries.push_front(Entry { network, host, addresses, found: now, is_doubted: false });
    }

    /// Nothing got through to these addresses: they are to be looked up the next time.
    pub fn doubt(&mut self, network: NetworkKey, host: &str) {
        let entries = self.entries.iter_mut();
        let entries = entries.filter(|entry| entry.network == network && entry.host == host);
        entries.for_each(|entry| entry.is_doubted = true);
    }

    /// Everything, for a file, the newest first.
    pub fn records(&self, now: Instant) -> Vec<NameRecord> {
        let record = |entry: &Entry| NameRecord {
            network: entry.network,
            host: entry.host.clone(),
            addresses: entry.addresses.clone(),
            found_ago: now.saturating_duration_since(entry.found),
        };
        self.entries.iter().map(record).collect()
    }

    /// What an earlier run has remembered, the newest coming last.
    pub fn restore(&mut self, record: NameRecord, now: Instant) {
        // What lies before the clock's beginning is too old to matter.
        if let Some(found) = now.checked_sub(record.found_ago) {
            self.learn(record.network, &record.host, record.addresses, found);
        }
    }
}
