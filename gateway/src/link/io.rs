//! Moving bytes both ways on one task.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes asked of the machine at a time: two TLS records, so that an urgent answer waits behind no more.
pub(super) const BURST_BYTES: usize = 32 << 10;

/// What was done.
pub(super) enum Moved {
    /// So many bytes were read; 0 is the end.
    Read(usize),
    /// Bytes were written.
    Wrote,
}

/// Writes from `out`; pending when it is empty, or when the stream takes nothing now.
pub(super) fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    out: &mut BytesMut,
    flush_due: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Moved>> {
    if out.is_empty() {
        return Poll::Pending;
    }
    let count = ready!(Pin::new(stream).poll_write(cx, out))?;
    out.advance(count);
    *flush_due = true;
    Poll::Ready(Ok(Moved::Wrote))
}

/// Output buffers that a thread keeps for the next connection that has something to send.
const SPARE_MAX: usize = 4;
/// A buffer that one large message has grown beyond this is not kept.
const SPARE_BYTES_MAX: usize = 4 * BURST_BYTES;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for a burst.
pub(super) fn take_buffer() -> BytesMut {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    let mut buffer = spare.unwrap_or_default();
    buffer.reserve(BURST_BYTES);
    buffer
}

/// Gives an empty buffer back.
pub(super) fn give_buffer(mut buffer: BytesMut) {
    buffer.clear();
    // Its beginning counts again: what was sent stood there.
    if !buffer.try_reclaim(BURST_BYTES) || buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    // A thread on its way out has no spare ones any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    });
}

/// Read at a time.
const READ_BYTES: usize = 16 << 10;

/// Writes from `out`, or reads into `input`, whichever the stream lets do first. Safe to cancel.
pub(super) async fn move_bytes<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    out: &mut BytesMut,
    flush_due: &mut bool,
) -> io::Result<Moved> {
    poll_fn(|cx| {
        if let Poll::Ready(wrote) = write(stream, out, flush_due, cx) {
            return Poll::Ready(wrote);
        }
        // TLS keeps what the socket did not take until it is flushed.
        if *flush_due
            && out.is_empty()
            && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx)
        {
            flushed?;
            *flush_due = false;
        }
        let mut chunk = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut chunk);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                input.extend_from_slice(read.filled());
                Poll::Ready(Ok(Moved::Read(read.filled().len())))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
