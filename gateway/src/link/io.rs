//! Moving bytes both ways on one task.

use std::{future::poll_fn, io, pin::Pin, task::Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was done.
pub(super) enum Moved {
    /// So many bytes were read; 0 is the end.
    Read(usize),
    /// Bytes were written.
    Wrote,
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
        if !out.is_empty()
            && let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, out)
        {
            out.advance(written?);
            *flush_due = true;
            return Poll::Ready(Ok(Moved::Wrote));
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
