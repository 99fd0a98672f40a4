//! Link sessions: what outlives a client's connections.
//!
//! ```text
//!   HELLO --> Sessions::open --> Lease (one connection's hold on its session)
//!                                  | begin, attach     -> Exchange: a request and its recorded answer
//!                                  | next_push         -> pushes that wait for the client
//!                                  | next_event        -> what to do next, or that a newer connection
//!                                  v                      has taken the session over
//!                               LinkSession (also the client's Mailbox in the hub)
//! ```
//!
//! A session belongs to who knows its secret and, where the listener authenticates, to its user. Of the
//! connections that prove this, the one with the highest epoch holds it. A session without a connection
//! is kept for `session.expiry`; identity, subscriptions and pushes also survive a restart of the gateway,
//! outcomes of requests where their route is durable. Beside the one that holds it, others *visit* a session: while
//! their handshake is under way (`visit`), or for the length of a POST (`short_visit`).

mod client;
mod clock;
mod durable_shares;
mod exchange;
mod headers;
mod held;
mod lease;
mod link_session;
mod login;
mod outcome_record;
mod push_queue;
pub(crate) mod record;
mod restore;
mod secret;
mod short_visit;
mod signal;
mod subscribe;
mod sweep;
#[cfg(test)]
mod tests;
mod upload;
mod visit;

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;
use dashmap::{DashMap, Entry};
use prometheus::{IntCounterVec, IntGauge};
use towline_protocols::link::{CloseCode, Hello, Partial, RpcError, SessionHeaders};

pub(crate) use self::upload::{BodySender, Credits, TakenBytes, channel};
pub use self::{
    clock::Clock,
    exchange::{Consumer, Ended, Exchange, ExchangePart, Next, Producer, Settling},
    lease::{Attach, Begin, Lease, PushNotSent},
    link_session::LinkSession,
    login::Login,
    push_queue::PendingPush,
    short_visit::ShortVisit,
    signal::{Revoked, SessionEvent},
    subscribe::Changed,
    sweep::sweep,
    visit::{Established, Visited},
};
use self::{
    durable_shares::DurableShares,
    held::Holders,
    link_session::{EndingMarks, Identity},
    secret::SecretHash,
    signal::Signal,
    sweep::Due,
};
use crate::{
    hub::Hub,
    metrics::Metrics,
    receipts::Receipts,
    request::Origin,
    settings::{self, Settings},
    store::{Store, StoreError},
};

/// Every link session of a gateway, live or away.
pub struct Sessions {
    table: DashMap<Arc<str>, Arc<LinkSession>>,
    /// Entries in `table`; asking the table itself would lock all of it.
    count: AtomicUsize,
    context: Arc<Context>,
}

/// What all sessions share.
struct Context {
    settings: ArcSwap<settings::Session>,
    short: ArcSwap<settings::Short>,
    streams_max: AtomicUsize,
    sessions_max: AtomicUsize,
    hub: Hub,
    store: Store,
    clock: Clock,
    receipts: Receipts,
    held: Holders,
    /// Outcomes in the store.
    durable: DurableShares,
    ending_marks: EndingMarks,
    limit_hits: IntCounterVec,
    sessions: IntGauge,
    due: Due,
}

/// A connection that holds or visits its session.
pub(crate) struct Present(Weak<Signal>);

impl Present {
    /// Has the connection end, if it is still there: its client has to prove itself anew.
    pub(crate) fn end(&self) {
        if let Some(signal) = self.0.upgrade() {
            signal.revoke(Revoked::Unproven);
        }
    }
}

/// What HELLO led to.
pub struct Opened {
    /// The connection's hold on the session.
    pub lease: Lease,
    /// WELCOME.session_id.
    pub session_id: u64,
    /// WELCOME.seq_min.
    pub seq_min: u64,
    /// False: the session that HELLO speaks of is not known here; what was sent before may have run.
    pub resumed: bool,
    /// Of the requests that the client waits for: never seen here, safe to send again.
    pub unknown: Vec<u64>,
    /// Of the requests that the client waits for: their answers, from where the client has them.
    pub attached: Vec<Consumer>,
    /// Of the requests that the client waits for: those whose answer is gone, with what RESET is to say.
    pub refused: Vec<(u64, RpcError)>,
    /// WELCOME.partial: of these the client's half goes on over this connection, by `Lease::take_up`.
    pub partial: Vec<Partial>,
    /// What became of the subscriptions in HELLO.
    pub subscriptions: Changed,
    /// The header fields that HELLO spells out or names.
    pub headers: Option<Arc<SessionHeaders>>,
    /// The session keeps them, so that a later HELLO may name them.
    pub headers_kept: bool,
}

/// Why HELLO was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A field of HELLO breaks a rule.
    #[error("{0}")]
    Malformed(&'static str),
    /// The session exists and has another secret.
    #[error("the session secret does not fit the client id: whoever began the session has another")]
    WrongSecret,
    /// The session exists and belongs to another user.
    #[error("the client id belongs to another user")]
    WrongUser,
    /// A client of another protocol is known by this id.
    #[error("the client id is in use by an MQTT client")]
    ClientIdTaken,
    /// A connection of the same or a higher epoch holds the session.
    #[error("a newer connection holds the session")]
    TakenOver,
    /// What vouched for the client was withdrawn since.
    #[error("who the client is has to be found out again")]
    Unproven,
    /// HELLO names header fields by their hash, and the session does not have them, or is not there.
    #[error("the session headers that HELLO names are not known here: spell them out")]
    UnknownHeaders,
    /// `limits.sessions_max` is met.
    #[error("the gateway keeps no more sessions (limits.sessions_max)")]
    SessionsFull,
    /// `short.posts_max` is met.
    #[error("too many short connections of this client are open (short.posts_max)")]
    ShortFull,
}

impl OpenError {
    /// The code that CLOSE is to carry.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::Malformed(_) => CloseCode::ProtocolError,
            Self::WrongSecret | Self::WrongUser | Self::ClientIdTaken => CloseCode::Unauthorized,
            Self::TakenOver => CloseCode::TakenOver,
            Self::Unproven => CloseCode::Unavailable,
            Self::UnknownHeaders => CloseCode::UnknownReference,
            Self::SessionsFull | Self::ShortFull => CloseCode::LimitExceeded,
        }
    }
}

impl Sessions {
    /// Brings back the sessions that `store` holds, and registers them in `hub`.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is not of this version.
    pub fn restore(
        settings: &Settings,
        hub: Hub,
        store: Store,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let receipts = Receipts::restore(settings, store.clone(), metrics, clock.clone())?;
        let context = Context {
            settings: ArcSwap::from_pointee(settings.session.clone()),
            short: ArcSwap::from_pointee(settings.short.clone()),
            streams_max: settings.limits.streams_max.into(),
            sessions_max: settings.limits.sessions_max.into(),
            hub,
            store,
            clock,
            receipts,
            held: Holders::default(),
            durable: DurableShares::default(),
            ending_marks: EndingMarks::default(),
            limit_hits: metrics.limit_hits.clone(),
            sessions: metrics.sessions.clone(),
            due: Due::default(),
        };
        let sessions = Self { table: DashMap::new(), count: AtomicUsize::new(0), context: Arc::new(context) };
        sessions.restore_all()?;
        Ok(sessions)
    }

    /// Opens the session that HELLO names for a connection whose `user` has been authenticated, if its
    /// listener authenticates. A connection that held the session before is told so.
    ///
    /// # Errors
    /// The session stays as it was.
    pub fn open(&self, hello: &Hello, user: Option<Arc<str>>) -> Result<Opened, OpenError> {
        let identity = Identity::claimed(hello, user)?;
        // The entry is held to the end, so that a session cannot expire while it is taken up.
        match self.table.entry(identity.client_id.clone()) {
            Entry::Occupied(held) => {
                held.get().check_owner(&identity)?;
                held.get().adopt(hello)
            }
            Entry::Vacant(_) if !hello.session_headers_hash.is_empty() => Err(OpenError::UnknownHeaders),
            Entry::Vacant(vacant) => {
                let session = self.create(identity)?;
                vacant.insert(session.clone());
                session.adopt(hello)
            }
        }
    }

    /// Follows a reload. Sessions that have more than the new bounds keep it; what a session remembers of
    /// its requests keeps the bounds that it began with.
    pub fn follow(&self, settings: &Settings) {
        self.context.receipts.follow(settings);
        self.context.settings.store(Arc::new(settings.session.clone()));
        self.context.short.store(Arc::new(settings.short.clone()));
        self.context.streams_max.store(settings.limits.streams_max, Ordering::Relaxed);
        self.context.sessions_max.store(settings.limits.sessions_max, Ordering::Relaxed);
    }

    /// What backends are told of their pushes.
    pub fn receipts(&self) -> &Receipts {
        &self.context.receipts
    }

    /// The session of a client.
    pub fn get(&self, client_id: &str) -> Option<Arc<LinkSession>> {
        self.table.get(client_id).map(|session| session.clone())
    }

    /// The present connections whose origins `concerns` says it of.
    pub(crate) fn present(&self, concerns: &dyn Fn(&Origin) -> bool) -> Vec<Present> {
        let signals = self.table.iter().flat_map(|session| session.signals());
        signals
            .filter(|signal| signal.is_meant(concerns))
            .map(|signal| Present(Arc::downgrade(&signal)))
            .collect()
    }

    /// Sessions kept, live or away.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that large parts of requests, answers and pushes of all sessions hold.
    pub fn held_bytes(&self) -> usize {
        self.context.held.bytes()
    }

    /// Makes a session for a client that has none, if there is room; the caller holds its place in the table.
    fn create(&self, identity: Identity) -> Result<Arc<LinkSession>, OpenError> {
        if self.len() >= self.sessions_max() {
            self.context.limit_hit("limits.sessions_max");
            return Err(OpenError::SessionsFull);
        }
        self.admit(identity)
    }

    fn sessions_max(&self) -> usize {
        self.context.sessions_max.load(Ordering::Relaxed)
    }

    /// Makes a session and registers it, however many there are.
    fn admit(&self, identity: Identity) -> Result<Arc<LinkSession>, OpenError> {
        let session = LinkSession::new(identity, self.context.clone());
        session.register().map_err(|_| OpenError::ClientIdTaken)?;
        if self.context.may_hold_marks(session.client_id()) {
            session.wait_for_marks();
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.context.sessions.inc();
        Ok(session)
    }

    /// Ends a session whose place in the table the caller has emptied or holds.
    fn discard(&self, session: &Arc<LinkSession>) {
        session.end();
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.context.sessions.dec();
    }
}

impl Drop for Sessions {
    /// The hub holds every session, and every session the hub; and what waits on connections that are
    /// still up must reach the store.
    fn drop(&mut self) {
        for session in self.table.iter() {
            session.suspend();
        }
    }
}

impl Context {
    fn limit_hit(&self, limit: &'static str) {
        self.limit_hits.with_label_values(&[limit]).inc();
    }
}

impl Identity {
    /// Who HELLO says that the client is, whose `user` was authenticated.
    fn claimed(hello: &Hello, user: Option<Arc<str>>) -> Result<Self, OpenError> {
        check_client_id(&hello.client_id)?;
        let secret_hash = SecretHash::of(&hello.session_secret)?;
        Ok(Self { client_id: hello.client_id.as_str().into(), user, secret_hash })
    }
}

/// Ids stand in store keys, logs and metrics, so they are short and printable.
fn check_client_id(client_id: &str) -> Result<(), OpenError> {
    const CLIENT_ID_BYTES_MAX: usize = 64;
    let is_printable = client_id.bytes().all(|byte| byte.is_ascii_graphic());
    if client_id.is_empty() || client_id.len() > CLIENT_ID_BYTES_MAX || !is_printable {
        return Err(OpenError::Malformed("HELLO.client_id must be 1 to 64 printable ASCII characters"));
    }
    Ok(())
}
