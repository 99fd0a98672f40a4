//! The streams of a connection as one stream of packets, for the session's driver.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use towline_protocols::mqtt::{Limits, ReasonCode, Version};
use tracing::debug;

use super::{
    code,
    outgoing::Outgoing,
    routing::{CONTROL, InUse, Routing, StreamIndex},
    screening::Rules,
    stream::Stream,
};
use crate::gateway::Gateway;

/// Reads packets of all streams, each whole, in the order in which they are there; writes each packet to the stream
/// that it belongs on.
pub(super) struct Streams {
    connection: Connection,
    /// The control stream is [`CONTROL`].
    streams: BTreeMap<StreamIndex, Stream>,
    /// The stream that is asked first next time, so that one which always has something holds up no other.
    turn: StreamIndex,
    accepting: Option<Accepting>,
    /// Reads before CONNACK, and so has not asked for data streams yet.
    reader: Option<Waker>,
    rules: Rules,
    routing: Routing,
    write_timeout: Duration,
    /// Packets to be read.
    ready: BytesMut,
    outgoing: Outgoing,
}

type Accepting = Pin<Box<dyn Future<Output = Result<(SendStream, RecvStream), ConnectionError>> + Send>>;

/// How a look at one stream ended.
enum Look {
    Packets,
    Nothing,
    Over,
    Broken(ReasonCode),
}

impl Streams {
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        connection: Connection,
        control: (SendStream, RecvStream),
    ) -> Self {
        let snapshot = gateway.snapshot();
        let mqtt = &snapshot.settings.mqtt;
        let limits = Limits { packet_bytes_max: mqtt.packet_bytes_max, ..Limits::default() };
        let write_timeout = snapshot.settings.limits.write_timeout;
        Self {
            connection,
            streams: BTreeMap::from([(CONTROL, Stream::new(control, write_timeout))]),
            turn: CONTROL,
            accepting: None,
            reader: None,
            rules: Rules { limits, topic_alias_max: mqtt.topic_alias_max, version: Version::V5 },
            routing: Routing::new(mqtt.subscriptions_max),
            write_timeout,
            ready: BytesMut::new(),
            outgoing: Outgoing::default(),
        }
    }

    /// Takes new data streams in, as many as QUIC's own limit allows: behind CONNACK, since nothing says before whose
    /// they are.
    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        while self.outgoing.is_accepted() {
            let connection = &self.connection;
            let accepting = self.accepting.get_or_insert_with(|| {
                let connection = connection.clone();
                Box::pin(async move { connection.accept_bi().await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else { return };
            self.accepting = None;
            // Of the connection's end the control stream speaks too.
            let Ok((send, recv)) = accepted else { return };
            self.streams.insert(recv.id().index(), Stream::new((send, recv), self.write_timeout));
        }
    }

    /// Looks at every stream for packets, until there are some. `Ok(false)` is the end.
    fn poll_packets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_accept(cx);
        loop {
            let later = self.streams.range(self.turn..).map(|(index, _)| *index);
            let order: Vec<_> =
                later.chain(self.streams.range(..self.turn).map(|(index, _)| *index)).collect();
            let count = order.len();
            for index in order {
                if !self.may_read(index) {
                    continue;
                }
                match self.look(index, cx)? {
                    Look::Packets => {
                        self.turn = index + 1;
                        return Poll::Ready(Ok(true));
                    }
                    Look::Nothing => {}
                    Look::Over if index == CONTROL => return Poll::Ready(Ok(false)),
                    Look::Over => self.end(index, None),
                    Look::Broken(reason) => self.end(index, Some(reason)),
                }
            }
            // What one that is over has held may be another's.
            if self.streams.len() == count {
                self.reader = (!self.outgoing.is_accepted()).then(|| cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Packets in part of all data streams together are as large as the largest packet, beside one of them that may
    /// become whole in any case.
    fn may_read(&self, index: StreamIndex) -> bool {
        let data = || self.streams.range(CONTROL + 1..).filter(|(_, stream)| !stream.input.is_empty());
        let held: usize = data().map(|(_, stream)| stream.input.len()).sum();
        let is_first = data().next().is_none_or(|(first, _)| *first == index);
        index == CONTROL || is_first || held < self.rules.limits.packet_bytes_max
    }

    /// An error is the control stream's, and so the connection's.
    fn look(&mut self, index: StreamIndex, cx: &mut Context<'_>) -> io::Result<Look> {
        loop {
            let Some(stream) = self.streams.get_mut(&index) else { return Ok(Look::Nothing) };
            match stream.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if index == CONTROL => return Err(error),
                Poll::Ready(Err(_)) => return Ok(Look::Broken(ReasonCode::UnspecifiedError)),
                Poll::Pending => {
                    let is_answered = !stream.has_output() && !self.routing.is_busy(index);
                    let is_over = stream.read_over && (index == CONTROL || is_answered);
                    return Ok(if is_over { Look::Over } else { Look::Nothing });
                }
            }
            match self.take_packets(index) {
                Ok(()) => {}
                Err(reason) if index == CONTROL => {
                    self.connection.close(code(reason), InUse::RULE.as_bytes());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, InUse::RULE));
                }
                Err(reason) => return Ok(Look::Broken(reason)),
            }
            if !self.ready.is_empty() {
                return Ok(Look::Packets);
            }
            let Some(stream) = self.streams.get(&index) else { return Ok(Look::Nothing) };
            if index != CONTROL && stream.read_over && !stream.input.is_empty() {
                // Its last packet was cut.
                return Ok(Look::Broken(ReasonCode::MalformedPacket));
            }
        }
    }

    /// Moves whole packets from a stream's input to where they are read. An error ends the stream; of the control stream
    /// there is one alone, [`InUse`].
    fn take_packets(&mut self, index: StreamIndex) -> Result<(), ReasonCode> {
        let Some(stream) = self.streams.get_mut(&index) else { return Ok(()) };
        loop {
            let taken = match self.rules.take(&mut stream.input) {
                Ok(taken) => taken,
                // The session says what is wrong with it.
                Err(_) if index == CONTROL => {
                    self.ready.unsplit(stream.input.split());
                    return Ok(());
                }
                Err(error) => return Err(error.reason),
            };
            let Some((kind, packet)) = taken else { break };
            let packet = if index == CONTROL {
                self.rules.control(kind, packet, &mut self.routing).map_err(|InUse| InUse::REASON)?
            } else {
                let screened = self.rules.data(kind, packet, index, &mut stream.aliases, &mut self.routing);
                screened.map_err(|error| error.reason)?
            };
            self.ready.extend_from_slice(&packet);
        }
        if stream.input.is_empty() {
            stream.input = BytesMut::new();
        }
        Ok(())
    }

    /// A data stream is over, in order or for a reason.
    fn end(&mut self, index: StreamIndex, broken: Option<ReasonCode>) {
        let Some(mut stream) = self.streams.remove(&index) else { return };
        match broken {
            None => stream.finish(),
            Some(reason) => {
                debug!(stream = index, ?reason, "a data stream of an MQTT client is broken off");
                stream.break_off(reason);
            }
        }
        self.routing.forget(index);
    }

    /// Writes what waits for any stream. Says whether that is all gone. An error is the control stream's.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut broken = Vec::new();
        self.move_head();
        let mut is_done = true;
        for (index, stream) in &mut self.streams {
            match stream.poll_drain(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if *index == CONTROL => return Err(error),
                Poll::Ready(Err(_)) => broken.push(*index),
                Poll::Pending => is_done = false,
            }
        }
        for index in broken {
            self.end(index, Some(ReasonCode::UnspecifiedError));
        }
        Ok(is_done && self.outgoing.routed_head().is_none())
    }

    /// Moves the beginning of a packet to its stream, if that has room. What is for a stream that is gone is dropped.
    fn move_head(&mut self) {
        let Some((target, head)) = self.outgoing.routed_head() else { return };
        match self.streams.get_mut(&target) {
            Some(stream) if !stream.has_room() => return,
            Some(stream) => stream.push(head),
            None => {}
        }
        self.outgoing.moved_head();
    }
}

impl AsyncRead for Streams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            if !ready!(this.poll_packets(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        let count = this.ready.len().min(buf.remaining());
        buf.put_slice(&this.ready[..count]);
        this.ready.advance(count);
        if this.ready.is_empty() {
            this.ready = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Streams {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.poll_drain(cx)?;
        if this.outgoing.routed_head().is_some() {
            return Poll::Pending;
        }
        let count = match this.outgoing.rest() {
            None => this.outgoing.take_head(data, &mut this.routing),
            Some((target, left)) => {
                let count = left.min(data.len());
                match this.streams.get_mut(&target) {
                    Some(stream) if !stream.has_room() => return Poll::Pending,
                    Some(stream) => stream.push(&data[..count]),
                    None => {}
                }
                this.outgoing.took_rest(count);
                count
            }
        };
        if this.outgoing.is_accepted() {
            this.reader.take().into_iter().for_each(Waker::wake);
        }
        this.poll_drain(cx)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_drain(cx)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.streams.values_mut().for_each(Stream::finish);
        Poll::Ready(Ok(()))
    }
}
