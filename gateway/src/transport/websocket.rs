//! A byte stream in the binary frames of a WebSocket (RFC 6455).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use towline_protocols::websocket::{Reader, Violation, Writer, code};

/// Read at once while a peer's Close is waited for.
const DISCARDED_AT_ONCE: usize = 512;
/// So much of what a peer still sends is read while its Close is waited for, octets. Closing a socket on unread bytes
/// would take back what was written last.
const DISCARDED_OCTETS_MAX: usize = 1 << 20;

/// So much data is copied behind its head where a stream takes one slice at a time.
const JOINED_OCTETS_MAX: usize = 16 << 10;

/// What holds for a listener's WebSockets.
#[derive(Debug)]
pub struct Rules {
    /// A message, and so a frame, is not longer than this.
    pub message_octets_max: u64,
    /// Counts those that are.
    pub too_long: IntCounter,
}

/// The server's end of a WebSocket, behind its handshake.
///
/// It owns no buffer while nothing is under way: what is read is unmasked where the caller wants it, and of what is
/// written only headers and control frames are kept until they have left. A peer's Close, and the end of `inner`, are
/// the end of the stream.
pub struct WebSocket<S> {
    inner: S,
    reader: Reader,
    writer: Writer,
    rules: Arc<Rules>,
    /// Something was given to `inner` that it was not asked to flush.
    flush_due: bool,
    /// The peer sent nothing that could be read further: it broke a rule, or is gone.
    read_over: bool,
    /// What was read since this end closed.
    discarded: usize,
}

impl<S> WebSocket<S> {
    /// Takes over `inner` from its first frame on.
    pub fn new(inner: S, rules: Arc<Rules>) -> Self {
        Self {
            inner,
            reader: Reader::new(rules.message_octets_max),
            writer: Writer::default(),
            rules,
            flush_due: false,
            read_over: false,
            discarded: 0,
        }
    }

    /// Whether nothing of it is under way: then [`WebSocket::into_parts`] loses nothing.
    pub fn is_idle(&self) -> bool {
        self.reader.is_between_messages() && self.writer.is_idle() && !self.flush_due && !self.read_over
    }

    /// What it is made of.
    pub fn into_parts(self) -> (S, Arc<Rules>) {
        (self.inner, self.rules)
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    fn break_off(&mut self, violation: Violation) -> io::Error {
        if violation == Violation::TooLong {
            self.rules.too_long.inc();
        }
        self.read_over = true;
        self.writer.close(Some(violation.code()));
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    fn follow_control(&mut self) {
        if let Some(payload) = self.reader.take_ping() {
            self.writer.pong(payload);
        }
        if let Some(code) = self.reader.close() {
            // "When sending a Close frame in response, the endpoint typically echos the status code" (section 5.5.1).
            self.writer.close(code);
        }
    }
}

impl<S: AsyncWrite + Unpin> WebSocket<S> {
    /// Writes what does not have to wait for data: answers to control frames, or the head of a data frame that is
    /// begun.
    fn poll_heads(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(head) = self.writer.poll_head() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, head))?;
            self.writer.wrote_head(nonzero(count)?);
            self.flush_due = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_heads(cx))?;
        if self.flush_due {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.flush_due = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Reads until the peer's Close, its end, or too much.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut octets = [0; DISCARDED_AT_ONCE];
        while self.reader.close().is_none() && self.discarded < DISCARDED_OCTETS_MAX {
            let mut buf = ReadBuf::new(&mut octets);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
            let count = buf.filled().len();
            if count == 0 {
                break;
            }
            self.discarded += count;
            if !self.read_over && self.reader.handle(buf.filled_mut()).is_err() {
                self.read_over = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            // A peer that does not take an answer is read from all the same: there is one answer at a time.
            if let Poll::Ready(Err(error)) = this.poll_answer(cx) {
                return Poll::Ready(Err(error));
            }
            if this.read_over || this.reader.close().is_some() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                this.read_over = true;
                return Poll::Ready(Ok(()));
            }
            match this.reader.handle(&mut buf.filled_mut()[before..]) {
                Ok(kept) => buf.set_filled(before + kept),
                Err(violation) => {
                    buf.set_filled(before);
                    let error = this.break_off(violation);
                    let _ = this.poll_answer(cx);
                    return Poll::Ready(Err(error));
                }
            }
            this.follow_control();
            if buf.filled().len() > before {
                // An error is told by the next read.
                let _ = this.poll_answer(cx);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !this.writer.is_within_data() {
            ready!(this.poll_heads(cx))?;
            if this.writer.is_closing() {
                let text = "the WebSocket is closing: nothing follows a Close frame";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, text)));
            }
        }
        loop {
            let data = &data[..this.writer.poll_data(data.len())];
            let head = this.writer.poll_head().unwrap_or_default();
            let head_octets = head.len();
            let inner = Pin::new(&mut this.inner);
            let written = if head.is_empty() {
                inner.poll_write(cx, data)
            } else if inner.is_write_vectored() {
                inner.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(data)])
            } else {
                // A stream of HTTP/2 would make a frame of its own of the head.
                inner.poll_write(cx, &[head, &data[..data.len().min(JOINED_OCTETS_MAX)]].concat())
            };
            let count = ready!(written)?;
            let count = nonzero(count)?;
            this.flush_due = true;
            this.writer.wrote_head(count.min(head_octets));
            if let Some(data_octets) = count.checked_sub(head_octets).filter(|octets| *octets > 0) {
                this.writer.wrote_data(data_octets);
                return Poll::Ready(Ok(data_octets));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_answer(cx)
    }

    /// Closes as section 7.1 wants it: Close both ways, then the stream below. The caller says for how long.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Within a frame there is no place for another; then only the end of the stream says that it is over.
        if !this.writer.is_within_data() {
            this.writer.close(Some(code::NORMAL));
            ready!(this.poll_answer(cx))?;
            ready!(this.poll_close(cx))?;
        }
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

fn nonzero(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair(octets: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(octets);
        let rules = Rules { message_octets_max: 1000, too_long: IntCounter::new("n", "h").unwrap() };
        (WebSocket::new(near, Arc::new(rules)), far)
    }

    /// A client's frame, masked with zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    async fn expect(far: &mut DuplexStream, octets: &[u8]) {
        let mut read = vec![0; octets.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, octets);
    }

    #[tokio::test]
    async fn data_passes_both_ways_and_leaves_nothing_behind() {
        let (mut near, mut far) = pair(1000);
        far.write_all(&[frame(0x02, b"he"), frame(0x80, b"llo")].concat()).await.unwrap();
        let mut read = [0; 5];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
        near.write_all(b"world").await.unwrap();
        assert!(!near.is_idle(), "it is not flushed");
        near.flush().await.unwrap();
        expect(&mut far, b"\x82\x05world").await;
        assert!(near.is_idle());
    }

    #[tokio::test]
    async fn a_stream_that_takes_an_octet_at_a_time_gets_whole_frames() {
        let (mut near, mut far) = pair(1);
        let reading = tokio::spawn(async move { expect(&mut far, b"\x82\x05hello\x82\x03you").await });
        near.write_all(b"hello").await.unwrap();
        near.write_all(b"you").await.unwrap();
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_ping_is_answered_by_reading() {
        let (mut near, mut far) = pair(1000);
        far.write_all(&[frame(0x89, b"are you there"), frame(0x82, b"x")].concat()).await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
        expect(&mut far, b"\x8a\x0dare you there").await;
        assert!(near.is_idle());
    }

    #[tokio::test]
    async fn the_peer_closes() {
        let (mut near, mut far) = pair(1000);
        far.write_all(&[frame(0x82, b"x"), frame(0x88, b"\x03\xe9")].concat()).await.unwrap();
        let mut read = Vec::new();
        near.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"x");
        near.shutdown().await.unwrap();
        expect(&mut far, b"\x88\x02\x03\xe9").await;
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn this_end_closes_and_waits_for_the_peers_close() {
        let (mut near, mut far) = pair(1000);
        let mut closing = tokio::spawn(async move { near.shutdown().await });
        expect(&mut far, b"\x88\x02\x03\xe8").await;
        far.write_all(&frame(0x82, b"on its way")).await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        far.write_all(&frame(0x88, b"\x03\xe8")).await.unwrap();
        (&mut closing).await.unwrap().unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn who_breaks_a_rule_is_told_by_the_code() {
        for (sent, code) in [
            (frame(0x81, b"text"), 1003u16),
            (vec![0x82, 1, b'x'], 1002),
            (vec![0x82, 0xfe, 0x03, 0xe9, 0, 0, 0, 0], 1009),
        ] {
            let (mut near, mut far) = pair(1000);
            far.write_all(&sent).await.unwrap();
            let error = near.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            expect(&mut far, &[&[0x88, 2][..], &code.to_be_bytes()].concat()).await;
            assert_eq!(near.rules.too_long.get(), u64::from(code == 1009));
            assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            drop(far);
            near.shutdown().await.unwrap();
        }
    }

    #[tokio::test]
    async fn pings_without_end_take_no_memory() {
        let (mut near, mut far) = pair(256);
        let flood = tokio::spawn(async move {
            for _ in 0..10_000 {
                far.write_all(&frame(0x89, &[7; 100])).await.unwrap();
            }
            far.write_all(&frame(0x82, b"x")).await.unwrap();
            far
        });
        assert_eq!(near.read_u8().await.unwrap(), b'x', "the peer does not read, and is read from");
        let _far = flood.await.unwrap();
        assert!(!near.is_idle(), "an answer waits");
    }
}
