//! One connection while its client is there: the machine's bytes, events and clock.

mod answer;
mod asking;
mod ending;
mod pace;
mod reauth;
mod retained;
mod room;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::Sleep,
};
use towline_protocols::mqtt::{
    Disconnect, MqttError, Packet, Publish, ReasonCode, Version, encode,
    session::{Event, Settings},
};

use self::asking::Asking;
use super::{
    attachment::{Attachment, Parting},
    client::Closing,
    departures,
    enhanced::Exchange,
    inbox::{Inbox, Incoming, Way},
    io::{self, Output},
    message, publish,
    receipts::{Receipt, Receipts},
    retained::Wanted,
    subscribe,
};
use crate::{access::Leave, backend::pass_turn, hub::LastMatch, rate::Pace, request::Origin};

/// Answers that may wait for a client that does not read, before it is no longer read from.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Reads, or answers of a backend, before what they gave rise to is sent.
const READS_MAX: u8 = 4;
/// How long the last words may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

const TAKEN_OVER: Closing =
    Closing { reason: ReasonCode::SessionTakenOver, text: "another connection took the session over" };

const EXPIRED: Closing =
    Closing { reason: ReasonCode::MaximumConnectTime, text: "what proved who the client is has expired" };

/// Drives one connection.
pub(super) struct Driver<S> {
    attachment: Attachment,
    origin: Arc<Origin>,
    settings: Arc<Settings>,
    stream: S,
    /// The beginning of a packet whose end has not come.
    input: BytesMut,
    output: Output,
    inbox: Inbox,
    receipts: Receipts,
    /// Retained messages that the client is to get when it has room; of each filter once, so no more than it has
    /// subscriptions.
    retained: VecDeque<Wanted>,
    /// Under way while the hook is asked; nothing else is read meanwhile.
    asking: Option<Asking>,
    /// Under way while the client proves itself anew.
    exchange: Option<Box<Exchange>>,
    /// Set while the client has a keep-alive, or the connection may park.
    timer: Option<Pin<Box<Sleep>>>,
    /// Of the present turn: one look at the clock for all packets of a read.
    now: Instant,
    /// When something last came or went.
    active_at: Instant,
    /// Where the client's last message went.
    last: LastMatch,
    /// Under way while room is scarce there, and publishes wait for it.
    waits_for_room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The silence after which it may park; `None` never does.
    park_after: Option<Duration>,
    /// The stream holds written bytes that it has not flushed.
    is_unflushed: bool,
    /// The client does not take what is written.
    is_blocked: bool,
    /// The other ready tasks have gone first since there is something to send.
    has_let_pass: bool,
    /// Set where the listener limits rates.
    pace: Option<Box<Pace>>,
    /// Nothing is read for now: the client has to wait for a backend or the store, or to read what it is sent, or it is
    /// too fast.
    is_paused: bool,
}

/// How a driver's run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The connection is over.
    Ended,
    /// It has been quiet for a while.
    Quiet,
}

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// The client said so.
    Left { with_will: bool },
    /// The stream broke or ended.
    Lost,
    /// The server ends it, because of a broken rule.
    Broken(MqttError),
    /// The server ends it, for its own reasons.
    Closed(Closing),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        attachment: Attachment,
        origin: Arc<Origin>,
        settings: Arc<Settings>,
        stream: S,
        input: BytesMut,
        park_after: Option<Duration>,
    ) -> Self {
        let active_at = super::now();
        let pace = pace::of(&attachment.gateway, &origin.listener);
        let deadline = attachment.client.lock().deadline(attachment.epoch);
        let timer = deadline.into_iter().chain(park_after.map(|after| active_at + after)).min();
        Self {
            attachment,
            origin,
            settings,
            stream,
            input,
            output: Output::default(),
            inbox: Inbox::default(),
            receipts: Receipts::default(),
            retained: VecDeque::new(),
            asking: None,
            exchange: None,
            timer: timer.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
            now: active_at,
            active_at,
            last: LastMatch::default(),
            waits_for_room: None,
            park_after,
            is_unflushed: false,
            is_blocked: false,
            has_let_pass: false,
            pace,
            is_paused: false,
        }
    }

    /// Runs until the connection ends, and says goodbye; or until it may park.
    pub(super) async fn run(&mut self) -> Rest {
        let Err(end) = poll_fn(|cx| self.poll(cx)).await else { return Rest::Quiet };
        let Origin { listener, peer, .. } = &*self.origin;
        tracing::debug!(client_id = %self.attachment.client.id, %listener, %peer, ?end, "MQTT connection ended");
        // A client that broke a rule may be in the middle of saying more.
        let lingers = matches!(end, End::Broken(_));
        let ending = end.name();
        let (parting, last_words) = match end {
            End::Lost => (Parting::Lost, None),
            End::Left { with_will: true } => (Parting::Lost, self.last_answers()),
            End::Left { with_will: false } => (Parting::Left, self.last_answers()),
            End::Broken(error) => {
                self.count_limit(error.reason);
                (Parting::Lost, self.last_words(Closing { reason: error.reason, text: error.rule }))
            }
            End::Closed(closing) => {
                let is_shutdown = closing.reason == ReasonCode::ServerShuttingDown;
                let parting = if is_shutdown { Parting::Shutdown } else { Parting::Lost };
                (parting, self.last_words(closing))
            }
        };
        self.attachment.ending = ending;
        self.keep_retained();
        // The session is free from here on, however long the goodbye takes.
        self.attachment.detach(parting);
        Box::pin(self.farewell(last_words, lingers)).await;
        Rest::Ended
    }

    /// What there is to do, again and again until everything waits. What is read is answered together with what else
    /// is to be sent: a system call costs more than a message. A publisher's messages come one by one, and those of many
    /// publishers within a turn, so they are taken in at once and leave a turn later.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut reads = 0;
        self.now = super::now();
        loop {
            self.handle_input()?;
            let is_answered = self.poll_inbox(cx)?.is_ready() | self.poll_receipts(cx)?.is_ready();
            let is_answered = is_answered | self.poll_pace(cx)?.is_ready() | self.poll_asking(cx)?.is_ready();
            self.check_closing()?;
            let read = self.poll_read(cx);
            let goes_on = is_answered || read.is_ready();
            if goes_on {
                self.now = super::now();
                self.active_at = self.now;
                reads += 1;
            }
            if goes_on && reads < READS_MAX && !matches!(read, Poll::Ready(Err(_))) {
                continue;
            }
            reads = 0;
            if !self.has_let_pass && !matches!(read, Poll::Ready(Err(_))) && self.has_to_send() {
                self.has_let_pass = true;
                pass_turn(cx);
                return Poll::Pending;
            }
            self.poll_transmit(cx).map_err(|_| End::Lost)?;
            // A client that is gone may still hear what was answered.
            if let Poll::Ready(read) = read {
                read?;
            }
            let may_read_again = self.is_paused && !self.is_pausing();
            if !self.send_retained() && !goes_on && !may_read_again {
                break;
            }
        }
        self.has_let_pass = false;
        self.poll_timer(cx)
    }

    /// Answers one publish that a backend has taken or refused.
    fn poll_inbox(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        ready!(self.poll_room(cx));
        let (incoming, result) = ready!(self.inbox.poll_next(cx, &self.attachment.gateway, &self.origin));
        Poll::Ready(self.finish(&incoming, result))
    }

    /// Gives one answer that the store has made true by now.
    fn poll_receipts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let (receipt, written) = ready!(self.receipts.poll_next(cx));
        Poll::Ready(self.hand_out(receipt, written))
    }

    /// Takes events off the input, as long as there is room for what they ask.
    fn handle_input(&mut self) -> Result<(), End> {
        while !self.input.is_empty() && !self.waits() {
            let event = {
                let mut inner = self.attachment.client.lock();
                let Some((connection, session)) = inner.current(self.attachment.epoch) else { break };
                connection
                    .handle_bytes(session, &mut self.input, &self.settings, self.now)
                    .map_err(End::Broken)?
            };
            match event {
                Some(event) => self.handle_event(event)?,
                None => break,
            }
        }
        if self.input.is_empty() {
            // An idle connection keeps no buffer.
            self.input = BytesMut::new();
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Publish(publish) => self.handle_publish(&publish),
            Event::Repeated(packet_id) => self.answer_durably(Receipt::Repeated(packet_id)),
            Event::Release(packet_id, reason) => {
                self.forget_received(packet_id);
                self.answer_durably(Receipt::Released(packet_id, reason))
            }
            Event::Received(packet_id, reason) => self.answer_durably(Receipt::Received(packet_id, reason)),
            Event::Subscribe(mut subscribe) => {
                subscribe::rename(&self.attachment, &mut subscribe);
                let leaves = subscribe::leaves_now(&self.attachment, &self.origin, &subscribe);
                self.ask_or_subscribe(Box::new(subscribe), leaves)
            }
            Event::Unsubscribe(unsubscribe) => {
                let reasons = subscribe::unsubscribe(&self.attachment, &unsubscribe);
                self.answer_durably(Receipt::Unsubscribed(unsubscribe.packet_id, reasons))
            }
            Event::Authenticate { is_new, data } => self.authenticate_again(is_new, data),
            Event::Disconnect { with_will } => Err(End::Left { with_will }),
        }
    }

    /// A publish with a route, or behind one, waits its turn; any other is done at once.
    fn handle_publish(&mut self, publish: &Publish) -> Result<(), End> {
        self.note_message();
        let mut message = message::from_publish(publish, &self.attachment.client.id, &self.last, self.now);
        let (way, leave) = publish::find_way(&self.attachment.gateway, &self.origin, &mut message);
        let Publish { qos, packet_id, .. } = *publish;
        let is_known = leave.is_some();
        let leave = leave.unwrap_or(Leave::Unknown);
        let incoming = Incoming { message: Arc::new(message), qos, packet_id, leave, way };
        if !is_known {
            self.ask_leave(incoming);
            return Ok(());
        }
        self.take_in(incoming)
    }

    /// It is known whether the client may publish it.
    fn take_in(&mut self, mut incoming: Incoming) -> Result<(), End> {
        if incoming.leave != Leave::Granted && !matches!(incoming.way, Way::Nowhere(_)) {
            incoming.way = Way::Here;
        }
        if self.inbox.is_empty() && !incoming.way.is_routed() && !self.lacks_room(&incoming) {
            return self.finish(&incoming, Ok(()));
        }
        self.inbox.push(incoming);
        Ok(())
    }

    fn check_closing(&mut self) -> Result<(), End> {
        let mut inner = self.attachment.client.lock();
        // Whoever calls has let others go first.
        self.has_let_pass |= inner.take_call();
        let closing = inner.closing;
        match closing {
            _ if inner.current(self.attachment.epoch).is_none() => Err(End::Closed(TAKEN_OVER)),
            // What a backend or the store works on is answered first.
            Some(closing) if self.inbox.is_empty() && self.receipts.is_empty() => Err(End::Closed(*closing)),
            _ => Ok(()),
        }
    }

    /// Whether the stream could be given something. What it does not take waits for it, and for nobody else.
    fn has_to_send(&self) -> bool {
        let mut inner = self.attachment.client.lock();
        !self.is_blocked
            && inner
                .current(self.attachment.epoch)
                .is_some_and(|(connection, session)| connection.has_output(session))
    }

    /// Writes what the machine has, until that or the stream is exhausted.
    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        loop {
            self.is_blocked = self.output.poll_write(&mut self.stream, cx)?.is_pending();
            if self.is_blocked {
                return Ok(());
            }
            let mut inner = self.attachment.client.lock();
            let Some((connection, session)) = inner.current(self.attachment.epoch) else { return Ok(()) };
            self.output.fill(|out| connection.poll_transmit(session, out, self.now));
            self.attachment.client.count_overdue(connection.take_dropped(), session.take_aged());
            inner.make_room();
            inner.register(cx);
            if self.output.is_empty() {
                break;
            }
            self.is_unflushed = true;
            self.active_at = self.now;
        }
        self.output.release();
        if self.is_unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.is_unflushed = false;
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.is_paused = self.is_pausing();
        if self.is_paused {
            return Poll::Pending;
        }
        match ready!(io::poll_read(&mut self.stream, cx, &mut self.input)) {
            Ok(0) | Err(_) => Poll::Ready(Err(End::Lost)),
            Ok(count) => {
                self.note_bytes(count);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn is_pausing(&self) -> bool {
        let mut inner = self.attachment.client.lock();
        let is_closing = inner.closing.is_some();
        let control_bytes =
            inner.current(self.attachment.epoch).map_or(0, |(connection, _)| connection.control_bytes());
        is_closing || self.waits() || (self.is_blocked && control_bytes > CONTROL_BYTES_MAX)
    }

    /// Whether nothing more is followed for now.
    fn waits(&self) -> bool {
        self.asking.is_some() || self.is_inbox_full() || self.is_held_back()
    }

    fn is_inbox_full(&self) -> bool {
        let count_max = usize::from(self.settings.receive_maximum);
        self.inbox
            .is_full(count_max.saturating_sub(self.receipts.len()), self.settings.limits.packet_bytes_max)
    }

    /// The timer is not moved for each packet: when it is due, it looks for how long the client was silent.
    /// Ready without an error when the connection may park.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(mut timer) = self.timer.take() else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            let now = super::now();
            let silence = self.check_silence(now)?;
            if self.park_after.is_some_and(|after| self.active_at + after <= now) {
                if self.is_idle() {
                    return Poll::Ready(Ok(()));
                }
                // What it waits for may take long; it is looked at again later.
                self.active_at = now;
            }
            let park = self.park_after.map(|after| self.active_at + after);
            let Some(next) = silence.into_iter().chain(park).min() else { return Poll::Pending };
            timer.as_mut().reset(next.into());
        }
        self.timer = Some(timer);
        Poll::Pending
    }

    /// Says when the client will have been silent for too long, or has to have proved itself anew.
    fn check_silence(&self, now: Instant) -> Result<Option<Instant>, End> {
        let mut inner = self.attachment.client.lock();
        let Some((connection, _)) = inner.current(self.attachment.epoch) else { return Ok(None) };
        if self.is_paused {
            connection.touch(now);
        }
        connection.handle_timeout(now).map_err(End::Broken)?;
        if inner.expires.is_some_and(|expires| expires <= now) {
            return Err(End::Closed(EXPIRED));
        }
        Ok(inner.deadline(self.attachment.epoch))
    }

    /// Whether nothing is buffered here and nothing is under way. What the session has for the client is asked
    /// when the connection parks.
    fn is_idle(&self) -> bool {
        let has_bytes = !self.input.is_empty() || !self.output.is_empty() || self.is_unflushed;
        let waits = self.is_blocked || self.is_paused || !self.inbox.is_empty() || !self.receipts.is_empty();
        let is_under_way = self.asking.is_some() || self.exchange.is_some() || !self.retained.is_empty();
        !has_bytes && !waits && !is_under_way
    }

    /// What was answered before the client took leave: who sends all it has to say at one time, CONNECT to DISCONNECT, may
    /// read on for it.
    fn last_answers(&self) -> Option<BytesMut> {
        let mut inner = self.attachment.client.lock();
        let (connection, _) = inner.current(self.attachment.epoch)?;
        Some(connection.take_answers()).filter(|answers| !answers.is_empty())
    }

    /// The bytes of a DISCONNECT, where the version has one.
    fn last_words(&self, closing: Closing) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        let mut inner = self.attachment.client.lock();
        if let Some((connection, session)) = inner.current(self.attachment.epoch) {
            match departures::server_reference(&self.attachment.gateway) {
                Some(reference) if closing.reason == ReasonCode::ServerShuttingDown => {
                    connection.disconnect_to(ReasonCode::UseAnotherServer, closing.text, Some(reference));
                }
                _ => connection.disconnect(closing.reason, closing.text),
            }
            connection.poll_transmit(session, &mut out, super::now());
        } else if self.attachment.version == Version::V5 {
            // Taken over: the session and its machine belong to another connection.
            let disconnect = Packet::Disconnect(Disconnect::new(closing.reason));
            let _ = encode(&disconnect, self.attachment.version, &mut out);
        }
        Some(out)
    }

    /// Writes the rest and closes. Whether the client reads it or not, the connection is over.
    async fn farewell(&mut self, last_words: Option<BytesMut>, lingers: bool) {
        let Self { stream, output, .. } = self;
        let farewell = async {
            if let Some(last_words) = last_words {
                // First what is left of a packet that was begun.
                poll_fn(|cx| output.poll_write(stream, cx)).await?;
                stream.write_all(&last_words).await?;
            }
            stream.shutdown().await?;
            if lingers { io::read_to_end(stream).await } else { Ok(()) }
        };
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }

    /// It cannot park now; it is looked at again later.
    pub(super) fn stay(&mut self) {
        self.active_at = super::now();
        let silence = self.check_silence(self.active_at).ok().flatten();
        let park = self.park_after.map(|after| self.active_at + after);
        let next = silence.into_iter().chain(park).min();
        self.timer = next.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Its parts, to be parked: the rest is empty while it is idle.
    pub(super) fn into_parts(self) -> (Attachment, Arc<Origin>, S) {
        (self.attachment, self.origin, self.stream)
    }

    fn count_limit(&self, reason: ReasonCode) {
        let limit = match reason {
            ReasonCode::PacketTooLarge => "mqtt.packet_bytes_max",
            ReasonCode::QuotaExceeded => "mqtt.packet_items",
            ReasonCode::ReceiveMaximumExceeded => "mqtt.receive_maximum",
            ReasonCode::TopicAliasInvalid => "mqtt.topic_alias_max",
            ReasonCode::TopicNameInvalid => "mqtt.topic_levels_max",
            ReasonCode::KeepAliveTimeout => "keep_alive",
            _ => return,
        };
        self.attachment.gateway.metrics.limit_hit(limit);
    }
}
