//! What the client remembers of its session from connection to connection.
//!
//! A `Session` knows nothing of sockets or bindings: its driver makes connections, asks for the HELLO of
//! each, shows it what arrives, and does what it says.

mod acks;
mod call;
mod pushes;
mod recall;
mod short;

use std::collections::BTreeMap;

pub use self::pushes::PushMarks;
use self::{
    call::{Call, Carrier, Phase},
    pushes::Pushes,
    recall::Recalled,
};
use super::{Event, Execution, Hello, Place, Priority, RpcError, Waiting, Welcome};

/// A client's session: sequence numbers, requests whose outcome is wanted, pushes taken.
///
/// ```text
///  open ----> unsent --on_request_sent--> waiting --its end arrives--> complete --taken--> (acknowledged)
///               ^      on_short_sent         |
///               +------ on_welcome: Send ----+   (the server never saw it, or lost it and it is idempotent)
///               +------ on_refused ----------+   (the server acted upon nothing of the connection)
/// ```
///
/// Two carriers bring requests to the server and their answers back: the link, of which there is one connection at
/// a time, and short connections beside it. Both may carry the same request, since the server runs it once.
#[derive(Debug)]
pub struct Session {
    client_id: String,
    secret: Secret,
    epoch: u64,
    /// The server's session that calls and pushes belong to. Had it lost an earlier one, and its WELCOME
    /// saying so been lost as well, the numbers alone would not tell.
    session_id: u64,
    /// The same as the link's newest connection knows it: before WELCOME, what its HELLO names.
    link_session_id: u64,
    /// The session of an earlier run of the program, until a server has said which there is in this one.
    recalled: Recalled,
    /// The link's newest HELLO has had no WELCOME yet.
    link_opens: bool,
    seq_next: u64,
    calls: BTreeMap<u64, Call>,
    /// Outcomes taken above the floor, not yet told.
    ack_due: Vec<u64>,
    /// Message bytes of the answers of `ack_due`.
    ack_bytes: usize,
    /// What the link's connection is to be told that nobody wants it there; each is a request of it.
    let_go: Vec<u64>,
    /// Requests whose short connection nobody wants any more; each has one.
    shorts_let_go: Vec<u64>,
    /// Short connections made.
    shorts: u64,
    floor_told: u64,
    pushes: Pushes,
}

/// What the session must know of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Running it twice does no harm: it is sent again when the server has lost the session.
    pub idempotent: bool,
    /// The driver keeps the request with all its messages and can send it again.
    pub replayable: bool,
    /// The driver keeps what it sent last of the request, and goes on with it on another connection.
    pub continues: bool,
    /// The application sees an answer when it is whole, and nothing of it before.
    pub sees_whole: bool,
}

/// What an earlier run of the program wrote down of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// The session that it may have been given to.
    pub given_to: Option<u64>,
    /// It may have run in a session that was given it before that one.
    pub doubtful: bool,
}

/// What becomes of a request on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Send it, from its beginning, under the same number.
    Send,
    /// The server has it; its answer continues on this connection. On QUIC: attach to it.
    Keep {
        /// What of the answer has arrived and does not come again, for ATTACH.
        received: Place,
        /// What the server has of the request, and takes the rest of. `None`: it takes no more.
        sent: Option<Place>,
    },
    /// The server holds more of its answer than this connection is told of: ask by the HELLO of another one.
    Ask,
    /// The rest of its answer is lost, and the application has seen nothing of that: it begins under the number that
    /// [`Session::repeat`] gives it.
    Anew,
    /// It is over; the session has forgotten it.
    Fail(RpcError),
}

/// What the application sees of an event, once duplicates are taken out.
#[derive(Debug, PartialEq)]
pub struct Delivery {
    /// What to hand on.
    pub event: Option<Event>,
    /// Message bytes left out, to be given back by `credit` at once.
    pub credit: usize,
}

struct Secret([u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

impl Session {
    /// A session for `client_id`; `secret` is random and stays the same as long as the session should.
    /// `epoch` is that of the last connection made for it, 0 for the first.
    pub fn new(client_id: impl Into<String>, secret: [u8; 16], epoch: u64) -> Self {
        Self {
            client_id: client_id.into(),
            secret: Secret(secret),
            epoch,
            session_id: 0,
            link_session_id: 0,
            recalled: Recalled::default(),
            link_opens: false,
            seq_next: 1,
            calls: BTreeMap::new(),
            ack_due: Vec::new(),
            ack_bytes: 0,
            let_go: Vec::new(),
            shorts_let_go: Vec::new(),
            shorts: 0,
            floor_told: 0,
            pushes: Pushes::default(),
        }
    }

    /// The same session after the program was started again: its requests count from `seq` on, which must be
    /// above every number used before.
    pub fn starting_at(mut self, seq: u64) -> Self {
        self.seq_next = seq.max(1);
        self
    }

    /// The same session after the program was started again, under the id that a server gave it; 0 where that is not
    /// known.
    pub fn resuming(mut self, session_id: u64) -> Self {
        (self.session_id, self.link_session_id) = (session_id, session_id);
        self
    }

    /// A request of an earlier run of the program, whose outcome is still wanted: HELLO asks for it, or it is sent under
    /// the number that it had.
    pub fn restore(&mut self, seq: u64, options: CallOptions, earlier: Earlier) {
        self.calls.insert(seq, Call::restored(options, earlier));
        self.seq_next = self.seq_next.max(seq.saturating_add(1));
    }

    /// The same session after the program was started again: of the pushes of `line`, those up to `taken` were
    /// taken before. See [`Session::pushes_taken`].
    pub fn restore_pushes(&mut self, line: u64, taken: PushMarks) {
        self.pushes = Pushes::restored(line, taken);
    }

    /// Whether a server has said which session it keeps for this one.
    pub fn is_known(&self) -> bool {
        self.session_id != 0
    }

    /// The epoch of the newest connection.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A new request, with the next sequence number.
    pub fn open(&mut self, options: CallOptions) -> u64 {
        let seq = self.seq_next;
        self.seq_next += 1;
        self.calls.insert(seq, Call::new(options));
        seq
    }

    /// The request is being given to the link: from now on the server may have it.
    pub fn on_request_sent(&mut self, seq: u64) {
        let session_id = self.link_session_id;
        if let Some(call) = self.calls.get_mut(&seq) {
            call.given_to_link(session_id);
        }
    }

    /// Whether the link may be given the request: nobody else has it, or for the same session, which is not in doubt
    /// where that matters.
    pub fn may_send(&self, seq: u64) -> bool {
        let waits = self.recalled.is_in_doubt();
        let may =
            |call: &Call| call.may_be_given(self.link_session_id) && (!waits || call.may_run_anywhere());
        self.calls.get(&seq).is_some_and(may)
    }

    /// The session that the request was given to, if it was: no other one is given it unless that was said not to matter.
    pub fn given_to(&self, seq: u64) -> Option<u64> {
        self.calls.get(&seq)?.tie
    }

    /// The session that the link gives requests to; 0 where no server has named one.
    pub fn link_session(&self) -> u64 {
        self.link_session_id
    }

    /// The session that short connections give requests to; 0 where no server has named one.
    pub fn short_session(&self) -> u64 {
        self.session_id
    }

    /// The HELLO of a new connection, which takes over from all before. `base` has what the session does
    /// not know: user, password, agent, topics, session headers, heartbeat; `Connection` adds the limits.
    pub fn hello(&mut self, base: Hello) -> Hello {
        self.epoch += 1;
        let session_id = self.name();
        (self.link_session_id, self.link_opens) = (session_id, true);
        self.ack_due.clear();
        self.ack_bytes = 0;
        self.let_go.clear();
        self.floor_told = self.floor();
        let mut waiting = Vec::new();
        for (&seq, call) in &mut self.calls {
            call.link = None;
            call.asked = false;
            if call.may_be_held() {
                call.ask();
                let Place { messages, bytes } = call.received;
                waiting.push(Waiting {
                    seq,
                    messages_received: messages,
                    continues: call.options.continues,
                    bytes_received: bytes,
                });
            }
        }
        Hello {
            waiting,
            outcome_floor: self.floor_told,
            pushes_taken: self.pushes.hello(),
            session_id,
            ..self.introduced(base)
        }
    }

    /// What every HELLO says.
    fn introduced(&self, base: Hello) -> Hello {
        Hello {
            client_id: self.client_id.clone(),
            session_secret: self.secret.0.to_vec().into(),
            epoch: self.epoch,
            session_id: self.session_id,
            ..base
        }
    }

    /// The server sent CLOSE in place of the WELCOME to `hello` and acted upon nothing of the connection: what was sent
    /// on it only has never been sent. Says which requests that are.
    pub fn on_refused(&mut self, hello: &Hello) -> Vec<u64> {
        let mut unsent = Vec::new();
        self.link_opens = false;
        for (&seq, call) in self.calls.iter_mut().filter(|(_, call)| call.phase == Phase::Waiting) {
            let was_sent = call.link.take().is_some();
            let was_asked = hello.waiting.iter().any(|waiting| waiting.seq == seq);
            call.asked = false;
            if (was_sent || was_asked) && call.was_not_heard(was_asked) {
                unsent.push(seq);
            }
        }
        unsent
    }

    /// What becomes of each request that is not complete. `hello` is the one that `welcome` answers:
    /// requests sent after it are not touched.
    pub fn on_welcome(&mut self, hello: &Hello, welcome: &Welcome) -> Vec<(u64, Fate)> {
        (self.session_id, self.link_session_id) = (welcome.session_id, welcome.session_id);
        self.link_opens = false;
        self.recalled = Recalled::default();
        let mut fates = Vec::new();
        for (&seq, call) in &mut self.calls {
            call.asked = false;
            let waiting = hello.waiting.iter().find(|waiting| waiting.seq == seq);
            let fate = match (call.phase, waiting) {
                (Phase::Complete, _) => None,
                (Phase::Unsent, _) => Some(Fate::Send),
                (Phase::Waiting, Some(waiting)) => {
                    call.fate(seq, hello.session_id, waiting.received(), welcome)
                }
                (Phase::Waiting, None) => {
                    // Sent behind this HELLO: whatever session it led to has them. A POST led to the one that was named.
                    if call.link.is_some() && call.tie == Some(hello.session_id) && !call.was_posted() {
                        call.renamed(welcome.session_id);
                    }
                    call.keep_to_run(Some(welcome.session_id));
                    call.is_forsaken(welcome.session_id).then(|| call.again(false))
                }
            };
            self.let_go.extend(call.take_let_go().then_some(seq));
            self.shorts_let_go.extend(call.take_short_let_go().then_some(seq));
            fates.extend(fate.map(|fate| (seq, fate)));
        }
        self.forget_failed(&fates);
        self.pushes.on_welcome(welcome);
        self.seq_next = self.seq_next.max(welcome.seq_min.saturating_add(1));
        fates
    }

    /// The link's connection is gone, and no other is there: it brings no answer any more.
    pub fn on_link_lost(&mut self) {
        self.link_opens = false;
        for call in self.calls.values_mut() {
            (call.link, call.asked) = (None, false);
        }
    }

    fn forget_failed(&mut self, fates: &[(u64, Fate)]) {
        for (seq, fate) in fates {
            if matches!(fate, Fate::Fail(_)) {
                self.taken(*seq);
            }
        }
    }

    /// Takes out what the application has seen before: the replay of an answer begins with its head and
    /// with the message that was cut, another connection may have brought the same, and stored pushes are sent
    /// again. Where a request runs in two sessions, the answer is that of the run which began first to give one.
    pub fn on_event(&mut self, event: Event) -> Delivery {
        self.take(Carrier::Link, event)
    }

    fn take(&mut self, carrier: Carrier, event: Event) -> Delivery {
        match &event {
            Event::Response { seq, .. }
            | Event::MessagePart { seq, .. }
            | Event::Reset { seq, .. }
            | Event::End { seq }
            | Event::Trailers { seq, .. } => {
                let (seq, link) = (*seq, self.link_session_id);
                let Some(call) = self.calls.get_mut(&seq) else { return Delivery::dropped(&event) };
                let delivery = call.on_event(carrier, link, event);
                call.keep_to_run((!self.link_opens).then_some(link));
                self.let_go.extend(call.take_let_go().then_some(seq));
                self.shorts_let_go.extend(call.take_short_let_go().then_some(seq));
                delivery
            }
            Event::Push(push) => {
                let is_new = self.pushes.on_push(push.priority, push.id);
                Delivery::of(is_new.then_some(event))
            }
            _ => Delivery::of(Some(event)),
        }
    }

    /// Requests that the link's connection had, and whose answer is that of another run: it is to reset them.
    pub fn take_let_go(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.let_go)
    }

    /// Requests that a short connection had, and whose answer is that of another run: nothing more of it is taken.
    pub fn take_shorts_let_go(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.shorts_let_go)
    }

    /// The application has the whole outcome, or wants it no longer: the server may forget it.
    pub fn taken(&mut self, seq: u64) {
        if let Some(call) = self.calls.remove(&seq) {
            self.ack_due.push(seq);
            self.ack_bytes += call.bytes_received;
        }
    }

    /// The application gives up on a request whose end has not arrived. Says what is known of its
    /// execution; the driver resets it on the live connection.
    pub fn cancel(&mut self, seq: u64) -> Execution {
        let sent = self.calls.get(&seq).is_some_and(|call| call.phase != Phase::Unsent);
        self.taken(seq);
        if sent { Execution::MayHaveRun } else { Execution::NotRun }
    }

    /// A request ended with an error that says that it did not run: opens it again under a new number, if
    /// it can be sent again and the application has seen nothing of an answer.
    pub fn retry(&mut self, seq: u64, error: &RpcError) -> Option<u64> {
        let call = self.calls.get(&seq)?;
        let may = error.execution == Execution::NotRun || call.options.idempotent;
        let is_unseen = !call.has_begun() || call.options.idempotent && call.options.sees_whole;
        if !may || !call.options.replayable || !is_unseen {
            return None;
        }
        let options = call.options;
        self.taken(seq);
        Some(self.open(options))
    }

    /// The answer of a request is whole, and the backend asks in it for the request to come later; or it is lost in the
    /// middle ([`Fate::Anew`]). Takes it, and opens the request again under a new number, since the server would give the
    /// same answer for the old one. Only of what is idempotent.
    pub fn repeat(&mut self, seq: u64) -> Option<u64> {
        let options = self.calls.get(&seq)?.options;
        if !options.idempotent || !options.replayable {
            return None;
        }
        self.taken(seq);
        Some(self.open(options))
    }

    /// The driver keeps the request no longer from its beginning.
    pub fn partly_kept(&mut self, seq: u64) {
        if let Some(call) = self.calls.get_mut(&seq) {
            call.options.replayable = false;
        }
    }

    /// The application has taken this push and all of its urgency before it.
    pub fn push_taken(&mut self, priority: Priority, id: u64) {
        self.pushes.on_taken(priority, id);
    }

    /// Urgency and id to send as PUSH_ACK, for one urgency whose id has risen.
    pub fn take_push_ack(&mut self) -> Option<(Priority, u64)> {
        self.pushes.take_ack()
    }

    /// WELCOME.push_line and what has been taken of it, for an application that must not see a push twice
    /// although it was started again.
    pub fn pushes_taken(&self) -> (u64, PushMarks) {
        self.pushes.taken()
    }

    /// Requests that are not taken yet, in the order of their numbers.
    pub fn calls(&self) -> impl Iterator<Item = u64> {
        self.calls.keys().copied()
    }
}
