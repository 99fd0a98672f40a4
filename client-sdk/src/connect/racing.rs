//! One race for a connection, driven: `towline_protocols::policy::Race` decides which ways are tried, and when.
//!
//! ```text
//!  gateways, by rank --> names: remembered at once, looked up beside --> Race --> attempts
//!                                                                         ^           |
//!            early data on QUIC is out: the race goes on <----------------+           v
//!            a gateway has answered: the race is over, and its verdicts are remembered
//! ```

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "quic")]
use tokio::sync::watch;
use tokio::{
    task::{AbortHandle, JoinError, JoinSet},
    time::sleep_until,
};
use towline_protocols::policy::{
    Event, KeyExchange, Network, Pace, Race, RaceAction, RacePolicy, Step, Transport as Kind, Verdict, Way,
};

use super::{ConnectError, Connector, Handshake, Made, Wire, resolve::interleave, tcp::Connected};
use crate::{
    config::Endpoint,
    core::{Shared, now},
    line::Opening,
    work,
};

/// What a race gave: a connection, and where it leads.
pub(crate) struct Reached {
    /// When it was there.
    pub(crate) at: Instant,
    pub(crate) wire: Wire,
    pub(crate) gateway: Endpoint,
    /// The way's number in the race.
    pub(crate) number: usize,
}

/// Which transports take part in a race.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Those that are allowed, as they did before.
    #[default]
    Free,
    /// The same, but this one goes first.
    First(Kind),
    /// This one alone.
    Only(Kind),
}

/// A race.
pub(crate) struct Racing {
    connector: Connector,
    shared: Arc<Shared>,
    opening: Arc<Opening>,
    policy: RacePolicy,
    network: Network,
    /// Tells whether the network in use has changed since it began.
    #[cfg(feature = "quic")]
    changes: watch::Receiver<u64>,
    /// The first is tried first.
    gateways: Vec<Endpoint>,
    /// When each of those began that take part already, by rank.
    turns: Vec<Instant>,
    choice: Choice,
    race: Race,
    pace: Pace,
    began: Instant,
    limit: Duration,
    attempts: JoinSet<(usize, Result<Made, ConnectError>)>,
    handles: HashMap<usize, AbortHandle>,
    /// Connections of TCP that are kept ready, by the numbers of their ways.
    held: HashMap<usize, Connected>,
    lookups: JoinSet<(usize, Result<Vec<IpAddr>, String>)>,
    /// How long it took until the addresses of each gateway were known, by rank.
    found_after: HashMap<usize, Duration>,
    /// Why ways failed.
    reasons: Vec<String>,
}

impl Racing {
    /// Begins a race on that network, which need not be the one in use, that lasts until `limit` is over at most.
    pub(crate) fn begin(
        network: Network,
        connector: Connector,
        shared: &Arc<Shared>,
        opening: &Arc<Opening>,
        mut gateways: Vec<Endpoint>,
        limit: Duration,
    ) -> Self {
        let policy = shared.strategies.borrow().race.clone();
        let began = now();
        let fallback = shared.policy.borrow().fallback_delay;
        let connect = match is_in_use(shared, &network) {
            true => shared.quality.expected_connect(),
            false => shared.quality.expected_connect_on(&network),
        };
        if !policy.enabled {
            gateways.truncate(1);
        }
        // Another gateway knows nothing of what the session's own one may be running.
        let first = if shared.with(|core| core.has_sent()) { limit / 2 } else { Duration::ZERO };
        let pace = policy.pace(connect, fallback).spread(first, limit, gateways.len());
        Self {
            connector,
            shared: Arc::clone(shared),
            opening: Arc::clone(opening),
            network,
            #[cfg(feature = "quic")]
            changes: shared.network.subscribe(),
            gateways,
            turns: Vec::new(),
            choice: Choice::Free,
            race: Race::new(&policy, pace, limit, began),
            policy,
            pace,
            began,
            limit,
            attempts: JoinSet::new(),
            handles: HashMap::new(),
            held: HashMap::new(),
            lookups: JoinSet::new(),
            found_after: HashMap::new(),
            reasons: Vec::new(),
        }
    }

    /// With a choice of transports, before anything is made.
    pub(crate) fn choosing(self, choice: Choice) -> Self {
        Self { choice, ..self }
    }

    /// The next connection that may be used. If the gateway has answered on it, the race is over. One that carries early
    /// data on QUIC has not: the race goes on, and whoever asks again gets the next.
    pub(crate) async fn next(&mut self) -> Result<Reached, ConnectError> {
        loop {
            let now = now();
            self.open_due(now);
            while let Some(action) = self.race.poll(now) {
                self.act(action);
            }
            if self.race.is_late(now) {
                let text = format!("no answer within {:?} (connect_timeout)", self.limit);
                return Err(self.lost(Some(text)));
            }
            if self.race.is_lost() && self.turns.len() == self.gateways.len() {
                match self.fall_back_on_bundle(now) {
                    true => continue,
                    false => return Err(self.lost(None)),
                }
            }
            let due = self.race.poll_timeout().min(self.next_turn());
            tokio::select! {
                biased;
                Some(joined) = self.attempts.join_next() => {
                    if let Some(made) = self.on_attempt(joined) {
                        return Ok(made);
                    }
                }
                Some(joined) = self.lookups.join_next() => self.on_lookup(joined),
                () = sleep_until(due.into()) => {}
            }
        }
    }

    /// The same for whoever moves along with the network: once that has changed nothing comes, since what is made here
    /// belongs to the one before.
    #[cfg(feature = "quic")]
    pub(crate) async fn next_here(&mut self) -> Result<Reached, ConnectError> {
        let mut changes = self.changes.clone();
        tokio::select! {
            made = self.next() => made,
            Ok(()) = changes.changed() => std::future::pending().await,
        }
    }

    /// The gateway has answered on the way of that number: it has won.
    pub(crate) fn answered(&mut self, number: usize) {
        let now = now();
        let is_in_use = self.shared.with(|core| core.network.place() == self.network.place());
        if let Some(after) = self.race.running_for(number, now).filter(|_| is_in_use) {
            self.shared.quality.on(Event::Came(Step::Connect, after));
        }
        let reached = self.race.rank(number).and_then(|rank| self.gateways.get(rank));
        self.shared.listed.on_race(&self.gateways[..self.turns.len()], reached, now);
        let said = self.race.won(number);
        if let Some(gateway) = reached {
            self.judge_name(&gateway.host, &said, now);
        }
        self.shared.routes.learn(&self.policy, self.network.place(), &said, now);
        self.attempts.abort_all();
        self.lookups.abort_all();
        self.held.clear();
    }

    /// How long it lasts at the most.
    #[cfg(feature = "quic")]
    pub(crate) fn left(&self, now: Instant) -> Duration {
        (self.began + self.limit).saturating_duration_since(now)
    }

    /// Whether a packet left for any gateway.
    pub(crate) fn has_tried(&self) -> bool {
        !self.handles.is_empty()
    }

    /// When the next gateway takes part.
    fn next_turn(&self) -> Instant {
        match self.turns.len() < self.gateways.len() {
            true => self.began + self.pace.turn(self.turns.len()),
            false => self.began + self.limit,
        }
    }

    fn open_due(&mut self, now: Instant) {
        while self.turns.len() < self.gateways.len() && (now >= self.next_turn() || self.race.is_lost()) {
            self.turns.push(now);
            self.open(self.turns.len() - 1, now);
        }
    }

    /// Lets a gateway take part.
    fn open(&mut self, rank: usize, now: Instant) {
        let host = self.gateways[rank].host.clone();
        if !self.connector.needs_addresses() {
            return self.add(rank, Vec::new(), now);
        }
        if let Ok(address) = host.parse() {
            return self.add(rank, vec![address], now);
        }
        let lookups = self.connector.lookups.clone();
        let (addresses, is_due) = lookups.at_once(&self.shared, &self.policy, &host, self.network.place());
        if !addresses.is_empty() {
            self.add(rank, addresses, now);
        }
        if is_due {
            self.race.seek(rank);
            let lookup = lookups.find(Arc::clone(&self.shared), host, self.network.clone());
            self.lookups.spawn(work::boxed(async move { (rank, lookup.await) }));
        }
    }

    fn add(&mut self, rank: usize, addresses: Vec<IpAddr>, now: Instant) {
        if !addresses.is_empty() {
            let began = self.turns.get(rank).copied().unwrap_or(now);
            self.found_after.entry(rank).or_insert(now.saturating_duration_since(began));
        }
        let endpoint = &self.gateways[rank];
        let transports = self.shared.listed.transports_of(endpoint);
        let ways = self.connector.ways(endpoint, interleave(addresses, endpoint.port), transports);
        let mut ways = self.shared.routes.rank(&self.policy, self.network.place(), ways, now);
        match self.choice {
            Choice::Free => {}
            // What is banned stays behind the others.
            Choice::First(first) => ways.sort_by_key(|it| (it.banned, it.way.transport != first)),
            Choice::Only(only) => ways.retain(|it| it.way.transport == only),
        }
        self.race.add(rank, ways, now);
    }

    /// What DNS said led nowhere: what the app brought along is tried too. Whether there was any of it.
    fn fall_back_on_bundle(&mut self, now: Instant) -> bool {
        for rank in 0..self.gateways.len() {
            let bundled = self.connector.lookups.bundled(&self.policy, &self.gateways[rank].host);
            if !bundled.is_empty() {
                self.add(rank, bundled, now);
            }
        }
        !self.race.is_lost()
    }

    /// Another address of that name got through, while one that DNS had said failed: what it said is doubted, as a captive
    /// portal's word is to be.
    fn judge_name(&self, host: &str, said: &[(Way, Verdict)], now: Instant) {
        let Some(known) = self.shared.routes.addresses(&self.policy, self.network.place(), host, now) else {
            return;
        };
        let has = |verdict: Verdict| {
            let mut ways = said.iter().filter(|(_, of)| *of == verdict);
            ways.any(|(way, _)| way.address.is_some_and(|it| known.addresses.contains(&it.ip())))
        };
        if has(Verdict::Failed) && !has(Verdict::Won) {
            self.shared.routes.doubt(self.network.place(), host);
        }
    }

    fn act(&mut self, action: RaceAction) {
        match action {
            RaceAction::Start(number) => self.start(number),
            RaceAction::GoOn(number) => self.go_on(number),
            RaceAction::Abandon(number) => {
                self.held.remove(&number);
                if let Some(handle) = self.handles.get(&number) {
                    handle.abort();
                }
            }
        }
    }

    fn start(&mut self, number: usize) {
        let Some((way, endpoint)) = self.way(number) else { return };
        let is_blocked = || self.shared.routes.is_quic_blocked(&self.policy, self.network.place(), now());
        // Where UDP was seen not to pass, nobody waits for what was said early.
        let flies = way.transport == Kind::Quic && self.opening.may_fly() && !is_blocked();
        let flight = self.opening.first_flight(endpoint);
        let round_trip = match is_in_use(&self.shared, &self.network) {
            true => self.shared.quality.expected_round_trip(),
            false => self.shared.quality.expected_round_trip_on(&self.network),
        };
        let name = self.shared.listed.name_of(endpoint);
        let connector = self.connector.clone();
        let repeat = (self.policy.enabled && self.policy.repeat).then_some(self.policy.repeat_share);
        let handshake = Handshake { offer: self.offer(), flies, round_trip, repeat };
        let (network, endpoint) = (self.network.clone(), endpoint.clone());
        let attempt = connector.attempt(network, endpoint, name, way, flight, handshake);
        let handle = self.attempts.spawn(work::boxed(async move { (number, attempt.await) }));
        self.handles.insert(number, handle);
    }

    /// TCP is connected, and TLS is due.
    fn go_on(&mut self, number: usize) {
        let (Some(connected), Some((_, endpoint))) = (self.held.remove(&number), self.way(number)) else {
            return;
        };
        let flight = self.opening.first_flight(endpoint);
        let name = self.shared.listed.name_of(endpoint);
        let attempt = self.connector.clone().secure(name, connected, flight, self.offer());
        let handle = self.attempts.spawn(work::boxed(async move { (number, attempt.await) }));
        self.handles.insert(number, handle);
    }

    /// The key exchange to offer.
    fn offer(&self) -> KeyExchange {
        match is_in_use(&self.shared, &self.network) {
            true => self.shared.quality.key_exchange(),
            false => self.shared.quality.key_exchange_on(&self.network),
        }
    }

    fn way(&self, number: usize) -> Option<(Way, &Endpoint)> {
        let way = self.race.way(number)?.clone();
        Some((way, self.gateways.get(self.race.rank(number)?)?))
    }

    fn on_attempt(
        &mut self,
        joined: Result<(usize, Result<Made, ConnectError>), JoinError>,
    ) -> Option<Reached> {
        let (number, result) = match joined {
            Ok(done) => done,
            Err(error) => {
                let number = *self.handles.iter().find(|(_, handle)| handle.id() == error.id())?.0;
                (number, Err(ConnectError(format!("attempt ended: {error}"))))
            }
        };
        let (_, gateway) = self.way(number)?;
        match result {
            // Others had more need of its place.
            Ok(_) if self.race.running_for(number, now()).is_none() => None,
            Ok(Made::Tcp(connected)) => {
                self.held.insert(number, connected);
                self.race.connected(number, now());
                None
            }
            Ok(Made::Wire(wire)) => {
                let (gateway, rank) = (gateway.clone(), self.race.rank(number).unwrap_or_default());
                if !wire.is_unanswered() {
                    self.answered(number);
                }
                let wire = wire.found_after(self.found_after.get(&rank).copied());
                Some(Reached { at: now(), wire, gateway, number })
            }
            Err(error) => {
                let reason = format!("{gateway}: {error}");
                self.note(reason);
                self.race.failed(number, now());
                None
            }
        }
    }

    fn on_lookup(&mut self, joined: Result<(usize, Result<Vec<IpAddr>, String>), JoinError>) {
        // A question whose task ended is not answered, which the race bears.
        let Ok((rank, found)) = joined else { return };
        let now = now();
        match found {
            Ok(addresses) => self.add(rank, addresses, now),
            Err(reason) => {
                let reason = format!("{}: {reason}", self.gateways[rank]);
                self.note(reason);
            }
        }
        self.race.found(rank, now);
    }

    /// Why a way failed, for the error of whoever gives up sooner than the race, too.
    fn note(&mut self, reason: String) {
        self.shared.with(|core| core.way_failed = Some(reason.clone()));
        self.reasons.push(reason);
    }

    fn lost(&mut self, text: Option<String>) -> ConnectError {
        let opened = &self.gateways[..self.turns.len()];
        opened.iter().for_each(|gateway| self.shared.routes.doubt(self.network.place(), &gateway.host));
        self.shared.listed.on_race(opened, None, now());
        let gateways: Vec<String> = opened.iter().map(ToString::to_string).collect();
        let text = text.map(|text| format!("{}: {text}", gateways.join(", ")));
        let reasons: Vec<String> = text.into_iter().chain(self.reasons.drain(..)).collect();
        ConnectError(if reasons.is_empty() { "nothing to try".to_owned() } else { reasons.join("; ") })
    }
}

/// Whether a network is the one in use, and not one that has joined it.
fn is_in_use(shared: &Shared, network: &Network) -> bool {
    shared.with(|core| core.network.place() == network.place())
}

#[cfg(test)]
#[cfg(feature = "quic")]
mod tests;
