//! A stream whose first bytes were read already and are read again.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads `first_bytes`, then what the inner stream yields. Writes go straight through.
#[derive(Debug)]
pub struct Rewind<S> {
    first_bytes: Bytes,
    inner: S,
}

impl<S> Rewind<S> {
    /// Puts `first_bytes` back in front of `inner`.
    pub fn new(inner: S, first_bytes: Bytes) -> Self {
        Self { first_bytes, inner }
    }

    /// Whether the first bytes were read.
    pub fn is_drained(&self) -> bool {
        self.first_bytes.is_empty()
    }

    /// The stream below; what was not read of the first bytes is lost.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// The stream below, and what was not read of the first bytes.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.first_bytes)
    }

    /// The stream below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_bytes.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.first_bytes.len().min(buf.remaining());
        buf.put_slice(&self.first_bytes[..count]);
        self.first_bytes.advance(count);
        if self.first_bytes.is_empty() {
            // A slice of a larger buffer would keep all of it for the connection's life.
            self.first_bytes = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_again_in_pieces_and_then_the_rest() {
        let mut stream = Rewind::new(&b" world"[..], Bytes::from_static(b"hello"));
        let mut piece = [0; 2];
        stream.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"he");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "llo world");
    }
}
