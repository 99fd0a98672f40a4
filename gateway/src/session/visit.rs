//! Connections that come to a session while their handshake is under way. What they say may be a repeat of
//! what another connection said, so they hold nothing: they begin requests that the session has never seen,
//! and the connection that holds the session goes on as if they were not there.
//!
//! ```text
//!   HELLO in early data --> Sessions::visit --> Lease of a visitor --establish--> the session's holder
//!                                 |                |  begin: New -> run, recorded first
//!                                 v                v         known -> later
//!                     not here: wait for      dropped, or a holder of the same or a higher epoch comes:
//!                     the handshake's end     what it began goes on in the session
//! ```
//!
//! Why a request cannot run twice: it runs for a session that is named by the id of its ledger, which no
//! restart and no other node shares; the ledger remembers its number before anything is forwarded; and when
//! the requests of a session are forgotten the session gets another id.

use std::sync::Arc;

use towline_protocols::link::{Hello, RpcError, server::Admission};

use super::{
    Changed, Consumer, Lease, LinkSession, Login, OpenError, Revoked, Sessions,
    link_session::{Adopted, Identity, State},
    secret::SecretHash,
    signal::Signal,
};

/// Visitors of one session at one time: a client races a few addresses, and each may carry early data.
const VISITORS_MAX: usize = 8;

/// A connection that visits.
pub(super) struct Visitor {
    epoch: u64,
    pub(super) signal: Arc<Signal>,
    /// Requests that it began; bounded by `limits.streams_max` as all that run.
    pub(super) begun: Vec<u64>,
}

/// What HELLO in early data led to.
pub struct Visited {
    /// The connection's hold on nothing but what it begins.
    pub lease: Lease,
    /// WELCOME.session_id; the session is resumed.
    pub session_id: u64,
    /// Of the requests that the client waits for: never seen here, safe to send again.
    pub unknown: Vec<u64>,
    /// The others, whose answers follow when the visitor has become the holder.
    pub awaited: Vec<u64>,
}

/// What becomes of a visitor whose handshake is complete.
pub struct Established {
    /// Of the requests that the client waits for: their answers, from where the client has them.
    pub attached: Vec<Consumer>,
    /// Of the requests that the client waits for: those without an answer, with what RESET is to say.
    pub refused: Vec<(u64, RpcError)>,
    /// What became of the subscriptions in HELLO.
    pub subscriptions: Changed,
}

impl Sessions {
    /// Lets a connection visit the session that HELLO names. `None`: only a complete handshake may tell what
    /// becomes of it. Changes nothing that outlives the visit.
    pub fn visit(&self, hello: &Hello, user: Option<Arc<str>>) -> Option<Visited> {
        let secret_hash = SecretHash::of(&hello.session_secret).ok()?;
        let identity = Identity { client_id: hello.client_id.as_str().into(), user, secret_hash };
        let session = self.get(&identity.client_id)?;
        session.check_owner(&identity).ok()?;
        session.visit(hello)
    }

    /// Whether this very login of a client was found right by the same users.
    pub fn knows_login(&self, client_id: &str, login: &Login) -> bool {
        self.get(client_id).is_some_and(|session| session.knows_login(login))
    }
}

impl LinkSession {
    fn visit(self: &Arc<Self>, hello: &Hello) -> Option<Visited> {
        let mut state = self.lock();
        if state.has_ended() || hello.session_id != state.id() || !state.is_newer(hello.epoch) {
            return None;
        }
        if state.visitors.len() >= VISITORS_MAX {
            self.context.limit_hit("session_visitors_max");
            return None;
        }
        let signal = Arc::new(Signal::default());
        let visitor = Visitor { epoch: hello.epoch, signal: Arc::clone(&signal), begun: Vec::new() };
        state.visitors.push(visitor);
        let waiting = hello.waiting.iter().map(|waiting| waiting.seq);
        let (unknown, awaited) = waiting.partition(|&seq| state.is_new(seq));
        let session_id = state.id();
        drop(state);
        let lease = Lease::new(Arc::clone(self), signal);
        Some(Visited { lease, session_id, unknown, awaited })
    }

    fn knows_login(&self, login: &Login) -> bool {
        self.lock().login.as_deref().is_some_and(|known| known.is_same(login))
    }

    /// Makes a visitor the holder.
    pub(super) fn establish(
        self: &Arc<Self>,
        hello: &Hello,
        awaited: &[u64],
        signal: &Arc<Signal>,
    ) -> Result<Established, OpenError> {
        let Adopted { unknown, attached, mut refused, subscriptions, .. } = self.adopt_by(hello, signal)?;
        // WELCOME has said that the session holds these; the connection that carried them took them along.
        let lost = unknown.into_iter().filter(|seq| awaited.contains(seq));
        refused.extend(lost.map(|seq| (seq, not_whole())));
        Ok(Established { attached, refused, subscriptions })
    }
}

impl State {
    /// Whether the session has never seen request `seq`.
    pub(super) fn is_new(&self, seq: u64) -> bool {
        self.ledger.as_ref().is_none_or(|ledger| matches!(ledger.admit(seq), Admission::New))
    }

    pub(super) fn visitor_mut(&mut self, signal: &Arc<Signal>) -> Option<&mut Visitor> {
        self.visitors.iter_mut().find(|visitor| Arc::ptr_eq(&visitor.signal, signal))
    }

    /// The visitor of `signal` is a visitor no more; what it had begun.
    pub(super) fn visitor_left(&mut self, signal: &Arc<Signal>) -> Option<Vec<u64>> {
        let place = self.visitors.iter().position(|visitor| Arc::ptr_eq(&visitor.signal, signal))?;
        let visitor = self.visitors.swap_remove(place);
        // A session that nobody visits owns no list.
        self.visitors.shrink_to_fit();
        Some(visitor.begun)
    }

    /// A holder of `epoch` came: visitors that are not newer will never hold the session. What they had
    /// begun.
    pub(super) fn dismiss_visitors(&mut self, epoch: u64, why: Revoked) -> Vec<u64> {
        let mut begun = Vec::new();
        self.visitors.retain_mut(|visitor| {
            let stays = visitor.epoch > epoch;
            if !stays {
                visitor.signal.revoke(why);
                begun.append(&mut visitor.begun);
            }
            stays
        });
        begun
    }
}

/// The error of a request whose body the connection before had not sent to its end.
fn not_whole() -> RpcError {
    use towline_protocols::link::{Execution, RpcErrorKind};
    let text = "the connection ended before the request had arrived whole";
    RpcError::new(RpcErrorKind::Cancelled, Execution::NotRun, text)
}
