//! An established connection that stays with rustls: TLS 1.2, and TLS 1.3 with a suite that the record layer does
//! not know. Buffers come and go as with [`super::established`]; the state is larger.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{
    Error,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use towline_protocols::tls::{
    RecordSizer, RecordSizes,
    record::{ALERT, APPLICATION_DATA, HEADER_BYTES, Header},
};

use super::{
    buffers::{BUFFER_BYTES, Buffer},
    established::{broken, cut_off, discard_unread, now, now_or_later, send},
};

/// The longest addition of a suite of TLS 1.2 to a record's content: header, explicit nonce and tag, and as much
/// again for suites of other providers.
const OVERHEAD_BYTES: usize = 64;

pub(super) struct Kept {
    connection: Box<UnbufferedServerConnection>,
    input: Option<Box<Buffer>>,
    output: Option<Box<Buffer>>,
    /// Read from records, and not by the caller yet.
    plain: Vec<u8>,
    sizes: RecordSizes,
    sizer: RecordSizer,
    read_closed: bool,
    write_closed: bool,
    broken: bool,
}

/// What rustls wants after it was given its turn.
enum Turn {
    /// Another turn.
    Again,
    /// More of the peer's bytes.
    Blocked,
}

impl Kept {
    pub(super) fn new(
        connection: Box<UnbufferedServerConnection>,
        input: Option<Box<Buffer>>,
        output: Option<Box<Buffer>>,
        plain: Vec<u8>,
        sizes: RecordSizes,
    ) -> Self {
        Self {
            connection,
            input,
            output,
            plain,
            sizes,
            sizer: RecordSizer::default(),
            read_closed: false,
            write_closed: false,
            broken: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.input.is_none() && self.output.is_none() && self.plain.is_empty()
    }

    pub(super) fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = self.poll_send(tcp, cx)?;
        loop {
            if !self.plain.is_empty() {
                self.copy_plain(buf);
                return Poll::Ready(Ok(()));
            }
            if self.read_closed {
                return Poll::Ready(Ok(()));
            }
            if self.broken {
                return Poll::Ready(Err(broken()));
            }
            self.work(tcp, cx)?;
            if self.plain.is_empty() && !self.read_closed {
                ready!(self.poll_fill(tcp, cx))?;
            }
        }
    }

    fn copy_plain(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
    }

    /// Lets rustls work on the input until it has none left.
    fn work(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            match self.turn() {
                Ok(Turn::Again) => {}
                Ok(Turn::Blocked) => break,
                Err(error) => return Err(self.fail(tcp, cx, &error)),
            }
        }
        if let Some(empty) = self.input.take_if(|input| input.is_empty()) {
            Buffer::give(empty);
        }
        now_or_later(self.poll_send(tcp, cx))
    }

    fn turn(&mut self) -> Result<Turn, Error> {
        let Self { connection, input, output, plain, read_closed, .. } = self;
        let records = input.as_mut().map_or(&mut [][..], |input| input.filled_mut());
        let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(records);
        let turn = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    plain.extend_from_slice(record?.payload);
                }
                Ok(Turn::Again)
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                // Without room it is an alert for a peer that takes no byte.
                append(output, |free| data.encode(free));
                Ok(Turn::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Turn::Again)
            }
            Ok(ConnectionState::PeerClosed) => {
                *read_closed = true;
                Ok(Turn::Again)
            }
            Ok(_) => Ok(Turn::Blocked),
            Err(error) => Err(error),
        };
        if let Some(input) = input {
            input.consume(discard);
        }
        turn
    }

    fn poll_fill(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut input = self.input.take().map_or_else(Buffer::take, Buffer::grow);
        if input.filled().len() == BUFFER_BYTES {
            // No record is as long; a handshake message in pieces may be, and none is welcome now.
            self.broken = true;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long")));
        }
        let mut free = ReadBuf::new(input.free());
        let result = Pin::new(tcp).poll_read(cx, &mut free);
        let count = free.filled().len();
        input.fill(count);
        if result.is_pending() {
            self.input = Buffer::shrink(input);
            return Poll::Pending;
        }
        self.input = Some(input);
        ready!(result)?;
        if count == 0 {
            self.broken = true;
            return Poll::Ready(Err(cut_off()));
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken || self.write_closed {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.poll_send(tcp, cx))?;
        let mut taken = 0;
        for slice in slices {
            let count = self.seal(slice)?;
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        match self.poll_send(tcp, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Seals as much of `content` as the buffer takes, and says how much that was.
    fn seal(&mut self, content: &[u8]) -> io::Result<usize> {
        let mut sealed = 0;
        while sealed < content.len() {
            let rest = &content[sealed..];
            let length = self.sizer.next(&self.sizes, *super::established::EPOCH, now()).min(rest.len());
            if self.output.as_mut().is_some_and(|output| output.free().len() < length + OVERHEAD_BYTES) {
                break;
            }
            self.seal_record(&rest[..length])?;
            self.sizer.sent(&self.sizes, length);
            sealed += length;
        }
        Ok(sealed)
    }

    fn seal_record(&mut self, content: &[u8]) -> io::Result<()> {
        self.write(|traffic, free| traffic.encrypt(content, free))
    }

    /// Lets rustls do what it has to do first, and then `write`.
    fn write(
        &mut self,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        // An error is met again by the reader, who tells the peer.
        while let Turn::Again = self.turn().map_err(|_| broken())? {}
        let Self { connection, input, output, .. } = self;
        let records = input.as_mut().map_or(&mut [][..], |input| input.filled_mut());
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = connection.process_tls_records(records).state
        else {
            return Err(broken());
        };
        if append(output, |free| write(&mut traffic, free)) { Ok(()) } else { Err(broken()) }
    }

    pub(super) fn poll_shutdown(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.write_closed && !self.broken {
            ready!(self.poll_send(tcp, cx))?;
            self.write_closed = true;
            self.write(|traffic, free| traffic.queue_close_notify(free))?;
        }
        ready!(self.poll_send(tcp, cx))?;
        Pin::new(tcp).poll_shutdown(cx)
    }

    pub(super) fn poll_send(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(output) = &mut self.output else { return Poll::Ready(Ok(())) };
        let result = send(output, tcp, cx);
        match result {
            Poll::Ready(_) => self.output.take().into_iter().for_each(Buffer::give),
            Poll::Pending => self.output = self.output.take().and_then(Buffer::shrink_if_small),
        }
        result
    }

    /// Sends the alert that rustls made for its error.
    fn fail(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>, error: &Error) -> io::Error {
        self.broken = true;
        // No further than the alert: behind it, rustls would look at the bad record once more.
        while let Ok(Turn::Again) = self.turn()
            && !self.output.as_ref().is_some_and(|output| ends_in_alert(output.filled()))
        {}
        let _ = self.poll_send(tcp, cx);
        discard_unread(tcp);
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    }
}

/// Lets `write` fill the free part of `output`, if that is large enough.
fn append<E>(output: &mut Option<Box<Buffer>>, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> bool {
    let mut buffer = output.take().map_or_else(Buffer::take, Buffer::grow);
    let written = write(buffer.free()).map(|count| buffer.fill(count));
    *output = Some(buffer);
    written.is_ok()
}

/// Whether the last of `records` is an alert, or may be one.
fn ends_in_alert(mut records: &[u8]) -> bool {
    let mut last = 0;
    while let Some(header) = Header::read(records) {
        last = header.content_type;
        records = records.get(HEADER_BYTES + header.length..).unwrap_or_default();
    }
    matches!(last, ALERT | APPLICATION_DATA)
}
