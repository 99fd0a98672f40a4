//! The byte stream inside a TLS connection.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use towline_protocols::tls::RecordSizes;

use super::{
    ALPN_HTTP1, ALPN_HTTP2, ALPN_LINK, ALPN_MQTT,
    buffers::Buffer,
    established::{Established, broken},
    handshake::{Connection, Finished},
    kept::Kept,
    zero_rtt::ZeroRtt,
};
use crate::transport::Handshake;

/// A TLS connection whose handshake is over, or at least far enough to read early data.
pub struct TlsStream {
    io: Io,
    alpn: Option<Alpn>,
}

enum Io {
    /// Reads early data, and may write already, while the handshake goes on.
    ZeroRtt(Box<ZeroRtt>),
    Open(TcpStream, State),
    /// While one becomes the other, and after that failed.
    Ended,
}

/// What a connection keeps beside its socket.
pub(super) enum State {
    Established(Box<Established>),
    Kept(Box<Kept>),
}

/// An idle connection without its socket: two secrets and two sequence numbers, mostly.
pub struct IdleTls {
    state: State,
    alpn: Option<Alpn>,
}

/// The protocol that ALPN agreed on, in one octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alpn {
    Link,
    Http2,
    Http1,
    Mqtt,
}

impl TlsStream {
    pub(super) fn open(tcp: TcpStream, state: State, alpn: Option<&[u8]>) -> Self {
        Self { io: Io::Open(tcp, state), alpn: alpn.and_then(Alpn::named) }
    }

    pub(super) fn zero_rtt(connection: ZeroRtt, alpn: Option<&[u8]>) -> Self {
        Self { io: Io::ZeroRtt(Box::new(connection)), alpn: alpn.and_then(Alpn::named) }
    }

    /// What the handshake agreed on.
    pub fn alpn(&self) -> Option<&'static [u8]> {
        self.alpn.map(Alpn::name)
    }

    /// Whether the handshake is over.
    pub fn handshake(&self) -> Handshake {
        match &self.io {
            Io::ZeroRtt(connection) => connection.handshake(),
            Io::Open(..) | Io::Ended => Handshake::complete(),
        }
    }

    /// Whether no byte is under way, in either direction.
    pub fn is_idle(&self) -> bool {
        matches!(&self.io, Io::Open(_, state) if state.is_idle())
    }

    /// Takes the socket away from an idle connection.
    ///
    /// # Errors
    /// It is not idle; that ends it.
    pub fn into_idle(self) -> io::Result<(TcpStream, IdleTls)> {
        match self.io {
            Io::Open(tcp, mut state) if state.is_idle() => {
                state.forget_keys();
                Ok((tcp, IdleTls { state, alpn: self.alpn }))
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The connection goes on where it was.
    pub fn from_idle(tcp: TcpStream, idle: IdleTls) -> Self {
        Self { io: Io::Open(tcp, idle.state), alpn: idle.alpn }
    }

    /// Waits until the client's Finished came, if early data was all there is so far.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(&mut TcpStream, &mut State)>> {
        if let Io::ZeroRtt(connection) = &mut self.io {
            let ended = ready!(connection.poll_ended(cx));
            let Io::ZeroRtt(connection) = mem::replace(&mut self.io, Io::Ended) else {
                return Poll::Ready(Err(broken()));
            };
            let (finished, owed) = ended?;
            let (tcp, state) = connection.into_open(finished, &owed)?;
            self.io = Io::Open(tcp, state);
        }
        match &mut self.io {
            Io::Open(tcp, state) => Poll::Ready(Ok((tcp, state))),
            Io::ZeroRtt(_) | Io::Ended => Poll::Ready(Err(broken())),
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Io::ZeroRtt(connection) = &mut self.io
            && connection.read_early(cx, buf)
        {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_open(cx))? {
            (tcp, State::Established(state)) => state.poll_read(tcp, cx, buf),
            (tcp, State::Kept(state)) => state.poll_read(tcp, cx, buf),
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Io::ZeroRtt(connection) = &mut self.io
            && let Some(written) = connection.poll_write(cx, slices)
        {
            return written;
        }
        match ready!(self.poll_open(cx))? {
            (tcp, State::Established(state)) => state.poll_write(tcp, cx, slices),
            (tcp, State::Kept(state)) => state.poll_write(tcp, cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Io::ZeroRtt(connection) = &mut self.io
            && let Some(flushed) = connection.poll_flush(cx)
        {
            return flushed;
        }
        match ready!(self.poll_open(cx))? {
            (tcp, State::Established(state)) => state.poll_send(tcp, cx),
            (tcp, State::Kept(state)) => state.poll_send(tcp, cx),
        }
    }

    /// close_notify and a FIN. Before the handshake's end it waits for that: what closes a connection earlier is
    /// dropping it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_open(cx))? {
            (tcp, State::Established(state)) => state.poll_shutdown(tcp, cx),
            (tcp, State::Kept(state)) => state.poll_shutdown(tcp, cx),
        }
    }
}

impl State {
    /// What a handshake leaves, with what it still owes the peer and with early data that nobody read yet.
    pub(super) fn after(finished: Finished, owed: &[u8], early: Vec<u8>, sizes: RecordSizes) -> Self {
        let output = Buffer::holding(owed.to_vec());
        match finished.connection {
            Connection::Own(records) => {
                let established = Established::new(records, finished.input, output, sizes);
                Self::Established(Box::new(established.with_plain(&early)))
            }
            Connection::Kept(connection) => {
                Self::Kept(Box::new(Kept::new(connection, finished.input, output, early, sizes)))
            }
        }
    }

    /// They are expanded again when they are needed.
    fn forget_keys(&mut self) {
        match self {
            Self::Established(state) => state.forget_keys(),
            Self::Kept(_) => {}
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Established(state) => state.is_idle(),
            Self::Kept(state) => state.is_idle(),
        }
    }
}

impl Alpn {
    const ALL: [Self; 4] = [Self::Link, Self::Http2, Self::Http1, Self::Mqtt];

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Link => ALPN_LINK,
            Self::Http2 => ALPN_HTTP2,
            Self::Http1 => ALPN_HTTP1,
            Self::Mqtt => ALPN_MQTT,
        }
    }
}

#[cfg(test)]
mod tests;
