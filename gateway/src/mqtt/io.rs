//! Bytes in and out without a buffer of the connection's own while it is idle.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once. One such buffer per worker thread serves all its connections.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// Goes from connection to connection; only one whose peer is slow keeps it.
    static WRITE_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Appends what the stream has to `input`, which allocates just that much. `Ok(0)` is the end.
pub(super) fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Throws away what the peer has sent until it closes as well. To close before that would make the system reset the
/// connection, and the peer may lose the last words over it.
pub(super) async fn read_to_end<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut input = BytesMut::new();
    while poll_fn(|cx| poll_read(stream, cx, &mut input)).await? > 0 {
        input.clear();
    }
    Ok(())
}

/// Encoded bytes that the stream has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: BytesMut,
    /// A large payload, shared with its message.
    payload: Bytes,
}

impl Output {
    /// Writes what is there. Ready when nothing is left.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.head.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.head))?;
            self.head.advance(nonzero(count)?);
        }
        while !self.payload.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.payload))?;
            self.payload.advance(nonzero(count)?);
        }
        self.payload = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Lets `fill` append to a buffer and return a payload to follow it.
    pub(super) fn fill(&mut self, fill: impl FnOnce(&mut BytesMut) -> Option<Bytes>) {
        if self.head.capacity() == 0 {
            self.head = WRITE_BUFFER.take();
            self.head.clear();
        }
        self.payload = fill(&mut self.head).unwrap_or_default();
    }

    /// Gives the empty buffer to the next connection.
    pub(super) fn release(&mut self) {
        WRITE_BUFFER.set(std::mem::take(&mut self.head));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.payload.is_empty()
    }
}

fn nonzero(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}
