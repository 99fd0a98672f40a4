//! Keeps the line up: connects, hands the connection over, and decides when and where to connect again.

mod second;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep_until;
use towline_protocols::{
    compress::Compressor,
    link::{self, Filter, Header, Hello, RpcErrorKind, SessionHeaders},
    policy::{Delay, Loss, Lost, NetworkKind, Reconnect, Step},
};

use crate::{
    backoff::Backoff,
    config::{ClientConfig, Endpoint, Policy},
    connect::{Choice, Connector, HttpConnector, Racing, Reached},
    core::{Shared, now},
    error::StartError,
    line::{self, LineEnd, Next, Opening, Setup},
    state::ConnectionState,
};

pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    config: ClientConfig,
    greeting: Arc<Greeting>,
    connector: Connector,
    backoff: Backoff,
    reconnect: Reconnect,
    /// The configured endpoint to try first.
    place: usize,
    /// How often the network had changed when something was learnt of it last.
    changes: u64,
    /// A gateway that was reached and did not say WELCOME: it comes last in the next attempt. In those behind it, which
    /// have found nobody at the others, it has its turn.
    shunned: Option<Endpoint>,
    /// Whether calls may leave before there is a connection: not when the gateway said that it goes, since then
    /// nobody would know any more whether they ran.
    flies: bool,
    /// Endpoints that a GOAWAY named, tried before the configured ones.
    advised: Vec<Endpoint>,
    /// The last attempt came to nobody: the app's own endpoints come before listed ones, and after the next such
    /// attempt behind them again.
    own_first: bool,
}

enum Pause {
    Over,
    Closed,
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>, config: ClientConfig) -> Result<Self, StartError> {
        let connector = Connector::new(&config, &shared.tickets)?;
        let greeting = Arc::new(Greeting::new(Arc::clone(&shared), config.clone()));
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let (mut backoff, reconnect) = (Backoff::new(seed), Reconnect::new(seed.wrapping_add(1)));
        let place = backoff.pick(config.endpoints.len());
        let (flies, advised) = (true, Vec::new());
        Ok(Self {
            shared,
            config,
            greeting,
            connector,
            backoff,
            reconnect,
            place,
            changes: 0,
            shunned: None,
            flies,
            advised,
            own_first: false,
        })
    }

    /// What the machines of all connections are made with.
    pub(crate) fn link(&self) -> Arc<link::Config> {
        Arc::clone(&self.greeting.link)
    }

    /// What short connections are made with.
    pub(crate) fn http(&self) -> HttpConnector {
        HttpConnector::of(&self.connector, &self.shared)
    }

    /// Runs until the client is closed.
    pub(crate) async fn run(mut self) {
        let (kind, reason) = loop {
            self.shared.set_state(ConnectionState::Connecting);
            let shared = Arc::clone(&self.shared);
            let opening = Opening::new(Arc::clone(&self.greeting), self.spread_share(), self.flies);
            self.shared.with(|core| core.link.begins(now()));
            let outcome = tokio::select! {
                outcome = self.attempt(&opening) => outcome,
                reason = closed(&shared) => break (RpcErrorKind::Cancelled, reason),
            };
            let (end, gateway) = match outcome {
                Attempt::Made(made) => self.drive(*made, &opening).await,
                Attempt::Failed { reason, gateway, next } => {
                    self.shared.with(|core| core.reports.connected(false));
                    (LineEnd { reason, was_online: false, next }, gateway)
                }
                // What was under way belongs to a network that is left.
                Attempt::Moved => continue,
            };
            match end.next {
                Next::Never(kind) => break (kind, end.reason),
                // No failure, and the app is not told of one.
                Next::Spelled => {
                    tracing::debug!(reason = end.reason, "the gateway has to be told everything");
                    self.advised.push(gateway);
                    continue;
                }
                _ => {}
            }
            let died = matches!(end.next, Next::Again | Next::AtOnce);
            let was_up = self.shared.with(|core| core.link_down(end.reason.clone(), died));
            self.shared.set_state(ConnectionState::Offline { reason: end.reason.clone() });
            tracing::debug!(reason = end.reason, "offline");
            let delay = self.after(&end, &gateway, was_up);
            if let Pause::Closed = self.pause(delay).await {
                break (RpcErrorKind::Cancelled, "closed by the app".to_owned());
            }
        };
        self.shared.with(|core| core.close(kind, &reason));
        self.shared.quality.keep();
        self.shared.set_state(ConnectionState::Closed { reason });
    }

    /// Drives a line to its end, also over a connection that overtook the first one, or was made beside it.
    async fn drive(&mut self, made: (Reached, Racing), opening: &Arc<Opening>) -> (LineEnd, Endpoint) {
        let ((mut made, mut racing), mut opening) = (made, Arc::clone(opening));
        loop {
            let gateway = made.gateway.clone();
            let begun = Arc::clone(&opening);
            let line = async move { line::run(made, &begun, racing).await };
            let (end, second) = Box::pin(self.beside(line, &gateway)).await;
            if let Some(second) = second {
                tracing::debug!(reason = end.reason, "goes on over a second connection");
                self.learn(&gateway, &end);
                self.shared.with(|core| {
                    core.reports.connected(end.was_online);
                    // Until WELCOME there is no link, however near it is.
                    core.link_down(end.reason, false);
                    core.link.begins(now());
                });
                self.shared.set_state(ConnectionState::Connecting);
                (made, racing, opening) = (second.made, second.racing, second.opening);
                continue;
            }
            match end.next {
                Next::Overtaken(other) => {
                    tracing::debug!(reason = end.reason, "overtaken");
                    (made, racing) = *other;
                }
                _ => {
                    self.learn(&gateway, &end);
                    self.shared.with(|core| core.reports.connected(end.was_online));
                    let is_mute = !end.was_online && matches!(end.next, Next::Again | Next::AtOnce);
                    if is_mute {
                        self.shared.listed.on_mute(&gateway, now());
                    }
                    self.shunned = is_mute.then(|| gateway.clone());
                    return (end, gateway);
                }
            }
        }
    }

    /// A draw in 0..1 for a connection's share of a GOAWAY's spread.
    fn spread_share(&mut self) -> f64 {
        self.backoff.share(Duration::from_secs(1)).as_secs_f64()
    }

    /// A race on all ways to the gateways, until one is through, none is, or the network changes.
    async fn attempt(&mut self, opening: &Arc<Opening>) -> Attempt {
        self.look_at_network();
        let shared = Arc::clone(&self.shared);
        let gateways = self.gateways();
        let first = gateways[0].clone();
        let highest = shared.policy.borrow().connect_timeout;
        let wait = shared.quality.wait(Step::Connect, highest);
        let mut network = shared.network.subscribe();
        // Of every change that comes behind this, either the race hears or the line that it makes.
        let (here, carrier) = shared.with(|core| {
            network.mark_unchanged();
            core.network_changed = false;
            (core.network.clone(), core.carrier.prefers())
        });
        let connector = self.connector.clone();
        let choice = carrier.map_or(Choice::Free, Choice::First);
        let mut racing =
            Racing::begin(here, connector, &shared, opening, gateways, wait.limit).choosing(choice);
        let made = tokio::select! {
            biased;
            made = racing.next() => made,
            Ok(()) = network.changed() => {
                shared.with(|core| (core.reconnect, core.network_changed) = (false, false));
                return Attempt::Moved;
            }
        };
        match made {
            Ok(made) => {
                self.own_first = false;
                Attempt::Made(Box::new((made, racing)))
            }
            Err(error) => {
                wait.failed();
                self.shunned = None;
                self.own_first = !self.own_first;
                let next = if racing.has_tried() { Next::Again } else { Next::Unsent };
                Attempt::Failed { reason: error.0, gateway: first, next }
            }
        }
    }

    /// The gateways to try, the first one first: those that were advised, where the session lives or one was reached
    /// last, and the others in turn. There is always one of the app's own.
    fn gateways(&mut self) -> Vec<Endpoint> {
        let endpoints = &self.config.endpoints;
        let place = self.place % endpoints.len();
        self.place = self.place.wrapping_add(1);
        let listed = self.shared.listed.turns(now());
        let (network, home, has_sent) =
            self.shared.with(|core| (core.network.place(), core.link.home.clone(), core.has_sent()));
        let policy = self.shared.strategies.borrow().race.clone();
        let last = self.shared.routes.last_gateway(&policy, network, now());
        let mut all = endpoints.iter().chain(&listed);
        let last = last.and_then(|last| all.find(|endpoint| endpoint.to_string() == last));
        // Whom a list does not name is left for those whom it names, unless it may be running a call. Behind its expiry
        // nobody vouches for those whom it named.
        let stays = |gateway: &Endpoint| listed.is_empty() || listed.contains(gateway);
        let last = last.filter(|last| stays(last)).cloned();
        let home = home.filter(|home| self.shared.listed.is_still_named(home) && (has_sent || stays(home)));
        let own_first = self.own_first && !listed.is_empty();
        let known = last.into_iter().chain(home).filter(|_| policy.enabled && !own_first);
        let turns = endpoints[place..].iter().chain(&endpoints[..place]).cloned();
        let turns = match own_first {
            true => alternate(turns, listed.iter().cloned()),
            false => alternate(listed.iter().cloned(), turns),
        };
        let mut gateways: Vec<Endpoint> = Vec::new();
        for gateway in self.advised.drain(..).rev().chain(known).chain(turns) {
            if gateways.len() < GATEWAYS_MAX && !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
        gateways.sort_by_key(|gateway| self.shunned.as_ref() == Some(gateway));
        gateways
    }

    /// What was learnt of a network without a label does not hold once it has changed: it may be another one.
    fn look_at_network(&mut self) {
        let changes = *self.shared.network.borrow();
        if std::mem::replace(&mut self.changes, changes) == changes {
            return;
        }
        self.shared.listed.on_network_changed();
        let network = self.shared.with(|core| core.network.clone());
        if network.key.is_empty() {
            self.shared.routes.forget(network.place());
        }
    }

    /// What the end of a connection says of what the gateway holds.
    fn learn(&self, gateway: &Endpoint, end: &LineEnd) {
        let says_something =
            !matches!(end.next, Next::Spelled | Next::WithPassword | Next::Overtaken(_) | Next::Never(_));
        if says_something {
            let now = SystemTime::now();
            self.shared.with(|core| core.known.on_line_end(gateway, end.was_online, now));
        }
    }

    /// What is to be remembered of a connection's end, and how long to wait; `was_up` says for how long it was online.
    fn after(&mut self, end: &LineEnd, gateway: &Endpoint, was_up: Option<Duration>) -> Delay {
        if end.was_online {
            self.flies = !matches!(end.next, Next::Elsewhere(_));
            // What worked is tried first.
            self.place = self.place.wrapping_sub(1);
        }
        let loss = match &end.next {
            Next::WithPassword => {
                self.advised.push(gateway.clone());
                return Delay::default();
            }
            Next::Elsewhere(endpoints) => {
                self.advised = endpoints.iter().rev().filter_map(|text| text.parse().ok()).collect();
                Loss::SentAway
            }
            Next::AtOnce => Loss::Own,
            _ if end.was_online => Loss::Closed,
            _ => Loss::Failed,
        };
        let kind = self.shared.with(|core| core.network.kind);
        let (policy, strategies) = (self.shared.policy.borrow(), self.shared.strategies.borrow());
        let max = match &end.next {
            Next::Unsent => policy.backoff_max.min(UNSENT_MAX),
            _ => policy.backoff_max,
        };
        let lost = Lost { loss, was_up };
        let delay = self.reconnect.delay(&strategies.reconnect, lost, policy.backoff_min.min(max), max);
        match kind {
            NetworkKind::None if delay != Delay::default() => Delay::of(policy.backoff_max),
            _ => delay,
        }
    }

    /// Waits, but not longer than until the network changes or somebody looks at the app; less from when the app waits
    /// for an answer.
    async fn pause(&mut self, delay: Delay) -> Pause {
        let shared = Arc::clone(&self.shared);
        let began = now();
        loop {
            let (closing, changed, wanted, is_awaited) = shared.with(|core| {
                let changed = std::mem::take(&mut core.reconnect) | std::mem::take(&mut core.network_changed);
                (core.closing.is_some(), changed, std::mem::take(&mut core.probe), core.is_awaited())
            });
            if closing {
                return Pause::Closed;
            }
            if changed || wanted {
                return Pause::Over;
            }
            let delay = if is_awaited { delay.awaited } else { delay.quiet };
            tokio::select! {
                () = sleep_until((began + delay).into()) => return Pause::Over,
                () = shared.supervisor.notified() => {}
            }
        }
    }
}

/// What came of an attempt to connect.
enum Attempt {
    Made(Box<(Reached, Racing)>),
    /// `gateway` was the first that was tried.
    Failed {
        reason: String,
        gateway: Endpoint,
        next: Next,
    },
    /// The network changed meanwhile.
    Moved,
}

/// One of each in turn, so that the second of a race is of the other kind.
fn alternate(
    mut first: impl Iterator<Item = Endpoint>,
    mut second: impl Iterator<Item = Endpoint>,
) -> Vec<Endpoint> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            return all;
        }
    }
}

/// The longest delay behind an attempt that sent nothing to any gateway, since no name was found: a device that was
/// started without a network is not told when there is one.
const UNSENT_MAX: Duration = Duration::from_secs(5);
/// Gateways of one race.
const GATEWAYS_MAX: usize = 8;

/// What every connection says first, made for the gateway that it leads to.
pub(crate) struct Greeting {
    pub(crate) shared: Arc<Shared>,
    config: ClientConfig,
    pub(crate) link: Arc<link::Config>,
    headers: Vec<Header>,
    /// The same as their hash is taken of them.
    spelled: Arc<SessionHeaders>,
}

impl Greeting {
    pub(crate) fn new(shared: Arc<Shared>, config: ClientConfig) -> Self {
        let mut link = link_config(&config);
        link.compressor = Some(Compressor::default().with_effort(shared.quality.effort.clone()));
        (link.dictionaries, link.header_dictionaries) =
            shared.with(|core| (core.dictionaries.shelf(), core.dictionaries.header_shelf()));
        let headers: Vec<Header> = config.session_headers.iter().map(header).collect();
        let spelled = Arc::new(SessionHeaders::of(&headers));
        Self { shared, config, link: Arc::new(link), headers, spelled }
    }

    /// What a connection to `gateway` is driven with; `spread_share` is a draw in 0..1.
    pub(crate) fn setup(&self, gateway: &Endpoint, spread_share: f64) -> Setup {
        let policy = self.shared.policy.borrow().clone();
        Setup {
            shared: Arc::clone(&self.shared),
            link: Arc::clone(&self.link),
            base: self.hello(gateway, &policy),
            gateway: gateway.clone(),
            headers: Arc::clone(&self.spelled),
            spread_share,
            welcome_timeout: self.shared.quality.wait(Step::FirstByte, policy.connect_timeout).limit,
            answered: true,
        }
    }

    fn hello(&self, gateway: &Endpoint, policy: &Policy) -> Hello {
        let config = &self.config;
        let filter = |filter: &String| Filter { filter: filter.clone(), qos: 1 };
        let mut hello = Hello {
            next_beat_s: policy.heartbeat.as_secs().try_into().unwrap_or(u32::MAX),
            topics: self.shared.with(|core| core.topics.iter().map(filter).collect()),
            agent: config.agent.clone(),
            policy_revision: policy.revision,
            endpoint_list: self.shared.listed.serial(),
            ..Hello::default()
        };
        let credentials = config.credentials.as_ref();
        self.shared.with(|core| {
            core.tokens.prove(gateway, credentials, Instant::now(), &mut hello);
            let now = SystemTime::now();
            core.known.greet(gateway, &self.headers, &self.spelled, &mut hello, now);
            hello.header_dictionary = core.known.header_dictionary(&self.link.header_dictionaries);
        });
        hello
    }
}

/// A session header as the link spells it.
pub(crate) fn header((name, value): &(String, String)) -> Header {
    Header { name: name.to_ascii_lowercase().into(), value: value.clone().into() }
}

/// Resolves when the app has closed the client.
async fn closed(shared: &Shared) -> String {
    loop {
        let notified = shared.supervisor.notified();
        if let Some(reason) = shared.with(|core| core.closing.clone()) {
            return reason;
        }
        notified.await;
    }
}

fn link_config(config: &ClientConfig) -> link::Config {
    let limits = &config.limits;
    let bytes = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    link::Config {
        limits: link::Limits {
            stream_window: limits.stream_window,
            connection_window: limits.connection_window,
            header_list_bytes_max: bytes(limits.header_list_bytes_max),
            message_bytes_max: bytes(limits.message_bytes_max),
            ..link::Limits::default()
        },
        ping_timeout: limits.pong_timeout,
        agent: config.agent.clone(),
        ..link::Config::default()
    }
}

#[cfg(test)]
mod tests;
