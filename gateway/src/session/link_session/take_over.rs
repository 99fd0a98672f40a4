//! How a connection becomes the holder of a session, and what that means for what went before.

use std::sync::{Arc, atomic::Ordering};

use towline_protocols::link::{Hello, Partial, RpcError, server::Ledger};

use super::{Hold, LinkSession, State, unheard::Unheard};
use crate::{
    presence::What,
    session::{
        Changed, OpenError, Opened, Revoked, exchange::Consumer, headers::Spoken, lease::Lease,
        signal::Signal,
    },
};

/// What became of a session that a connection took.
struct Holder {
    session_id: u64,
    seq_min: u64,
    /// Whether the session is the one that the client speaks of.
    resumed: bool,
    headers: Spoken,
    headers_kept: bool,
    waiting: Resolved,
}

/// What became of the requests that HELLO waits for.
#[derive(Default)]
struct Resolved {
    unknown: Vec<u64>,
    attached: Vec<Consumer>,
    refused: Vec<(u64, RpcError)>,
    partial: Vec<Partial>,
}

/// [`Opened`], but for the lease.
pub(in crate::session) struct Adopted {
    pub(in crate::session) session_id: u64,
    pub(in crate::session) seq_min: u64,
    pub(in crate::session) resumed: bool,
    pub(in crate::session) unknown: Vec<u64>,
    pub(in crate::session) attached: Vec<Consumer>,
    pub(in crate::session) refused: Vec<(u64, RpcError)>,
    pub(in crate::session) partial: Vec<Partial>,
    pub(in crate::session) subscriptions: Changed,
    pub(in crate::session) headers: Spoken,
    pub(in crate::session) headers_kept: bool,
}

impl LinkSession {
    /// Makes a connection whose ownership was checked the holder of the session.
    pub(in crate::session) fn adopt(self: &Arc<Self>, hello: &Hello) -> Result<Opened, OpenError> {
        let signal = Arc::new(Signal::default());
        let adopted = self.adopt_by(hello, &signal, false)?;
        let Adopted { session_id, seq_min, resumed, unknown, attached, refused, .. } = adopted;
        let Adopted { partial, subscriptions, headers, headers_kept, .. } = adopted;
        Ok(Opened {
            lease: Lease::new(self.clone(), signal),
            session_id,
            seq_min,
            resumed,
            unknown,
            attached,
            refused,
            partial,
            subscriptions,
            headers,
            headers_kept,
        })
    }

    /// The same for the connection of `signal`; `told`: it was a visitor, and has had its WELCOME.
    pub(in crate::session) fn adopt_by(
        self: &Arc<Self>,
        hello: &Hello,
        signal: &Arc<Signal>,
        told: bool,
    ) -> Result<Adopted, OpenError> {
        let Holder { session_id, seq_min, resumed, headers, headers_kept, waiting } =
            self.take_over(hello, signal, told)?;
        let (subscriptions, differ) = self.replace_subscriptions(&hello.topics);
        if differ || !resumed {
            self.persist();
        }
        let Resolved { unknown, attached, refused, partial } = waiting;
        Ok(Adopted {
            session_id,
            seq_min,
            resumed,
            unknown,
            attached,
            refused,
            partial,
            subscriptions,
            headers,
            headers_kept,
        })
    }

    /// One step: streams of a connection whose handshake is complete have tasks of their own on QUIC, and what they ask
    /// for is to meet the session before it, or behind it.
    fn take_over(
        self: &Arc<Self>,
        hello: &Hello,
        signal: &Arc<Signal>,
        told: bool,
    ) -> Result<Holder, OpenError> {
        let mut state = self.state.lock();
        // A visitor may come behind its session's end, whose place in the table may be another's by now.
        if state.has_ended() || !state.is_newer(hello.epoch) {
            return Err(OpenError::TakenOver);
        }
        // A visitor's were settled when it came. What is refused here has changed nothing.
        let headers = match state.visitors.headers_of(signal) {
            Some(headers) => headers,
            None => self.headers_in(&state, hello)?,
        };
        state.visitors.leave(signal);
        let older = state.hold.leave().inspect(|older| older.revoke(Revoked::TakenOver));
        state.visitors.dismiss(hello.epoch, Revoked::TakenOver);
        let handed_over = state.visitors.handed_over(hello.epoch, signal);
        if let Some(older) = older {
            self.tell(What::Disconnected("session_taken_over"));
            self.connection_lost(&mut state, &older);
        }
        self.begun_left(&mut state, handed_over.others);
        let resumed = state.goes_on(hello, &self.context);
        (state.was_held, state.epoch) = (true, hello.epoch);
        state.hold = Hold::By(signal.clone());
        self.connected.store(true, Ordering::Release);
        self.tell(What::Connected);
        self.resume_pushes(&mut state, hello.pushes_taken.as_ref(), signal);
        if !resumed {
            // The client counts what it sent before as lost, and numbers on from there. The id names what is
            // remembered of requests, so that none that was forgotten passes for one never seen.
            state.forget_requests("the client began the session anew");
            self.forget_marks(&mut state);
            state.id = fastrand::u64(1..);
            state.unheard = Unheard::at(hello);
            state.seq_highest = hello.outcome_floor;
            state.visitors.dismiss(u64::MAX, Revoked::TakenOver);
            let limits = self.context.ledger_limits();
            state.ledger =
                (hello.outcome_floor > 0).then(|| Box::new(Ledger::new(limits, hello.outcome_floor)));
        }
        let headers_kept = self.keep_headers(&mut state, hello, &headers);
        let waiting = match resumed {
            true => self.resolve_waiting(&mut state, hello, &handed_over.unspoken, signal, told),
            false => Resolved::default(),
        };
        let (session_id, seq_min) = (state.id, state.seq_min());
        Ok(Holder { session_id, seq_min, resumed, headers, headers_kept, waiting })
    }

    /// Follows what the client says of earlier requests: what it does not wait for has been taken.
    /// It does not speak of `unspoken`.
    fn resolve_waiting(
        &self,
        state: &mut State,
        hello: &Hello,
        unspoken: &[u64],
        signal: &Arc<Signal>,
        told: bool,
    ) -> Resolved {
        let partial = self.offer_uploads(state, hello, unspoken, signal, told);
        let waiting = hello.waiting.iter().map(|waiting| waiting.seq);
        let wanted = waiting.chain(unspoken.iter().copied());
        let unknown = state.ledger_mut(&self.context).reconcile(hello.outcome_floor, wanted);
        let mut resolved = Resolved { unknown, partial, ..Resolved::default() };
        // What WELCOME called unknown may have come again before the handshake was complete: it has its answer.
        for waiting in hello.waiting.iter().filter(|waiting| !unspoken.contains(&waiting.seq)) {
            match self.attach(state, waiting.seq, waiting.received(), signal) {
                None => {}
                Some(Ok(consumer)) => resolved.attached.push(consumer),
                Some(Err(error)) => resolved.refused.push((waiting.seq, error)),
            }
        }
        self.forget_outcomes(state);
        resolved
    }
}
