//! How a connection is made where there are several ways: which to try, in which order, how far apart.
//!
//! ```text
//!  Ways::rank ──ways, the best first──> Race ──Start, Abandon──> the driver
//!      ^                                 ^ failed, won              |
//!      |                                 +--------------------------+
//!      +── Ways::learn <──Verdict of each way, once one has won
//! ```
//!
//! The ways to one gateway are two series, one of each transport, whose members start a stagger apart; the second series
//! begins a fall-back delay after the first. What definitely failed hands its place to the next of its series at once
//! (RFC 8305, section 5). Another gateway waits longer, since a session lives at one.
//!
//! Where QUIC was never seen to pass, that delay is a guess, on which a client whose UDP is dropped waits in vain. TCP's
//! handshake, which is two small packets, then begins at once and measures a round trip; the rest of its series' way, TLS,
//! which is larger than all of that, follows when QUIC should have answered:
//!
//! ```text
//!  QUIC  |------ Initial ------>  ......................................  silent
//!  TCP      |-- SYN -->| <-- connected: a round trip        | GoOn: TLS
//!        |<---------------- warm_share x round trip ------->|
//! ```

mod memory;
mod names;
mod policy;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub use memory::{Ranked, WayRecord, Ways};
pub use names::{Found, NameRecord, Names};
pub use policy::{Pace, RacePolicy};

use super::network::Transport;

/// One way to a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The gateway's name and port.
    pub gateway: Arc<str>,
    /// Its address; `None` where whoever dials finds it.
    pub address: Option<SocketAddr>,
    /// By what.
    pub transport: Transport,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.transport {
            Transport::Quic => "QUIC ",
            Transport::Tcp => "TCP ",
        })?;
        match self.address {
            Some(address) => write!(f, "{address}"),
            None => f.write_str(&self.gateway),
        }
    }
}

/// What is to be done about the way of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaceAction {
    /// Try it.
    Start(usize),
    /// Its transport's handshake is done, as [`Race::connected`] was told, and it goes on to TLS.
    GoOn(usize),
    /// Try it no longer: others need its place.
    Abandon(usize),
}

/// What a race that was won says of one of its ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It got through.
    Won,
    /// It failed, or was silent while one that had started later got through.
    Failed,
    /// It had no time to show what it is.
    Open,
}

/// One race.
///
/// ```text
///  Waiting ──due, a place is free──> Running ──failed──> Over
///                                       | ──connected──> held ──due, or QUIC has failed──> GoOn: Running on
///                                       | ──Abandon, where more wait than there are places──> Over
///                                       +── won: the race is over
/// ```
#[derive(Clone, Debug)]
pub struct Race {
    pace: Pace,
    warmth: Option<Warmth>,
    in_flight_max: usize,
    began: Instant,
    ends: Instant,
    entries: Vec<Entry>,
    /// Gateways by rank whose ways are still looked for.
    sought: Vec<usize>,
    /// When each gateway's turn begins, by rank.
    turns: Vec<(usize, Instant)>,
}

/// How TCP is kept ready behind QUIC; see [`RacePolicy`].
#[derive(Clone, Copy, Debug)]
struct Warmth {
    after: Duration,
    share: f64,
    min: Duration,
}

#[derive(Clone, Debug)]
struct Entry {
    way: Way,
    rank: usize,
    stage: Stage,
    proven: bool,
    /// It is connected, and goes on to TLS then.
    held: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting {
        due: Instant,
    },
    Running {
        since: Instant,
    },
    Failed,
    /// Silent from then on for so long.
    Abandoned {
        since: Instant,
    },
}

/// However long its handshake took, TCP goes on to TLS so long after QUIC has begun.
const HELD_MAX: Duration = Duration::from_secs(5);
/// Ways of one race; further ones are left out.
const WAYS_MAX: usize = 24;

impl Race {
    /// A race that lasts until `limit` is over at most.
    pub fn new(policy: &RacePolicy, pace: Pace, limit: Duration, now: Instant) -> Self {
        Self {
            pace,
            warmth: (policy.warm && policy.enabled).then_some(Warmth {
                after: policy.warm_after,
                share: policy.warm_share,
                min: policy.warm_min,
            }),
            in_flight_max: policy.in_flight_max.max(1),
            began: now,
            ends: now + limit,
            entries: Vec::new(),
            sought: Vec::new(),
            turns: Vec::new(),
        }
    }

    /// The ways of the gateway of that rank, 0 the first, are looked for: [`Race::add`] and [`Race::found`] will follow.
    pub fn seek(&mut self, rank: usize) {
        self.sought.push(rank);
    }

    /// Nothing more is looked for on behalf of the gateway of that rank.
    pub fn found(&mut self, rank: usize, now: Instant) {
        self.sought.retain(|&sought| sought != rank);
        self.hand_over(rank, None, now);
    }

    /// Takes in ways to the gateway of that rank, the best first; those that are known already are left out. Banned ones
    /// come when nothing else is left.
    pub fn add(&mut self, rank: usize, ways: Vec<Ranked>, now: Instant) {
        if self.turns.iter().all(|(of, _)| *of != rank) {
            // Where nothing else is left, nobody waits.
            let turn = if self.is_lost() { now } else { now.max(self.began + self.pace.turn(rank)) };
            self.turns.push((rank, turn));
        }
        let lead = ways.first().map(|first| (first.way.transport, first.proven));
        let lead = self.of(rank).next().map(|entry| (entry.way.transport, entry.proven)).or(lead);
        for Ranked { way, banned, proven } in ways {
            if self.entries.len() >= WAYS_MAX || self.entries.iter().any(|entry| entry.way == way) {
                continue;
            }
            let behind = match lead {
                Some((transport, _)) if transport == way.transport => Duration::ZERO,
                Some((Transport::Quic, false)) => self.warm_delay(&way),
                _ => self.pace.fallback,
            };
            let due = self.due_of(rank, way.transport, behind, banned, now);
            self.entries.push(Entry { way, rank, stage: Stage::Waiting { due }, proven, held: None });
        }
    }

    /// The way of that number.
    pub fn way(&self, number: usize) -> Option<&Way> {
        self.entries.get(number).map(|entry| &entry.way)
    }

    /// The rank of the gateway that the way of that number leads to.
    pub fn rank(&self, number: usize) -> Option<usize> {
        self.entries.get(number).map(|entry| entry.rank)
    }

    /// The transport of the way of that number, which is TCP, is connected: [`RaceAction::GoOn`] says when TLS begins.
    pub fn connected(&mut self, number: usize, now: Instant) {
        let Some(Entry { rank, stage: Stage::Running { since }, .. }) = self.entries.get(number) else {
            return;
        };
        let trip = now.saturating_duration_since(*since);
        let quic = self.quic_of(*rank).min();
        let due = self.warmth.zip(quic).map_or(now, |(warmth, quic)| {
            quic + trip.mul_f64(warmth.share).max(trip + warmth.min).min(HELD_MAX)
        });
        self.entries[number].held = Some(due.max(now));
    }

    /// What is to be done next, if anything is.
    pub fn poll(&mut self, now: Instant) -> Option<RaceAction> {
        if let Some((number, _)) = self.next_held().filter(|(_, due)| *due <= now) {
            self.entries[number].held = None;
            return Some(RaceAction::GoOn(number));
        }
        let (number, due) = self.next_waiting()?;
        let is_due = due <= now || (self.in_flight() == 0 && self.sought.is_empty());
        if !is_due {
            return None;
        }
        if self.in_flight() < self.in_flight_max {
            self.entries[number].stage = Stage::Running { since: now };
            return Some(RaceAction::Start(number));
        }
        let (oldest, since, until) = self.place_for(number)?;
        if now < until {
            return None;
        }
        (self.entries[oldest].stage, self.entries[oldest].held) = (Stage::Abandoned { since }, None);
        Some(RaceAction::Abandon(oldest))
    }

    /// When to poll again, or the race is over.
    pub fn poll_timeout(&self) -> Instant {
        let held = self.next_held().map_or(self.ends, |(_, due)| due.min(self.ends));
        let Some((number, due)) = self.next_waiting() else { return held };
        let free = match self.in_flight() < self.in_flight_max {
            true => None,
            false => self.place_for(number).map(|(_, _, until)| until),
        };
        due.max(free.unwrap_or(due)).min(held)
    }

    /// Whether its time is over.
    pub fn is_late(&self, now: Instant) -> bool {
        now >= self.ends
    }

    /// Whether nothing runs, waits or is looked for.
    pub fn is_lost(&self) -> bool {
        self.sought.is_empty() && self.in_flight() == 0 && self.next_waiting().is_none()
    }

    /// The way of that number definitely failed: the next one need not wait.
    pub fn failed(&mut self, number: usize, now: Instant) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        if !matches!(entry.stage, Stage::Running { .. }) {
            return;
        }
        (entry.stage, entry.held) = (Stage::Failed, None);
        let (rank, transport) = (entry.rank, entry.way.transport);
        if transport == Transport::Quic && self.quic_of(rank).next().is_none() {
            let held = self.entries.iter_mut().filter(|entry| entry.rank == rank);
            held.for_each(|entry| entry.held = entry.held.map(|due| due.min(now)));
        }
        self.hand_over(rank, Some(transport), now);
    }

    /// The way of that number got through: what that says of all that were tried.
    pub fn won(&self, number: usize) -> Vec<(Way, Verdict)> {
        let Some(Stage::Running { since: won }) = self.entries.get(number).map(|entry| entry.stage) else {
            return Vec::new();
        };
        let tried = self.entries.iter().enumerate().filter_map(|(place, entry)| {
            let verdict = match entry.stage {
                _ if place == number => Verdict::Won,
                Stage::Waiting { .. } => return None,
                Stage::Failed => Verdict::Failed,
                Stage::Running { since } | Stage::Abandoned { since } if since < won => Verdict::Failed,
                Stage::Running { .. } | Stage::Abandoned { .. } => Verdict::Open,
            };
            Some((entry.way.clone(), verdict))
        });
        tried.collect()
    }

    /// Ways that are being tried.
    pub fn in_flight(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.stage, Stage::Running { .. })).count()
    }

    /// How long the way of that number has been tried.
    pub fn running_for(&self, number: usize, now: Instant) -> Option<Duration> {
        match self.entries.get(number)?.stage {
            Stage::Running { since } => Some(now.saturating_duration_since(since)),
            _ => None,
        }
    }

    fn of(&self, rank: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.rank == rank)
    }

    /// Since when QUIC is tried, of each of a gateway's ways by which it is.
    fn quic_of(&self, rank: usize) -> impl Iterator<Item = Instant> {
        let quic = self.of(rank).filter(|entry| entry.way.transport == Transport::Quic);
        quic.filter_map(|entry| match entry.stage {
            Stage::Running { since } => Some(since),
            _ => None,
        })
    }

    /// How long after QUIC, which is not known to pass, that way begins. Whoever is dialed by the app is all or nothing.
    fn warm_delay(&self, way: &Way) -> Duration {
        let warmth = self.warmth.filter(|_| way.address.is_some());
        warmth.map_or(self.pace.fallback, |warmth| warmth.after.min(self.pace.fallback))
    }

    /// The way that goes on to TLS next, and when.
    fn next_held(&self) -> Option<(usize, Instant)> {
        let held = self.entries.iter().enumerate();
        held.filter_map(|(number, entry)| Some((number, entry.held?)))
            .min_by_key(|&(number, due)| (due, number))
    }

    /// When a way that is added last in its series is due, the first one `behind` the other series. Behind everything known,
    /// where it is banned.
    fn due_of(
        &self,
        rank: usize,
        transport: Transport,
        behind: Duration,
        banned: bool,
        now: Instant,
    ) -> Instant {
        let due = |entry: &Entry| match entry.stage {
            Stage::Waiting { due } => Some(due),
            Stage::Running { since } => Some(since),
            Stage::Failed | Stage::Abandoned { .. } => None,
        };
        let turn = self.turns.iter().find(|(of, _)| *of == rank).map_or(now, |(_, turn)| *turn);
        if banned {
            let last = self.entries.iter().filter_map(due).max().unwrap_or(self.began);
            return (last + self.pace.stagger).max(now);
        }
        let series = || self.of(rank).filter(|entry| entry.way.transport == transport);
        let last = series().filter_map(due).max();
        let soonest = match last {
            Some(last) => last + self.pace.stagger,
            // All of it has failed.
            None if series().next().is_some() => now,
            None => turn.max(self.of(rank).filter_map(due).min().unwrap_or(now)) + behind,
        };
        soonest.max(now)
    }

    fn next_waiting(&self) -> Option<(usize, Instant)> {
        let waiting = self.entries.iter().enumerate().filter_map(|(number, entry)| match entry.stage {
            Stage::Waiting { due } => Some((number, due)),
            _ => None,
        });
        waiting.min_by_key(|&(number, due)| (due, number))
    }

    /// Whose place a way that waits is to have: which way that is, since when it runs, and until when it may. A gateway
    /// that has no place yet gets one at once from the gateway that has most.
    fn place_for(&self, number: usize) -> Option<(usize, Instant, Instant)> {
        let running = self.entries.iter().enumerate().filter_map(|(number, entry)| match entry.stage {
            Stage::Running { since } => Some((number, entry.rank, since)),
            _ => None,
        });
        let running: Vec<_> = running.collect();
        let places = |rank: usize| running.iter().filter(|(_, of, _)| *of == rank).count();
        let most = running.iter().map(|&(_, rank, _)| places(rank)).max()?;
        let oldest = |which: &dyn Fn(usize) -> bool| {
            let running = running.iter().filter(|(_, rank, _)| which(*rank));
            running.min_by_key(|&&(number, _, since)| (since, number)).copied()
        };
        if places(self.entries[number].rank) == 0 && most > 1 {
            return oldest(&|rank| places(rank) == most).map(|(number, _, since)| (number, since, since));
        }
        oldest(&|_| true).map(|(number, _, since)| (number, since, since + self.patience()))
    }

    /// How long a silent way keeps its place while others wait: so long that each gets its turn within the race.
    fn patience(&self) -> Duration {
        let rounds = self.entries.len().div_ceil(self.in_flight_max).max(1);
        self.ends.saturating_duration_since(self.began) / u32::try_from(rounds).unwrap_or(u32::MAX)
    }

    /// A way of that series has failed, or all that there will be is known: the next of the series is due now, or where
    /// the series has come to its end, the other one of the gateway, or else the next gateway.
    fn hand_over(&mut self, rank: usize, transport: Option<Transport>, now: Instant) {
        let is_alive = |entry: &&Entry| matches!(entry.stage, Stage::Waiting { .. } | Stage::Running { .. });
        let in_series = |entry: &&Entry| Some(entry.way.transport) == transport;
        if self.of(rank).filter(in_series).any(|entry| is_alive(&entry)) {
            return self.hurry(now, |entry| entry.rank == rank && Some(entry.way.transport) == transport);
        }
        if self.of(rank).any(|entry| is_alive(&entry)) {
            if transport.is_some() {
                self.hurry(now, |entry| entry.rank == rank);
            }
            return;
        }
        let next = self.entries.iter().filter(is_alive).map(|entry| entry.rank).min();
        // Nothing is running: the next gateway's first way is due.
        if let Some(next) = next
            && self.in_flight() == 0
            && !self.sought.contains(&rank)
        {
            self.hurry(now, |entry| entry.rank >= next);
        }
    }

    /// Makes the first of those that wait due now, and the others as much sooner.
    fn hurry(&mut self, now: Instant, which: impl Fn(&Entry) -> bool) {
        let waiting = |entry: &Entry| match entry.stage {
            Stage::Waiting { due } if which(entry) => Some(due),
            _ => None,
        };
        let Some(first) = self.entries.iter().filter_map(waiting).min() else { return };
        let sooner = first.saturating_duration_since(now);
        for entry in &mut self.entries {
            if let Stage::Waiting { due } = &entry.stage
                && which(entry)
            {
                entry.stage = Stage::Waiting { due: *due - sooner };
            }
        }
    }
}
