//! quinn's connection and streams as h3 wants them.
//!
//! The crate h3-quinn does the same; it reads ahead of whoever takes a body, gathers a HEADERS frame of any
//! length, and fails an assertion when a stream is stopped while a read waits. Here a peer's bytes are bounded
//! before h3 sees them.

use std::{
    error::Error,
    future::Future,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use parking_lot::Mutex;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::frames::Frames;

/// Read at a time.
const READ_BYTES: usize = 4 << 10;
/// Bytes of a request's body that h3 may hold before somebody takes them.
const AHEAD_BYTES_MAX: usize = 16 << 10;
/// quinn sends streams of a higher number first: the control stream, then urgency 0 to 7.
const CONTROL_PRIORITY: i32 = 8;

/// What the front knows of a request's stream beside h3.
pub(super) struct Ticket {
    pub(super) shared: Arc<StreamShared>,
    /// Resolves when the client wants no answer any more.
    pub(super) stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What the two ends of a stream's pipe share.
#[derive(Default)]
pub(super) struct StreamShared {
    /// Body bytes that were read and that nobody has taken.
    ahead: AtomicUsize,
    /// quinn's priority of the answer.
    priority: AtomicI32,
}

impl StreamShared {
    /// So many bytes of the body were taken.
    pub(super) fn took(&self, bytes: usize) {
        let less = |ahead: usize| Some(ahead.saturating_sub(bytes));
        let _always = self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Sends the answer by its urgency (RFC 9218, section 4.1), from the next frame on.
    pub(super) fn set_urgency(&self, urgency: u8) {
        self.priority.store(CONTROL_PRIORITY - 1 - i32::from(urgency), Ordering::Relaxed);
    }
}

/// How requests arrive, as far as h3 does not say.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Of the stream that h3 accepted last.
    ticket: Mutex<Option<Ticket>>,
    /// GOAWAY was sent: what arrives now is rejected.
    closed: AtomicBool,
}

impl Arrivals {
    pub(super) fn take_ticket(&self) -> Option<Ticket> {
        self.ticket.lock().take()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

type Waiting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send>>;

/// A QUIC connection for h3.
pub(super) struct Streams {
    connection: quinn::Connection,
    accepting_bi: Waiting<(quinn::SendStream, quinn::RecvStream)>,
    accepting_uni: Waiting<quinn::RecvStream>,
    opening: Opener,
    arrivals: Arc<Arrivals>,
    /// Bound on what h3 gathers, bytes.
    frame_bytes_max: usize,
}

impl Streams {
    pub(super) fn new(
        connection: quinn::Connection,
        arrivals: Arc<Arrivals>,
        frame_bytes_max: usize,
    ) -> Self {
        Self {
            accepting_bi: accept_bi(&connection),
            accepting_uni: accept_uni(&connection),
            opening: Opener::new(&connection),
            connection,
            arrivals,
            frame_bytes_max,
        }
    }
}

fn accept_bi(connection: &quinn::Connection) -> Waiting<(quinn::SendStream, quinn::RecvStream)> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_bi().await })
}

fn accept_uni(connection: &quinn::Connection) -> Waiting<quinn::RecvStream> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

impl quic::Connection<Bytes> for Streams {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let accepted = ready!(self.accepting_uni.as_mut().poll(cx)).map_err(connection_error)?;
        self.accepting_uni = accept_uni(&self.connection);
        let frames = Frames::of_unidirectional(self.frame_bytes_max);
        Poll::Ready(Ok(Receiving { stream: accepted, frames, shared: Arc::default() }))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        loop {
            let accepted = ready!(self.accepting_bi.as_mut().poll(cx));
            let (mut send, mut recv) = accepted.map_err(connection_error)?;
            self.accepting_bi = accept_bi(&self.connection);
            if self.arrivals.closed.load(Ordering::Relaxed) {
                // RFC 9114, section 5.2: it was not processed, and may be sent elsewhere.
                let code = varint(Code::H3_REQUEST_REJECTED.value());
                let _ = send.reset(code);
                let _ = recv.stop(code);
                continue;
            }
            let shared = Arc::<StreamShared>::default();
            let stopping = send.stopped();
            let stopped = Box::pin(async move {
                // An answer that was read to its end is nobody's loss of interest.
                if let Ok(None) = stopping.await {
                    std::future::pending().await
                }
            });
            *self.arrivals.ticket.lock() = Some(Ticket { shared: Arc::clone(&shared), stopped });
            let frames = Frames::of_request(self.frame_bytes_max);
            let send = Sending { stream: send, writing: None, shared: Arc::clone(&shared), priority: 0 };
            return Poll::Ready(Ok(Both { send, recv: Receiving { stream: recv, frames, shared } }));
        }
    }

    fn opener(&self) -> Opener {
        Opener::new(&self.connection)
    }
}

impl quic::OpenStreams<Bytes> for Streams {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opening.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opening.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opening.close(code, reason);
    }
}

/// Opens streams: a server has unidirectional ones only.
pub(super) struct Opener {
    connection: quinn::Connection,
    opening: Option<Waiting<quinn::SendStream>>,
}

impl Opener {
    fn new(connection: &quinn::Connection) -> Self {
        Self { connection: connection.clone(), opening: None }
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        // RFC 9114, section 6.1: servers open none.
        let text = "a server opens no bidirectional stream";
        Poll::Ready(Err(StreamErrorIncoming::Unknown(text.into())))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.opening.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        let stream = opened.map_err(|error| StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: connection_error(error),
        })?;
        let shared = Arc::<StreamShared>::default();
        shared.priority.store(CONTROL_PRIORITY, Ordering::Relaxed);
        Poll::Ready(Ok(Sending { stream, writing: None, shared, priority: 0 }))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

/// A request's stream.
pub(super) struct Both {
    send: Sending,
    recv: Receiving,
}

/// Its receiving half, or a stream that the client sends alone.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    frames: Frames,
    shared: Arc<StreamShared>,
}

/// Its sending half, or a stream that the gateway sends alone. Dropped before its end was said, it ends
/// there: whoever gives an answer up resets it.
pub(super) struct Sending {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    shared: Arc<StreamShared>,
    /// As quinn was told.
    priority: i32,
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // Nobody needs to be woken: h3 has body bytes to hand on, and asks again behind them.
        if self.shared.ahead.load(Ordering::Relaxed) >= AHEAD_BYTES_MAX {
            return Poll::Pending;
        }
        let mut chunk = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut chunk);
        ready!(self.stream.poll_read_buf(cx, &mut read)).map_err(read_error)?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok(None));
        }
        match self.frames.follow(read.filled()) {
            Ok(data_bytes) => {
                self.shared.ahead.fetch_add(data_bytes, Ordering::Relaxed);
                Poll::Ready(Ok(Some(Bytes::copy_from_slice(read.filled()))))
            }
            Err(_) => {
                let _ = self.stream.stop(varint(Code::H3_EXCESSIVE_LOAD.value()));
                Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(FrameTooLarge))))
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        let _ = self.stream.stop(varint(error_code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()));
            data.advance(written.map_err(write_error)?);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        let priority = self.shared.priority.load(Ordering::Relaxed);
        if priority != self.priority {
            self.priority = priority;
            let _ = self.stream.set_priority(priority);
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        let _ = self.stream.reset(varint(reset_code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = self.recv.poll_data(cx);
        if let Poll::Ready(Err(StreamErrorIncoming::Unknown(error))) = &read
            && error.is::<FrameTooLarge>()
        {
            // Nobody is left to answer.
            quic::SendStream::reset(&mut self.send, Code::H3_EXCESSIVE_LOAD.value());
        }
        read
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.send, self.recv)
    }
}

/// What h3 would have to gather whole is above its bound.
#[derive(Debug, thiserror::Error)]
#[error("a frame is larger than this gateway gathers")]
pub(super) struct FrameTooLarge;

#[allow(clippy::expect_used, reason = "both are stream ids of RFC 9000, section 2.1: below 2^62")]
fn id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(id)).expect("a stream id of quinn's is one of h3's")
}

fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
}

fn unknown(error: impl Error + Send + Sync + 'static) -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown(Box::new(error))
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => lost(error),
        error => unknown(error),
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => lost(error),
        error => unknown(error),
    }
}
