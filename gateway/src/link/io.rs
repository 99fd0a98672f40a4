//! Moving bytes both ways on one task.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::SPARE_BYTES;

/// Bytes asked of the machine at a time: two TLS records, so that an urgent answer waits behind no more.
pub(super) const BURST_BYTES: usize = SPARE_BYTES;

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
