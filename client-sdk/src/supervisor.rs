//! Keeps the line up: connects, hands the connection over, and decides when and where to connect again.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;
use towline_protocols::{
    compress::Compressor,
    link::{self, Filter, Header, Hello, RpcErrorKind, SessionHeaders},
    policy::{NetworkKind, Step},
};

use crate::{
    backoff::Backoff,
    config::{ClientConfig, Endpoint, Policy},
    connect::{ConnectError, Connector, HttpConnector, Wire},
    core::{Shared, now},
    error::StartError,
    line::{self, LineEnd, Next, Opening, Setup},
    state::ConnectionState,
    timeline::Made,
};

pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    config: ClientConfig,
    link: Arc<link::Config>,
    headers: Vec<Header>,
    /// The same as their hash is taken of them.
    spelled: Arc<SessionHeaders>,
    connector: Connector,
    backoff: Backoff,
    /// The next endpoint to try.
    place: usize,
    /// Whether calls may leave before there is a connection: not when the gateway said that it goes, since then
    /// nobody would know any more whether they ran.
    flies: bool,
    /// Endpoints that a GOAWAY named, tried before the configured ones.
    advised: Vec<Endpoint>,
}

enum Pause {
    Over,
    Closed,
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>, config: ClientConfig) -> Result<Self, StartError> {
        let connector = Connector::new(&config)?;
        let mut link = link_config(&config);
        (link.dictionaries, link.header_dictionaries) =
            shared.with(|core| (core.dictionaries.shelf(), core.dictionaries.header_shelf()));
        let link = Arc::new(link);
        let headers: Vec<Header> = config.session_headers.iter().map(header).collect();
        let spelled = Arc::new(SessionHeaders::of(&headers));
        let mut backoff = Backoff::new(config.seed.unwrap_or_else(|| fastrand::u64(..)));
        let place = backoff.pick(config.endpoints.len());
        let (flies, advised) = (true, Vec::new());
        Ok(Self { shared, config, link, headers, spelled, connector, backoff, place, flies, advised })
    }

    /// What the machines of all connections are made with.
    pub(crate) fn link(&self) -> Arc<link::Config> {
        Arc::clone(&self.link)
    }

    /// What short connections are made with.
    pub(crate) fn http(&self) -> HttpConnector {
        HttpConnector::of(&self.connector)
    }

    /// Runs until the client is closed.
    pub(crate) async fn run(mut self) {
        let (kind, reason) = loop {
            self.shared.set_state(ConnectionState::Connecting);
            let shared = Arc::clone(&self.shared);
            let gateway = self.next_endpoint();
            let opening = Opening::new(self.setup(gateway), self.flies);
            let outcome = tokio::select! {
                outcome = self.attempt(&opening) => outcome,
                reason = closed(&shared) => break (RpcErrorKind::Cancelled, reason),
            };
            let end = match outcome {
                Ok(wire) => {
                    let end = Box::pin(line::run(wire, &opening)).await;
                    self.learn(opening.gateway(), &end);
                    self.shared.with(|core| core.reports.connected(end.was_online));
                    end
                }
                Err(error) => {
                    self.shared.with(|core| core.reports.connected(false));
                    LineEnd { reason: error.0, was_online: false, next: Next::Again }
                }
            };
            match end.next {
                Next::Never(kind) => break (kind, end.reason),
                // No failure, and the app is not told of one.
                Next::Spelled => {
                    tracing::debug!(reason = end.reason, "the gateway has to be told everything");
                    self.advised.push(opening.gateway().clone());
                    continue;
                }
                _ => {}
            }
            self.shared.with(|core| core.link_down(end.reason.clone()));
            self.shared.set_state(ConnectionState::Offline { reason: end.reason.clone() });
            tracing::debug!(reason = end.reason, "offline");
            let delay = self.after(&end, opening.gateway());
            if let Pause::Closed = self.pause(delay).await {
                break (RpcErrorKind::Cancelled, "closed by the app".to_owned());
            }
        };
        self.shared.with(|core| core.close(kind, &reason));
        self.shared.quality.keep();
        self.shared.set_state(ConnectionState::Closed { reason });
    }

    async fn attempt(&mut self, opening: &Arc<Opening>) -> Result<Wire, ConnectError> {
        let endpoint = opening.gateway().clone();
        let mut policy = self.shared.policy.borrow().clone();
        let shared = Arc::clone(&self.shared);
        let wait = shared.quality.wait(Step::Connect, policy.connect_timeout);
        policy.connect_timeout = wait.limit;
        let (flight, flies) = (opening.first_flight(), opening.may_fly());
        let made = self.connector.clone().connect(endpoint, policy, flight, flies).await;
        let wire = made.inspect_err(|_| wait.failed())?;
        wait.came();
        let made = Made { at: now(), times: wire.times() };
        self.shared.with(|core| core.made = Some(made));
        self.connector.learn(wire.transport(), Instant::now());
        Ok(wire)
    }

    fn next_endpoint(&mut self) -> Endpoint {
        if let Some(endpoint) = self.advised.pop() {
            return endpoint;
        }
        let endpoint = self.config.endpoints[self.place % self.config.endpoints.len()].clone();
        self.place = self.place.wrapping_add(1);
        endpoint
    }

    /// What the end of a connection says of what the gateway holds.
    fn learn(&self, gateway: &Endpoint, end: &LineEnd) {
        let says_something =
            !matches!(end.next, Next::Spelled | Next::WithPassword | Next::Unanswered | Next::Never(_));
        if says_something {
            let now = SystemTime::now();
            self.shared.with(|core| core.known.on_line_end(gateway, end.was_online, now));
        }
    }

    /// What is to be remembered of a connection's end, and how long to wait.
    fn after(&mut self, end: &LineEnd, gateway: &Endpoint) -> Duration {
        if end.was_online {
            self.flies = !matches!(end.next, Next::Elsewhere(_));
            self.backoff.reset();
            // What worked is tried first.
            self.place = self.place.wrapping_sub(1);
        }
        match &end.next {
            Next::AtOnce if end.was_online => {
                self.connector.network_changed();
                Duration::ZERO
            }
            Next::WithPassword => {
                self.advised.push(gateway.clone());
                Duration::ZERO
            }
            Next::Unanswered => {
                self.connector.quic_unanswered(Instant::now());
                Duration::ZERO
            }
            Next::Elsewhere(endpoints) => {
                self.advised = endpoints.iter().rev().filter_map(|text| text.parse().ok()).collect();
                Duration::ZERO
            }
            _ => {
                let policy = self.shared.policy.borrow();
                let delay = self.backoff.next(policy.backoff_min, policy.backoff_max);
                match self.shared.with(|core| core.network.kind) {
                    NetworkKind::None => policy.backoff_max,
                    _ => delay,
                }
            }
        }
    }

    /// Waits, but not longer than until the network changes or somebody looks at the app.
    async fn pause(&mut self, delay: Duration) -> Pause {
        let shared = Arc::clone(&self.shared);
        let waiting = sleep(delay);
        tokio::pin!(waiting);
        loop {
            let (closing, changed, wanted) = shared.with(|core| {
                let changed = std::mem::take(&mut core.reconnect) | std::mem::take(&mut core.network_changed);
                (core.closing.is_some(), changed, std::mem::take(&mut core.probe))
            });
            if closing {
                return Pause::Closed;
            }
            if changed {
                self.connector.network_changed();
                return Pause::Over;
            }
            if wanted {
                return Pause::Over;
            }
            tokio::select! {
                () = &mut waiting => return Pause::Over,
                () = shared.supervisor.notified() => {}
            }
        }
    }

    fn setup(&mut self, gateway: Endpoint) -> Setup {
        let policy = self.shared.policy.borrow().clone();
        Setup {
            shared: Arc::clone(&self.shared),
            link: Arc::clone(&self.link),
            base: self.hello(&gateway, &policy),
            gateway,
            headers: Arc::clone(&self.spelled),
            spread_share: self.backoff.share(Duration::from_secs(1)).as_secs_f64(),
            welcome_timeout: policy.connect_timeout,
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
        compressor: Some(Compressor::default()),
        ping_timeout: limits.pong_timeout,
        agent: config.agent.clone(),
        ..link::Config::default()
    }
}
