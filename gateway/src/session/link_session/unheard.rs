//! A session whose client may not have heard of its id, because the WELCOME that told it was lost.
//!
//! ```text
//!  HELLO id 0, epoch 4, waiting [1]   --> made here, as id Z; 1 may have run elsewhere
//!    REQUEST 2 --> runs    REQUEST 3 --> lost, as is WELCOME
//!  HELLO id 0, epoch 5, waiting [1 2 3]   id 0 again: no WELCOME has named Z
//!    2 is in the ledger                 --> its answer
//!    1 was sent before Z was made       --> may have run
//!    3 was sent on epoch 4, so to Z only --> has not run
//! ```
//!
//! PROTOCOL.md, section 9, says why nothing runs twice this way.

use towline_protocols::link::Hello;

use super::State;
use crate::session::Context;

/// What a session knows of a client that has not named it; `None` once it has.
#[derive(Default)]
pub(super) struct Unheard(Option<Claim>);

/// The HELLO at which the session got its id.
struct Claim {
    /// The id in it.
    session_id: u64,
    /// Requests for which the client waited then: who has them is unknown.
    doubtful: Box<[u64]>,
}

impl Unheard {
    /// The session gets an id at `hello`.
    pub(super) fn at(hello: &Hello) -> Self {
        let doubtful = hello.waiting.iter().map(|waiting| waiting.seq).collect();
        Self(Some(Claim { session_id: hello.session_id, doubtful }))
    }
}

impl State {
    /// Whether the client of `hello` names the session; what it had not heard it has then.
    pub(in crate::session) fn is_named_by(&mut self, hello: &Hello) -> bool {
        let is_named = hello.session_id == self.id;
        if is_named {
            self.unheard = Unheard::default();
        }
        is_named
    }

    /// Whether the client of `hello`, whose epoch is not the session's yet, goes on with the session; what may have
    /// run elsewhere is noted as such.
    pub(super) fn goes_on(&mut self, hello: &Hello, context: &Context) -> bool {
        if self.is_named_by(hello) {
            return true;
        }
        // A client that waits for nothing may as well have been started again, and number from 1.
        let claim = self.unheard.0.as_ref().filter(|claim| claim.session_id == hello.session_id);
        let Some(claim) = claim.filter(|_| !hello.waiting.is_empty()) else { return false };
        // Whatever it has sent on the connections between the two was not sent here.
        let follows = self.epoch.checked_add(1) == Some(hello.epoch);
        let in_doubt = |seq: &u64| !follows || claim.doubtful.contains(seq);
        let in_doubt: Vec<u64> = hello.waiting.iter().map(|waiting| waiting.seq).filter(in_doubt).collect();
        for seq in in_doubt {
            if self.is_new(seq) {
                self.ledger_mut(context).doubt(seq);
            }
        }
        true
    }
}
