//! Calls over short connections: an HTTPS POST to the same gateway, in the same session, under the same number, so that
//! it runs once (PROTOCOL.md, section 21).
//!
//! ```text
//!  core::next_short --> Errand --> http: a connection that is there, or a new one
//!                                    |  nothing was said: the call has not gone anywhere
//!                                  post: HELLO, REQUEST --> WELCOME, the answer --> core, as from the link
//!                                    |
//!                       over without the call's end: the next POST asks for it, or the link
//! ```

mod http;
mod post;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep_until};
use towline_protocols::link;

use self::{
    http::Pool,
    post::{Outcome, Post},
};
use crate::{
    backoff::Backoff,
    config::{ClientConfig, Endpoint, ShortCalls},
    connect::HttpConnector,
    core::{Errand, Next, Shared, now},
    error::StartError,
};

/// Makes short connections as calls need them.
pub(crate) struct Shorts {
    shared: Arc<Shared>,
    config: Arc<ClientConfig>,
    link: Arc<link::Config>,
    pool: Arc<Pool>,
    backoff: Backoff,
    posts: JoinSet<Outcome>,
    /// One of `posts` asks for the session's name.
    naming: bool,
    /// After a failure, none begins before this.
    not_before: Instant,
    /// Attempts in a row that reached no gateway: others are tried then.
    unreached: usize,
}

impl Shorts {
    /// `None` where the configuration admits none.
    pub(crate) fn new(
        shared: Arc<Shared>,
        config: ClientConfig,
        link: Arc<link::Config>,
    ) -> Result<Option<Self>, StartError> {
        if config.short_mode() == ShortCalls::Off {
            return Ok(None);
        }
        let pool = Arc::new(Pool::new(HttpConnector::new(&config)?));
        let backoff = Backoff::new(config.seed.unwrap_or_else(|| fastrand::u64(..)));
        let (posts, not_before) = (JoinSet::new(), now());
        let config = Arc::new(config);
        Ok(Some(Self { shared, config, link, pool, backoff, posts, naming: false, not_before, unreached: 0 }))
    }

    /// Runs until the client is closed.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let notified = shared.short.notified();
            if shared.with(|core| core.closing.is_some()) {
                return;
            }
            let due = self.begin_due();
            tokio::select! {
                () = notified => {}
                Some(done) = self.posts.join_next() => match done {
                    Ok(outcome) => self.follow(&outcome),
                    Err(error) => tracing::error!("the task of a short connection failed: {error}"),
                },
                () = sleep_until(due.unwrap_or_else(now).into()), if due.is_some() => {}
            }
        }
    }

    /// Begins what is due; when to look again.
    fn begin_due(&mut self) -> Option<Instant> {
        while self.posts.len() < self.config.limits.short_calls_max {
            if now() < self.not_before {
                let is_wanted = self.shared.with(|core| core.wants_short(self.naming));
                return is_wanted.then_some(self.not_before);
            }
            match self.shared.with(|core| core.next_short(self.naming)) {
                Next::Begin(errand) => self.begin(errand),
                Next::At(due) => return Some(due),
                Next::Nothing => return None,
            }
        }
        None
    }

    fn begin(&mut self, errand: Errand) {
        self.naming |= errand == Errand::Name;
        let post = Post {
            shared: Arc::clone(&self.shared),
            config: Arc::clone(&self.config),
            link: Arc::clone(&self.link),
            pool: Arc::clone(&self.pool),
            gateway: self.gateway(),
            errand,
        };
        self.posts.spawn(Box::pin(post.run()));
    }

    /// Where the session was found last; where that cannot be reached, the others in turn.
    fn gateway(&self) -> Endpoint {
        let endpoints = &self.config.endpoints;
        let home = self.shared.with(|core| core.link.home.clone());
        let first = home.as_ref().and_then(|home| endpoints.iter().position(|endpoint| endpoint == home));
        match home {
            // One that a GOAWAY named.
            Some(home) if first.is_none() && self.unreached == 0 => home,
            _ => endpoints[(first.unwrap_or_default() + self.unreached) % endpoints.len()].clone(),
        }
    }

    fn follow(&mut self, outcome: &Outcome) {
        self.naming &= outcome.errand != Errand::Name;
        match &outcome.result {
            Ok(()) => {
                self.backoff.reset();
                self.unreached = 0;
            }
            Err(failure) => {
                tracing::debug!("short connection: {}", failure.reason);
                self.unreached = if failure.reached { 0 } else { self.unreached.wrapping_add(1) };
                let policy = self.shared.policy.borrow();
                self.not_before = now() + self.backoff.next(policy.backoff_min, policy.backoff_max);
            }
        }
    }
}

/// How long one POST waits for its outcome, as the gateway is asked to; the next one goes on.
const WAIT: Duration = Duration::from_secs(20);
