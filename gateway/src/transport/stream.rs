//! The plaintext byte stream that protocols are served on, whatever carries it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    Handshake, Rewind,
    patience::WriteTimeout,
    tlcp::TlcpStream,
    tls::{IdleTls, TlsStream},
    websocket::{Rules, WebSocket},
};
use crate::{metrics::Metrics, request::Protocol};

/// A TCP connection, with or without TLS. A peer that takes no byte of what is written for
/// `write_timeout` makes every write fail with [`io::ErrorKind::TimedOut`].
pub struct Stream {
    io: Io,
    meter: Option<Meter>,
    writes: WriteTimeout,
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
    /// Frames on one of the others; what was read behind the handshake comes first.
    WebSocket(Box<WebSocket<Rewind<Stream>>>),
}

impl Stream {
    /// Without TLS.
    pub fn plain(tcp: Rewind<TcpStream>, write_timeout: Duration) -> Self {
        Self::over(Io::Plain(tcp), write_timeout)
    }

    /// After a TLS handshake, or while it ends and early data is read.
    pub fn tls(tls: TlsStream, write_timeout: Duration) -> Self {
        Self::over(Io::Tls(tls), write_timeout)
    }

    /// After a TLCP handshake.
    pub fn tlcp(tlcp: Box<TlcpStream>, write_timeout: Duration) -> Self {
        Self::over(Io::Tlcp(tlcp), write_timeout)
    }

    /// What is in the frames of a WebSocket on this stream. `first_bytes` were read from it already.
    pub fn into_websocket(self, first_bytes: Bytes, rules: Arc<Rules>) -> Self {
        let write_timeout = self.writes.timeout();
        let websocket = WebSocket::new(Rewind::new(self, first_bytes), rules);
        Self::over(Io::WebSocket(Box::new(websocket)), write_timeout)
    }

    fn over(io: Io, write_timeout: Duration) -> Self {
        Self { io, meter: None, writes: WriteTimeout::new(write_timeout) }
    }

    /// From now on counts its bytes.
    pub fn set_meter(&mut self, meter: Meter) {
        match &mut self.io {
            Io::WebSocket(websocket) => websocket.get_mut().get_mut().set_meter(meter),
            Io::Plain(_) | Io::Tls(_) | Io::Tlcp(_) => self.meter = Some(meter),
        }
    }

    /// Whether TLS or TLCP is spoken.
    pub fn is_encrypted(&self) -> bool {
        match &self.io {
            Io::Plain(_) => false,
            Io::Tls(_) | Io::Tlcp(_) => true,
            Io::WebSocket(websocket) => websocket.get_ref().get_ref().is_encrypted(),
        }
    }

    /// What the TLS handshake agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.io {
            Io::Plain(_) => None,
            Io::Tls(tls) => tls.alpn(),
            Io::Tlcp(tlcp) => tlcp.alpn(),
            Io::WebSocket(websocket) => websocket.get_ref().get_ref().alpn(),
        }
    }

    /// Whether the handshake is over. Until it is, what is read came as early data.
    pub fn handshake(&self) -> Handshake {
        match &self.io {
            Io::Plain(_) | Io::Tlcp(_) => Handshake::complete(),
            Io::Tls(tls) => tls.handshake(),
            Io::WebSocket(websocket) => websocket.get_ref().get_ref().handshake(),
        }
    }

    /// Whether nothing of it is in a buffer or under way.
    pub fn is_idle(&self) -> bool {
        !self.writes.is_running()
            && match &self.io {
                Io::Plain(tcp) => tcp.is_drained(),
                Io::Tls(tls) => tls.is_idle(),
                Io::Tlcp(_) => false,
                Io::WebSocket(websocket) => {
                    let below = websocket.get_ref();
                    websocket.is_idle() && below.is_drained() && below.get_ref().is_idle()
                }
            }
    }

    /// Takes an idle stream out of tokio's reactor. An error is the end of the connection.
    pub fn park(self) -> io::Result<ParkedStream> {
        let write_timeout_ms = self.writes.timeout().as_millis().try_into().unwrap_or(u32::MAX);
        let (tcp, tls) = match self.io {
            Io::Plain(tcp) => (tcp.into_inner(), None),
            Io::Tls(tls) => tls.into_idle().map(|(tcp, idle)| (tcp, Some(Box::new(idle))))?,
            Io::Tlcp(_) => return Err(io::ErrorKind::Unsupported.into()),
            Io::WebSocket(websocket) => {
                let (below, rules) = websocket.into_parts();
                return Ok(ParkedStream { websocket: Some(rules), ..below.into_inner().park()? });
            }
        };
        Ok(ParkedStream { socket: tcp.into_std()?, write_timeout_ms, tls, websocket: None })
    }

    /// Passes a write's result on, and turns a wait that lasts too long into an error.
    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.io {
            // The stream below has its own.
            Io::WebSocket(_) => result,
            Io::Plain(_) | Io::Tls(_) | Io::Tlcp(_) => self.writes.check(cx, result),
        }
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
    /// Whose frames are on it, if any.
    websocket: Option<Arc<Rules>>,
}

impl ParkedStream {
    /// The stream as it was, but without a meter. An error is the end of the connection.
    pub fn unpark(self) -> io::Result<Stream> {
        let tcp = TcpStream::from_std(self.socket)?;
        let write_timeout = Duration::from_millis(self.write_timeout_ms.into());
        let stream = match self.tls {
            None => Stream::plain(Rewind::new(tcp, Bytes::new()), write_timeout),
            Some(idle) => Stream::tls(TlsStream::from_idle(tcp, *idle), write_timeout),
        };
        Ok(match self.websocket {
            None => stream,
            Some(rules) => stream.into_websocket(Bytes::new(), rules),
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
            Io::WebSocket(websocket) => Pin::new(websocket.as_mut()).poll_read(cx, buf),
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
            Io::WebSocket(websocket) => Pin::new(websocket.as_mut()).poll_write(cx, buf),
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
            Io::WebSocket(websocket) => Pin::new(websocket.as_mut()).poll_write_vectored(cx, bufs),
        };
        self.wrote(&result);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
            Io::Tlcp(tlcp) => tlcp.is_write_vectored(),
            Io::WebSocket(websocket) => websocket.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_flush(cx),
            Io::WebSocket(websocket) => Pin::new(websocket.as_mut()).poll_flush(cx),
        };
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Io::Tlcp(tlcp) => Pin::new(tlcp.as_mut()).poll_shutdown(cx),
            Io::WebSocket(websocket) => Pin::new(websocket.as_mut()).poll_shutdown(cx),
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
