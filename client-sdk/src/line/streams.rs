//! Requests on QUIC: each has a stream and a task of its own.

use std::{collections::HashSet, future::poll_fn, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::timeout};
use towline_protocols::link::{
    self, Event, Execution, Place, RequestHead, RpcError, RpcErrorKind, StreamCodec, StreamSettings,
};

use crate::{
    connect::Path,
    core::{Core, Kept, Key, RequestSink, Shared, SharedWakers, now},
    work,
};

/// quinn sends streams of a higher number first: the control stream, then urgency 0 to 7.
pub(super) const CONTROL_PRIORITY: i32 = 8;
/// Message bytes that wait for one stream.
const OUT_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 16 << 10;
/// How long a cancelled request may take to say so.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// The streams of one connection. Dropping it ends their tasks.
pub(super) struct Streams {
    shared: Arc<Shared>,
    connection: quinn::Connection,
    pub(super) path: Path,
    /// The gateway had answered before anything was said.
    answered: bool,
    /// Requests that have a task.
    carried: HashSet<u64>,
    tasks: JoinSet<Ended>,
}

/// A stream's task has ended.
struct Ended {
    seq: u64,
    /// The stream is gone, and said nothing of the request.
    lost: bool,
}

impl Streams {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: quinn::Connection,
        path: Path,
        answered: bool,
    ) -> Self {
        Self { shared, connection, path, answered, carried: HashSet::new(), tasks: JoinSet::new() }
    }

    /// Opens streams for new requests, and wakes those that have something to send. Whether there were any.
    pub(super) fn tell(
        &mut self,
        control: &link::Control,
        core: &mut Core,
        may_open: bool,
        online: bool,
    ) -> bool {
        let (mut waiting, mut speaks) = (Vec::new(), false);
        while let Some(key) = core.next_dirty() {
            let Some(seq) = core.call(key).map(|call| call.seq) else { continue };
            let may_send = core.session.may_send(seq);
            let Some(call) = core.call(key) else { continue };
            if call.is_over() || self.carried.contains(&call.seq) {
                call.wakers.stream.notify_one();
            } else if may_open && call.may_begin() && may_send && (self.answered || online || call.is_unary())
            {
                self.spawn(control, core, key, None);
                speaks = true;
            } else {
                waiting.push(key);
            }
        }
        core.put_back(waiting);
        speaks
    }

    /// Asks for the answer of a request that an earlier connection carried, and goes on with the request.
    pub(super) fn attach(&mut self, control: &link::Control, core: &mut Core, kept: &Kept) {
        let Some(call) = core.call(kept.key) else { return };
        let continues = kept.continues.then(|| call.asked().clone());
        let attach = Attach { received: kept.received, continues };
        self.spawn(control, core, kept.key, Some(attach));
    }

    /// Waits for the end of a stream's task; for ever while there is none. Safe to cancel.
    pub(super) async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(Ended { seq, lost })) => {
                self.carried.remove(&seq);
                // The gateway keeps the request for another connection (PROTOCOL.md, section 1).
                if lost && self.connection.close_reason().is_none() {
                    self.shared.with(|core| core.reconnect |= !core.is_gone(seq));
                }
            }
            Some(Err(error)) => tracing::error!("the task of a stream failed: {error}"),
            None => std::future::pending().await,
        }
    }

    fn spawn(&mut self, control: &link::Control, core: &mut Core, key: Key, attach: Option<Attach>) {
        let Some(call) = core.call(key) else { return };
        let seq = call.seq;
        if !self.carried.insert(seq) {
            return;
        }
        let task = Task {
            shared: Arc::clone(&self.shared),
            wakers: Arc::clone(&call.wakers),
            key,
            seq,
            line: 0,
            priority: CONTROL_PRIORITY - 1 - i32::from(call.urgency()),
            attach,
        };
        let task = Task { line: core.line, ..task };
        let (connection, settings) = (self.connection.clone(), control.stream_settings());
        let carry = async move {
            let outcome = task.run(connection, settings).await;
            if let Err(Lost(reason)) = &outcome {
                tracing::debug!(seq, "stream lost: {reason}");
            }
            Ended { seq, lost: outcome.is_err() }
        };
        self.tasks.spawn(work::boxed(carry));
    }
}

/// The connection, and with it the stream, is gone.
struct Lost(String);

impl<E: std::error::Error> From<E> for Lost {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

struct Task {
    shared: Arc<Shared>,
    wakers: SharedWakers,
    key: Key,
    seq: u64,
    /// The line that the stream belongs to.
    line: u64,
    priority: i32,
    attach: Option<Attach>,
}

/// How a stream begins that goes on with a request.
struct Attach {
    /// What of the answer does not come again.
    received: Place,
    /// The request's head, where its rest follows.
    continues: Option<RequestHead>,
}

impl Task {
    async fn run(self, connection: quinn::Connection, settings: StreamSettings) -> Result<(), Lost> {
        let opening = connection.open_bi();
        let Some(opened) = opened(opening, self.gone(), self.attach.is_some()).await else { return Ok(()) };
        let (send, recv) = opened?;
        send.set_priority(self.priority)?;
        let mut stream = Stream {
            codec: StreamCodec::client(settings, send.id().index(), self.seq),
            recv,
            input: BytesMut::new(),
            half: Half::new(send),
            fault: None,
            read_over: false,
        };
        if let Some(Attach { received, continues }) = &self.attach {
            stream.half.end_sent = continues.is_none();
            stream.codec.send_attach(*received, continues.as_ref(), &mut stream.half.out);
            stream.half.hurry(self.priority)?;
        }
        while self.turn(&mut stream).await? {}
        Ok(())
    }

    /// One turn; false behind the last one.
    async fn turn(&self, stream: &mut Stream) -> Result<bool, Lost> {
        let (gone, reads) = self.shared.with(|core| {
            // Another line carries the request now.
            if core.line != self.line {
                return (None, false);
            }
            if core.is_gone(self.seq) {
                return (Some(true), false);
            }
            let is_out = |core: &mut Core| core.call(self.key).is_some_and(|call| call.is_on_line());
            let was_out = is_out(core);
            core.pump(self.key, stream, true, now());
            // From now on the gateway owes something, and the line is to watch for it.
            if !was_out && is_out(core) {
                self.shared.line.notify_one();
            }
            (Some(false), core.call(self.key).is_some_and(|call| call.wants_more()))
        });
        let Some(gone) = gone else { return Ok(false) };
        if gone {
            stream.cancel().await;
            return Ok(false);
        }
        // What the app does not take yet stays compressed, and nothing is read behind it.
        let nothing_left = match self.hand_on(stream) {
            Ok(nothing_left) => nothing_left,
            Err(error) => return Ok(self.on_fault(stream, error).await),
        };
        // Behind the end of a whole answer there is nothing to do.
        if nothing_left && stream.read_over || self.shared.with(|core| core.is_complete(self.seq)) {
            return Ok(false);
        }
        let reads = reads && nothing_left && !stream.codec.is_blocked();
        tokio::select! {
            written = stream.half.write() => {
                self.shared.traffic.sent(written?);
                if stream.half.finished {
                    self.shared.with(|core| core.left(|seq| seq == self.seq));
                }
            }
            read = stream.recv.read_chunk(READ_BYTES, true), if reads => return self.on_read(stream, read).await,
            () = poll_fn(|cx| stream.codec.poll_unblocked(cx)) => {
                let handled = stream.codec.handle_bytes(&mut stream.input);
                return self.on_handled(stream, handled).await;
            }
            () = self.wakers.stream.notified() => {}
        }
        Ok(true)
    }

    async fn on_read(
        &self,
        stream: &mut Stream,
        read: Result<Option<quinn::Chunk>, quinn::ReadError>,
    ) -> Result<bool, Lost> {
        stream.read_over = matches!(read, Ok(None));
        let handled = match read {
            Ok(Some(chunk)) => {
                self.heard();
                self.shared.traffic.received(chunk.bytes.len());
                stream.input.extend_from_slice(&chunk.bytes);
                stream.codec.handle_bytes(&mut stream.input)
            }
            Ok(None) => stream.codec.handle_fin(&stream.input),
            Err(quinn::ReadError::Reset(code)) if code.into_inner() > 0 => Err(reset_by_gateway(code)),
            Err(error) => return Err(error.into()),
        };
        self.on_handled(stream, handled).await
    }

    /// The gateway lives, whatever becomes of its PONG behind all that it sends.
    fn heard(&self) {
        self.shared.with(|core| {
            if core.line == self.line {
                core.stream_heard = Some(now());
                core.link_heard();
            }
        });
    }

    async fn on_handled(&self, stream: &mut Stream, handled: Result<(), RpcError>) -> Result<bool, Lost> {
        match handled {
            Ok(()) => Ok(true),
            Err(error) => Ok(self.on_fault(stream, error).await),
        }
    }

    /// The answer cannot be read. False where this stream is over, and the answer comes on another.
    async fn on_fault(&self, stream: &mut Stream, mut error: RpcError) -> bool {
        let needs_dictionary = error.kind == RpcErrorKind::UnknownDictionary;
        if needs_dictionary {
            // It is an answer: the request ran.
            error.execution = Execution::Ran;
        }
        stream.fault = Some(error.clone());
        self.shared.on_stream_event(self.line, Event::Reset { seq: self.seq, error });
        if needs_dictionary {
            stream.cancel().await;
        }
        !needs_dictionary
    }

    /// Hands on what arrived, as far as the app wants more; true when nothing is left.
    fn hand_on(&self, stream: &mut Stream) -> Result<bool, RpcError> {
        while self.shared.with(|core| core.has_place_for_part(self.key)) {
            match stream.codec.poll_event()? {
                Some(event) => self.shared.on_stream_event(self.line, event),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Resolves when nobody wants the answer any more.
    async fn gone(&self) {
        loop {
            let notified = self.wakers.stream.notified();
            if self.shared.with(|core| core.is_gone(self.seq)) {
                return;
            }
            notified.await;
        }
    }
}

/// A stream, unless the request that it is for is `gone` first. One that an earlier connection carried `goes_on`: the
/// gateway has to be told that nobody wants it any more.
async fn opened<T>(
    opening: impl Future<Output = T>,
    gone: impl Future<Output = ()>,
    goes_on: bool,
) -> Option<T> {
    tokio::select! {
        opened = opening => Some(opened),
        () = gone, if !goes_on => None,
    }
}

struct Stream {
    codec: StreamCodec,
    recv: RecvStream,
    input: BytesMut,
    half: Half,
    /// What was wrong with the answer.
    fault: Option<RpcError>,
    /// The gateway's half has ended.
    read_over: bool,
}

/// The sending half.
struct Half {
    send: SendStream,
    out: BytesMut,
    /// The codec was given the end of this half.
    end_sent: bool,
    /// The stream's own end was sent.
    finished: bool,
    /// The gateway wants no more of it.
    stopped: bool,
    /// Bytes at its beginning that are sent before what is urgent, and the priority of those behind them.
    hurried: Option<(usize, i32)>,
}

impl Half {
    fn new(send: SendStream) -> Self {
        Self { send, out: BytesMut::new(), end_sent: false, finished: false, stopped: false, hurried: None }
    }

    /// What waits is sent before the bodies of all requests, and what follows by its `priority`: a gateway waits only
    /// for so long to hear that a request goes on, and on a slow network more urgent bodies take longer than that.
    fn hurry(&mut self, priority: i32) -> Result<(), Lost> {
        self.send.set_priority(CONTROL_PRIORITY)?;
        self.hurried = Some((self.out.len(), priority));
        Ok(())
    }

    /// Bytes that may be written next.
    fn next(&self) -> usize {
        self.hurried.map_or(self.out.len(), |(bytes, _)| bytes.min(self.out.len()))
    }

    fn written(&mut self, bytes: usize) {
        self.out.advance(bytes);
        if let Some((left, priority)) = &mut self.hurried {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                // Of a stream that is closed already nothing more is sent.
                let _ = self.send.set_priority(*priority);
                self.hurried = None;
            }
        }
    }

    /// Writes some of what waits and says how much, then ends the half if it has ended; for ever pending when nothing is to be done.
    /// Safe to cancel.
    async fn write(&mut self) -> Result<usize, Lost> {
        if !self.out.is_empty() && self.stopped {
            self.out.clear();
        } else if !self.out.is_empty() {
            let next = self.next();
            match self.send.write(&self.out[..next]).await {
                Ok(written) => {
                    self.written(written);
                    return Ok(written);
                }
                // What it has to say of the request is on its own half of the stream.
                Err(quinn::WriteError::Stopped(_)) => self.stopped = true,
                Err(error) => return Err(error.into()),
            }
        } else if self.end_sent && !self.finished {
            self.finished = true;
            // A half that was stopped ends the same.
            let _ = self.send.finish();
        } else {
            std::future::pending::<()>().await;
        }
        Ok(0)
    }
}

impl Drop for Half {
    /// Dropped, quinn's stream would end like one that was finished, and the gateway take the request for one that
    /// its client broke off. 0 says that the connection went and the request is to be kept.
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.send.reset(quinn::VarInt::from_u32(0));
        }
    }
}

impl Stream {
    /// Tells the gateway that the answer is not wanted.
    async fn cancel(&mut self) {
        let lost_interest =
            || RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "the client lost interest");
        let error = self.fault.take().unwrap_or_else(lost_interest);
        if !self.half.finished {
            self.codec.reset(&error, &mut self.half.out);
            // A gateway that does not read it sees the stream stopped.
            let _ = timeout(LAST_WORDS_MAX, self.half.send.write_all_buf(&mut self.half.out)).await;
            let _ = self.half.send.finish();
            self.half.finished = true;
        }
        // Not 0, which says that the connection went and the request is to be kept.
        let _ = self.recv.stop(quinn::VarInt::from_u32(u32::from(error.kind as u8)));
    }
}

impl RequestSink for Stream {
    fn request(&mut self, _seq: u64, head: RequestHead, end: bool) -> Result<(), RpcError> {
        self.half.end_sent |= end;
        self.codec.send_request(&head, end, &mut self.half.out)
    }

    fn message(&mut self, _seq: u64, message: Bytes, end: bool) -> Result<usize, RpcError> {
        self.half.end_sent |= end;
        self.codec.send_message(message, end, &mut self.half.out)
    }

    fn end(&mut self, _seq: u64) -> Result<(), RpcError> {
        self.half.end_sent = true;
        self.codec.send_end(&mut self.half.out)
    }

    fn capacity(&mut self, _seq: u64) -> usize {
        OUT_BYTES_MAX.saturating_sub(self.half.out.len())
    }

    /// QUIC's own flow control follows from what is read.
    fn credit(&mut self, _seq: u64, _bytes: usize) {}
}

fn reset_by_gateway(code: quinn::VarInt) -> RpcError {
    let text = format!("the gateway reset the request's stream (code {code})");
    RpcError::new(RpcErrorKind::Internal, Execution::MayHaveRun, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_request_that_the_gateway_may_have_waits_for_its_stream_when_it_is_gone() {
        let later = || async { tokio::task::yield_now().await };
        assert_eq!(opened(later(), std::future::ready(()), false).await, None);
        assert_eq!(opened(later(), std::future::ready(()), true).await, Some(()));
        assert_eq!(opened(later(), std::future::pending(), false).await, Some(()));
    }
}
