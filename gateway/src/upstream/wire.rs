//! The bytes of one connection to a broker: rumqttc's packets and state machine over a socket of our own, so that
//! TLS is the gateway's, and nothing is acknowledged before it is done.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use rumqttc::v5::{
    Event as StateEvent, MqttState, Request, StateError,
    mqttbytes::{self, v5::Packet},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Packet identifiers used in turn. More than are in flight at one time, so that none is used twice.
pub(super) const PACKET_IDS: u16 = 1024;
/// Encoded bytes that may wait for a broker that does not read.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// A socket, or TLS over one.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

pub(super) struct Wire {
    socket: Box<dyn Socket>,
    input: BytesMut,
    output: BytesMut,
    is_unflushed: bool,
    state: MqttState,
    packet_bytes_max: u32,
}

/// What came of driving it.
#[derive(Debug)]
pub(super) enum Event {
    Packet(Box<Packet>),
    /// All that was sent is with the system.
    Written,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Packet(#[from] mqttbytes::Error),
    #[error("{0}")]
    Rule(&'static str),
}

impl Wire {
    pub(super) fn new(socket: Box<dyn Socket>, packet_bytes_max: usize) -> Self {
        Self {
            socket,
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_unflushed: false,
            state: MqttState::new(PACKET_IDS, true),
            packet_bytes_max: u32::try_from(packet_bytes_max).unwrap_or(u32::MAX),
        }
    }

    /// Whether more may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Sends what the state machine makes of a request.
    pub(super) fn request(&mut self, request: Request) -> Result<(), Broken> {
        if let Some(packet) = self.state.handle_outgoing_packet(request)? {
            self.send(&packet)?;
        }
        self.state.events.clear();
        Ok(())
    }

    /// Sends a packet that the state machine need not know.
    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), Broken> {
        packet.write(&mut self.output, None)?;
        self.is_unflushed = true;
        Ok(())
    }

    /// Writes what there is, and returns what comes. Nothing is read unless `may_read`. Safe to cancel.
    pub(super) async fn next(&mut self, may_read: bool) -> Result<Event, Broken> {
        poll_fn(|cx| self.poll_next(cx, may_read)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Result<Event, Broken>> {
        if self.is_unflushed && self.poll_write(cx)?.is_ready() {
            return Poll::Ready(Ok(Event::Written));
        }
        if !may_read {
            return Poll::Pending;
        }
        loop {
            if let Some(packet) = self.parse()? {
                return Poll::Ready(Ok(Event::Packet(Box::new(packet))));
            }
            ready!(self.poll_read(cx))?;
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut buffer = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(Broken::Closed));
        }
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    fn parse(&mut self) -> Result<Option<Packet>, Broken> {
        let packet = match Packet::read(&mut self.input, Some(self.packet_bytes_max)) {
            Ok(packet) => packet,
            Err(mqttbytes::Error::InsufficientBytes(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(answer) = self.state.handle_incoming_packet(packet)? {
            self.send(&answer)?;
        }
        let came = self.state.events.drain(..).find_map(|event| match event {
            StateEvent::Incoming(packet) => Some(packet),
            StateEvent::Outgoing(_) => None,
        });
        Ok(came)
    }

    /// Writes the rest and closes.
    pub(super) async fn close(mut self) {
        // The broker may be gone first.
        _ = poll_fn(|cx| self.poll_write(cx)).await;
        _ = poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await;
    }
}
