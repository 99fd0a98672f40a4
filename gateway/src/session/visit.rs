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

use towline_protocols::link::{Hello, RpcError, SessionHeaders, server::Admission};

use super::{
    Changed, Consumer, Lease, LinkSession, Login, OpenError, Revoked, Sessions,
    headers::Spoken,
    link_session::{Adopted, Identity, State},
    signal::Signal,
};

/// Visitors of one session at one time: a client races a few addresses, and each may carry early data.
const VISITORS_MAX: usize = 8;

/// Requests of visitors that no holder has taken over; one more waits for its handshake.
const BEGUN_MAX: usize = 256;

/// Who visits a session, and what they began. One word while nobody does.
#[derive(Default)]
pub(super) struct Visitors(Option<Box<Lists>>);

#[derive(Default)]
struct Lists {
    present: Vec<Visitor>,
    /// Kept when its visitor goes, until a holder comes whose HELLO was written behind it.
    begun: Vec<Begun>,
}

/// A connection that visits.
struct Visitor {
    epoch: u64,
    signal: Arc<Signal>,
    /// What its requests carry, whatever the session's fields are when it becomes the holder.
    headers: Spoken,
    role: Role,
}

/// Why a connection visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its handshake is under way.
    Early,
    /// It is a short connection, and never holds the session (`short_visit`).
    Short,
}

/// A request that a visitor began. What a HELLO of its epoch or a lower one says of the client's requests
/// does not speak of it.
struct Begun {
    seq: u64,
    epoch: u64,
    /// The visitor's.
    signal: Arc<Signal>,
}

/// What HELLO in early data led to.
pub struct Visited {
    /// The connection's hold on nothing but what it begins.
    pub lease: Lease,
    /// WELCOME.session_id; the session is resumed.
    pub session_id: u64,
    /// WELCOME.seq_min.
    pub seq_min: u64,
    /// Of the requests that the client waits for: never seen here, safe to send again.
    pub unknown: Vec<u64>,
    /// The others, whose answers follow when the visitor has become the holder.
    pub awaited: Vec<u64>,
    /// The header fields that HELLO spells out or names.
    pub headers: Option<Arc<SessionHeaders>>,
    /// The session keeps them, so that a later HELLO may name them.
    pub headers_kept: bool,
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
        let identity = Identity::claimed(hello, user).ok()?;
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
        // How far a request has come is not known before the connection that brings it is shut out.
        if Self::has_upload_for(&state, hello) {
            return None;
        }
        if state.visitors.count(Role::Early) >= VISITORS_MAX {
            self.context.limit_hit("session_visitors_max");
            return None;
        }
        let headers = self.headers_in(&state, hello).ok()?;
        let signal = state.visitors.enter(hello.epoch, Role::Early, headers.clone());
        let waiting = hello.waiting.iter().map(|waiting| waiting.seq);
        let (unknown, awaited) = waiting.partition(|&seq| state.is_new(seq));
        let (session_id, seq_min) = (state.id(), state.seq_min());
        drop(state);
        let lease = Lease::new(Arc::clone(self), signal);
        let headers_kept = self.would_keep(&headers);
        Some(Visited { lease, session_id, seq_min, unknown, awaited, headers, headers_kept })
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
        let Adopted { unknown, attached, mut refused, subscriptions, .. } =
            self.adopt_by(hello, signal, true)?;
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

    /// Whether a visitor may begin one more request.
    pub(super) fn may_begin(&mut self) -> bool {
        self.tidy_begun();
        self.visitors.all_begun().len() < BEGUN_MAX
    }

    /// What the session remembers no more need not be noted: so the list is bounded by what it remembers.
    pub(super) fn tidy_begun(&mut self) {
        if self.visitors.all_begun().len() < BEGUN_MAX {
            return;
        }
        let mut visitors = std::mem::take(&mut self.visitors);
        if let Some(lists) = &mut visitors.0 {
            lists.begun.retain(|begun| self.exchange(begun.seq).is_some());
        }
        self.visitors = visitors;
    }
}

impl Visitors {
    fn lists(&mut self) -> &mut Lists {
        self.0.get_or_insert_default()
    }

    fn present(&self) -> &[Visitor] {
        self.0.as_ref().map_or(&[], |lists| &lists.present)
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = &Arc<Signal>> {
        self.present().iter().map(|visitor| &visitor.signal)
    }

    fn all_begun(&self) -> &[Begun] {
        self.0.as_ref().map_or(&[], |lists| &lists.begun)
    }

    /// Why the connection of `signal` visits, if it does.
    pub(super) fn role(&self, signal: &Arc<Signal>) -> Option<Role> {
        let visitor = self.present().iter().find(|visitor| Arc::ptr_eq(&visitor.signal, signal));
        visitor.map(|visitor| visitor.role)
    }

    pub(super) fn count(&self, role: Role) -> usize {
        self.present().iter().filter(|visitor| visitor.role == role).count()
    }

    /// A connection of `epoch` begins to visit.
    pub(super) fn enter(&mut self, epoch: u64, role: Role, headers: Spoken) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        self.lists().present.push(Visitor { epoch, signal: Arc::clone(&signal), headers, role });
        signal
    }

    /// The header fields of the visitor of `signal`; the outer `None`: it is none.
    pub(super) fn headers_of(&self, signal: &Arc<Signal>) -> Option<Spoken> {
        let visitor = self.present().iter().find(|visitor| Arc::ptr_eq(&visitor.signal, signal));
        visitor.map(|visitor| visitor.headers.clone())
    }

    /// Whether request `seq` was begun by the visitor of `signal`.
    pub(super) fn has_begun(&self, signal: &Arc<Signal>, seq: u64) -> bool {
        self.all_begun().iter().any(|begun| begun.seq == seq && Arc::ptr_eq(&begun.signal, signal))
    }

    /// Notes that the visitor of `signal` begins request `seq`; no effect for a holder.
    pub(super) fn begins(&mut self, signal: &Arc<Signal>, seq: u64) {
        let visitor = self.present().iter().find(|visitor| Arc::ptr_eq(&visitor.signal, signal));
        let begun = visitor.map(|visitor| Begun { seq, epoch: visitor.epoch, signal: Arc::clone(signal) });
        let Some(begun) = begun else { return };
        self.lists().begun.push(begun);
    }

    /// The visitor of `signal` is a visitor no more. What it began, which stays noted.
    pub(super) fn leave(&mut self, signal: &Arc<Signal>) -> Vec<u64> {
        let Some(lists) = &mut self.0 else { return Vec::new() };
        lists.present.retain(|visitor| !Arc::ptr_eq(&visitor.signal, signal));
        // A session that nobody visits owns no list.
        self.0.take_if(|lists| lists.present.is_empty() && lists.begun.is_empty());
        self.all_begun()
            .iter()
            .filter(|begun| Arc::ptr_eq(&begun.signal, signal))
            .map(|begun| begun.seq)
            .collect()
    }

    /// A holder of `epoch` comes: visitors that are not newer will never hold the session.
    pub(super) fn dismiss(&mut self, epoch: u64, why: Revoked) {
        let Some(lists) = &mut self.0 else { return };
        lists.present.retain(|visitor| {
            let stays = visitor.epoch > epoch;
            if !stays {
                visitor.signal.revoke(why);
            }
            stays
        });
    }

    /// The connection of `signal` became the holder at `epoch`. Takes out what it and others began that is not
    /// newer; and says what the holder's HELLO does not speak of.
    pub(super) fn handed_over(&mut self, epoch: u64, signal: &Arc<Signal>) -> HandedOver {
        let begun = self.0.as_mut().map(|lists| std::mem::take(&mut lists.begun)).unwrap_or_default();
        let unspoken = begun.iter().filter(|begun| begun.epoch >= epoch).map(|begun| begun.seq).collect();
        let (newer, rest): (Vec<_>, Vec<_>) = begun.into_iter().partition(|begun| begun.epoch > epoch);
        if let Some(lists) = &mut self.0 {
            lists.begun = newer;
        }
        self.0.take_if(|lists| lists.present.is_empty() && lists.begun.is_empty());
        let others = rest.into_iter().filter(|begun| !Arc::ptr_eq(&begun.signal, signal));
        HandedOver { others: others.map(|begun| (begun.seq, begun.signal)).collect(), unspoken }
    }

    /// Requests noted.
    #[cfg(test)]
    pub(super) fn begun_count(&self) -> usize {
        self.all_begun().len()
    }

    /// The requests of the session are forgotten.
    pub(super) fn forget(&mut self) {
        if let Some(lists) = &mut self.0 {
            lists.begun = Vec::new();
        }
    }
}

/// What visitors had begun when one connection became the holder.
pub(super) struct HandedOver {
    /// By others than the holder, who will never hold the session.
    pub(super) others: Vec<(u64, Arc<Signal>)>,
    /// The holder's HELLO was not written behind these.
    pub(super) unspoken: Vec<u64>,
}

/// The error of a request whose body the connection before had not sent to its end.
fn not_whole() -> RpcError {
    use towline_protocols::link::{Execution, RpcErrorKind};
    let text = "the connection ended before the request had arrived whole";
    RpcError::new(RpcErrorKind::Cancelled, Execution::NotRun, text)
}
