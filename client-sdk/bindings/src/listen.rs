//! What an app listens for: pushes, the state of the line, how good the network is.

use std::sync::Arc;

use tokio::sync::watch;
use towline_client::{ConnectionState, Pushes, QualityLevel};

use crate::{
    error::TowlineError,
    source::{Feed, Listens, Source},
};

/// A message that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Push {
    /// Counts up within the session.
    pub id: u64,
    /// Topic name.
    pub topic: String,
    /// Media type, may be empty.
    pub content_type: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Urgency, 0 (first) to 7 (last).
    pub priority: u8,
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
#[repr(u8)]
pub enum Transport {
    /// QUIC.
    Quic = 0,
    /// TCP, with TLS unless the options say plaintext.
    Tcp = 1,
    /// An HTTPS POST.
    Post = 2,
}

/// The state of the line. Calls are taken in every state but `Closed`.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum LineState {
    /// An attempt is under way.
    Connecting,
    /// The gateway answered.
    Online {
        /// By what.
        transport: Transport,
        /// Whether the session was still there: its requests and pushes go on.
        resumed: bool,
        /// Whether the gateway took the first flight as early data (0-RTT).
        early_data: bool,
    },
    /// Between attempts.
    Offline {
        /// Why the last one ended.
        reason: String,
    },
    /// Shut down, or refused by the gateway for good.
    Closed {
        /// Why.
        reason: String,
    },
}

/// How good a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
#[repr(u8)]
pub enum Quality {
    /// Nothing is known of it yet.
    Unknown = 0,
    /// Most attempts fail, or a round trip takes seconds.
    Poor = 1,
    /// Like 2G.
    Weak = 2,
    /// Like 3G.
    Fair = 3,
    /// Like 4G or better.
    Good = 4,
}

/// Hands out pushes, each once: the more urgent ones first, those of one topic in order. A push is acknowledged to the
/// gateway when the next one is asked for, or by `done`: one that is not done when the listener is released, or when the
/// app dies, comes again.
#[derive(uniffi::Object)]
pub struct PushListener {
    source: Source<PushFeed>,
}

/// Hands out the states of the line, the present one first. Who asks seldom sees the newest, not all.
#[derive(uniffi::Object)]
pub struct StateListener {
    source: Source<StateFeed>,
}

/// Hands out how good the network is, what is known at present first. Who asks seldom sees the newest, not all.
#[derive(uniffi::Object)]
pub struct QualityListener {
    source: Source<QualityFeed>,
}

#[uniffi::export]
impl PushListener {
    /// Waits for the next push, and acknowledges the one before; `None` once the client is closed.
    pub async fn next(&self) -> Result<Option<Push>, TowlineError> {
        self.source.next().await
    }

    /// Acknowledges the push that was handed out last, for who asks for no other.
    pub fn done(&self) {
        // Whoever waits for the next one has acknowledged it; and one that found its asker gone was not handed out.
        self.source.settled(|pushes| pushes.0.done());
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

#[uniffi::export]
impl StateListener {
    /// Waits for a state that was not handed out before; `None` behind `Closed`.
    pub async fn next(&self) -> Result<Option<LineState>, TowlineError> {
        self.source.next().await
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

#[uniffi::export]
impl QualityListener {
    /// Waits until the network is judged anew; `None` once the client is closed.
    pub async fn next(&self) -> Result<Option<Quality>, TowlineError> {
        self.source.next().await
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

impl PushListener {
    pub(crate) fn on(client: &towline_client::Client) -> Arc<Self> {
        Arc::new(Self { source: Source::new(PushFeed(client.pushes())) })
    }
}

impl StateListener {
    pub(crate) fn on(client: &towline_client::Client) -> Arc<Self> {
        Arc::new(Self { source: Source::new(StateFeed(Some(fresh(client.states())))) })
    }
}

impl QualityListener {
    pub(crate) fn on(client: &towline_client::Client) -> Arc<Self> {
        let feed = QualityFeed { levels: fresh(client.quality_levels()), states: client.states() };
        Arc::new(Self { source: Source::new(feed) })
    }
}

/// The present value is one that has not been seen.
fn fresh<T>(mut values: watch::Receiver<T>) -> watch::Receiver<T> {
    values.mark_changed();
    values
}

impl Listens for PushListener {
    type Feed = PushFeed;

    fn source(&self) -> &Source<PushFeed> {
        &self.source
    }

    fn handled(&self) {
        self.done();
    }
}

pub(crate) struct PushFeed(Pushes);

impl Feed for PushFeed {
    type Item = Push;

    async fn next(&mut self) -> Option<Push> {
        self.0.next().await.map(Push::from)
    }
}

impl Listens for StateListener {
    type Feed = StateFeed;

    fn source(&self) -> &Source<StateFeed> {
        &self.source
    }
}

/// `None` behind the last state.
pub(crate) struct StateFeed(Option<watch::Receiver<ConnectionState>>);

impl Feed for StateFeed {
    type Item = LineState;

    async fn next(&mut self) -> Option<LineState> {
        let states = self.0.as_mut()?;
        states.changed().await.ok()?;
        let state = LineState::from(states.borrow_and_update().clone());
        if let LineState::Closed { .. } = state {
            self.0 = None;
        }
        Some(state)
    }
}

impl Listens for QualityListener {
    type Feed = QualityFeed;

    fn source(&self) -> &Source<QualityFeed> {
        &self.source
    }
}

pub(crate) struct QualityFeed {
    levels: watch::Receiver<Option<QualityLevel>>,
    states: watch::Receiver<ConnectionState>,
}

impl Feed for QualityFeed {
    type Item = Quality;

    async fn next(&mut self) -> Option<Quality> {
        let Self { levels, states } = self;
        tokio::select! {
            biased;
            _ = states.wait_for(|state| matches!(state, ConnectionState::Closed { .. })) => None,
            changed = levels.changed() => changed.ok().map(|()| Quality::from(*levels.borrow_and_update())),
        }
    }
}

impl From<towline_client::Push> for Push {
    fn from(push: towline_client::Push) -> Self {
        Self {
            id: push.id,
            topic: push.topic,
            content_type: push.content_type,
            payload: push.payload.into(),
            priority: push.priority.urgency(),
        }
    }
}

impl From<towline_client::Transport> for Transport {
    fn from(transport: towline_client::Transport) -> Self {
        match transport {
            towline_client::Transport::Quic => Self::Quic,
            towline_client::Transport::Tcp => Self::Tcp,
            towline_client::Transport::Post => Self::Post,
        }
    }
}

impl From<ConnectionState> for LineState {
    fn from(state: ConnectionState) -> Self {
        match state {
            ConnectionState::Connecting => Self::Connecting,
            ConnectionState::Online { transport, resumed, early_data } => {
                Self::Online { transport: transport.into(), resumed, early_data }
            }
            ConnectionState::Offline { reason } => Self::Offline { reason },
            ConnectionState::Closed { reason } => Self::Closed { reason },
        }
    }
}

impl From<Option<QualityLevel>> for Quality {
    fn from(level: Option<QualityLevel>) -> Self {
        match level {
            None => Self::Unknown,
            Some(QualityLevel::Poor) => Self::Poor,
            Some(QualityLevel::Weak) => Self::Weak,
            Some(QualityLevel::Fair) => Self::Fair,
            Some(QualityLevel::Good) => Self::Good,
        }
    }
}
