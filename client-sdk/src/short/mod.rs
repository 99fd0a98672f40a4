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

use tokio::{sync::watch, task::JoinSet, time::sleep_until};
use towline_protocols::link;

use self::{
    http::Pool,
    post::{Outcome, Post},
};
use crate::{
    backoff::Backoff,
    config::{ClientConfig, Endpoint},
    connect::HttpConnector,
    core::{Busy, Errand, Next, Shared, now},
    work,
};

/// Makes short connections as calls need them.
pub(crate) struct Shorts {
    shared: Arc<Shared>,
    config: Arc<ClientConfig>,
    link: Arc<link::Config>,
    pool: Arc<Pool>,
    backoff: Backoff,
    posts: JoinSet<Outcome>,
    /// What `posts` do.
    busy: Busy,
    /// After a failure, none begins before this.
    not_before: Instant,
    /// Of the configured gateways, the one that is tried first while the session was found nowhere.
    first: usize,
    /// Where the session was found when `unreached` was last zero.
    home: Option<Endpoint>,
    /// Gateways in a row that were not reached, from `home` on: the next one is tried.
    unreached: usize,
    /// Counts what was learnt of the network: what began before that says nothing more.
    round: u64,
    /// How often the network has changed.
    network: watch::Receiver<u64>,
}

impl Shorts {
    pub(crate) fn new(
        shared: Arc<Shared>,
        config: ClientConfig,
        link: Arc<link::Config>,
        connector: HttpConnector,
    ) -> Self {
        let mut backoff = Backoff::new(config.seed.unwrap_or_else(|| fastrand::u64(..)));
        Self {
            first: backoff.pick(config.endpoints.len()),
            network: shared.network.subscribe(),
            pool: Arc::new(Pool::new(connector)),
            config: Arc::new(config),
            posts: JoinSet::new(),
            busy: Busy::default(),
            not_before: now(),
            home: None,
            unreached: 0,
            round: 0,
            shared,
            link,
            backoff,
        }
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
                    Ok(outcome) => self.follow(outcome),
                    Err(error) => tracing::error!("the task of a short connection failed: {error}"),
                },
                Ok(()) = self.network.changed() => self.begin_anew(),
                () = sleep_until(due.unwrap_or_else(now).into()), if due.is_some() => {}
            }
        }
    }

    /// Begins what is due; when to look again.
    fn begin_due(&mut self) -> Option<Instant> {
        let answer_max = self.shared.policy.borrow().connect_timeout;
        let early = self.shared.with(|core| core.link.is_early);
        let waits = self.shared.quality.short_waits(early, self.config.short_after, answer_max);
        let answered = self.shared.quality.answered();
        self.shared.with(|core| core.answers_come_within(answered));
        while self.posts.len() < self.config.limits.short_calls_max {
            if now() < self.not_before {
                let is_wanted = self.shared.with(|core| core.wants_short(self.busy, &waits));
                return is_wanted.then_some(self.not_before);
            }
            match self.shared.with(|core| core.next_short(self.busy, &waits)) {
                Next::Begin(errand) => self.begin(errand),
                Next::At(due) => return Some(due),
                Next::Nothing => return None,
            }
        }
        None
    }

    fn begin(&mut self, errand: Errand) {
        self.busy.set(errand, true);
        let post = Post {
            shared: Arc::clone(&self.shared),
            config: Arc::clone(&self.config),
            link: Arc::clone(&self.link),
            pool: Arc::clone(&self.pool),
            gateway: self.gateway(),
            network: self.shared.network.subscribe(),
            round: self.round,
            errand,
        };
        self.posts.spawn(work::boxed(post.run()));
    }

    /// Where the session was found last; where that cannot be reached, the others in turn.
    fn gateway(&mut self) -> Endpoint {
        let home = self.shared.with(|core| core.link.home.clone());
        let home = home.filter(|home| self.shared.listed.is_still_named(home));
        if home != self.home {
            (self.home, self.unreached) = (home, 0);
        }
        // A listed place that takes QUIC alone takes no POSTs.
        let takes_none = |home| !self.shared.listed.transports_of(home).1;
        let unreached = self.unreached + usize::from(self.home.as_ref().is_some_and(takes_none));
        let endpoints = &self.config.endpoints;
        let place = |home: &Endpoint| endpoints.iter().position(|endpoint| endpoint == home);
        let place = match &self.home {
            // One that a GOAWAY named comes before the configured ones.
            Some(home) if place(home).is_none() => match unreached.checked_sub(1) {
                None => return home.clone(),
                Some(others) => self.first + others,
            },
            Some(home) => place(home).unwrap_or_default() + unreached,
            None => self.first + unreached,
        };
        endpoints[place % endpoints.len()].clone()
    }

    fn follow(&mut self, outcome: Outcome) {
        self.busy.set(outcome.errand, false);
        match outcome.result {
            None => {}
            Some(Ok(())) => self.backoff.reset(),
            Some(Err(failure)) => {
                tracing::debug!("short connection: {}", failure.reason);
                // What began beside one that failed only says the same again.
                if outcome.round != self.round {
                    return;
                }
                self.unreached += usize::from(!failure.reached && outcome.gateway == self.gateway());
                self.round += 1;
                let policy = self.shared.policy.borrow();
                self.not_before = now() + self.backoff.next(policy.backoff_min, policy.backoff_max);
            }
        }
    }

    /// What was learnt of the network before does not hold for the one that is there now.
    fn begin_anew(&mut self) {
        self.pool.clear();
        self.backoff.reset();
        (self.unreached, self.not_before) = (0, now());
        self.round += 1;
    }
}

/// How long one POST waits for its outcome, as the gateway is asked to; the next one goes on.
const WAIT: Duration = Duration::from_secs(20);
