//! The state behind its lock, what is beside it, and who is woken when a step has left work.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use towline_protocols::policy::Strategies;

use super::{Again, Core, now};
use crate::{
    config::{ClientConfig, Policy},
    dictionaries::Dictionaries,
    durable::{Book, Record, newest_session},
    endpoints::Listed,
    error::StartError,
    identity::Identity,
    policy::InForce,
    quality::Observed,
    reports::Traffic,
    routes::Routes,
    state::ConnectionState,
    tickets::Tickets,
};

/// The shared state and how its parts wake each other.
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Wakes the line: something is to be sent.
    pub(crate) line: Notify,
    /// Wakes whoever takes pushes.
    pub(crate) pushes: Notify,
    /// Wakes whoever makes short connections.
    pub(crate) short: Notify,
    /// Wakes the supervisor: the app closed the client, or the network changed.
    pub(crate) supervisor: Notify,
    /// Counts how often the app has said that connections are to be made anew.
    pub(crate) network: watch::Sender<u64>,
    pub(crate) states: watch::Sender<ConnectionState>,
    pub(crate) policy: watch::Sender<Policy>,
    /// What the strategies are told; whoever asks one reads it here, each time.
    pub(crate) strategies: watch::Sender<Strategies>,
    pub(crate) in_force: InForce,
    pub(crate) quality: Observed,
    /// Durable calls; with an identity file only.
    pub(crate) book: Option<Arc<Book>>,
    pub(crate) traffic: Traffic,
    /// What is known of the ways to gateways.
    pub(crate) routes: Routes,
    /// Where the operator's list leads.
    pub(crate) listed: Arc<Listed>,
    /// TLS sessions of this run of the app and of those before.
    pub(crate) tickets: Tickets,
}

impl Shared {
    /// Also the durable calls of earlier runs.
    pub(crate) fn new(config: &ClientConfig) -> Result<(Self, Vec<Record>), StartError> {
        let identity = Identity::open(config)?;
        let (book, waiting) = Book::open(config, &identity)?.unzip();
        let tickets = Tickets::open(config, &identity);
        let waiting = waiting.unwrap_or_default();
        let listed = Arc::new(Listed::open(config, &identity));
        let dictionaries = Dictionaries::open(config, Arc::clone(&listed))
            .map_err(|error| StartError::Dictionaries(error.to_string()))?;
        let strategies = watch::Sender::new(config.strategies.clone());
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let again = Again::new(strategies.subscribe(), !seed);
        let mut core = Core::new(identity, dictionaries, config, again);
        core.session = match newest_session(&waiting) {
            Some(session) => core.session.resuming(session),
            None => core.session.recalling(core.last_session.id()),
        };
        core.never_indexed = config.never_indexed()?;
        if let Some(path) = &config.identity_file {
            let failed = |source| StartError::Identity { path: path.clone(), source };
            core.remember_pushes(path).map_err(failed)?;
        }
        let policy = watch::Sender::new(config.policy.clone());
        let in_force = InForce::new(config, policy.clone(), strategies.clone());
        // What the last run was told.
        core.beats.heartbeat.set_policy(strategies.borrow().heartbeat.clone());
        core.liveness.set_policy(strategies.borrow().liveness.clone());
        let book = book.map(|book| Arc::new(book.obeying(strategies.subscribe())));
        let shared = Self {
            book,
            core: Mutex::new(core),
            line: Notify::new(),
            short: Notify::new(),
            pushes: Notify::new(),
            supervisor: Notify::new(),
            network: watch::Sender::new(0),
            states: watch::Sender::new(ConnectionState::Offline { reason: "starting".to_owned() }),
            policy,
            quality: Observed::open(config.identity_file.as_deref(), &strategies),
            routes: Routes::open(config.identity_file.as_deref(), now()),
            listed,
            tickets,
            strategies,
            in_force,
            traffic: Traffic::default(),
        };
        Ok((shared, waiting))
    }

    /// Runs one step on the state; the line is woken when the step left work for it.
    pub(crate) fn with<T>(&self, step: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock();
        let result = step(&mut core);
        let (wake, wake_short) = (std::mem::take(&mut core.wake_line), std::mem::take(&mut core.link.wake));
        let wake_supervisor = std::mem::take(&mut core.wake_supervisor);
        drop(core);
        if wake_supervisor {
            self.supervisor.notify_one();
        }
        if wake {
            self.line.notify_one();
        }
        if wake_short {
            self.short.notify_one();
        }
        result
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.states.send_if_modified(|current| {
            // What is closed stays closed.
            let changes = *current != state && !matches!(current, ConnectionState::Closed { .. });
            if changes {
                *current = state;
            }
            changes
        });
    }
}
