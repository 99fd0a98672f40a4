//! The plaintext byte stream that protocols are served on, whatever carries it.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{
    Handshake, Rewind,
    tlcp::TlcpStream,
    tls::{IdleTls, TlsStream},
};
use crate::{metrics::Metrics, request::Protocol};

/// A TCP connection, with or without TLS. A peer that takes no byte of what is written for
/// `write_timeout` makes every write fail with [`io::ErrorKind::TimedOut`].
pub struct Stream {
    io: Io,
    meter: Option<Meter>,
    write_timeout: Duration,
    /// Set while a write waits for the peer; boxed, since most connections never have one.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Where a stream counts its bytes (those of the protocol, inside TLS).
#[derive(Clone)]
pub struct Meter {
    /// Bytes read from the peer.
    pub bytes_in: IntCounter,
    /// Bytes written to the peer.
    pub bytes_out: IntCounter,
}

impl Meter {
    /// That of all connections that speak `protocol`.
    pub fn new(metrics: &Metrics, protocol: Protocol) -> Self {
        let label = &[protocol.label()];
        Self {
            bytes_in: metrics.bytes_in.with_label_values(label),
            bytes_out: metrics.bytes_out.with_label_values(label),
        }
    }
}

enum Io {
    Plain(Rewind<TcpStream>),
    Tls(TlsStream),
    Tlcp(Box<TlcpStream>),
}

impl Stream {
    /// Without TLS.
    pub fn plain(tcp: Rewind<TcpStream>, write_timeout: Duration) -> Self {
        Self { io: Io::Plain(tcp), meter: None, write_timeout, stalled: None }
    }

    /// After a TLS handshake, or while it ends and early data is read.
    pub fn tls(tls: TlsStream, write_timeout: Duration) -> Self {
        Self { io: Io::Tls(tls), meter: None, write_timeout, stalled: None }
    }

    /// After a TLCP handshake.
    pub fn tlcp(tlcp: Box<TlcpStream>, write_timeout: Duration) -> Self {
        Self { io: Io::Tlcp(tlcp), meter: None, write_timeout, stalled: None }
    }

    /// From now on counts its bytes.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Whether TLS or TLCP is spoken.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.io, Io::Plain(_))
    }

    /// What the TLS handshake agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.io {
            Io::Plain(_) => None,
            Io::Tls(tls) => tls.alpn(),
            Io::Tlcp(tlcp) => tlcp.alpn(),
        }
    }

    /// Whether the handshake is over. Until it is, what is read came as early data.
    pub fn handshake(&self) -> Handshake {
        match &self.io {
            Io::Plain(_) | Io::Tlcp(_) => Handshake::complete(),
            Io::Tls(tls) => tls.handshake(),
        }
    }

    /// Whether nothing of it is in a buffer or under way.
    pub fn is_idle(&self) -> bool {
        self.stalled.is_none()
            && match &self.io {
                Io::Plain(tcp) => tcp.is_drained(),
                Io::Tls(tls) => tls.is_idle(),
                Io::Tlcp(_) => false,
            }
    }

    /// Takes an idle stream out of tokio's reactor. An error is the end of the connection.
    pub fn park(self) -> io::Result<ParkedStream> {
        let write_timeout_ms = self.write_timeout.as_millis().try_into().unwrap_or(u32::MAX);
        let (tcp, tls) = match self.io {
            Io::Plain(tcp) => (tcp.into_inner(), None),
            Io::Tls(tls) => tls.into_idle().map(|(tcp, idle)| (tcp, Some(Box::new(idle))))?,
            Io::Tlcp(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(ParkedStream { socket: tcp.into_std()?, write_timeout_ms, tls })
    }

    /// Passes a write's result on, and turns a wait that lasts too long into an error.
    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer took no byte within write_timeout",
        )))
    }

    fn wrote(&self, count: &Poll<io::Result<usize>>) {
        if let (Some(meter), Poll::Ready(Ok(count))) = (&self.meter, count) {
            meter.bytes_out.inc_by(*count as u64);
        }
    }
}

/// What is kept of an idle stream: the socket, and nothing in the reactor.
pub struct ParkedStream {
    socket: std::net::TcpStream,
    write_timeout_ms: u32,
    /// Boxed: what has no TLS is not to pay for it.
    tls: Option<Box<IdleTls>>,
}

impl ParkedStream {
    /// The stream as it was, but without a meter. An error is the end of the connection.
    pub fn unpark(self) -> io::Result<Stream> {
        let tcp = TcpStream::from_std(self.socket)?;
        let write_timeout = Duration::from_millis(self.write_timeout_ms.into());
        Ok(match self.tls {
            None => Stream::plain(Rewind::new(tcp, Bytes::new()), write_timeout),
            Some(idle) => Stream::tls(TlsStream::from_idle(tcp, *idle), write_timeout),
        })
    }
}

impl AsFd for ParkedStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_read(cx, buf),
        };
        if let Some(meter) = &self.meter {
            meter.bytes_in.inc_by((buf.filled().len() - before) as u64);
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_write(cx, buf),
        };
        self.wrote(&result);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Io::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_write_vectored(cx, bufs),
        };
        self.wrote(&result);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
            Io::Tlcp(tlcp) => tlcp.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_flush(cx),
        };
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_shutdown(cx),
        };
        self.written(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up_after_the_write_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = Stream::plain(Rewind::new(tcp, Bytes::new()), Duration::from_secs(30));
        let started = Instant::now();
        let error = loop {
            if let Err(error) = stream.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 30);
        drop(peer);
    }
}
