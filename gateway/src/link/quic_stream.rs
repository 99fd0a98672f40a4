//! Requests on QUIC: each has a stream and a task of its own.

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use tokio::{io::AsyncWriteExt as _, sync::watch, task::JoinSet};
use towline_protocols::link::{
    Control, Event, Execution, Place, Priority, RequestHead, RpcError, RpcErrorKind, StreamCodec,
    StreamSettings,
};

use super::{
    door::{Door, Opening},
    head,
    quic_turns::{Turn, Turns},
};
use crate::{
    session::{Attach, BodySender, Consumer, Credits, ExchangePart, TakenBytes},
    transport::quic,
};

/// quinn sends streams of a higher number first: the control stream, then urgency 0 to 7.
pub(super) const CONTROL_PRIORITY: i32 = 8;
const READ_BYTES: usize = 16 << 10;
/// Bytes of an answer that wait for the stream, beside one message.
const OUT_BYTES_MAX: usize = 32 << 10;
/// Decompressed messages of one connection that nobody has taken may hold `message_bytes_max` and so many of
/// its windows beside one message, as on TCP; others wait as they came.
const BUDGET_WINDOWS: usize = 4;

/// The streams of one connection. Dropping it ends their tasks; the requests go on in the session.
pub(super) struct QuicStreams {
    pub(super) machine: Control,
    connection: quinn::Connection,
    pub(super) path: quic::Path,
    accepted: Option<(SendStream, RecvStream)>,
    /// Bytes of decompressed messages that the backends of all streams have not taken.
    inflated: Arc<watch::Sender<usize>>,
    turns: Arc<Turns>,
    tasks: JoinSet<Left>,
    /// How many requests QUIC lets the client have open now.
    allowed: usize,
    streams_max: usize,
}

impl QuicStreams {
    pub(super) fn new(
        connection: quinn::Connection,
        path: quic::Path,
        machine: Control,
        streams_max: usize,
    ) -> Self {
        let allowed = streams_max.min(quic::REQUESTS_AT_FIRST);
        let (inflated, turns, tasks) = (Arc::default(), Arc::default(), JoinSet::new());
        Self { machine, connection, path, accepted: None, inflated, turns, tasks, allowed, streams_max }
    }

    /// Waits for a new stream, for the end of one, or for what streams leave to the control stream. Safe to cancel. QUIC's own limit on streams is
    /// never above `streams_max`, so the tasks are no more.
    pub(super) async fn wake(&mut self) {
        tokio::select! {
            accepted = self.connection.accept_bi() => match accepted {
                Ok(accepted) => self.accepted = Some(accepted),
                // The control stream says so too.
                Err(_) => std::future::pending().await,
            },
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Left { dictionary_unknown }) => {
                    if dictionary_unknown {
                        self.machine.forget_dictionary();
                    }
                }
                Err(error) => tracing::error!("the task of a stream failed: {error}"),
            },
            () = poll_fn(|cx| self.machine.poll_instructions(cx)) => {}
        }
    }

    /// Serves what [`QuicStreams::wake`] accepted.
    pub(super) fn serve(&mut self, door: &Arc<Door>) {
        if let Some((send, recv)) = self.accepted.take() {
            if self.path.look() {
                self.machine.moved();
            }
            let settings = self.machine.stream_settings();
            let limits = settings.config.limits.clamped();
            let budget =
                limits.message_bytes_max as usize + BUDGET_WINDOWS * limits.connection_window as usize;
            let inflated = Inflated { of_all: Arc::clone(&self.inflated), held: 0, budget, waits: false };
            let turn = Turn::new(Arc::clone(&self.turns));
            let half = Half { send, out: BytesMut::new(), turn, ended: false, finished: false };
            self.tasks.spawn(serve_stream(Arc::clone(door), settings, inflated, half, recv));
            self.make_room();
        }
    }

    /// Allows twice as many requests once half of the allowed ones run: a client that opens them one after
    /// the other never waits for the limit.
    fn make_room(&mut self) {
        if self.allowed < self.streams_max && self.tasks.len() * 2 >= self.allowed {
            self.allowed = self.allowed.saturating_mul(2).min(self.streams_max);
            quic::allow_requests(&self.connection, self.allowed);
        }
    }
}

/// A stream's share of the decompressed messages of its connection.
struct Inflated {
    of_all: Arc<watch::Sender<usize>>,
    held: usize,
    /// What those of the connection may take beside one message.
    budget: usize,
    /// The message that comes next waits until others of the connection are consumed.
    waits: bool,
}

/// What became of a message that asks for room.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Taken,
    /// Since now, or since it asked before.
    Lacking {
        since_now: bool,
    },
}

impl Inflated {
    /// Counts `bytes` more, if there is room; however many they are, when the connection holds less than its
    /// budget: so one message is always let through.
    fn take(&mut self, bytes: usize) -> Room {
        let budget = self.budget;
        let has_room = |taken: &mut usize| {
            let has_room = *taken < budget;
            *taken += if has_room { bytes } else { 0 };
            has_room
        };
        if bytes == 0 || self.of_all.send_if_modified(has_room) {
            self.held += bytes;
            self.waits = false;
            return Room::Taken;
        }
        Room::Lacking { since_now: !std::mem::replace(&mut self.waits, true) }
    }

    /// Waits until there may be room again.
    async fn freed(&self) {
        // This holds the sender, so it is there.
        let _ = self.of_all.subscribe().wait_for(|taken| *taken < self.budget).await;
    }

    fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.of_all.send_modify(|taken| *taken -= bytes);
    }
}

impl Drop for Inflated {
    fn drop(&mut self) {
        self.give_back(usize::MAX);
    }
}

/// What a stream leaves to its connection.
struct Left {
    /// The client does not hold the dictionary that it announced.
    dictionary_unknown: bool,
}

async fn serve_stream(
    door: Arc<Door>,
    settings: StreamSettings,
    inflated: Inflated,
    half: Half,
    recv: RecvStream,
) -> Left {
    let window = settings.config.limits.clamped().stream_window as usize;
    let mut stream = Stream {
        codec: StreamCodec::server(settings, recv.id().index()),
        recv,
        input: BytesMut::new(),
        half,
        door,
        credits: Arc::default(),
        body: None,
        unread: 0,
        carried: 0,
        inflated,
        counted: 0,
        window,
        read_over: false,
    };
    // A stream exists as soon as a later one is heard of, and on a slow network its first frame may be behind
    // all of theirs: it may take as long as the connection lives.
    let outcome = match Box::pin(stream.first()).await {
        Ok(consumer) => Box::pin(stream.carry(consumer)).await,
        Err(over) => Err(over),
    };
    match &outcome {
        Err(Over::Refused(error)) => stream.refuse(error).await,
        // CLOSE says it of the whole connection, and takes this task along.
        Err(Over::Displaced) if stream.door.lease.revoked().is_some() => std::future::pending().await,
        _ => {}
    }
    Left { dictionary_unknown: matches!(outcome, Err(Over::Unreadable)) }
}

/// What is wrong with a request of which nothing was handed on.
fn not_run(over: Over) -> Over {
    match over {
        Over::Refused(error) => Over::Refused(RpcError { execution: Execution::NotRun, ..error }),
        over => over,
    }
}

/// Why a stream ends before its answer.
enum Over {
    /// The connection is gone: the session keeps what runs.
    Lost,
    /// The client wants no answer: nobody does.
    Cancelled,
    /// The client does not hold the dictionary that it announced: the session keeps what runs, and the client
    /// asks for the answer on another stream.
    Unreadable,
    /// Another stream, or another connection, has taken the answer up.
    Displaced,
    /// RESET says why.
    Refused(RpcError),
}

impl From<RpcError> for Over {
    fn from(error: RpcError) -> Self {
        Self::Refused(error)
    }
}

struct Stream {
    codec: StreamCodec,
    recv: RecvStream,
    input: BytesMut,
    half: Half,
    door: Arc<Door>,
    credits: Arc<Credits>,
    body: Option<BodySender>,
    /// Bytes of messages that the backend has not taken: at a window of them, reading stops.
    unread: usize,
    /// Those of them that an earlier connection brought.
    carried: usize,
    inflated: Inflated,
    /// Bytes of the message that the codec hands out next which are counted there already.
    counted: usize,
    window: usize,
    read_over: bool,
}

struct Half {
    send: SendStream,
    out: BytesMut,
    turn: Turn,
    /// The answer's end is in `out`, or was sent.
    ended: bool,
    /// The stream's own end was sent.
    finished: bool,
}

impl Drop for Half {
    /// quinn ends a stream that is dropped as if all of it had been said. This one says nothing of the request, which
    /// the session keeps (PROTOCOL.md, section 1).
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.send.reset(VarInt::from_u32(0));
        }
    }
}

impl Stream {
    /// The first frame decides what the stream is for.
    async fn first(&mut self) -> Result<Consumer, Over> {
        loop {
            match self.codec.is_blocked() {
                true => self.unblocked().await.map_err(not_run)?,
                false => self.read().await.map_err(not_run)?,
            }
            while !self.has_room() {
                self.roomy().await?;
            }
            let Some(event) = self.codec.poll_event()? else { continue };
            return match event {
                Event::Request { seq, head, end } => self.open(seq, &head, end).await,
                Event::Attach { seq, received, continues } => self.attach(seq, received, continues).await,
                _ => {
                    let text = "a request's stream must begin with REQUEST or ATTACH";
                    Err(RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, text).into())
                }
            };
        }
    }

    async fn open(&mut self, seq: u64, head: &RequestHead, end: bool) -> Result<Consumer, Over> {
        self.half.set_priority(head.priority);
        if !end {
            self.whole_or_held().await?;
        }
        loop {
            match self.door.open(seq, head, end, &self.credits) {
                Opening::Later => self.held().await?,
                Opening::Refused(error) => return Err(error.into()),
                Opening::Answered(consumer, body) => {
                    self.body = body;
                    return Ok(consumer);
                }
            }
        }
    }

    async fn attach(&mut self, seq: u64, received: Place, continues: bool) -> Result<Consumer, Over> {
        loop {
            match self.door.lease.attach(seq, received) {
                Attach::Later => self.held().await?,
                Attach::Attached(consumer) => {
                    self.half.set_priority(consumer.exchange().priority());
                    self.take_up(seq, continues);
                    return Ok(consumer);
                }
                Attach::Refused(error) => return Err(error.into()),
                Attach::Unknown => {
                    let text = "this session has never seen the request: send it again";
                    return Err(RpcError::new(RpcErrorKind::SessionLost, Execution::NotRun, text).into());
                }
            }
        }
    }

    /// Goes on with what earlier connections left of the request's body, or says that nobody does.
    fn take_up(&mut self, seq: u64, continues: bool) {
        if !continues && self.door.lease.could_take_up(seq) {
            self.door.lease.cancel(seq, "the client does not go on with the request");
        } else if continues && let Some((body, held)) = self.door.lease.take_up(seq, &self.credits) {
            self.body = Some(body);
            (self.unread, self.carried) = (held, held);
        }
    }

    /// Of early data, a request is begun when it has arrived whole.
    async fn whole_or_held(&mut self) -> Result<(), Over> {
        let mut bytes = 0;
        while !self.door.holds.is_complete() && !self.read_over && bytes < self.window {
            let door = Arc::clone(&self.door);
            tokio::select! {
                held = door.holds.completed() => held.map_err(|_| Over::Lost)?,
                read = read(&mut self.recv, &mut self.input) => {
                    bytes += read.as_ref().copied().unwrap_or_default();
                    self.on_read(read)?;
                }
            }
        }
        if self.read_over { Ok(()) } else { self.held().await }
    }

    /// Waits until the connection holds its session; it ends when it never does.
    async fn held(&self) -> Result<(), Over> {
        self.door.holds.completed().await.map_err(|_| Over::Lost)
    }

    /// Takes the request in and sends its answer, until both are done.
    async fn carry(&mut self, mut consumer: Consumer) -> Result<(), Over> {
        let seq = consumer.seq();
        let stopped = self.half.send.stopped();
        tokio::pin!(stopped);
        loop {
            self.follow_events(&consumer)?;
            let sent = self.send_ready(&mut consumer);
            self.checked(seq, sent)?;
            if self.half.out.is_empty() {
                self.half.turn.leave();
            }
            if self.half.ended && self.half.out.is_empty() {
                // A client that still sends has its answer already.
                self.half.finish();
                let _ = self.recv.stop(VarInt::from_u32(0));
                return Ok(());
            }
            let is_full = self.unread >= self.window || self.inflated.waits;
            let reads = !self.read_over && !is_full && !self.codec.is_blocked();
            let asks = !self.half.ended && self.half.out.len() < OUT_BYTES_MAX;
            let credits = Arc::clone(&self.credits);
            let turned = tokio::select! {
                read = read(&mut self.recv, &mut self.input), if reads => self.on_read(read),
                written = self.half.write(), if !self.half.out.is_empty() => written,
                next = consumer.next(), if asks => self.send_next(next),
                () = self.inflated.freed(), if self.inflated.waits => Ok(()),
                () = poll_fn(|cx| self.codec.poll_unblocked(cx)) => {
                    self.codec.handle_bytes(&mut self.input).map_err(Over::from)
                }
                code = &mut stopped => Err(stopped_by(code.ok().flatten())),
                () = credits.changed() => {
                    let TakenBytes { taken, kept, let_go } = self.credits.take();
                    let taken: usize = taken.iter().map(|(_, bytes)| bytes).sum();
                    self.unread = self.unread.saturating_sub(taken);
                    let carried = self.carried.min(taken);
                    self.carried -= carried;
                    // What an earlier connection brought never counted here, kept or not.
                    self.inflated.give_back((taken - carried).saturating_sub(kept) + let_go);
                    Ok(())
                }
            };
            self.checked(seq, turned)?;
        }
    }

    /// Where the answer is not wanted any more, the request is cancelled.
    fn checked(&self, seq: u64, turned: Result<(), Over>) -> Result<(), Over> {
        match &turned {
            Err(Over::Cancelled) => self.door.lease.cancel(seq, "the client lost interest"),
            Err(Over::Refused(error)) => self.door.lease.cancel(seq, &error.message),
            Ok(()) | Err(Over::Lost | Over::Unreadable | Over::Displaced) => {}
        }
        turned
    }

    /// Sends what of the answer is there, so that it leaves in as few frames and packets as it can.
    fn send_ready(&mut self, consumer: &mut Consumer) -> Result<(), Over> {
        while !self.half.ended && self.half.out.len() < OUT_BYTES_MAX {
            let mut nobody = Context::from_waker(Waker::noop());
            match pin!(consumer.next()).poll(&mut nobody) {
                Poll::Ready(next) => self.send_next(next)?,
                Poll::Pending => break,
            }
        }
        let flushed = self.codec.flush(&mut self.half.out);
        flushed.map_err(|error| Over::Refused(head::answer_lost(error)))
    }

    fn send_next(&mut self, next: Option<(ExchangePart, bool)>) -> Result<(), Over> {
        let out = &mut self.half.out;
        // An end of the stream would say that this is all of the answer.
        let Some((part, ends)) = next else { return Err(Over::Displaced) };
        self.half.ended = ends;
        match part {
            ExchangePart::Head(fields) => self.codec.send_response(&fields, ends, out),
            ExchangePart::Message(message) => self.codec.send_message(message, ends, out).map(drop),
            ExchangePart::Trailers(fields) => self.codec.send_trailers(&fields, out),
            ExchangePart::End => self.codec.send_end(out),
            ExchangePart::Error(error) => {
                self.codec.reset(&error, out);
                Ok(())
            }
        }
        .map_err(|error| Over::Refused(head::answer_lost(error)))
    }

    fn follow_events(&mut self, consumer: &Consumer) -> Result<(), Over> {
        // Messages are decompressed as they are asked for: those beyond a window wait as they came.
        while self.unread < self.window {
            let inflates = self.codec.inflates_next();
            if !self.has_room() {
                break;
            }
            self.counted = 0;
            let event = self.codec.poll_event().inspect_err(|error| {
                head::count_limit(&self.door.gateway, error);
                self.door.lease.cancel(consumer.seq(), &error.message);
            })?;
            let Some(event) = event else { break };
            match event {
                Event::MessagePart { message_bytes, bytes, end_of_message, end, .. } => {
                    if let Some(body) = self.body.as_ref().filter(|body| body.is_open()) {
                        self.unread += bytes.len();
                        let passed = body.part(message_bytes, bytes, end_of_message);
                        passed.inspect_err(|error| self.door.lease.cancel(consumer.seq(), &error.message))?;
                    } else {
                        // What nobody takes is not credited by anybody.
                        self.inflated.give_back(inflates);
                    }
                    if end {
                        self.end_body(consumer, BodySender::end)?;
                    }
                }
                Event::End { .. } => self.end_body(consumer, BodySender::end)?,
                Event::Trailers { fields, .. } => {
                    self.end_body(consumer, |body| body.trailers(head::trailers(&fields)))?;
                }
                Event::Reset { error, .. } => {
                    if head::is_unreadable(&error) {
                        return Err(Over::Unreadable);
                    }
                    self.door.lease.cancel(consumer.seq(), &error.message);
                    return Err(Over::Cancelled);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts what the codec hands out next, once. False: it waits for room, and was counted among those that do, however
    /// often it asks.
    fn has_room(&mut self) -> bool {
        let bytes = self.codec.inflates_next();
        match self.inflated.take(bytes.saturating_sub(self.counted)) {
            Room::Taken => self.counted = bytes,
            Room::Lacking { since_now: true } => self.door.gateway.metrics.limit_hit("compressed_bytes_held"),
            Room::Lacking { since_now: false } => {}
        }
        !self.inflated.waits
    }

    /// Waits for room, before the request is begun.
    async fn roomy(&mut self) -> Result<(), Over> {
        tokio::select! {
            () = self.inflated.freed() => Ok(()),
            code = self.half.send.stopped() => Err(stopped_by(code.ok().flatten())),
        }
    }

    fn end_body(
        &mut self,
        consumer: &Consumer,
        end: impl FnOnce(BodySender) -> Result<bool, RpcError>,
    ) -> Result<(), Over> {
        let Some(body) = self.body.take() else { return Ok(()) };
        match end(body) {
            Ok(true) => consumer.exchange().request_complete(),
            Ok(false) => {}
            Err(error) => {
                self.door.lease.cancel(consumer.seq(), &error.message);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Waits for the insertions that a header block refers to.
    async fn unblocked(&mut self) -> Result<(), Over> {
        tokio::select! {
            () = poll_fn(|cx| self.codec.poll_unblocked(cx)) => Ok(self.codec.handle_bytes(&mut self.input)?),
            code = self.half.send.stopped() => Err(stopped_by(code.ok().flatten())),
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        let read = read(&mut self.recv, &mut self.input).await;
        self.on_read(read)
    }

    fn on_read(&mut self, read: Result<usize, ReadError>) -> Result<(), Over> {
        match read {
            Ok(0) => {
                self.read_over = true;
                Ok(self.codec.handle_fin(&self.input)?)
            }
            Ok(_) => {
                self.codec.handle_bytes(&mut self.input)?;
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                Ok(())
            }
            Err(ReadError::Reset(code)) => Err(stopped_by(Some(code))),
            Err(_) => Err(Over::Lost),
        }
    }

    async fn refuse(&mut self, error: &RpcError) {
        head::count_limit(&self.door.gateway, error);
        self.codec.reset(error, &mut self.half.out);
        // However long what is more urgent takes: a stream that ended without them would say that the request
        // may have run. One that the client does not read is one of the few that QUIC allows it.
        let _ = self.half.send.write_all_buf(&mut self.half.out).await;
        self.half.finish();
        let _ = self.recv.stop(VarInt::from_u32(0));
    }
}

impl Half {
    /// What is sent before others of this connection.
    fn set_priority(&mut self, priority: Priority) {
        self.turn.set_priority(priority);
        let _ = self.send.set_priority(CONTROL_PRIORITY - 1 - i32::from(priority.urgency()));
    }

    fn finish(&mut self) {
        self.finished = true;
        let _ = self.send.finish();
    }

    /// Safe to cancel.
    async fn write(&mut self) -> Result<(), Over> {
        let (send, out) = (&mut self.send, &self.out);
        let write = |cx: &mut Context<'_>, most: usize| {
            Pin::new(&mut *send).poll_write(cx, &out[..out.len().min(most)])
        };
        match self.turn.write(write).await {
            Ok(count) => {
                let _ = self.out.split_to(count);
                Ok(())
            }
            Err(quinn::WriteError::Stopped(code)) => Err(stopped_by(Some(code))),
            Err(_) => Err(Over::Lost),
        }
    }
}

/// A client stops or resets a stream with the number of an error to say that nobody wants the answer. With
/// 0, as when its connection is torn down, the session keeps the request.
fn stopped_by(code: Option<VarInt>) -> Over {
    match code.map(VarInt::into_inner) {
        None | Some(0) => Over::Lost,
        Some(code) if code == RpcErrorKind::UnknownDictionary as u64 => Over::Unreadable,
        Some(_) => Over::Cancelled,
    }
}

/// Reads what is there; 0 is the end. Safe to cancel.
async fn read(recv: &mut RecvStream, input: &mut BytesMut) -> Result<usize, ReadError> {
    let Some(chunk) = recv.read_chunk(READ_BYTES, true).await? else { return Ok(0) };
    input.extend_from_slice(&chunk.bytes);
    Ok(chunk.bytes.len())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_message_is_let_through_beyond_the_room_and_others_wait() {
        let of_all = Arc::default();
        let share = || Inflated { of_all: Arc::clone(&of_all), held: 0, budget: 100, waits: false };
        let (mut one, mut two, mut three) = (share(), share(), share());
        assert_eq!((one.take(99), two.take(500)), (Room::Taken, Room::Taken), "however large");
        assert_eq!((three.take(1), three.waits), (Room::Lacking { since_now: true }, true));
        assert!(three.freed().now_or_never().is_none());
        two.give_back(499);
        assert_eq!(three.take(1), Room::Lacking { since_now: false }, "100 are held");
        drop(one);
        three.freed().now_or_never().unwrap();
        assert_eq!((three.take(1), three.waits), (Room::Taken, false));
        assert_eq!((*of_all.borrow(), two.held, three.held), (2, 1, 1));
        let mut four = share();
        assert_eq!((four.take(98), three.take(1)), (Room::Taken, Room::Lacking { since_now: true }));
    }
}
