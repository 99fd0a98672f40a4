//! What the app's handles and the line share: the session and its calls, behind one lock that is held for
//! steps, never across a wait.

mod again;
mod call;
mod durable;
mod events;
mod inbox;
mod line;
mod outbox;
mod publish;
mod refusal;
mod shared;
mod short;
mod sights;
mod tokens;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::Notify;
use towline_protocols::{
    hpack::NeverIndexed,
    link::{
        Execution, RpcError, RpcErrorKind,
        client::{CallOptions, Session},
    },
    policy::{self, AppState, Carrier, CarrierPolicy, Handover, HandoverPolicy, Liveness, Network},
};

use self::{again::Again, durable::Permit, short::LinkState, sights::Sights};
pub(crate) use self::{
    call::{Call, Outgoing, RequestSink},
    durable::{Given, Step as DurableStep},
    events::Control,
    inbox::{Inbox, Ticket},
    line::Kept,
    publish::{PendingPublish, PendingSubscribe},
    shared::Shared,
    short::{Begun, Busy, Errand, Next, now},
    tokens::Tokens,
};
use crate::{
    beats::Beats,
    config::{ClientConfig, Endpoint, Limits, Transports},
    dictionaries::Dictionaries,
    identity::Identity,
    known::Known,
    last_session::LastSession,
    push_log::PushLog,
    reports::Reports,
    state::Transport,
    timeline::Made,
};

/// Names a call for its handles; the sequence number may change when a call is sent again.
pub(crate) type Key = u64;

/// The state itself.
pub(crate) struct Core {
    pub(crate) session: Session,
    pub(crate) identity: Identity,
    pub(crate) dictionaries: Dictionaries,
    pub(crate) tokens: Tokens,
    last_session: LastSession,
    /// What gateways hold.
    pub(crate) known: Known,
    pub(crate) link: LinkState,
    pub(crate) limits: Limits,
    pub(crate) never_indexed: NeverIndexed,
    calls: HashMap<Key, Call>,
    by_seq: HashMap<u64, Key>,
    next_key: Key,
    /// Calls with something for the line, each once.
    dirty: VecDeque<Key>,
    /// Calls that the live connection should reset; each was a call, so it is bounded by `calls_max`.
    resets: Vec<u64>,
    /// Calls that were taken: what the live connection holds of them in credit is given back.
    forgets: Vec<u64>,
    /// Message bytes of calls that are not answered.
    queued_bytes: usize,
    /// What streams keep of what they have sent.
    kept_bytes: outbox::Total,
    /// The gateway does not hold the dictionary that it announced: the live connection is to forget it.
    dictionary_unknown: bool,
    pub(crate) transport: Transport,
    /// The newest connection, and how it was made.
    pub(crate) made: Option<Made>,
    /// Calls whose last byte has not left with the live connection; each is a call of it.
    leaving: Vec<u64>,
    /// Counts the lines: what belongs to an earlier one may still be running.
    pub(crate) line: u64,
    /// When a stream of its QUIC connection brought bytes last, until the line has heard of it.
    pub(crate) stream_heard: Option<Instant>,
    /// The line's HELLO refers to what the gateway may not hold, and WELCOME has not come.
    is_refusable: bool,
    pub(crate) inbox: Inbox,
    /// Where it is noted what the app has taken; with an identity file only.
    push_log: Option<PushLog>,
    pub(crate) topics: Vec<String>,
    pub(crate) publishes: VecDeque<PendingPublish>,
    pub(crate) subscribes: VecDeque<PendingSubscribe>,
    next_publish: u64,
    /// Why there is no line; `None` while there is one.
    pub(crate) offline: Option<String>,
    /// Why a way failed last, of the attempts that there have been since a line was there.
    pub(crate) way_failed: Option<String>,
    pub(crate) closing: Option<String>,
    /// Asks the supervisor for a new connection.
    pub(crate) reconnect: bool,
    /// The app says that addresses changed.
    pub(crate) network_changed: bool,
    /// The app asks whether the gateway is still there.
    pub(crate) probe: bool,
    /// How long quiet connections are left alone.
    pub(crate) beats: Beats,
    /// Whether the gateway is there.
    pub(crate) liveness: Liveness,
    /// The network in use, as the app says.
    pub(crate) network: Network,
    /// The one that has joined it, until the line is there or it was found to be no good.
    pub(crate) joining: Option<Network>,
    /// The connection that is made beside the line's own.
    pub(crate) handover: Handover,
    /// By what the line is held while the app is in the background.
    pub(crate) carrier: Carrier,
    /// The app leaves the choice between QUIC and TCP to the client.
    has_carriers: bool,
    /// Where the line's gateway, which goes, sends its clients.
    pub(crate) advised: Vec<Endpoint>,
    /// The line's gateway has refused a request because it goes.
    pub(crate) is_refused: bool,
    /// The line says its last words, and begins no request any more.
    is_line_over: bool,
    /// How much the app is wanted, as it says.
    pub(crate) app: AppState,
    /// What is to be said of all that to the gateway.
    pub(crate) reports: Reports,
    /// What answers show of the network, for the quality model.
    sights: Sights,
    again: Again,
    wake_line: bool,
    /// The app waits for what only a link brings: a pause before the next attempt is shorter now.
    wake_supervisor: bool,
}

impl Core {
    fn new(identity: Identity, dictionaries: Dictionaries, config: &ClientConfig, again: Again) -> Self {
        let session = Session::new(&identity.client_id, identity.secret, identity.epoch())
            .starting_at(identity.first_sequence);
        Self {
            session,
            tokens: Tokens::open(config, &identity),
            last_session: LastSession::open(config, &identity),
            identity,
            dictionaries,
            known: Known::open(config.identity_file.as_deref()),
            link: LinkState::new(config),
            limits: config.limits.clone(),
            never_indexed: NeverIndexed::default(),
            calls: HashMap::new(),
            by_seq: HashMap::new(),
            next_key: 0,
            dirty: VecDeque::new(),
            resets: Vec::new(),
            forgets: Vec::new(),
            queued_bytes: 0,
            kept_bytes: outbox::Total::default(),
            dictionary_unknown: false,
            transport: Transport::Tcp,
            made: None,
            leaving: Vec::new(),
            line: 0,
            stream_heard: None,
            is_refusable: false,
            inbox: Inbox::default(),
            push_log: None,
            topics: config.topics.clone(),
            publishes: VecDeque::new(),
            subscribes: VecDeque::new(),
            next_publish: 1,
            offline: None,
            way_failed: None,
            closing: None,
            reconnect: false,
            network_changed: false,
            probe: false,
            beats: Beats::open(config.identity_file.as_deref(), &config.strategies),
            liveness: Liveness::new(config.strategies.liveness.clone()),
            network: Network::default(),
            joining: None,
            handover: Handover::default(),
            carrier: Carrier::default(),
            has_carriers: config.transports == Transports::QuicAndTcp,
            advised: Vec::new(),
            is_refused: false,
            is_line_over: false,
            app: AppState::default(),
            reports: Reports::new(config.app.clone()),
            sights: Sights::default(),
            again,
            wake_line: false,
            wake_supervisor: false,
        }
    }

    /// Goes on where earlier runs of the app with this identity ended.
    fn remember_pushes(&mut self, identity_file: &Path) -> std::io::Result<()> {
        let (log, taken) = PushLog::open(identity_file)?;
        self.push_log = Some(log);
        self.session.restore_pushes(taken.line, taken.marks);
        Ok(())
    }

    /// The network has just carried a word to the gateway and back on a line by `present`: the radio is awake, and the line
    /// may move to the other carrier.
    pub(crate) fn choose_carrier(
        &mut self,
        (policy, beside): (&CarrierPolicy, &HandoverPolicy),
        present: policy::Transport,
        now: Instant,
    ) {
        if !self.has_carriers || !beside.enabled || self.handover.is_under_way() {
            return;
        }
        let heartbeat = &self.beats.heartbeat;
        if let Some(to) = self.carrier.moves(policy, heartbeat, present, now) {
            tracing::debug!(to = to.name(), "the line moves to another carrier");
            self.handover.carried(beside, now);
            self.wake_supervisor();
        }
    }

    /// Takes a new call in.
    pub(crate) fn open(&mut self, outgoing: Outgoing, now: Instant) -> Result<Key, RpcError> {
        self.open_with(outgoing, None, now)
    }

    fn open_with(
        &mut self,
        outgoing: Outgoing,
        permit: Option<Permit>,
        now: Instant,
    ) -> Result<Key, RpcError> {
        let refused = |kind, text: String| Err(RpcError::new(kind, Execution::NotRun, text));
        if let Some(reason) = &self.closing {
            return refused(RpcErrorKind::SessionLost, format!("the client is closed: {reason}"));
        }
        if self.calls.len() >= self.limits.calls_max {
            let text = format!("limits.calls_max: {} calls are open", self.calls.len());
            return refused(RpcErrorKind::LimitExceeded, text);
        }
        let bytes = outgoing.message.as_ref().map_or(0, Bytes::len);
        if self.queued_bytes + bytes > self.limits.queued_bytes_max {
            let text = format!("limits.queued_bytes_max: {} bytes wait already", self.queued_bytes);
            return refused(RpcErrorKind::LimitExceeded, text);
        }
        let idempotent = outgoing.head.idempotent;
        let sees_whole = outgoing.message.is_some();
        let options = CallOptions { idempotent, replayable: true, continues: true, sees_whole };
        let seq = self.session.open(options);
        self.again.called();
        let key = self.insert(seq, outgoing, permit, now);
        self.link.wake |= self.may_concern_short();
        self.wake_supervisor |= !self.link.is_up();
        self.touch(key);
        Ok(key)
    }

    fn insert(&mut self, seq: u64, outgoing: Outgoing, permit: Option<Permit>, started: Instant) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        self.by_seq.insert(seq, key);
        let mut call = Call::new(seq, outgoing, Arc::clone(&self.kept_bytes), started);
        call.permit = permit;
        self.queued_bytes += call.unary_bytes();
        self.calls.insert(key, call);
        key
    }

    pub(crate) fn call(&mut self, key: Key) -> Option<&mut Call> {
        self.calls.get_mut(&key)
    }

    pub(crate) fn call_of(&mut self, seq: u64) -> Option<&mut Call> {
        self.calls.get_mut(self.by_seq.get(&seq)?)
    }

    /// The line has something to do for this call.
    pub(crate) fn touch(&mut self, key: Key) {
        if let Some(call) = self.calls.get_mut(&key)
            && !std::mem::replace(&mut call.dirty, true)
        {
            self.dirty.push_back(key);
        }
        self.wake_line = true;
    }

    /// The supervisor has something to do.
    pub(crate) fn wake_supervisor(&mut self) {
        self.wake_supervisor = true;
    }

    /// The line has something to do that concerns no call.
    pub(crate) fn touch_control(&mut self) {
        self.wake_line = true;
    }

    /// The next call with something for the line.
    pub(crate) fn next_dirty(&mut self) -> Option<Key> {
        loop {
            let key = self.dirty.pop_front()?;
            if let Some(call) = self.calls.get_mut(&key) {
                call.dirty = false;
                return Some(key);
            }
        }
    }

    /// Puts calls back that the line could not serve yet.
    pub(crate) fn put_back(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(call) = self.calls.get_mut(&key)
                && !std::mem::replace(&mut call.dirty, true)
            {
                self.dirty.push_back(key);
            }
        }
    }

    /// Message bytes that wait beside unary calls', for streams that send.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.queued_bytes + bytes <= self.limits.queued_bytes_max
    }

    /// The app is done with a call, or gives it up.
    pub(crate) fn release(&mut self, key: Key) -> Option<Call> {
        let call = self.calls.remove(&key)?;
        self.by_seq.remove(&call.seq);
        self.queued_bytes -= call.unary_bytes().min(self.queued_bytes);
        call.report(&mut self.reports);
        if call.is_over() {
            self.session.taken(call.seq);
            self.is_answered(call.seq, call.is_on_line(), call.has_sent_all());
        } else {
            let may_run_by_short = self.session.may_run_by_short(call.seq);
            self.session.cancel(call.seq);
            if call.is_on_line() {
                self.resets.push(call.seq);
            } else if may_run_by_short {
                self.link.give_up(call.seq, call.deadline());
            }
        }
        call.wake_all();
        self.wake_line = true;
        Some(call)
    }

    /// The line has nothing to do any more for number `seq`, whose answer is here.
    fn is_answered(&mut self, seq: u64, is_on_line: bool, has_sent_all: bool) {
        match (is_on_line, has_sent_all) {
            (true, true) => self.forgets.push(seq),
            // Answered before it was asked to the end: nobody needs the rest.
            (true, false) => self.resets.push(seq),
            (false, _) => {}
        }
    }

    /// The deadline of a call has passed: it ends here and at the gateway.
    pub(crate) fn expire(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| !call.is_over()) else { return };
        let execution = if call.was_sent() { Execution::MayHaveRun } else { Execution::NotRun };
        let mut text = match &self.offline {
            Some(reason) => format!("the deadline passed while the line was down: {reason}"),
            None if execution == Execution::NotRun && !self.link.is_up() => {
                let reason = self.way_failed.as_ref().map(|reason| format!(": {reason}"));
                format!("the deadline passed before there was a connection{}", reason.unwrap_or_default())
            }
            None => "the deadline passed before the answer was complete".to_owned(),
        };
        if let Some(reason) = &call.link_only {
            text = format!("{text}; no POST carries the call: {reason}");
        }
        call.fail(RpcError::new(RpcErrorKind::DeadlineExceeded, execution, text));
        if call.is_on_line() {
            self.resets.push(call.seq);
        }
        self.wake_line = true;
    }

    /// Whether the app gave call `seq` up, or takes its answer from elsewhere than the live connection.
    #[cfg(any(feature = "quic", test))]
    pub(crate) fn is_gone(&self, seq: u64) -> bool {
        let is_gone = |call: &Call| call.is_over() || call.is_let_go;
        self.by_seq.get(&seq).and_then(|key| self.calls.get(key)).is_none_or(is_gone)
    }

    /// Whether more of call `key`'s answer may be handed on: one window, and one message.
    #[cfg(feature = "quic")]
    pub(crate) fn has_place_for_part(&self, key: Key) -> bool {
        let window = self.limits.stream_window as usize;
        let has_place = |call: &Call| call.wants_more() || call.incoming.bytes < window;
        self.calls.get(&key).is_some_and(|call| !call.is_over() && has_place(call))
    }

    /// Whether the gateway said how call `seq` ended.
    #[cfg(feature = "quic")]
    pub(crate) fn is_complete(&self, seq: u64) -> bool {
        self.by_seq.get(&seq).and_then(|key| self.calls.get(key)).is_some_and(Call::is_over)
    }

    pub(crate) fn take_forgets(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgets)
    }

    /// Whether the live connection is to forget the gateway's dictionary; to be asked before what waits is
    /// sent, since a request that was refused for it waits to be sent again.
    pub(crate) fn take_dictionary_unknown(&mut self) -> bool {
        std::mem::take(&mut self.dictionary_unknown)
    }

    pub(crate) fn take_resets(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.resets)
    }

    /// Calls that are on the live connection and not over.
    pub(crate) fn in_flight(&self) -> usize {
        self.calls.values().filter(|call| call.is_on_line() && !call.is_over()).count()
    }

    /// When the newest of what the gateway is to answer was asked; `None` where it owes nothing.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        let calls = self.calls.values().filter(|call| call.is_on_line() && !call.is_over());
        calls.map(|call| call.started).chain(self.words_waited_for()).max()
    }

    /// Whether the app waits for the answer of a call.
    pub(crate) fn is_awaited(&self) -> bool {
        self.calls.values().any(|call| !call.is_over())
    }

    /// Whether a gateway may be running a call that the app waits for.
    pub(crate) fn has_sent(&self) -> bool {
        self.calls.values().any(|call| call.was_sent() && !call.is_over())
    }

    /// Fails everything that waits, but for durable calls: the client is over.
    pub(crate) fn close(&mut self, kind: RpcErrorKind, reason: &str) {
        self.closing.get_or_insert_with(|| reason.to_owned());
        for call in self.calls.values_mut() {
            // The next run goes on with what is durable. It has no end here, since the gateway would be told that
            // nobody wants its outcome.
            if call.permit.is_some() {
                call.wake_all();
                continue;
            }
            let execution = if call.was_sent() { Execution::MayHaveRun } else { Execution::NotRun };
            call.fail(RpcError::new(kind, execution, reason));
        }
        self.publishes.clear();
        self.subscribes.clear();
        (self.wake_line, self.link.wake) = (true, true);
    }
}

/// A handle's wake-up calls; shared by the call and its handles.
#[derive(Default)]
pub(crate) struct Wakers {
    /// Something arrived, or the call is over.
    pub(crate) readable: Notify,
    /// There is room to send, or the call is over.
    pub(crate) writable: Notify,
    /// For the task of the call's QUIC stream: there is something to send, or the call is gone.
    pub(crate) stream: Notify,
    /// For the task of its short connection: the call is over or gone.
    pub(crate) short: Notify,
}

pub(crate) type SharedWakers = Arc<Wakers>;
