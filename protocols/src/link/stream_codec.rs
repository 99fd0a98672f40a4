//! One request on a QUIC stream of its own.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::{
    Config, Event, Execution, Peer, Place, RequestHead, Role, RpcError, RpcErrorKind, answer,
    field_tables::FieldTables,
    frame::{
        self, DataFrame, FLAG_END, Frame, FrameType, Part, RequestFrame, RequestOptions, ResponseFrame,
        put_stream_frame, response_options,
    },
    message::{self, Arrival, MessageReader, MessageWriter, OutPart, malformed, misuse},
};
use crate::{
    hpack::HeaderField,
    qpack::{Decoded, QpackError},
};

/// Message bytes in one frame.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// What the streams of one QUIC connection share. Made by [`super::Control::stream_settings`]: before
/// WELCOME it holds the protocol's defaults.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// This side.
    pub config: Arc<Config>,
    /// The other side.
    pub peer: Peer,
    pub(super) tables: Option<Arc<FieldTables>>,
    /// Client: WELCOME has been read.
    pub(super) welcomed: bool,
}

/// Both directions of one request's QUIC stream. Commands append bytes to be written to the stream; QUIC
/// does the flow control and the ordering among streams. Header blocks are QPACK's; their instructions go by
/// the control stream ([`super::Control::poll_instructions`]).
#[derive(Debug)]
pub struct StreamCodec {
    settings: StreamSettings,
    role: Role,
    /// The stream's number, by which QPACK acknowledges.
    stream: u64,
    seq: u64,
    receiving: Receiving,
    /// A frame whose header block waits for so many insertions; nothing is read behind it.
    blocked: Option<(u64, Frame)>,
    sending_ended: bool,
    held: Held,
    reader: MessageReader,
    writer: MessageWriter,
    events: VecDeque<Queued>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Head,
    Body,
    Ended,
}

/// What of an answer is held back, since ANSWER may come to stand for it.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// The head that ANSWER has.
    Head,
    /// And one message.
    Message(OutPart),
}

#[derive(Debug)]
enum Queued {
    Event(Event),
    Compressed {
        frame: Bytes,
        content_bytes: u64,
        end: bool,
    },
    /// REQUEST with a message of its own, of so many bytes when decompressed.
    Opening {
        request: Event,
        frame: Bytes,
        content_bytes: u64,
        end: bool,
    },
    /// The message of such a REQUEST, and its bytes.
    Inflated(Event, usize),
}

impl StreamCodec {
    /// The stream of request `seq` on the client's side. `stream` is its index among the client's
    /// bidirectional streams.
    pub fn client(settings: StreamSettings, stream: u64, seq: u64) -> Self {
        Self::new(settings, Role::Client, stream, seq)
    }

    /// A stream that the client opened; its first frame tells the sequence number.
    pub fn server(settings: StreamSettings, stream: u64) -> Self {
        Self::new(settings, Role::Server, stream, 0)
    }

    fn new(settings: StreamSettings, role: Role, stream: u64, seq: u64) -> Self {
        Self {
            settings,
            role,
            stream,
            seq,
            receiving: Receiving::Head,
            blocked: None,
            sending_ended: false,
            held: Held::Nothing,
            reader: MessageReader::default(),
            writer: MessageWriter::default(),
            events: VecDeque::new(),
        }
    }

    /// The request's sequence number; 0 on the server until it is known.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes all whole frames off `input`, up to one whose header block has to wait. An error concerns this
    /// request only: the driver sends it as RESET and stops the stream.
    pub fn handle_bytes(&mut self, input: &mut BytesMut) -> Result<(), RpcError> {
        let frame_bytes_max = self.settings.config.limits.clamped().frame_bytes_max as usize;
        if let Some((_, frame)) = self.blocked.take() {
            self.handle_frame(frame)?;
        }
        while self.blocked.is_none()
            && let Some(frame) =
                frame::decode(input, frame_bytes_max).map_err(|error| malformed(&error.rule))?
        {
            self.handle_frame(frame)?;
        }
        Ok(())
    }

    /// Whether a header block waits for insertions: nothing needs to be read until
    /// [`StreamCodec::poll_unblocked`] is ready.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Ready when `handle_bytes` can go on with the block that had to wait; never when none had to.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<()> {
        match (&self.blocked, &self.settings.tables) {
            (Some((required, _)), Some(tables)) => tables.poll_inserted(self.stream, *required, cx),
            _ => Poll::Pending,
        }
    }

    /// The peer finished the stream: an error if that cut the request.
    pub fn handle_fin(&mut self, input: &BytesMut) -> Result<(), RpcError> {
        if input.is_empty() && self.receiving == Receiving::Ended {
            return Ok(());
        }
        let text = "the stream ended inside the request or answer";
        Err(RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text))
    }

    /// The next event, to be asked until `None` after `handle_bytes`. Messages are decompressed here, one
    /// at a time as they are asked for. No credit is to be given back on QUIC.
    pub fn poll_event(&mut self) -> Result<Option<Event>, RpcError> {
        match self.events.pop_front() {
            None => Ok(None),
            Some(Queued::Event(event) | Queued::Inflated(event, _)) => Ok(Some(event)),
            Some(Queued::Compressed { frame, content_bytes, end }) => {
                self.inflate(&frame, content_bytes, end).map(Some)
            }
            Some(Queued::Opening { request, frame, content_bytes, end }) => {
                // It could still be refused, so this comes before anybody is told of the request.
                let message = self.inflate(&frame, content_bytes, end).map_err(not_run)?;
                self.events.push_front(Queued::Inflated(message, in_memory(content_bytes)));
                Ok(Some(request))
            }
        }
    }

    /// Bytes of the compressed message that `poll_event` would decompress or hand out next; 0 for anything
    /// else. REQUEST's own counts for both of its events. What the connection holds of such messages is for its driver
    /// to bound.
    pub fn inflates_next(&self) -> usize {
        match self.events.front() {
            Some(Queued::Compressed { content_bytes, .. } | Queued::Opening { content_bytes, .. }) => {
                in_memory(*content_bytes)
            }
            Some(Queued::Inflated(_, bytes)) => *bytes,
            _ => 0,
        }
    }

    /// Whether the peer's half has ended.
    pub fn is_received(&self) -> bool {
        self.receiving == Receiving::Ended
    }

    /// Client: opens the request.
    pub fn send_request(
        &mut self,
        head: &RequestHead,
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        let block = self.encode_block(&head.fields)?;
        self.writer.belongs_to(&head.fields);
        let options = RequestOptions::of(head, self.settings.welcomed, false).encode(block.len());
        put_stream_frame(FrameType::Request, end_flag(end), self.seq, &[options.as_slice(), &block], out);
        self.sending_ended = end;
        Ok(())
    }

    /// Client: asks for the answer of a request that an earlier connection carried, behind what it has `received`; bytes of
    /// a message count only where the server's limits have `message_rests`. Ends its half, unless it
    /// `continues` the request with this head, which WELCOME.partial names.
    pub fn send_attach(&mut self, received: Place, continues: Option<&RequestHead>, out: &mut BytesMut) {
        continues.into_iter().for_each(|head| self.writer.belongs_to(&head.fields));
        let continues = continues.is_some();
        frame::encode(&Frame::Attach { seq: self.seq, received, continues }, out);
        self.sending_ended = !continues;
    }

    /// Server: begins the answer. An ordinary answer of gRPC is held back until it is whole, or until
    /// [`StreamCodec::flush`].
    pub fn send_response(
        &mut self,
        fields: &[HeaderField],
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        if !end && answer::is_head(fields) {
            self.held = Held::Head;
            return Ok(());
        }
        let block = self.encode_block(fields)?;
        let options = response_options(false, block.len());
        put_stream_frame(FrameType::Response, end_flag(end), self.seq, &[options.as_slice(), &block], out);
        self.sending_ended = end;
        Ok(())
    }

    /// Sends a whole message, compressed where that makes it smaller. Says how many bytes carry it.
    pub fn send_message(&mut self, message: Bytes, end: bool, out: &mut BytesMut) -> Result<usize, RpcError> {
        self.check_sending()?;
        let peer = &self.settings.peer;
        let part =
            self.writer.message(message, end, peer.compressor.as_ref(), peer.limits.message_bytes_max)?;
        let wire_bytes = part.len();
        let fits = part.whole_bytes().is_some_and(|bytes| bytes <= self.frame_room());
        if fits && matches!(self.held, Held::Head) {
            self.held = Held::Message(part);
            return Ok(wire_bytes);
        }
        self.flush(out)?;
        self.put_part(part, out);
        Ok(wire_bytes)
    }

    /// Sends a part of a message, as [`super::Connection::send_message_part`].
    pub fn send_message_part(
        &mut self,
        message_bytes: Option<u64>,
        part: Bytes,
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        self.check_sending()?;
        let message_bytes_max = self.settings.peer.limits.message_bytes_max;
        if let Some(part) = self.writer.part(message_bytes, part, end, message_bytes_max)? {
            self.flush(out)?;
            self.put_part(part, out);
        }
        Ok(())
    }

    /// Ends this side's half without a further message.
    pub fn send_end(&mut self, out: &mut BytesMut) -> Result<(), RpcError> {
        self.check_sending()?;
        self.writer.check_end()?;
        self.flush(out)?;
        put_stream_frame(FrameType::Data, FLAG_END, self.seq, &[], out);
        self.sending_ended = true;
        Ok(())
    }

    /// Ends this side's half with trailers.
    pub fn send_trailers(&mut self, fields: &[HeaderField], out: &mut BytesMut) -> Result<(), RpcError> {
        self.check_sending()?;
        self.writer.check_end()?;
        let room = self.frame_room();
        if let Held::Message(part) = &mut self.held
            && answer::is_trailers(fields)
            && let Some(chunk) = part.next_chunk(room)
        {
            self.held = Held::Nothing;
            let slices = [chunk.lengths.as_slice(), &chunk.bytes];
            put_stream_frame(FrameType::Answer, chunk.flags, self.seq, &slices, out);
            self.sending_ended = true;
            return Ok(());
        }
        self.flush(out)?;
        let block = self.encode_block(fields)?;
        put_stream_frame(FrameType::Trailers, FLAG_END, self.seq, &[&block], out);
        self.sending_ended = true;
        Ok(())
    }

    /// Appends what of an answer was held back. For a driver that has no more of the answer at hand.
    pub fn flush(&mut self, out: &mut BytesMut) -> Result<(), RpcError> {
        let held = std::mem::take(&mut self.held);
        if matches!(held, Held::Nothing) {
            return Ok(());
        }
        let block = self.encode_block(&answer::head())?;
        let options = response_options(false, block.len());
        put_stream_frame(FrameType::Response, 0, self.seq, &[options.as_slice(), &block], out);
        if let Held::Message(part) = held {
            self.put_part(part, out);
        }
        Ok(())
    }

    /// Ends the request; the driver finishes the stream behind it.
    pub fn reset(&mut self, error: &RpcError, out: &mut BytesMut) {
        // Before the first frame is understood there is no number to name.
        let seq = self.seq.max(1);
        self.held = Held::Nothing;
        frame::encode(&Frame::Reset { seq, error: error.clone() }, out);
        self.sending_ended = true;
    }

    fn put_part(&mut self, mut part: OutPart, out: &mut BytesMut) {
        self.sending_ended |= part.ends();
        let bare_end = part.is_empty_end();
        if bare_end {
            part = part.without_end();
        }
        let room = self.frame_room();
        while let Some(chunk) = part.next_chunk(room) {
            let slices = [chunk.lengths.as_slice(), &chunk.bytes];
            put_stream_frame(FrameType::Data, chunk.flags, self.seq, &slices, out);
            if chunk.done {
                break;
            }
        }
        if bare_end {
            put_stream_frame(FrameType::Data, FLAG_END, self.seq, &[], out);
        }
    }

    /// Message bytes of one frame.
    fn frame_room(&self) -> usize {
        let frame_bytes_max = self.settings.peer.limits.frame_bytes_max as usize;
        frame_bytes_max.saturating_sub(8).min(CHUNK_BYTES_MAX)
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<(), RpcError> {
        let fields = match self.decode_block(&frame)? {
            Decoded::Fields(fields) => fields,
            Decoded::Blocked(required) => {
                self.blocked = Some((required, frame));
                return Ok(());
            }
        };
        match (self.role, frame) {
            (Role::Server, Frame::Request(request)) => self.on_request(request, fields),
            (Role::Server, Frame::Attach { seq, received, continues }) => {
                self.begin(seq)?;
                if !continues {
                    self.receiving = Receiving::Ended;
                }
                self.tell(Event::Attach { seq, received, continues });
                Ok(())
            }
            (Role::Client, Frame::Response(response)) => self.on_response(response, fields),
            (Role::Client, Frame::Answer { seq, part }) => self.on_answer(seq, part),
            (_, Frame::Data(data)) => self.on_data(data),
            (_, Frame::Trailers { seq, .. }) => {
                self.check_body(seq)?;
                if !self.reader.is_between() {
                    return Err(malformed("TRAILERS inside a message"));
                }
                self.receiving = Receiving::Ended;
                self.tell(Event::Trailers { seq, fields });
                Ok(())
            }
            (_, Frame::Reset { error, .. }) => {
                self.receiving = Receiving::Ended;
                self.tell(Event::Reset { seq: self.seq, error });
                Ok(())
            }
            (_, Frame::Extension(_)) => Ok(()),
            _ => Err(malformed("a frame that does not belong on a request's stream, or not here")),
        }
    }

    fn on_request(&mut self, request: RequestFrame, fields: Vec<HeaderField>) -> Result<(), RpcError> {
        let RequestFrame { seq, priority, idempotent, acknowledges, heard, deadline_ms, part, end, .. } =
            request;
        self.begin(seq)?;
        let arrival = part.map(|part| self.read(part, end)).transpose().map_err(not_run)?.flatten();
        self.writer.belongs_to(&fields);
        let deadline = deadline_ms.map(Duration::from_millis);
        let head = RequestHead { priority, idempotent, acknowledges, heard, deadline, fields };
        let request = Event::Request { seq, head, end: end && arrival.is_none() };
        match arrival {
            Some(Queued::Compressed { frame, content_bytes, end }) => {
                self.events.push_back(Queued::Opening { request, frame, content_bytes, end });
            }
            arrival => {
                self.tell(request);
                self.events.extend(arrival);
            }
        }
        if end {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    fn on_response(&mut self, response: ResponseFrame, fields: Vec<HeaderField>) -> Result<(), RpcError> {
        let ResponseFrame { seq, part, end, .. } = response;
        if seq != self.seq || self.receiving != Receiving::Head {
            return Err(malformed("RESPONSE for another request, or a second one"));
        }
        self.receiving = Receiving::Body;
        self.tell(Event::Response { seq, fields, end: end && part.is_none() });
        if let Some(part) = part {
            let arrival = self.read(part, end)?;
            self.events.extend(arrival);
        }
        if end {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    fn on_answer(&mut self, seq: u64, part: Part) -> Result<(), RpcError> {
        if seq != self.seq || self.receiving != Receiving::Head {
            return Err(malformed("ANSWER for another request, or behind the beginning of an answer"));
        }
        self.receiving = Receiving::Ended;
        self.tell(Event::Response { seq, fields: answer::head(), end: false });
        let arrival = self.read(part, false)?;
        self.events.extend(arrival);
        self.tell(Event::Trailers { seq, fields: answer::trailers() });
        Ok(())
    }

    fn on_data(&mut self, data: DataFrame) -> Result<(), RpcError> {
        let DataFrame { seq, part, end } = data;
        self.check_body(seq)?;
        let is_bare_end =
            end && part.bytes.is_empty() && !part.more && !part.compressed && self.reader.is_between();
        let event = match is_bare_end {
            true => Some(Queued::Event(Event::End { seq })),
            false => self.read(part, end)?,
        };
        self.events.extend(event);
        if end {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    fn read(&mut self, part: Part, end: bool) -> Result<Option<Queued>, RpcError> {
        if end && part.more {
            return Err(malformed("END stands on a part with MORE"));
        }
        let message_bytes_max = self.settings.config.limits.clamped().message_bytes_max;
        Ok(match self.reader.accept(part, message_bytes_max)? {
            Arrival::Nothing => None,
            Arrival::Part { message_bytes, bytes, end_of_message } => {
                let (seq, wire_bytes) = (self.seq, bytes.len());
                let event = Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message, end };
                Some(Queued::Event(event))
            }
            Arrival::Compressed { frame, content_bytes } => {
                Some(Queued::Compressed { frame, content_bytes, end })
            }
        })
    }

    fn inflate(&self, frame: &[u8], content_bytes: u64, end: bool) -> Result<Event, RpcError> {
        let config = &self.settings.config;
        let message_bytes_max = config.limits.clamped().message_bytes_max;
        let bytes = message::inflate(frame, content_bytes, &config.dictionaries.load(), message_bytes_max)?;
        let (seq, message_bytes, wire_bytes) = (self.seq, Some(content_bytes), frame.len());
        Ok(Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message: true, end })
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(Queued::Event(event));
    }

    fn begin(&mut self, seq: u64) -> Result<(), RpcError> {
        if self.receiving != Receiving::Head {
            return Err(malformed("a second REQUEST or ATTACH on one stream"));
        }
        self.seq = seq;
        self.receiving = Receiving::Body;
        Ok(())
    }

    fn check_body(&self, seq: u64) -> Result<(), RpcError> {
        match self.receiving {
            Receiving::Body if seq == self.seq => Ok(()),
            Receiving::Body => Err(malformed("a frame names another request than its stream carries")),
            _ => Err(malformed("a frame stands before the head or behind the end")),
        }
    }

    fn check_sending(&self) -> Result<(), RpcError> {
        if self.sending_ended { Err(misuse("this half of the request is over")) } else { Ok(()) }
    }

    fn encode_block(&self, fields: &[HeaderField]) -> Result<Vec<u8>, RpcError> {
        let bytes: usize = fields.iter().map(HeaderField::size).sum();
        let bytes_max = self.settings.peer.limits.header_list_bytes_max as usize;
        if bytes > bytes_max {
            return Err(RpcError::new(
                RpcErrorKind::LimitExceeded,
                Execution::NotRun,
                format!("header list of {bytes} bytes, the peer's header_list_bytes_max is {bytes_max}"),
            ));
        }
        let Some(tables) = &self.settings.tables else { return Err(misuse(NOT_ON_QUIC)) };
        Ok(tables.encode(self.stream, fields))
    }

    /// The fields of a frame that has a header block; of any other, none.
    fn decode_block(&mut self, frame: &Frame) -> Result<Decoded, RpcError> {
        let block = match frame {
            Frame::Request(request) => {
                // What is wrong with it is said under its number.
                if self.seq == 0 {
                    self.seq = request.seq;
                }
                &request.header_block
            }
            Frame::Response(response) => &response.header_block,
            Frame::Trailers { header_block, .. } => header_block,
            _ => return Ok(Decoded::Fields(Vec::new())),
        };
        let Some(tables) = &self.settings.tables else { return Err(misuse(NOT_ON_QUIC)) };
        tables.decode(self.stream, block).map_err(|error| {
            let error = block_refused(error);
            match frame {
                Frame::Request(_) => not_run(error),
                _ => error,
            }
        })
    }
}

/// A peer that encoded a block for this stream must learn that nobody will decode it, or what the block refers
/// to stays in its table (RFC 9204, section 4.4.2).
impl Drop for StreamCodec {
    fn drop(&mut self) {
        if self.receiving != Receiving::Ended
            && let Some(tables) = &self.settings.tables
        {
            tables.cancel(self.stream);
        }
    }
}

/// Settings of a TCP connection have no tables for streams.
const NOT_ON_QUIC: &str = "a request has a stream of its own on QUIC only";

/// Nothing of the request has been handed on.
fn not_run(mut error: RpcError) -> RpcError {
    error.execution = Execution::NotRun;
    error
}

fn block_refused(error: QpackError) -> RpcError {
    let limit = match error {
        QpackError::HeaderListTooLarge { .. } => "header_list_bytes_max",
        QpackError::TooManyBlocked { .. } => "qpack_blocked_streams",
        QpackError::Backlog { .. } => "qpack_instructions",
        _ => return malformed(&error.to_string()),
    };
    let text = format!("{error} ({limit})");
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::MayHaveRun, text)
}

/// What a message takes when it is decompressed.
fn in_memory(content_bytes: u64) -> usize {
    usize::try_from(content_bytes).unwrap_or(usize::MAX)
}

fn end_flag(end: bool) -> u8 {
    if end { FLAG_END } else { 0 }
}
