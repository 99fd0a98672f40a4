//! One connection to an HTTP/1.1 backend, driven by the task of the request that it carries: an exchange is one
//! write and one read where request and answer are small, and nobody is woken but that task.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, ReadBuf, ReadHalf, WriteHalf, split},
    task::JoinHandle,
};

use super::{
    head::{self, Head, Invalid},
    upload::{Stop, Upload},
};
use crate::{backend::wire::Wire, error::RpcError};

/// Read at a time, at first: what an ordinary answer fits into.
const READ_BYTES: usize = 16 << 10;
/// Read at a time while the backend sends in bulk.
const BULK_BYTES: usize = 64 << 10;

/// A connection. Between two exchanges it owns no buffer.
pub(super) struct Connection {
    wire: Wire,
    input: BytesMut,
    /// The last read brought as much as it could take.
    is_bulk: bool,
}

/// A connection that has brought the head of an answer.
pub(super) struct Answering {
    pub(super) head: Head,
    /// What arrived behind the head.
    pub(super) rest: Bytes,
    pub(super) line: Line,
}

/// What the rest of an answer is read from.
pub(super) enum Line {
    /// The request has left.
    Whole(Box<Connection>),
    /// It has not, or the backend takes no more of it: no other follows here.
    Last(ReadHalf<Wire>, Option<Pump>),
}

/// Why an exchange has no answer.
pub(super) enum Broken {
    /// The client's half failed.
    Client(RpcError),
    /// Nothing has left for the backend.
    Unsent(io::Error),
    /// The connection broke, or was closed, before the answer's head was there.
    Lost(io::Error),
    /// The backend speaks no HTTP/1.1.
    Invalid(Invalid),
}

impl Connection {
    /// Boxed, since it passes many hands.
    pub(super) fn new(wire: Wire) -> Box<Self> {
        Box::new(Self { wire, input: BytesMut::new(), is_bulk: false })
    }

    /// Whether the backend has left it open, and said nothing since the last answer.
    pub(super) fn is_fit(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        poll_fill(&mut self.wire, &mut self.input, &mut self.is_bulk, &mut nobody).is_pending()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// Not an `async fn`: that would keep room for its arguments twice.
    pub(super) fn exchange(
        self: Box<Self>,
        mut upload: Upload,
        request_is_head: bool,
    ) -> impl Future<Output = Result<Answering, Broken>> {
        let mut connection = self;
        async move {
            let mut sent = Poll::Pending;
            let taken = poll_fn(|cx| {
                if sent.is_pending() {
                    sent = upload.poll(&mut connection.wire, cx);
                }
                match &sent {
                    Poll::Ready(Err(Stop::Client(error))) => Poll::Ready(Err(Broken::Client(error.clone()))),
                    Poll::Ready(Err(Stop::Backend(error))) if connection.sent_nothing(&upload) => {
                        Poll::Ready(Err(Broken::Unsent(error.kind().into())))
                    }
                    // A backend that stopped listening says more in its answer.
                    _ => connection.poll_head(request_is_head, cx),
                }
            });
            let (head, rest) = taken.await?;
            let line = match sent {
                Poll::Ready(Ok(())) => Line::Whole(connection),
                Poll::Ready(Err(_)) => Line::Last(split(connection.wire).0, None),
                Poll::Pending => {
                    let (from, to) = split(connection.wire);
                    Line::Last(from, Some(Pump::start(upload, to)))
                }
            };
            Ok(Answering { head, rest, line })
        }
    }

    /// TLS may have sent what it was given before it failed.
    fn sent_nothing(&self, upload: &Upload) -> bool {
        upload.is_unsent() && !self.wire.is_tls()
    }

    fn poll_head(
        &mut self,
        request_is_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), Broken>> {
        loop {
            let filled = ready!(poll_fill(&mut self.wire, &mut self.input, &mut self.is_bulk, cx));
            if filled.map_err(Broken::Lost)? == 0 {
                let error =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer's head was whole");
                return Poll::Ready(Err(Broken::Lost(error)));
            }
            if let Some(taken) = head::take(&mut self.input, request_is_head).map_err(Broken::Invalid)? {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}

impl Line {
    /// Reads more of the answer to the end of `input`; 0 is the end.
    pub(super) fn poll_fill(
        &mut self,
        input: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Whole(connection) => poll_fill(&mut connection.wire, input, &mut connection.is_bulk, cx),
            Self::Last(wire, _) => poll_fill(wire, input, &mut true, cx),
        }
    }

    /// The client's half has failed; pending as long as it has not.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<RpcError> {
        let Self::Last(_, pump) = self else { return Poll::Pending };
        let Some(running) = pump else { return Poll::Pending };
        let ended = ready!(Pin::new(&mut running.task).poll(cx));
        *pump = None;
        match ended {
            Ok(Err(Stop::Client(error))) => Poll::Ready(error),
            _ => Poll::Pending,
        }
    }
}

/// Reads to the end of `input`; 0 is the end. What is small comes in a block of its own size, since answers are kept.
fn poll_fill<R: AsyncRead + Unpin>(
    wire: &mut R,
    input: &mut BytesMut,
    is_bulk: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if *is_bulk {
        input.reserve(BULK_BYTES);
        let count = ready!(pin!(wire.read_buf(input)).poll(cx))?;
        *is_bulk = count >= READ_BYTES;
        return Poll::Ready(Ok(count));
    }
    let mut chunk = [MaybeUninit::uninit(); READ_BYTES];
    let mut read = ReadBuf::uninit(&mut chunk);
    ready!(Pin::new(wire).poll_read(cx, &mut read))?;
    *is_bulk = read.remaining() == 0;
    input.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// Sends the rest of a request whose answer has begun, so that neither direction waits for the other. Dropping it ends
/// that.
pub(super) struct Pump {
    task: JoinHandle<Result<(), Stop>>,
    aborts: bool,
}

impl Pump {
    fn start(mut upload: Upload, mut wire: WriteHalf<Wire>) -> Self {
        let task = tokio::spawn(async move { poll_fn(|cx| upload.poll(&mut wire, cx)).await });
        Self { task, aborts: true }
    }

    /// Sends the rest behind the end of the answer, too, until the client's half ends.
    pub(super) fn go_on(mut self) {
        self.aborts = false;
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if self.aborts {
            self.task.abort();
        }
    }
}
