//! What a connection carries beside its requests: introduction, heartbeat, pushes, drain, policy.

mod dictionaries;
mod dormant;
mod heartbeat;
mod receive;
mod short;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    Ack, CloseCode, Config, Event, Execution, GoAway, Hello, LinkError, Peer, Policy, Priority, Publish,
    Push, Report, Role, RpcError, RpcErrorKind, StreamSettings, Subscribe, Subscribed, Welcome,
    field_tables::FieldTables,
    frame::{self, Frame, PREFACE, PublishFrame, PushFrame},
};
use crate::{
    hpack::{HeaderDictionary, KnownFields},
    policy::Signs,
};
pub(super) use dormant::Dormant;
use heartbeat::{Due, Heartbeat};

/// Control frames that may wait for a peer that does not read. A peer that makes this side answer more
/// (PINGs, refused requests) without taking the answers is closed.
const CONTROL_BYTES_MAX: usize = 256 * 1024;
/// Beyond this an emptied buffer is given back at once.
const BUFFER_BYTES_KEPT: usize = 1024;
/// Longest client id, bytes.
pub(super) const CLIENT_ID_BYTES_MAX: usize = 64;
/// Length of the session secret, bytes.
pub(super) const SECRET_BYTES: usize = 16;

/// The machine of a connection's control frames; on QUIC, of the control stream.
///
/// Within a TCP [`super::Connection`] only the commands are used; its `handle_*` and `poll_*` include this
/// machine's.
///
/// ```text
///  server:  Preface -----------> Introduction --HELLO--> Open --CLOSE sent, received, or error--> Closed
///  client:                       Introduction --WELCOME-> Open
/// ```
#[derive(Debug)]
pub struct Control {
    config: Arc<Config>,
    role: Role,
    phase: Phase,
    /// A short connection: one POST.
    is_short: bool,
    /// Whether this side's HELLO or WELCOME is on its way.
    introduced: bool,
    /// Server: HELLO waits for requests of earlier connections.
    is_waited_for: bool,
    peer: Peer,
    heartbeat: Heartbeat,
    /// QUIC: the dynamic tables of header compression.
    tables: Option<Arc<FieldTables>>,
    /// Control frames, encoded.
    out: BytesMut,
    /// Pushes or publishes, encoded, in the order of their urgency, those of one urgency as they came.
    messages: VecDeque<(u8, Bytes)>,
    messages_bytes: usize,
    seldom: Option<Box<Seldom>>,
    /// The peer did not know a dictionary: none is used any more.
    dictionaries_off: bool,
    events: VecDeque<Event>,
}

/// What most connections have no need of.
#[derive(Debug, Default)]
struct Seldom {
    /// What HELLO names: both directions' header blocks stand behind it.
    header_dictionary: Option<Arc<HeaderDictionary>>,
    /// A PIECE that waits until there is nothing else to send.
    piece: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preface,
    Introduction,
    Open,
    Closed,
}

impl Control {
    /// A client's control stream on QUIC; `hello` comes from [`super::client::Session::hello`].
    pub fn client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        let control = Self::introducing(config, hello, now);
        Self { tables: control.new_tables(), ..control }
    }

    fn introducing(config: Arc<Config>, mut hello: Hello, now: Instant) -> Self {
        let mut control = Self::new(config, Role::Client, Phase::Introduction, now);
        let mut limits = control.config.announcement();
        // Where nothing waits there is no rest to speak of, and the first flight is the shorter.
        limits.message_rests &= !hello.waiting.is_empty();
        hello.limits = Some(limits);
        let dictionary = control.config.header_dictionaries.get(hello.header_dictionary);
        // Nothing is named that is not here.
        hello.header_dictionary = dictionary.as_ref().map_or(0, |held| held.id());
        control.set_header_dictionary(dictionary);
        if hello.next_beat_s > 0 {
            control.heartbeat.set_interval(Some(Duration::from_secs(hello.next_beat_s.into())));
        }
        control.send(&Frame::Hello(Box::new(hello)));
        control.introduced = true;
        control
    }

    /// A server's control stream on QUIC.
    pub fn server(config: Arc<Config>, now: Instant) -> Self {
        let control = Self::new(config, Role::Server, Phase::Introduction, now);
        Self { tables: control.new_tables(), ..control }
    }

    fn new_tables(&self) -> Option<Arc<FieldTables>> {
        Some(Arc::new(FieldTables::new(self.config.limits.clamped(), self.known_fields())))
    }

    /// What header blocks of both directions stand behind, once HELLO was said.
    pub(super) fn known_fields(&self) -> KnownFields {
        KnownFields::link(self.header_dictionary().cloned())
    }

    /// The header dictionary that HELLO names.
    pub fn header_dictionary(&self) -> Option<&Arc<HeaderDictionary>> {
        self.seldom.as_ref()?.header_dictionary.as_ref()
    }

    fn set_header_dictionary(&mut self, dictionary: Option<Arc<HeaderDictionary>>) {
        if dictionary.is_some() {
            self.seldom.get_or_insert_default().header_dictionary = dictionary;
        }
    }

    /// The client's side of a TCP connection begins with the preface.
    pub(super) fn tcp_client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        let mut control = Self::introducing(config, hello, now);
        let hello = control.out.split();
        control.out.extend_from_slice(&PREFACE);
        control.out.extend_from_slice(&hello);
        control
    }

    /// The server's side of a TCP connection expects it.
    pub(super) fn tcp_server(config: Arc<Config>, now: Instant) -> Self {
        Self::new(config, Role::Server, Phase::Preface, now)
    }

    fn new(config: Arc<Config>, role: Role, phase: Phase, now: Instant) -> Self {
        Self {
            config,
            role,
            phase,
            is_short: false,
            introduced: false,
            is_waited_for: false,
            peer: Peer::default(),
            heartbeat: Heartbeat::new(now),
            tables: None,
            out: BytesMut::new(),
            messages: VecDeque::new(),
            messages_bytes: 0,
            seldom: None,
            dictionaries_off: false,
            events: VecDeque::new(),
        }
    }

    /// Takes all whole frames off `input`. After an error a CLOSE is ready to be transmitted and
    /// everything else is over.
    pub fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        self.on_received(now, input);
        while let Some(frame) = self.next_frame(input)? {
            if let Err(error) = self.handle_frame(now, frame) {
                return Err(self.fail(error));
            }
        }
        Ok(())
    }

    /// The next event. To be asked until `None` after each `handle_*`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the next event is the peer's CLOSE.
    pub(super) fn closes_next(&self) -> bool {
        matches!(self.events.front(), Some(Event::Close { .. }))
    }

    /// Appends what is to be sent to `out`, about `bytes_max` at the most (a frame is never cut), and
    /// says how much that was.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) -> usize {
        let before = out.len();
        self.take_control(out);
        if let Some(tables) = self.tables.as_ref().filter(|_| self.may_send_requests()) {
            tables.take_frames(out);
        }
        while out.len() - before < bytes_max && self.introduced {
            let Some(message) = self.take_message() else { break };
            out.extend_from_slice(&message);
        }
        if out.len() == before {
            self.take_piece(out);
        }
        self.on_sent(now, out.len() - before);
        out.len() - before
    }

    /// When [`Control::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed => None,
            _ => self.heartbeat.next(self.ping_timeout()),
        }
    }

    /// On QUIC: a request's stream brought bytes then, which is a sign of life too.
    pub fn heard(&mut self, at: Instant) {
        self.heartbeat.on_heard(at);
    }

    /// On QUIC: a request's stream said something then, which wants an answer.
    pub fn spoke(&mut self, at: Instant) {
        self.heartbeat.on_spoke(at);
    }

    /// Client: the device slept. What was said before counts as said by nobody: its answers are not waited for.
    pub fn woke(&mut self) {
        self.heartbeat.on_woke();
    }

    /// The time has come: sends a beat, or finds that the peer broke its promise.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.phase == Phase::Closed {
            return Ok(());
        }
        match self.heartbeat.due(now, self.ping_timeout()) {
            Due::Nothing => Ok(()),
            Due::Ping => {
                self.ping(now);
                Ok(())
            }
            Due::PeerIsSilent => Err(self.fail(LinkError::new(
                CloseCode::HeartbeatMissed,
                "nothing arrived within the time that was promised, or a PING was not answered",
            ))),
        }
    }

    /// Server: takes the client in. Limits, heartbeat and agent are filled in from the configuration, and the
    /// dictionaries where `welcome` has no limits with others.
    pub fn welcome(&mut self, mut welcome: Welcome) {
        let mut limits = self.config.announcement();
        limits.message_rests &= welcome.resumed && self.is_waited_for;
        if let Some(given) = welcome.limits.take() {
            limits.dictionaries = given.dictionaries;
        }
        welcome.limits = Some(limits);
        welcome.heartbeat_max_s = whole_seconds(self.config.heartbeat_max);
        welcome.agent.clone_from(&self.config.agent);
        // Answers to what came behind HELLO wait for this to go first.
        let rest = self.out.split();
        self.send(&Frame::Welcome(Box::new(welcome)));
        self.out.extend_from_slice(&rest);
        self.introduced = true;
    }

    /// Client: how often it gives a sign of life on a quiet connection; HELLO promised the first. The
    /// server's maximum is kept in any case.
    pub fn set_heartbeat(&mut self, now: Instant, interval: Duration) {
        self.heartbeat.set_interval(Some(interval.max(Duration::from_secs(1))));
        self.ping(now);
    }

    /// When the client's next beat is due.
    pub fn beat_due(&self) -> Option<Instant> {
        self.heartbeat.beat_due().filter(|_| self.phase != Phase::Closed)
    }

    /// How often the client gives a sign of life on a quiet connection.
    pub fn beat_interval(&self) -> Option<Duration> {
        self.heartbeat.interval()
    }

    /// Client: from now on `watched` says whether somebody else finds dead connections, by [`Control::signs`]; then
    /// `Config::ping_timeout` means nothing.
    pub fn set_watched(&mut self, watched: bool) {
        self.heartbeat.is_watched = watched;
    }

    /// What the connection shows of its peer.
    pub fn signs(&self) -> Signs {
        self.heartbeat.signs()
    }

    /// Client: the server is not there any more, as whoever watches found.
    pub fn give_up(&mut self) -> LinkError {
        self.fail(LinkError::new(CloseCode::HeartbeatMissed, "nothing arrived when a sign of life was due"))
    }

    /// Sends a PING; the answer is [`Event::Rtt`].
    pub fn ping(&mut self, now: Instant) {
        let next_beat_s = self.heartbeat.interval().map_or(0, whole_seconds).into();
        let id = self.heartbeat.begin_ping(now);
        // It counts as sent even while the socket takes nothing, or each timeout would add another.
        self.heartbeat.on_sent(now);
        self.send(&Frame::Ping { id, next_beat_s });
    }

    /// Client: outcomes that were taken.
    pub fn ack(&mut self, ack: Ack) {
        self.send(&Frame::Ack(ack));
    }

    /// Server: queues a push behind those of its urgency. An error when it is larger than the client takes.
    pub fn push(&mut self, push: &Push) -> Result<(), RpcError> {
        let (payload, content_bytes) = self.compress(&push.payload);
        let frame = Frame::Push(PushFrame {
            id: push.id,
            priority: push.priority,
            topic: push.topic.clone(),
            content_type: push.content_type.clone(),
            content_bytes,
            payload,
        });
        let bytes = push.payload.len() + push.topic.len() + push.content_type.len();
        self.send_message(push.priority.urgency(), bytes, &frame)
    }

    /// Server, on QUIC: the client's packets come from another address than before.
    pub fn moved(&mut self) {
        if self.may_push() {
            self.send(&Frame::Moved);
        }
    }

    /// Server: whether pushes can be sent: the client was taken in and nobody closed.
    pub fn may_push(&self) -> bool {
        self.introduced && self.phase == Phase::Open
    }

    /// Client: pushes of this urgency up to `id` were taken.
    pub fn push_ack(&mut self, priority: Priority, id: u64) {
        self.send(&Frame::PushAck { priority, id });
    }

    /// Client: publishes a message. An error when it is larger than the server takes.
    pub fn publish(&mut self, publish: &Publish) -> Result<(), RpcError> {
        let (payload, content_bytes) = self.compress(&publish.payload);
        let frame = Frame::Publish(PublishFrame {
            id: publish.id,
            qos: publish.qos.min(1),
            topic: publish.topic.clone(),
            payload,
            content_bytes,
        });
        let bytes = publish.payload.len() + publish.topic.len();
        self.send_message(Priority::NORMAL.urgency(), bytes, &frame)
    }

    /// Server: answers a publish of quality 1.
    pub fn published(&mut self, id: u64, error: Option<&str>) {
        self.send(&Frame::Published { id, error: error.unwrap_or_default().to_owned() });
    }

    /// Client: changes subscriptions.
    pub fn subscribe(&mut self, subscribe: Subscribe) {
        self.send(&Frame::Subscribe(subscribe));
    }

    /// Server: answers a change of subscriptions.
    pub fn subscribed(&mut self, subscribed: Subscribed) {
        self.send(&Frame::Subscribed(subscribed));
    }

    /// Server: asks the client to go elsewhere.
    pub fn goaway(&mut self, goaway: GoAway) {
        self.send(&Frame::GoAway(Box::new(goaway)));
    }

    /// Server: sends a policy.
    pub fn policy(&mut self, policy: Policy) {
        self.send(&Frame::Policy(policy));
    }

    /// Client: says whether the policy is in use.
    pub fn policy_ack(&mut self, revision: u64, result: Result<(), &str>) {
        let text = result.err().unwrap_or_default().to_owned();
        self.send(&Frame::PolicyAck { revision, accepted: result.is_ok(), text });
    }

    /// PINGs that this side has sent.
    pub fn pings_sent(&self) -> u64 {
        self.heartbeat.pings()
    }

    /// Of these, in their order, the newest that was answered; 0: none. The peer has what was said before it.
    pub fn pings_answered(&self) -> u64 {
        self.heartbeat.answered()
    }

    /// Client: says of itself what changed, and what happened since the last report.
    pub fn report(&mut self, report: Report) {
        self.send(&Frame::Report(Box::new(report)));
    }

    /// Says why and ends the connection: nothing is handled or sent behind the CLOSE.
    pub fn close(&mut self, code: CloseCode, text: &str) {
        if self.phase != Phase::Closed {
            if !self.introduced {
                self.out.clear();
            }
            self.send(&Frame::Close { code, text: text.to_owned() });
            self.phase = Phase::Closed;
            self.messages.clear();
            self.take_piece(&mut BytesMut::new());
            self.messages_bytes = 0;
        }
    }

    /// Bytes of pushes or publishes that are queued: their sender waits while this is beyond what it
    /// wants to have in memory.
    pub fn queued_bytes(&self) -> usize {
        self.messages_bytes
    }

    /// What is known of the peer.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether a CLOSE was sent or received.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// What a request's stream on this QUIC connection needs to know.
    pub fn stream_settings(&self) -> StreamSettings {
        let tables = self.tables.clone();
        let welcomed = self.is_welcomed();
        StreamSettings { config: self.config.clone(), peer: self.peer.clone(), tables, welcomed }
    }

    /// QUIC: ready when streams have left instructions of header compression to be transmitted; each time
    /// once. A driver that waits for something else asks for this, too.
    pub fn poll_instructions(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.tables {
            Some(tables) if self.may_send_requests() => tables.poll_frames(cx),
            _ => Poll::Pending,
        }
    }

    /// Gives back memory that a burst left; for a connection that has become quiet.
    pub fn compact(&mut self) {
        self.out = BytesMut::from(&self.out[..]);
        self.messages.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Whether requests may be answered: WELCOME comes first.
    pub(super) fn may_send_requests(&self) -> bool {
        self.introduced && self.phase != Phase::Closed
    }

    /// Client: WELCOME has been read.
    pub(super) fn is_welcomed(&self) -> bool {
        self.role == Role::Client && self.phase == Phase::Open
    }

    /// Urgency of the next push or publish.
    pub(super) fn message_urgency(&self) -> Option<u8> {
        self.messages.front().map(|(urgency, _)| *urgency)
    }

    pub(super) fn take_message(&mut self) -> Option<Bytes> {
        let (_, message) = self.messages.pop_front()?;
        self.messages_bytes -= message.len();
        Some(message)
    }

    /// Moves the control frames that wait to `out`.
    pub(super) fn take_control(&mut self, out: &mut BytesMut) {
        if !self.introduced && self.phase != Phase::Closed {
            return;
        }
        out.extend_from_slice(&self.out);
        self.out.clear();
        if self.out.capacity() > BUFFER_BYTES_KEPT {
            self.out = BytesMut::new();
        }
    }

    pub(super) fn on_sent(&mut self, now: Instant, bytes: usize) {
        if bytes > 0 {
            self.heartbeat.on_sent(now);
        }
    }

    /// Queues a control frame.
    pub(super) fn send(&mut self, frame: &Frame) {
        if self.phase != Phase::Closed {
            frame::encode(frame, &mut self.out);
        }
    }

    /// The peer broke a rule: tells it, and ends the connection.
    pub(super) fn fail(&mut self, error: LinkError) -> LinkError {
        self.close(error.code, &error.rule);
        error
    }

    fn send_message(&mut self, urgency: u8, bytes: usize, frame: &Frame) -> Result<(), RpcError> {
        let bytes_max = self.peer.limits.frame_bytes_max as usize - MESSAGE_OVERHEAD_BYTES;
        if bytes > bytes_max {
            return Err(RpcError::new(
                RpcErrorKind::LimitExceeded,
                Execution::NotRun,
                format!("topic, type and payload have {bytes} bytes, the peer takes {bytes_max}"),
            ));
        }
        if self.phase == Phase::Closed {
            return Err(RpcError::new(
                RpcErrorKind::SessionLost,
                Execution::NotRun,
                "the connection is closed",
            ));
        }
        let mut encoded = BytesMut::new();
        frame::encode(frame, &mut encoded);
        self.messages_bytes += encoded.len();
        let place = self.messages.partition_point(|(waiting, _)| *waiting <= urgency);
        self.messages.insert(place, (urgency, encoded.freeze()));
        Ok(())
    }

    fn compress(&self, payload: &Bytes) -> (Bytes, Option<u64>) {
        let compressed = self.peer.compressor.as_ref().and_then(|compressor| compressor.compress(payload));
        match compressed {
            // The receiver refuses what grows more than this, so that small frames cannot fill its memory.
            Some(compressed) if payload.len() <= compressed.frame.len() * PUSH_EXPANSION_MAX => {
                (compressed.frame, Some(payload.len() as u64))
            }
            _ => (payload.clone(), None),
        }
    }

    fn ping_timeout(&self) -> Option<Duration> {
        (self.role == Role::Client && !self.heartbeat.is_watched).then_some(self.config.ping_timeout)
    }
}

/// Numbers and lengths around a push's or publish's texts and payload.
const MESSAGE_OVERHEAD_BYTES: usize = 64;
/// How many times its wire length a compressed push or publish may be.
const PUSH_EXPANSION_MAX: usize = 64;

/// Rounded up, so that a promise is never shorter than what is kept.
fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
