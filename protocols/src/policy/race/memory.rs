//! What is remembered of the ways to gateways, network by network.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{RacePolicy, Verdict, Way};
use crate::policy::{NetworkKey, Transport};

/// Networks that are remembered; beyond, the one that was used longest ago is forgotten. A commuter's week.
const NETWORKS_MAX: usize = 16;
/// Ways that are remembered of each; beyond, the one that was tried longest ago is forgotten.
const WAYS_MAX: usize = 32;

/// A way and whether it comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The way.
    pub way: Way,
    /// It failed while others got through, again and again: it is tried when nothing else is left.
    pub banned: bool,
    /// It got through on this network when it was tried last.
    pub proven: bool,
}

/// What is remembered of one way on one network; times are counted from when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayRecord {
    /// Which.
    pub way: Way,
    /// The last eight outcomes, the newest in the lowest bit; set where it failed.
    pub history: u8,
    /// How long ago it got through.
    pub won_ago: Option<Duration>,
    /// How long ago it was tried.
    pub tried_ago: Duration,
    /// How much of its ban is left.
    pub ban_left: Duration,
    /// Bans since it got through.
    pub bans: u32,
}

/// The memory.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// The newest first.
    networks: VecDeque<Network>,
}

#[derive(Clone, Debug, Default)]
struct Network {
    key: NetworkKey,
    ways: Vec<Record>,
    /// Of QUIC as a whole: where one address of it is blocked while TCP passes there, all are.
    quic: Ban,
}

#[derive(Clone, Debug)]
struct Record {
    way: Way,
    history: u8,
    won: Option<Instant>,
    tried: Instant,
    ban: Ban,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ban {
    until: Option<Instant>,
    times: u32,
}

impl Ways {
    /// The ways, the best first: of each transport that which got through last, then those that failed least, otherwise
    /// as given; QUIC before TCP; what is banned comes last.
    pub fn rank(
        &self,
        policy: &RacePolicy,
        network: NetworkKey,
        ways: Vec<Way>,
        now: Instant,
    ) -> Vec<Ranked> {
        let memory = self.network(network).filter(|_| policy.enabled);
        let mut ranked: Vec<_> = ways
            .into_iter()
            .map(|way| {
                let record = memory.and_then(|memory| memory.record(&way));
                let record = record.filter(|record| record.is_kept(policy, now));
                let blocked = way.transport == Transport::Quic && memory.is_some_and(|it| it.quic.holds(now));
                let banned = blocked || record.is_some_and(|record| record.ban.holds(now));
                let won = record.filter(|record| !record.has_failed()).and_then(|record| record.won);
                let failures = record.map_or(0, |record| record.history.count_ones());
                let key = (banned, Reverse(way.transport), Reverse(won), failures);
                (key, Ranked { way, banned, proven: won.is_some() })
            })
            .collect();
        ranked.sort_by_key(|(key, _)| *key);
        ranked.into_iter().map(|(_, ranked)| ranked).collect()
    }

    /// The gateway to which a way got through last on that network.
    pub fn last_gateway(&self, policy: &RacePolicy, network: NetworkKey, now: Instant) -> Option<&str> {
        let ways = &self.network(network).filter(|_| policy.enabled)?.ways;
        let kept = ways.iter().filter(|record| record.is_kept(policy, now) && record.won.is_some());
        kept.max_by_key(|record| record.won).map(|record| &*record.way.gateway)
    }

    /// Whether QUIC is known not to pass on that network.
    pub fn is_quic_blocked(&self, policy: &RacePolicy, network: NetworkKey, now: Instant) -> bool {
        policy.enabled && self.network(network).is_some_and(|it| it.quic.holds(now))
    }

    /// Takes in what a race said that was won. One that nobody won says nothing: then it was the network.
    pub fn learn(&mut self, policy: &RacePolicy, network: NetworkKey, said: &[(Way, Verdict)], now: Instant) {
        if !policy.enabled {
            return;
        }
        let Some((winner, _)) = said.iter().find(|(_, verdict)| *verdict == Verdict::Won) else { return };
        let is_beside = |way: &Way| {
            let family = |way: &Way| way.address.map(|address| address.is_ipv6());
            way.gateway == winner.gateway && [None, family(winner)].contains(&family(way))
        };
        let is_blocked = winner.transport == Transport::Tcp
            && said.iter().any(|(way, verdict)| {
                way.transport == Transport::Quic && *verdict == Verdict::Failed && is_beside(way)
            });
        let memory = self.network_mut(network);
        if winner.transport == Transport::Quic {
            memory.quic = Ban::default();
        } else if is_blocked {
            memory.quic.extend(policy, now);
        }
        for (way, verdict) in said {
            memory.take(policy, way, *verdict, now);
        }
        memory.ways.retain(|record| record.is_kept(policy, now));
    }

    /// Forgets what was learnt of that network: it may be another one.
    pub fn forget(&mut self, network: NetworkKey) {
        self.networks.retain(|it| it.key != network);
    }

    /// Everything, for a file: of each network its key, how long QUIC is banned there and for which time, and the ways.
    pub fn records(&self, now: Instant) -> Vec<(NetworkKey, (Duration, u32), Vec<WayRecord>)> {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let record = |record: &Record| WayRecord {
            way: record.way.clone(),
            history: record.history,
            won_ago: record.won.map(ago),
            tried_ago: ago(record.tried),
            ban_left: record.ban.left(now),
            bans: record.ban.times,
        };
        let networks = self.networks.iter();
        let networks = networks.map(|it| {
            let ways = it.ways.iter().map(record).collect();
            (it.key, (it.quic.left(now), it.quic.times), ways)
        });
        networks.collect()
    }

    /// What an earlier run has remembered of one network, the one used last coming last.
    pub fn restore(
        &mut self,
        network: NetworkKey,
        quic: (Duration, u32),
        records: Vec<WayRecord>,
        now: Instant,
    ) {
        let memory = self.network_mut(network);
        memory.quic = Ban::of(quic.0, quic.1, now);
        // What lies before the clock's beginning is too old to matter.
        memory.ways = records
            .into_iter()
            .take(WAYS_MAX)
            .filter_map(|record| {
                let tried = now.checked_sub(record.tried_ago)?;
                let won = record.won_ago.and_then(|ago| now.checked_sub(ago));
                let ban = Ban::of(record.ban_left, record.bans, now);
                Some(Record { way: record.way, history: record.history, won, tried, ban })
            })
            .collect();
    }

    fn network(&self, key: NetworkKey) -> Option<&Network> {
        self.networks.iter().find(|network| network.key == key)
    }

    /// The part of one network, which is the newest from now on.
    fn network_mut(&mut self, key: NetworkKey) -> &mut Network {
        let place = self.networks.iter().position(|network| network.key == key);
        let network = place.and_then(|place| self.networks.remove(place));
        let network = network.unwrap_or_else(|| Network { key, ..Network::default() });
        self.networks.truncate(NETWORKS_MAX - 1);
        self.networks.push_front(network);
        &mut self.networks[0]
    }
}

impl Network {
    fn record(&self, way: &Way) -> Option<&Record> {
        self.ways.iter().find(|record| record.way == *way)
    }

    fn take(&mut self, policy: &RacePolicy, way: &Way, verdict: Verdict, now: Instant) {
        let place = self.ways.iter().position(|record| record.way == *way);
        let record = match place {
            Some(place) => &mut self.ways[place],
            None => {
                self.make_room();
                let ban = Ban::default();
                self.ways.push(Record { way: way.clone(), history: 0, won: None, tried: now, ban });
                let last = self.ways.len() - 1;
                &mut self.ways[last]
            }
        };
        record.tried = now;
        match verdict {
            Verdict::Won => {
                record.history <<= 1;
                (record.won, record.ban) = (Some(now), Ban::default());
            }
            Verdict::Failed => {
                record.history = record.history << 1 | 1;
                if record.history.count_ones() >= policy.ban_failures {
                    record.ban.extend(policy, now);
                }
            }
            Verdict::Open => {}
        }
    }

    fn make_room(&mut self) {
        let oldest = self.ways.iter().enumerate().min_by_key(|(_, record)| record.tried);
        if let Some((oldest, _)) = oldest
            && self.ways.len() >= WAYS_MAX
        {
            self.ways.remove(oldest);
        }
    }
}

impl Record {
    fn is_kept(&self, policy: &RacePolicy, now: Instant) -> bool {
        now.saturating_duration_since(self.tried) < policy.kept
    }

    fn has_failed(&self) -> bool {
        self.history & 1 == 1
    }
}

impl Ban {
    /// Of which so much is left.
    fn of(left: Duration, times: u32, now: Instant) -> Self {
        Self { until: (!left.is_zero()).then_some(()).and_then(|()| now.checked_add(left)), times }
    }

    fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn left(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Once more: twice as long as before. What fails while it is banned was tried for want of others, and is banned
    /// no longer for that.
    fn extend(&mut self, policy: &RacePolicy, now: Instant) {
        if self.holds(now) {
            return;
        }
        let longer = policy.ban_min.saturating_mul(1 << self.times.min(16)).min(policy.ban_max);
        self.times = self.times.saturating_add(1);
        self.until = now.checked_add(longer);
    }
}
