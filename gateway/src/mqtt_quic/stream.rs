//! One bidirectional stream: what came of it and is no packet yet, what is to leave on it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, ReadBuf};
use towline_protocols::mqtt::ReasonCode;

use super::{code, screening::Aliases};
use crate::transport::WriteTimeout;

/// Read at once.
const READ_BYTES: usize = 4096;
/// What waits to leave on one stream, bytes. Beyond it the session waits.
const OUT_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Stream {
    send: SendStream,
    recv: RecvStream,
    /// The beginning of a packet whose end has not come.
    pub(super) input: BytesMut,
    /// The client sends nothing more.
    pub(super) read_over: bool,
    out: BytesMut,
    writes: WriteTimeout,
    pub(super) aliases: Aliases,
}

impl Stream {
    pub(super) fn new((send, recv): (SendStream, RecvStream), write_timeout: Duration) -> Self {
        Self {
            send,
            recv,
            input: BytesMut::new(),
            read_over: false,
            out: BytesMut::new(),
            writes: WriteTimeout::new(write_timeout),
            aliases: Aliases::default(),
        }
    }

    /// Appends what the stream has to `input`. Pending for good once the client sends nothing more.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read_over {
            return Poll::Pending;
        }
        let mut octets = [0; READ_BYTES];
        let mut buf = ReadBuf::new(&mut octets);
        ready!(Pin::new(&mut self.recv).poll_read(cx, &mut buf))?;
        self.read_over = buf.filled().is_empty();
        self.input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes until nothing is left, or the stream takes no more.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = Pin::new(&mut self.send).poll_write(cx, &self.out).map_err(io::Error::from);
            let count = ready!(self.writes.check(cx, written))?;
            self.out.advance(count);
        }
        // A quiet stream owns no buffer.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Ends it in order.
    pub(super) fn finish(&mut self) {
        // It fails on a stream that is over already.
        let _ = self.send.finish();
    }

    /// Breaks it off, and says why by MQTT's code.
    pub(super) fn break_off(&mut self, reason: ReasonCode) {
        let _ = self.send.reset(code(reason));
        let _ = self.recv.stop(code(reason));
    }
}
