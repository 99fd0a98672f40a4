//! A stream whose writes gather while its connection is polled, and leave together behind that.
//!
//! HTTP/2 libraries flush behind every frame of some size, so that each answer costs two system calls and two TLS
//! records, though a dozen of them may be ready. Here a flush waits until the connection has nothing more to do:
//!
//! ```text
//!  Uncorking::poll -- connection.poll --> Corked::poll_write, poll_flush, ... : gathered
//!                  \- then: all of it ------------------------------------> stream.poll_write
//! ```

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::spare::{SPARE_BYTES, give_buffer, take_buffer};

/// Bytes that gather at the most; beyond, they leave while the connection is polled. Two TLS records.
const GATHERED_MAX: usize = SPARE_BYTES;
/// What is written at once in this size goes straight to the stream, if nothing waits before it.
const STRAIGHT_MIN: usize = 16 << 10;

/// The connection's end of a stream.
pub(crate) struct Corked<S>(Arc<Mutex<Gathering<S>>>);

/// The end of who polls the connection.
pub(crate) struct Cork<S>(Arc<Mutex<Gathering<S>>>);

struct Gathering<S> {
    stream: S,
    out: BytesMut,
    /// Something was given to the stream that it was not asked to flush.
    flush_due: bool,
    /// What became of bytes that the connection believes to be written.
    failed: Option<io::ErrorKind>,
}

/// Both ends of `stream`. What the first one gathers leaves by [`Cork::drive`].
pub(crate) fn corked<S>(stream: S) -> (Corked<S>, Cork<S>) {
    let gathering = Gathering { stream, out: BytesMut::new(), flush_due: false, failed: None };
    let shared = Arc::new(Mutex::new(gathering));
    (Corked(Arc::clone(&shared)), Cork(shared))
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Polls the connection that writes to the other end.
    pub(crate) fn drive<'f, F>(&'f self, connection: Pin<&'f mut F>) -> Uncorking<'f, S, F> {
        Uncorking { cork: self, connection }
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// The stream, once a connection that has given its end back is over and all that it wrote has left.
    pub(crate) async fn pull(self, end: Corked<S>) -> io::Result<S> {
        drop(end);
        poll_fn(|cx| self.0.lock().poll_send(cx)).await?;
        let gathering = Arc::into_inner(self.0);
        gathering
            .map(|gathering| gathering.into_inner().stream)
            .ok_or_else(|| io::Error::other("the connection keeps an end of its stream"))
    }
}

/// A connection, behind each poll of which everything leaves that it has written.
pub(crate) struct Uncorking<'f, S, F> {
    cork: &'f Cork<S>,
    connection: Pin<&'f mut F>,
}

impl<S: AsyncWrite + Unpin, F: Future> Future for Uncorking<'_, S, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.connection.as_mut().poll(cx);
        let mut gathering = self.cork.0.lock();
        if let Poll::Ready(Err(error)) = gathering.poll_send(cx) {
            gathering.fail(error.kind());
            // It is told by its next read or write.
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Until the stream took everything.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(count);
            self.flush_due = true;
        }
        // A quiet connection owns no buffer.
        if self.out.capacity() > 0 {
            give_buffer(mem::take(&mut self.out));
        }
        if self.flush_due {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.flush_due = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.out.is_empty() && total >= STRAIGHT_MIN {
            self.flush_due = true;
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        if self.out.len() >= GATHERED_MAX {
            ready!(self.poll_send(cx))?;
        }
        if self.out.capacity() == 0 {
            self.out = take_buffer();
        }
        let before = self.out.len();
        for slice in slices {
            let room = GATHERED_MAX - self.out.len();
            self.out.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Poll::Ready(Ok(self.out.len() - before))
    }

    fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
        (self.out, self.flush_due) = (BytesMut::new(), false);
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        if let Some(kind) = gathering.failed {
            return Poll::Ready(Err(kind.into()));
        }
        Pin::new(&mut gathering.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Behind this poll.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        gathering.check()?;
        ready!(gathering.poll_send(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_one_poll_leaves_behind_it_together() {
        let (near, mut far) = duplex(1 << 10);
        let (mut stream, cork) = corked(near);
        let mut connection = pin!(async {
            for part in [&b"head"[..], b", body"] {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
            }
            assert!(far.read(&mut [0; 16]).now_or_never().is_none(), "nothing has left yet");
            tokio::task::yield_now().await;
            let mut read = [0; 16];
            let count = far.read(&mut read).now_or_never().unwrap().unwrap();
            assert_eq!(&read[..count], b"head, body");
        });
        cork.drive(connection.as_mut()).await;
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_holds_the_writer_back() {
        let (near, mut far) = duplex(100);
        let (mut stream, cork) = corked(near);
        let written = std::cell::Cell::new(0);
        let mut connection = pin!(async {
            for _ in 0..20 {
                stream.write_all(&[7; 10_000]).await.unwrap();
                written.set(written.get() + 10_000);
            }
            stream.shutdown().await.unwrap();
        });
        assert!(cork.drive(connection.as_mut()).now_or_never().is_none());
        assert!(written.get() <= GATHERED_MAX, "{}", written.get());
        let mut read = Vec::new();
        let ((), count) = tokio::join!(cork.drive(connection.as_mut()), far.read_to_end(&mut read));
        assert_eq!(count.unwrap(), 200_000);
    }

    #[tokio::test]
    async fn what_was_gathered_leaves_before_the_stream_is_given_back() {
        let (near, mut far) = duplex(3);
        let (mut stream, cork) = corked(near);
        stream.write_all(b"head").await.unwrap();
        let read = tokio::spawn(async move {
            let mut read = [0; 8];
            far.read_exact(&mut read).await.unwrap();
            read
        });
        let mut stream = cork.pull(stream).await.unwrap();
        stream.write_all(b"data").await.unwrap();
        assert_eq!(&read.await.unwrap(), b"headdata");
    }

    #[tokio::test]
    async fn a_connection_is_told_that_what_it_wrote_did_not_leave() {
        let (near, far) = duplex(100);
        let (mut stream, cork) = corked(near);
        drop(far);
        let mut connection = pin!(async {
            stream.write_all(b"lost").await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(b"more").await.unwrap_err().kind()
        });
        assert_eq!(cork.drive(connection.as_mut()).await, io::ErrorKind::BrokenPipe);
    }
}
