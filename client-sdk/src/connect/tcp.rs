//! TCP, with TLS on top unless the app asked for plaintext.

use std::{io, net::SocketAddr, pin::Pin, task::Context, task::Poll, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use towline_protocols::policy::KeyExchange;

use super::{ByteIo, ConnectError, FirstFlight, Wire, early, sockets::Sockets, tls::Secured};
use crate::{core::now, tickets::Transport, timeline::ConnectTimes};

/// A byte stream, encrypted or not.
pub(crate) enum ByteStream {
    /// TLS 1.3.
    Tls(Box<TlsStream<TcpStream>>),
    /// Plaintext, because the app said so.
    Plain(TcpStream),
    /// Made by the app.
    Own(Box<dyn ByteIo>),
}

/// A connection of TCP on which nothing was said.
pub(super) struct Connected {
    stream: TcpStream,
    /// Made it, and makes another where that is wanted.
    sockets: Sockets,
    address: SocketAddr,
    took: Duration,
}

pub(super) async fn connect(sockets: Sockets, address: SocketAddr) -> Result<Connected, ConnectError> {
    let began = now();
    let stream = sockets.tcp(address).await.map_err(|error| failed("TCP", address, &error))?;
    Ok(Connected { stream, sockets, address, took: now().saturating_duration_since(began) })
}

impl Connected {
    /// Makes TLS on it, where the app has not asked for plaintext. What a gateway refuses of a handshake with X25519 alone is
    /// made anew as a hybrid one.
    pub(super) async fn secure(
        self,
        secured: Option<Secured>,
        offer: KeyExchange,
        host: String,
        flight: FirstFlight,
    ) -> Result<Wire, ConnectError> {
        let Self { stream, sockets, address, took } = self;
        let (began, mut times) = (now(), ConnectTimes { connect: Some(took), ..ConnectTimes::default() });
        let Some(secured) = secured else {
            return Ok(Wire::Tcp { stream: ByteStream::Plain(stream), early: 0, times });
        };
        let name = ServerName::try_from(host).map_err(|error| failed("TLS", address, &error))?;
        let made = secured.streams(Transport::Tcp, &name, offer);
        let shaken = early::secure(&made, name.clone(), stream, &flight).await;
        let (stream, early) = match shaken {
            Err(error) if made.is_refused(&error) => {
                tracing::debug!(%error, "a hybrid handshake instead");
                secured.resuming.refused(Transport::Tcp, &name);
                let stream = connect(sockets, address).await?.stream;
                let hybrid = secured.streams(Transport::Tcp, &name, KeyExchange::Hybrid);
                early::secure(&hybrid, name, stream, &flight).await
            }
            shaken => shaken,
        }
        .map_err(|error| failed("TLS", address, &error))?;
        if stream.get_ref().1.alpn_protocol() != Some(super::tls::ALPN) {
            return Err(failed("TLS", address, &"the peer does not speak towline/1"));
        }
        times.tls = Some(now().saturating_duration_since(began));
        Ok(Wire::Tcp { stream: ByteStream::Tls(Box::new(stream)), early, times })
    }
}

fn failed(what: &str, address: SocketAddr, error: &dyn std::fmt::Display) -> ConnectError {
    ConnectError(format!("{what} {address}: {error}"))
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Own(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Own(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Own(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Own(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
