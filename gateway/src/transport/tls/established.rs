//! An established TLS 1.3 connection: records to a byte stream and back. It holds a buffer while bytes are under
//! way and a few dozen bytes otherwise.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use towline_protocols::tls::{
    Alert, RecordSizer, RecordSizes,
    record::{ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_BYTES, Header, PROTECTED_BYTES_MAX},
};

use super::{
    buffers::Buffer,
    record::{Gather, OVERHEAD_BYTES, Opened, Records},
};

/// Records without content, and KeyUpdates, that may come before one with application data. Neither gets a
/// peer anywhere, and both cost us something.
const FRUITLESS_MAX: u8 = 32;
/// Octets of a KeyUpdate message (RFC 8446, section 4.6.3).
const KEY_UPDATE_BYTES: usize = 5;
const KEY_UPDATE: u8 = 24;
/// Unread bytes that are taken off the socket before it is closed for a fatal alert: while some are left, the
/// kernel answers with a reset, which overtakes the alert.
const DISCARDED_MAX: usize = 256 * 1024;

/// When record sizes began to be counted from.
pub(super) static EPOCH: LazyLock<Instant> = LazyLock::new(now);

pub(super) struct Established {
    records: Records,
    /// Starts with `plain` octets to be read, then `tail` octets to be skipped, then records.
    input: Option<Box<Buffer>>,
    /// Records that the socket did not take yet.
    output: Option<Box<Buffer>>,
    sizes: RecordSizes,
    sizer: RecordSizer,
    plain: u16,
    tail: u16,
    /// A KeyUpdate that came in pieces.
    part: [u8; KEY_UPDATE_BYTES],
    part_bytes: u8,
    /// See [`FRUITLESS_MAX`].
    fruitless: u8,
    /// The peer wants our KeyUpdate.
    update_owed: bool,
    /// The peer's close_notify came.
    read_closed: bool,
    /// Our close_notify or another alert was sealed.
    write_closed: bool,
    /// It failed, and nothing more is read or written.
    broken: bool,
}

impl Established {
    /// `input` came behind the handshake, `output` is owed from it.
    pub(super) fn new(
        records: Records,
        input: Option<Box<Buffer>>,
        output: Option<Box<Buffer>>,
        sizes: RecordSizes,
    ) -> Self {
        Self {
            records,
            input,
            output,
            sizes,
            sizer: RecordSizer::default(),
            plain: 0,
            tail: 0,
            part: [0; KEY_UPDATE_BYTES],
            part_bytes: 0,
            fruitless: 0,
            update_owed: false,
            read_closed: false,
            write_closed: false,
            broken: false,
        }
    }

    /// With octets to be read before all others: early data.
    pub(super) fn with_plain(mut self, plain: &[u8]) -> Self {
        if plain.is_empty() {
            return self;
        }
        let records = self.input.take();
        let records = records.as_ref().map_or(&[][..], |input| input.filled());
        self.plain = plain.len() as u16;
        self.input = Buffer::holding([plain, records].concat());
        self
    }

    /// Whether no byte is under way in either direction.
    pub(super) fn is_idle(&self) -> bool {
        self.input.is_none() && self.output.is_none() && !self.update_owed
    }

    pub(super) fn forget_keys(&mut self) {
        self.records.forget_keys();
    }

    /// Octets of memory that it holds for bytes under way.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        [&self.input, &self.output].into_iter().flatten().map(|buffer| buffer.bytes_held()).sum()
    }

    /// As if as many records had been sealed as a key is good for.
    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.update_owed = true;
    }

    pub(super) fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever only reads from now on still wants to see sent what it wrote.
        let _ = self.poll_send(tcp, cx)?;
        self.answer_update(tcp, cx)?;
        let before = buf.filled().len();
        let result = self.poll_plain(tcp, cx, buf);
        self.release_input();
        match result {
            // What was read is handed over first; the rest is told the next time.
            _ if buf.filled().len() > before => Poll::Ready(Ok(())),
            result => result,
        }
    }

    /// Fills `buf` with all that can be had without waiting.
    fn poll_plain(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            self.copy_plain(buf);
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.read_closed {
                return Poll::Ready(Ok(()));
            }
            self.check()?;
            match self.open_next() {
                Ok(true) => self.answer_update(tcp, cx)?,
                Ok(false) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(false) => ready!(self.poll_fill(tcp, cx))?,
                Err(alert) => return Poll::Ready(Err(self.fail(tcp, cx, alert))),
            }
        }
    }

    fn copy_plain(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(input) = &mut self.input else { return };
        let count = usize::from(self.plain).min(buf.remaining());
        if count == 0 {
            return;
        }
        buf.put_slice(&input.filled()[..count]);
        input.consume(count);
        self.plain -= count as u16;
        if self.plain == 0 {
            input.consume(usize::from(std::mem::take(&mut self.tail)));
        }
    }

    /// Opens one record. `false` if there is no whole one.
    fn open_next(&mut self) -> Result<bool, Alert> {
        if self.plain > 0 {
            return Ok(true);
        }
        let Some(input) = &mut self.input else { return Ok(false) };
        let Some(header) = Header::read(input.filled()) else { return Ok(false) };
        if header.content_type != APPLICATION_DATA {
            return Err(Alert::UnexpectedMessage);
        }
        if header.length > PROTECTED_BYTES_MAX {
            return Err(Alert::RecordOverflow);
        }
        let total = HEADER_BYTES + header.length;
        if input.filled().len() < total {
            return Ok(false);
        }
        let record = input.part(0..total);
        let opened = self.records.open(record)?;
        self.take(opened, total)?;
        Ok(true)
    }

    /// Does what the record at the start of the input asks for.
    fn take(&mut self, opened: Opened, total: usize) -> Result<(), Alert> {
        let Some(input) = &mut self.input else { return Err(Alert::InternalError) };
        let Opened { content_type, length } = opened;
        if content_type == APPLICATION_DATA && self.part_bytes == 0 && length > 0 {
            self.fruitless = 0;
            input.consume(HEADER_BYTES);
            self.plain = length as u16;
            self.tail = (total - HEADER_BYTES - length) as u16;
            return Ok(());
        }
        let mut content = [0; KEY_UPDATE_BYTES];
        let content = content.get_mut(..length);
        let content = content.map(|content| {
            content.copy_from_slice(&input.filled()[HEADER_BYTES..HEADER_BYTES + length]);
            &*content
        });
        input.consume(total);
        self.fruitless += 1;
        match (content_type, content) {
            _ if self.fruitless > FRUITLESS_MAX => Err(Alert::UnexpectedMessage),
            (APPLICATION_DATA, Some([])) if self.part_bytes == 0 => Ok(()),
            (ALERT, content) => self.take_alert(content.unwrap_or_default()),
            (HANDSHAKE, Some(content)) if !content.is_empty() => self.take_handshake(content),
            // Longer than a KeyUpdate, the one message that a client may still send (RFC 8446, section 4.6).
            _ => Err(Alert::UnexpectedMessage),
        }
    }

    fn take_alert(&mut self, alert: &[u8]) -> Result<(), Alert> {
        const USER_CANCELED: u8 = 90;
        match *alert {
            [_, description] if description == Alert::CloseNotify as u8 => self.read_closed = true,
            // Followed by close_notify (RFC 8446, section 6.1).
            [_, USER_CANCELED] => {}
            // All others are fatal, whatever their level says, and want no answer (section 6.2).
            [_, _] => {
                self.broken = true;
                self.write_closed = true;
            }
            _ => return Err(Alert::DecodeError),
        }
        Ok(())
    }

    fn take_handshake(&mut self, content: &[u8]) -> Result<(), Alert> {
        let start = usize::from(self.part_bytes);
        let part = self.part.get_mut(start..start + content.len()).ok_or(Alert::UnexpectedMessage)?;
        part.copy_from_slice(content);
        self.part_bytes += content.len() as u8;
        let update_requested = match self.part[..usize::from(self.part_bytes)] {
            [KEY_UPDATE, 0, 0, 1, 0] => false,
            [KEY_UPDATE, 0, 0, 1, 1] => true,
            [KEY_UPDATE, 0, 0, 1, _] => return Err(Alert::IllegalParameter),
            [KEY_UPDATE, a, b, c, ..] if [a, b, c] != [0, 0, 1] => return Err(Alert::DecodeError),
            [KEY_UPDATE, ..] => return Ok(()),
            // No renegotiation (RFC 8446, section 4.1.2), no certificate that was not asked for.
            _ => return Err(Alert::UnexpectedMessage),
        };
        self.part_bytes = 0;
        self.update_owed |= update_requested;
        self.records.update_read()
    }

    /// Waits for bytes; holds what there is of a record in its own size meanwhile.
    fn poll_fill(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut input = self.input.take().map_or_else(Buffer::take, Buffer::grow);
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

    fn release_input(&mut self) {
        if let Some(empty) = self.input.take_if(|input| input.is_empty()) {
            Buffer::give(empty);
        }
    }

    pub(super) fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_write()?;
        ready!(self.poll_send(tcp, cx))?;
        let mut content = Gather::new(slices);
        let all = content.remaining();
        if let Err(alert) = self.seal(&mut content) {
            return Poll::Ready(Err(self.fail(tcp, cx, alert)));
        }
        match self.poll_send(tcp, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket did not take goes before anything else.
            _ => Poll::Ready(Ok(all - content.remaining())),
        }
    }

    /// Seals as many records as one buffer takes.
    fn seal(&mut self, content: &mut Gather<'_>) -> Result<(), Alert> {
        let mut output = self.output.take().unwrap_or_else(Buffer::take);
        let result = self.seal_into(&mut output, content);
        self.output = Some(output);
        result
    }

    fn seal_into(&mut self, output: &mut Buffer, content: &mut Gather<'_>) -> Result<(), Alert> {
        let (epoch, now) = (*EPOCH, now());
        while content.remaining() > 0 {
            if self.update_owed || self.records.must_update() {
                self.seal_update(output)?;
            }
            let length = self.sizer.next(&self.sizes, epoch, now).min(content.remaining());
            let free = output.free();
            if free.len() < length + OVERHEAD_BYTES {
                break;
            }
            let count = self.records.seal(APPLICATION_DATA, content, length, free)?;
            output.fill(count);
            self.sizer.sent(&self.sizes, length);
        }
        Ok(())
    }

    fn seal_update(&mut self, output: &mut Buffer) -> Result<(), Alert> {
        const UPDATE_NOT_REQUESTED: u8 = 0;
        let message = [KEY_UPDATE, 0, 0, 1, UPDATE_NOT_REQUESTED];
        let count = self.records.seal_message(HANDSHAKE, &message, output.free())?;
        output.fill(count);
        self.update_owed = false;
        self.records.update_write()
    }

    /// "the receiver MUST send a KeyUpdate of its own [...] prior to sending its next Application Data record"
    /// (RFC 8446, section 4.6.3): at once if nothing else waits to be sent, else before what is sealed next.
    fn answer_update(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.update_owed || self.write_closed || self.output.is_some() {
            return Ok(());
        }
        let mut output = Buffer::take();
        let sealed = self.seal_update(&mut output);
        self.output = Some(output);
        match sealed {
            Ok(()) => now_or_later(self.poll_send(tcp, cx)),
            Err(alert) => Err(self.fail(tcp, cx, alert)),
        }
    }

    pub(super) fn poll_shutdown(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.write_closed {
            ready!(self.poll_send(tcp, cx))?;
            self.seal_alert(Alert::CloseNotify);
        }
        ready!(self.poll_send(tcp, cx))?;
        Pin::new(tcp).poll_shutdown(cx)
    }

    /// Until the socket took everything that is sealed.
    pub(super) fn poll_send(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(output) = &mut self.output else { return Poll::Ready(Ok(())) };
        let result = send(output, tcp, cx);
        match result {
            Poll::Ready(_) => self.output.take().into_iter().for_each(Buffer::give),
            Poll::Pending => self.output = self.output.take().and_then(Buffer::shrink_if_small),
        }
        result
    }

    fn seal_alert(&mut self, alert: Alert) {
        let mut output = self.output.take().map_or_else(Buffer::take, Buffer::grow);
        // A buffer that is full of records for a peer that takes none has no room for telling it so.
        if let Ok(count) = self.records.seal_message(ALERT, &alert.encode(), output.free()) {
            output.fill(count);
        }
        self.output = Some(output);
        self.write_closed = true;
    }

    /// Tells the peer, as far as the socket takes it at once, and ends the connection.
    fn fail(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>, alert: Alert) -> io::Error {
        if !self.write_closed {
            self.seal_alert(alert);
        }
        let _ = self.poll_send(tcp, cx);
        discard_unread(tcp);
        self.broken = true;
        io::Error::new(io::ErrorKind::InvalidData, format!("the peer broke TLS; told it {alert:?}"))
    }

    fn check(&self) -> io::Result<()> {
        if self.broken { Err(broken()) } else { Ok(()) }
    }

    fn check_write(&self) -> io::Result<()> {
        if self.broken || self.write_closed { Err(broken()) } else { Ok(()) }
    }
}

/// What is not sent at once is sent by whoever polls next.
pub(super) fn now_or_later(sent: Poll<io::Result<()>>) -> io::Result<()> {
    match sent {
        Poll::Ready(sent) => sent,
        Poll::Pending => Ok(()),
    }
}

/// Until the socket took all of `output`.
pub(super) fn send(output: &mut Buffer, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        let count = ready!(Pin::new(&mut *tcp).poll_write(cx, output.filled()))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        output.consume(count);
    }
    Poll::Ready(Ok(()))
}

/// See [`DISCARDED_MAX`].
pub(super) fn discard_unread(tcp: &TcpStream) {
    let mut buffer = [0; 4096];
    let mut discarded = 0;
    while let Ok(count @ 1..) = tcp.try_read(&mut buffer)
        && discarded < DISCARDED_MAX
    {
        discarded += count;
    }
}

/// A FIN without close_notify: an attacker may have cut the end off (RFC 8446, section 6.1).
pub(super) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed without close_notify")
}

pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the TLS connection has ended")
}

/// tokio's, so that tests can let time pass.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
