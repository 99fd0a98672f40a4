//! When a line ends by itself: behind GOAWAY, and where a connection beside it is there.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::{
    link::{CloseCode, GoAway},
    policy::{Leave, SentAway},
};

use super::{Line, LineEnd, Next};
use crate::core::{Core, now as clock};

/// GOAWAY came: when to go, and where.
pub(super) struct Leaving {
    when: Leave,
    pub(super) endpoints: Vec<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn on_goaway(&mut self, goaway: &GoAway) {
        tracing::info!(text = goaway.text, "the gateway asks to go elsewhere");
        let (spread, share) = (Duration::from_millis(goaway.spread_ms.into()), self.setup.spread_share);
        let policy = self.shared.strategies.borrow().handover.clone();
        let endpoints = goaway.endpoints.clone();
        let when = self.shared.with(|core| {
            core.advised = endpoints.iter().filter_map(|text| text.parse().ok()).collect();
            self.shared.listed.on_advice(&core.advised);
            core.wake_supervisor();
            core.handover.sent_away(&policy, SentAway { spread, share }, clock())
        });
        self.leaving = Some(Leaving { when, endpoints });
    }

    pub(super) fn check_leaving(&mut self, now: Instant) -> Option<LineEnd> {
        let Some(leaving) = &mut self.leaving else {
            // The gateway is the same: what runs goes on there.
            let (is_ready, for_carrier) =
                self.shared.with(|core| (core.handover.is_ready(), core.handover.is_for_carrier()));
            let why =
                if for_carrier { "another carrier needs fewer beats" } else { "another network has joined" };
            return is_ready.then(|| self.end(why.to_owned(), Next::Beside));
        };
        let (is_due, is_ready) = self.shared.with(|core| {
            let is_ready = core.handover.is_ready();
            let may_go = core.in_flight() == 0 && (is_ready || !leaving.opens(core, now));
            let is_due = now >= leaving.when.by || now >= leaving.when.from && may_go;
            if is_due {
                // Between this look and the end nothing may begin.
                core.end_line();
            }
            (is_due, is_ready)
        });
        if !is_due {
            return None;
        }
        let endpoints = std::mem::take(&mut leaving.endpoints);
        self.machine.control().close(CloseCode::Done, "");
        let next = if is_ready { Next::Beside } else { Next::Elsewhere(endpoints) };
        Some(self.end("the gateway asked to go elsewhere".to_owned(), next))
    }
}

impl Leaving {
    /// Whether new requests go by this line: until its turn to leave comes a client is served as before, and then while
    /// the next connection is being made.
    pub(super) fn opens(&self, core: &Core, now: Instant) -> bool {
        let Leave { from, opens_until, .. } = self.when;
        !core.is_refused && (now < from || now < opens_until && core.handover.is_under_way())
    }

    /// When there is something to do next.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let Leave { from, opens_until, by } = self.when;
        [from, opens_until].into_iter().filter(|at| *at > now).min().unwrap_or(by)
    }
}
