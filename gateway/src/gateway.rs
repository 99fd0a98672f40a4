//! What every connection of one gateway shares.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    access::{Acl, Action, Denials, Judgement, Leave},
    auth::{
        By, Checked, Credentials, DenyReason, Guesses, Identity, PasswordFileError, Refusal,
        hook::{Allowed, Hook, Question, Verdict},
        jwt::{self, Issuer, TokenRefused},
    },
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
    request::Origin,
    session::{Clock, Sessions},
    settings::{Authentication, Settings},
    shadow::Shadows,
    snapshot::Snapshot,
    store::{Store, StoreError},
    throttle::Throttle,
    upstream::Upstreams,
};

/// Topics of one client about which the hook is asked at one time.
const ASKED_AT_ONCE: usize = 8;
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

    /// Whether a client may publish or subscribe to a topic; `None` if the hook has to be asked, which takes a while. What
    /// is denied is counted, and logged once for each reason.
    pub fn permits_now(&self, origin: &Origin, action: Action, topic: &str) -> Option<Leave> {
        let snapshot = self.snapshot();
        let judgement = snapshot.acl.judge(origin, action, topic, None);
        if judgement != Judgement::Ask {
            return Some(self.leave(judgement, origin, action, topic));
        }
        // Settings name no rule that asks without a hook.
        let hook = snapshot.hook.as_ref()?;
        let answer = hook.known(&Question::Access(origin, action, Acl::judged(action, topic)))?;
        let judgement = snapshot.acl.judge(origin, action, topic, Some(&answer.verdict));
        Some(self.leave(judgement, origin, action, topic))
    }

    /// The same, with the hook asked where it has to be.
    pub async fn permits(&self, origin: &Origin, action: Action, topic: &str) -> Leave {
        if let Some(leave) = self.permits_now(origin, action, topic) {
            return leave;
        }
        let snapshot = self.snapshot.load_full();
        let Some(hook) = &snapshot.hook else { return Leave::Unknown };
        match hook.ask(&Question::Access(origin, action, Acl::judged(action, topic))).await {
            Ok(answer) => {
                let judgement = snapshot.acl.judge(origin, action, topic, Some(&answer.verdict));
                self.leave(judgement, origin, action, topic)
            }
            // Counted and logged there.
            Err(_) => Leave::Unknown,
        }
    }

    /// [`Gateway::permits`] of several topics in their order, of which some are known already.
    pub async fn permits_each(
        &self,
        origin: &Origin,
        action: Action,
        topics: &[&str],
        known: &[Option<Leave>],
    ) -> Vec<Leave> {
        let mut leaves: Vec<_> =
            topics.iter().enumerate().map(|(at, _)| known.get(at).copied().flatten()).collect();
        for (topics, leaves) in topics.chunks(ASKED_AT_ONCE).zip(leaves.chunks_mut(ASKED_AT_ONCE)) {
            let mut asked = Vec::new();
            for (topic, leave) in topics.iter().zip(leaves) {
                if leave.is_none() {
                    asked.push(async { *leave = Some(self.permits(origin, action, topic).await) });
                }
            }
            join_all(asked).await;
        }
        leaves.into_iter().map(|leave| leave.unwrap_or(Leave::Unknown)).collect()
    }

    fn leave(&self, judgement: Judgement<'_>, origin: &Origin, action: Action, topic: &str) -> Leave {
        let rule = match judgement {
            Judgement::Allowed => return Leave::Granted,
            Judgement::Ask => return Leave::Unknown,
            Judgement::Denied(rule) => rule,
        };
        self.metrics.acl_denials.with_label_values(&[action.label(), rule]).inc();
        if !self.denials.log(rule, origin, action, topic) {
            self.metrics.limit_hit("denials_logged");
        }
        Leave::Denied
    }

    /// Decides whether a client may use the gateway, and as whom. A listener without authentication admits
    /// everybody without a user, whatever they claim to be; one that goes by certificates asks nobody for
    /// a password.
    ///
    /// # Errors
    /// Why it may not, and whether it may come again.
    pub async fn authenticate(
        &self,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let snapshot = self.snapshot.load_full();
        let listener = &*origin.listener;
        let proven = match snapshot.listener(listener).map(|listener| listener.settings.authentication) {
            Some(Authentication::None) => return Ok(Identity::default()),
            Some(Authentication::Password) => self.check_password(&snapshot, origin, credentials).await,
            Some(Authentication::Certificate) => self.check_certificate(&snapshot, origin, credentials).await,
            None => return Err(Refusal::Unauthorized),
        };
        let outcome = match &proven {
            Ok(_) => "ok",
            Err(refusal) if refusal.is_temporary() => "unavailable",
            Err(_) => "refused",
        };
        self.metrics.logins.with_label_values(&[listener, outcome]).inc();
        if let Err(Refusal::Denied(reason, text)) = &proven
            && !self.login_denials.log_login(*reason, text.as_deref(), origin, credentials)
        {
            self.metrics.limit_hit("denials_logged");
        }
        proven
    }

    async fn check_certificate(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let user = origin.identity.as_ref().and_then(|identity| identity.user());
        let user = user.ok_or(Refusal::Unauthorized)?;
        // A password is nobody's business here.
        let credentials = Credentials { user: Some(user), password: &[], ..credentials };
        if let Some(hook) = snapshot.hook.as_ref().filter(|hook| hook.judges_certificates())
            && let Some(identity) = ask_who(hook, origin, credentials).await?
        {
            return Ok(identity);
        }
        Ok(Identity::by(By::Certificate, user.clone()))
    }

    async fn check_token(&self, issuer: &Issuer, credentials: Credentials<'_>) -> Result<Identity, Refusal> {
        self.issuer_keys.ensure_started();
        let verify = || issuer.verify(&self.issuer_keys, credentials, SystemTime::now());
        let mut verified = verify();
        if verified == Err(TokenRefused::UnknownKey) && self.issuer_keys.look_again().await {
            verified = verify();
        }
        verified.map_err(|error| {
            tracing::debug!(client_id = ?credentials.client_id, %error, "a token was refused");
            Refusal::Unauthorized
        })
    }

    /// A token is its issuer's, and nobody guesses one; everything else is looked at unless too much was wrong before.
    async fn check_password(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        if let Some(issuer) = &snapshot.issuer
            && Issuer::is_token(credentials.password)
        {
            return self.check_token(issuer, credentials).await;
        }
        let user = credentials.user.unwrap_or_default();
        if self.guesses_too_much(origin, user) {
            return Err(Refusal::TooManyGuesses);
        }
        let checked = self.look_at_password(snapshot, origin, credentials).await;
        match &checked {
            Ok(_) => self.guesses.forget(origin.peer.ip(), user),
            Err(Refusal::Unauthorized | Refusal::Denied(DenyReason::Credentials, _)) => {
                self.note_wrong(origin, user);
            }
            Err(_) => {}
        }
        checked
    }

    /// Whether passwords of a user from there were wrong too often lately.
    pub(crate) fn guesses_too_much(&self, origin: &Origin, user: &str) -> bool {
        self.guesses.refused_for(origin.peer.ip(), user, mqtt::now()).is_some()
    }

    /// A password was wrong, or not proven.
    pub(crate) fn note_wrong(&self, origin: &Origin, user: &str) {
        let settings = self.snapshot().settings.auth.guesses;
        let met = self.guesses.note(&settings, origin.peer.ip(), user, mqtt::now());
        for &limit in &met {
            self.metrics.limit_hit(limit);
        }
        if !met.is_empty()
            && let Some(held_back) = self.refusals.pass(Instant::now())
        {
            let (peer, listener) = (origin.peer.ip(), &*origin.listener);
            tracing::warn!(%peer, listener, ?met, held_back, "too many wrong passwords");
        }
    }

    /// The hook is asked before the password file.
    async fn look_at_password(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let Credentials { user, password, .. } = credentials;
        if let Some(hook) = &snapshot.hook
            && let Some(identity) = ask_who(hook, origin, credentials).await?
        {
            return Ok(identity);
        }
        let user = user.ok_or(Refusal::Unauthorized)?;
        let wait = || self.metrics.limit_hit("auth.password_checks_max");
        match snapshot.users.verify(user, password, &self.password_checks, wait).await {
            Checked::Right => Ok(Identity::by(By::PasswordFile, user.into())),
            Checked::Wrong => Err(Refusal::Unauthorized),
            Checked::NoTurn => Err(Refusal::Unavailable),
        }
    }
}

/// Who a client is by the hook; `None` if another is to say.
async fn ask_who(
    hook: &Arc<Hook>,
    origin: &Origin,
    credentials: Credentials<'_>,
) -> Result<Option<Identity>, Refusal> {
    // Counted and logged there.
    let answer = hook.ask(&Question::Connect(origin, credentials)).await.map_err(|_| Refusal::Unavailable)?;
    match answer.verdict {
        Verdict::Allow(allowed) => {
            let Allowed { user, claims, until } = Allowed::clone(&allowed);
            if until.is_some_and(|until| until <= SystemTime::now()) {
                return Err(Refusal::Denied(DenyReason::Credentials, None));
            }
            let user = user.or_else(|| credentials.user.map(Into::into));
            Ok(Some(Identity { user, claims, until, by: By::Hook }))
        }
        Verdict::Deny(reason, text) => Err(Refusal::Denied(reason, text)),
        Verdict::NotMine => Ok(None),
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
