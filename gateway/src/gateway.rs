//! What every connection of one gateway shares.

mod leave;
mod login;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    access::Denials,
    auth::{Guesses, PasswordFileError, jwt},
    delayed::Delayed,
    dictionaries::Library,
    drain::Drain,
    early::WaitingRoom,
    hub::Hub,
    learned::Learned,
    listener::{ConnectionSlots, Parked},
    metrics::Metrics,
    mqtt,
    outbox::Outboxes,
    parking::Lot,
    policy::Policies,
    rate::Rates,
    session::{Clock, Sessions},
    settings::Settings,
    shadow::Shadows,
    snapshot::Snapshot,
    store::{Store, StoreError},
    throttle::Throttle,
    upstream::Upstreams,
    withdrawal::Withdrawals,
};

/// At most one refused connection per period is logged; all are counted.
const REFUSAL_LOG_PERIOD: Duration = Duration::from_secs(1);

/// The state of one gateway. A process runs one; tests run several side by side.
pub struct Gateway {
    /// What control published last; the path reads it, never writes.
    pub snapshot: ArcSwap<Snapshot>,
    /// Held while a snapshot is made from the one before and put in force.
    pub publishing: Mutex<()>,
    /// Counters and histograms.
    pub metrics: Metrics,
    /// Whether the gateway is on its way out, and who is still at work.
    pub drain: Drain,
    /// Connections open and connections allowed.
    pub slots: ConnectionSlots,
    /// Places for handshakes that run at one time.
    pub handshakes: Arc<Semaphore>,
    /// Keys of tokens' issuer, as far as they are fetched.
    pub issuer_keys: Arc<jwt::Remote>,
    /// Who was wrong with passwords lately.
    pub guesses: Guesses,
    /// Places for costly checks of passwords that run at one time.
    pub password_checks: Arc<Semaphore>,
    /// Places for what came as early data and waits.
    pub early: WaitingRoom,
    /// Keeps refused connections from flooding the log.
    pub refusals: Throttle,
    /// What was denied and has been logged.
    pub denials: Denials,
    /// The same of clients that the hook did not admit: apart, since anybody can cause them.
    pub login_denials: Denials,
    /// Clients, users and subscriptions.
    pub hub: Hub,
    /// Link sessions.
    pub sessions: Sessions,
    /// Quiet connections, which wait without a task.
    pub parking: Lot<Parked>,
    /// What survives a restart.
    pub store: Store,
    /// MQTT sessions and retained messages.
    pub mqtt: mqtt::Broker,
    /// Messages that wait in the store for somebody who takes them in order.
    pub outboxes: Outboxes,
    /// Upstream MQTT brokers.
    pub upstreams: Upstreams,
    /// Messages that are to be published later.
    pub delayed: Delayed,
    /// Device shadows.
    pub shadows: Shadows,
    /// Connections whose clients have to prove themselves anew.
    pub withdrawals: Withdrawals,
    /// How fast clients may be.
    pub rates: Rates,
    /// What is published for compression, and samples to train on.
    pub dictionaries: Library,
    /// What clients have learnt of networks.
    pub learned: Learned,
    /// How clients are to behave.
    pub policies: Policies,
}

impl Gateway {
    /// Builds the state from `settings`, with the store in `data_dir`: reads the files that the settings
    /// name, opens no socket.
    ///
    /// # Errors
    /// Names the file that could not be used and why.
    pub fn open(settings: Settings) -> Result<Arc<Self>, StartError> {
        let store = Store::open(&settings.data_dir)?;
        let dictionaries = Library::open(&settings, true)?;
        let folder = settings.data_dir.clone();
        Self::assemble(settings, store, dictionaries, Some(&folder))
    }

    /// The same with a store in memory: nothing is written, nothing survives.
    ///
    /// # Errors
    /// As [`Gateway::open`].
    pub fn build(settings: Settings) -> Result<Arc<Self>, StartError> {
        Self::with_store(settings, Store::in_memory()?)
    }

    /// The same with a store of the caller's.
    ///
    /// # Errors
    /// As [`Gateway::open`].
    pub fn with_store(settings: Settings, store: Store) -> Result<Arc<Self>, StartError> {
        let dictionaries = Library::open(&settings, false)?;
        Self::assemble(settings, store, dictionaries, None)
    }

    /// `folder` is where keys of the gateway's own are kept.
    fn assemble(
        settings: Settings,
        store: Store,
        dictionaries: Library,
        folder: Option<&Path>,
    ) -> Result<Arc<Self>, StartError> {
        let metrics = Metrics::new();
        let hub = Hub::counting(settings.mqtt.topic_levels_max, &metrics);
        let sessions = Sessions::restore(&settings, hub.clone(), store.clone(), &metrics, Clock::system())?;
        let handshakes = Arc::new(Semaphore::new(settings.limits.handshakes_max));
        let issuer_keys = jwt::Remote::new(metrics.jwks_fetches.clone());
        issuer_keys.follow(settings.auth.jwt.as_ref().and_then(|jwt| jwt.jwks.as_ref()));
        let password_checks = Arc::new(Semaphore::new(settings.auth.password_checks_max));
        let mqtt = mqtt::Broker::restore(&settings, &hub, &store, &metrics)?;
        let outboxes = Outboxes::restore(&store, &metrics)?;
        let upstreams = Upstreams::restore(&store, &metrics)?;
        let delayed = Delayed::restore(&store)?;
        let shadows = Shadows::restore(&store)?;
        hub.presence().begin(&settings, &metrics.limit_hits);
        metrics.count_store(store.counts());
        let snapshot = Snapshot::build(settings, &metrics, dictionaries.shelves(), folder)?;
        Ok(Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            publishing: Mutex::new(()),
            metrics,
            drain: Drain::new(),
            slots: ConnectionSlots::default(),
            handshakes,
            issuer_keys,
            guesses: Guesses::default(),
            password_checks,
            early: WaitingRoom::new(),
            refusals: Throttle::new(REFUSAL_LOG_PERIOD),
            denials: Denials::default(),
            login_denials: Denials::default(),
            hub,
            sessions,
            parking: Lot::default(),
            store,
            mqtt,
            outboxes,
            upstreams,
            delayed,
            shadows,
            withdrawals: Withdrawals::default(),
            rates: Rates::default(),
            dictionaries,
            learned: Learned::default(),
            policies: Policies::default(),
        }))
    }

    /// The snapshot of this moment. Hold it for a step, not across a wait, so that reloads take effect.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The embedded store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A socket could not be bound.
    #[error("listener \"{listener}\": cannot bind {transport} {address}: {source}; {advice}")]
    Bind {
        /// Name of the listener in the configuration.
        listener: String,
        /// `TCP` or `UDP`.
        transport: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
        /// What the operator can do.
        advice: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The password file has a malformed line.
    #[error("{}:{error}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Line and fault.
        error: PasswordFileError,
    },
    /// A certificate or key file is unusable.
    #[error("{}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The settings contradict each other or the machine.
    #[error("{0}")]
    Settings(String),
}
