//! A second connection beside the line's own: made while that one serves, so that no call waits for it.
//!
//! ```text
//!  GOAWAY, a network has joined,
//!  or another carrier is better    ──> Handover ──Connect──> a race beside the line ──made──> the line ends by itself
//!                                          ^                            │                     (`Next::Beside`), and
//!                                          └────────── failed ──────────┘                     goes on over this one
//! ```
//!
//! Nothing is said on it before the line moves: a HELLO takes the session over.

use std::{pin::pin, sync::Arc};

use tokio::time::sleep_until;
use towline_protocols::policy::{HandoverAction, Step};

use super::Supervisor;
use crate::{
    config::Endpoint,
    connect::{Choice, ConnectError, Racing, Reached},
    core::{Shared, now},
    line::{LineEnd, Next, Opening},
};

/// A connection, and what a line begins with there.
pub(super) struct Second {
    pub(super) made: Reached,
    pub(super) racing: Racing,
    pub(super) opening: Arc<Opening>,
}

/// How far it is.
enum Stage {
    None,
    Racing(Box<Racing>, Arc<Opening>),
    Made(Box<Second>),
}

impl Supervisor {
    /// Drives a line to `present` to its end, and makes a second connection when one is wanted. Returns it if the line
    /// is to go on there.
    pub(super) async fn beside(
        &mut self,
        line: impl Future<Output = LineEnd>,
        present: &Endpoint,
    ) -> (LineEnd, Option<Box<Second>>) {
        let shared = Arc::clone(&self.shared);
        let mut line = pin!(line);
        let mut stage = Stage::None;
        let end = loop {
            while let Some(action) = shared.with(|core| core.handover.poll(now())) {
                stage = match action {
                    HandoverAction::GiveUp => {
                        shared.with(|core| core.joining = None);
                        Stage::None
                    }
                    HandoverAction::Connect => self.race_beside(present),
                };
            }
            let due = shared.with(|core| core.handover.poll_timeout());
            tokio::select! {
                biased;
                end = &mut line => break end,
                made = stage.made() => stage = stage.on_made(&shared, made),
                () = shared.supervisor.notified() => {}
                () = sleep_until(due.unwrap_or_else(now).into()), if due.is_some() => {}
            }
        };
        let goes_on = matches!(end.next, Next::Beside | Next::Elsewhere(_) | Next::Again | Next::AtOnce);
        let is_ready = shared.line_ended(&end, goes_on);
        match stage {
            Stage::Made(second) if is_ready && goes_on => (end, Some(second)),
            _ => (end, None),
        }
    }

    /// Begins a second connection: to the gateway that has the session, over a network that has joined or by another
    /// carrier; otherwise to another one than that, which goes, unless it has named itself.
    fn race_beside(&mut self, present: &Endpoint) -> Stage {
        let shared = Arc::clone(&self.shared);
        let highest = shared.policy.borrow().connect_timeout;
        let (joining, carrier, advised) = shared.with(|core| {
            let joining = core.joining.clone().filter(|_| core.handover.is_for_network());
            let carrier = core.carrier.moves_to().filter(|_| core.handover.is_for_carrier());
            (joining, carrier, core.advised.clone())
        });
        let is_at_home = joining.is_some() || carrier.is_some();
        // Its list has expired: what is there goes on, and nothing new is made.
        if is_at_home && !shared.listed.is_still_named(present) {
            tracing::debug!("no second connection: no list names the gateway any more");
            let policy = shared.strategies.borrow().handover.clone();
            shared.with(|core| core.handover.failed(&policy, now()));
            return Stage::None;
        }
        let (gateways, network, limit) = match joining {
            // What is known of the network in use says nothing of the other.
            Some(network) => (vec![present.clone()], network, highest),
            None => {
                let gateways = match carrier {
                    Some(_) => vec![present.clone()],
                    None => self.gateways_but(present, advised),
                };
                let limit = shared.quality.wait(Step::Connect, highest).limit;
                (gateways, shared.with(|core| core.network.clone()), limit)
            }
        };
        let choice = carrier.map_or(Choice::Free, Choice::Only);
        let opening = Opening::new(Arc::clone(&self.greeting), self.spread_share(), false);
        let racing = Racing::begin(network, self.connector.clone(), &shared, &opening, gateways, limit)
            .choosing(choice);
        Stage::Racing(Box::new(racing), opening)
    }

    /// The gateways to try, `present` last where it is not `advised`. Nothing is lost yet: whose turn it is stays.
    fn gateways_but(&mut self, present: &Endpoint, advised: Vec<Endpoint>) -> Vec<Endpoint> {
        let place = self.place;
        let names_itself = advised.contains(present);
        self.advised = advised.into_iter().rev().collect();
        let mut gateways = self.gateways();
        gateways.sort_by_key(|gateway| gateway == present && !names_itself);
        self.place = place;
        gateways
    }
}

impl Stage {
    /// What came of the race; for ever pending where there is none.
    async fn made(&mut self) -> Result<Reached, ConnectError> {
        match self {
            Self::Racing(racing, _) => racing.next().await,
            Self::None | Self::Made(_) => std::future::pending().await,
        }
    }

    fn on_made(self, shared: &Shared, made: Result<Reached, ConnectError>) -> Self {
        let Self::Racing(racing, opening) = self else { return self };
        let policy = shared.strategies.borrow().handover.clone();
        match made {
            Ok(made) => {
                let is_wanted = shared.with(|core| {
                    core.touch_control();
                    core.handover.made(&policy, now())
                });
                match is_wanted {
                    true => Self::Made(Box::new(Second { made, racing: *racing, opening })),
                    false => Self::None,
                }
            }
            Err(error) => {
                tracing::debug!("the second connection: {error}");
                shared.with(|core| core.handover.failed(&policy, now()));
                Self::None
            }
        }
    }
}

impl Shared {
    /// The line is over. Whether it may go on over the second connection.
    fn line_ended(&self, end: &LineEnd, goes_on: bool) -> bool {
        let (is_ready, joined) = self.with(|core| {
            let is_ready = core.handover.is_ready();
            let is_at_home = core.handover.is_for_network() || core.handover.is_for_carrier();
            let sent_away = matches!(end.next, Next::Elsewhere(_) | Next::Beside) && !is_at_home;
            core.handover.line_ended(sent_away, now());
            core.advised.clear();
            (is_ready, core.joining.take())
        });
        // One that broke meanwhile is made anew on the network that has joined.
        if let Some(network) = joined.filter(|_| goes_on) {
            self.is_on(network);
        }
        is_ready
    }
}
