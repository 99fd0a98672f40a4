//! One request on a QUIC stream of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    Config, Event, Execution, Peer, RequestHead, Role, RpcError, RpcErrorKind,
    frame::{
        self, DataFrame, FLAG_END, Frame, FrameType, Part, RequestFrame, ResponseFrame, put_stream_frame,
        request_options, response_options,
    },
    message::{self, Arrival, MessageReader, MessageWriter, OutPart, malformed, misuse},
};
use crate::hpack::{Decoder, Encoder, HeaderField, HpackError, StaticTable};

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
}

/// Both directions of one request's QUIC stream. Commands append bytes to be written to the stream; QUIC
/// does the flow control and the ordering among streams. Header blocks refer to the static table only,
/// since streams arrive in any order.
#[derive(Debug)]
pub struct StreamCodec {
    settings: StreamSettings,
    role: Role,
    seq: u64,
    receiving: Receiving,
    sending_ended: bool,
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

#[derive(Debug)]
enum Queued {
    Event(Event),
    Compressed {
        frame: Bytes,
        content_bytes: u64,
        end: bool,
    },
    /// REQUEST's own message, and its bytes.
    Inflated(Event, usize),
}

impl StreamCodec {
    /// The stream of request `seq` on the client's side.
    pub fn client(settings: StreamSettings, seq: u64) -> Self {
        Self::new(settings, Role::Client, seq)
    }

    /// A stream that the client opened; its first frame tells the sequence number.
    pub fn server(settings: StreamSettings) -> Self {
        Self::new(settings, Role::Server, 0)
    }

    fn new(settings: StreamSettings, role: Role, seq: u64) -> Self {
        Self {
            settings,
            role,
            seq,
            receiving: Receiving::Head,
            sending_ended: false,
            reader: MessageReader::default(),
            writer: MessageWriter::default(),
            events: VecDeque::new(),
        }
    }

    /// The request's sequence number; 0 on the server until it is known.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes all whole frames off `input`. An error concerns this request only: the driver sends it as
    /// RESET and stops the stream.
    pub fn handle_bytes(&mut self, input: &mut BytesMut) -> Result<(), RpcError> {
        let frame_bytes_max = self.settings.config.limits.clamped().frame_bytes_max as usize;
        while let Some(frame) =
            frame::decode(input, frame_bytes_max).map_err(|error| malformed(&error.rule))?
        {
            self.handle_frame(frame)?;
        }
        Ok(())
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
        }
    }

    /// Bytes of the compressed message that `poll_event` would hand out next, decompressed; 0 for anything
    /// else. What the connection holds of such messages is for its driver to bound.
    pub fn inflates_next(&self) -> usize {
        match self.events.front() {
            Some(Queued::Compressed { content_bytes, .. }) => {
                usize::try_from(*content_bytes).unwrap_or(usize::MAX)
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
        let deadline_ms = head.deadline.map(|deadline| deadline.as_millis() as u64);
        let options = request_options(head.priority, head.idempotent, deadline_ms, false, block.len());
        put_stream_frame(FrameType::Request, end_flag(end), self.seq, &[options.as_slice(), &block], out);
        self.sending_ended = end;
        Ok(())
    }

    /// Client: asks for the answer of a request that an earlier connection carried. Ends its half.
    pub fn send_attach(&mut self, messages_received: u64, out: &mut BytesMut) {
        frame::encode(&Frame::Attach { seq: self.seq, messages_received }, out);
        self.sending_ended = true;
    }

    /// Server: begins the answer.
    pub fn send_response(
        &mut self,
        fields: &[HeaderField],
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        let block = self.encode_block(fields)?;
        let options = response_options(false, block.len());
        put_stream_frame(FrameType::Response, end_flag(end), self.seq, &[options.as_slice(), &block], out);
        self.sending_ended = end;
        Ok(())
    }

    /// Sends a whole message, compressed where that makes it smaller.
    pub fn send_message(&mut self, message: Bytes, end: bool, out: &mut BytesMut) -> Result<(), RpcError> {
        self.check_sending()?;
        let peer = &self.settings.peer;
        let part =
            self.writer.message(message, end, peer.compressor.as_ref(), peer.limits.message_bytes_max)?;
        self.put_part(part, out);
        Ok(())
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
            self.put_part(part, out);
        }
        Ok(())
    }

    /// Ends this side's half without a further message.
    pub fn send_end(&mut self, out: &mut BytesMut) -> Result<(), RpcError> {
        self.check_sending()?;
        self.writer.check_end()?;
        put_stream_frame(FrameType::Data, FLAG_END, self.seq, &[], out);
        self.sending_ended = true;
        Ok(())
    }

    /// Ends this side's half with trailers.
    pub fn send_trailers(&mut self, fields: &[HeaderField], out: &mut BytesMut) -> Result<(), RpcError> {
        self.check_sending()?;
        self.writer.check_end()?;
        let block = self.encode_block(fields)?;
        put_stream_frame(FrameType::Trailers, FLAG_END, self.seq, &[&block], out);
        self.sending_ended = true;
        Ok(())
    }

    /// Ends the request; the driver finishes the stream behind it.
    pub fn reset(&mut self, error: &RpcError, out: &mut BytesMut) {
        // Before the first frame is understood there is no number to name.
        let seq = self.seq.max(1);
        frame::encode(&Frame::Reset { seq, error: error.clone() }, out);
        self.sending_ended = true;
    }

    fn put_part(&mut self, mut part: OutPart, out: &mut BytesMut) {
        self.sending_ended |= part.ends();
        let bare_end = part.is_empty_end();
        if bare_end {
            part = part.without_end();
        }
        let frame_bytes_max = self.settings.peer.limits.frame_bytes_max as usize;
        let room = frame_bytes_max.saturating_sub(8).min(CHUNK_BYTES_MAX);
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

    fn handle_frame(&mut self, frame: Frame) -> Result<(), RpcError> {
        match (self.role, frame) {
            (Role::Server, Frame::Request(request)) => self.on_request(request),
            (Role::Server, Frame::Attach { seq, messages_received }) => {
                self.begin(seq)?;
                self.receiving = Receiving::Ended;
                self.tell(Event::Attach { seq, messages_received });
                Ok(())
            }
            (Role::Client, Frame::Response(response)) => self.on_response(response),
            (_, Frame::Data(data)) => self.on_data(data),
            (_, Frame::Trailers { seq, header_block }) => {
                self.check_body(seq)?;
                if !self.reader.is_between() {
                    return Err(malformed("TRAILERS inside a message"));
                }
                let fields = self.decode_block(&header_block)?;
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

    fn on_request(&mut self, request: RequestFrame) -> Result<(), RpcError> {
        let RequestFrame { seq, priority, idempotent, deadline_ms, header_block, part, end } = request;
        self.begin(seq)?;
        let not_run = |mut error: RpcError| {
            // Nothing of it has been handed on.
            error.execution = Execution::NotRun;
            error
        };
        let fields = self.decode_block(&header_block).map_err(not_run)?;
        let arrival = match part {
            Some(part) => match self.read(part, end).map_err(not_run)? {
                // It could still be refused, so this comes before anybody is told of the request.
                Some(Queued::Compressed { frame, content_bytes, end }) => {
                    let event = self.inflate(&frame, content_bytes, end).map_err(not_run)?;
                    Some(Queued::Inflated(event, content_bytes as usize))
                }
                other => other,
            },
            None => None,
        };
        self.writer.belongs_to(&fields);
        let deadline = deadline_ms.map(Duration::from_millis);
        let head = RequestHead { priority, idempotent, deadline, fields };
        self.tell(Event::Request { seq, head, end: end && arrival.is_none() });
        self.events.extend(arrival);
        if end {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    fn on_response(&mut self, response: ResponseFrame) -> Result<(), RpcError> {
        let ResponseFrame { seq, header_block, part, end } = response;
        if seq != self.seq || self.receiving != Receiving::Head {
            return Err(malformed("RESPONSE for another request, or a second one"));
        }
        self.receiving = Receiving::Body;
        let fields = self.decode_block(&header_block)?;
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
                let seq = self.seq;
                let event = Event::MessagePart { seq, message_bytes, bytes, end_of_message, end };
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
        let message_bytes = Some(content_bytes);
        Ok(Event::MessagePart { seq: self.seq, message_bytes, bytes, end_of_message: true, end })
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(Queued::Event(event));
    }

    fn begin(&mut self, seq: u64) -> Result<(), RpcError> {
        if self.seq != 0 {
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
        let mut block = Vec::new();
        Encoder::new(StaticTable::link(), 0).encode(fields, &mut block);
        Ok(block)
    }

    fn decode_block(&self, block: &[u8]) -> Result<Vec<HeaderField>, RpcError> {
        let header_list_bytes_max = self.settings.config.limits.clamped().header_list_bytes_max as usize;
        let mut decoder = Decoder::new(StaticTable::link(), 0, header_list_bytes_max);
        decoder.decode(block).map_err(|error| match error {
            HpackError::HeaderListTooLarge { .. } => {
                RpcError::new(RpcErrorKind::LimitExceeded, Execution::MayHaveRun, error.to_string())
            }
            error => malformed(&error.to_string()),
        })
    }
}

fn end_flag(end: bool) -> u8 {
    if end { FLAG_END } else { 0 }
}
