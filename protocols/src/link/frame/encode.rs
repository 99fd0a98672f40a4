//! Frames to bytes.

use bytes::{BufMut, BytesMut};
use prost::Message;

use super::{
    Ack, DataFrame, FLAG_COMPRESSED, FLAG_END, FLAG_MORE, Frame, FrameType, Part, PublishFrame, PushFrame,
    RequestFrame, ResponseFrame,
};
use crate::{
    link::{Place, Priority, RequestHead, RpcError},
    varint,
};

/// RESET's and CLOSE's text is cut to this, so that no error is too large for a frame.
pub const RESET_TEXT_BYTES_MAX: usize = 1024;

/// Appends `frame`. Extension frames have no content and are written empty.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Hello(hello) => protobuf(FrameType::Hello, hello.as_ref(), out),
        Frame::Welcome(welcome) => protobuf(FrameType::Welcome, welcome.as_ref(), out),
        Frame::Request(request) => put_request(request, out),
        Frame::Response(response) => put_response(response, out),
        Frame::Data(data) => put_data(data, out),
        Frame::Trailers { seq, header_block } => {
            put_stream_frame(FrameType::Trailers, FLAG_END, *seq, &[header_block], out);
        }
        Frame::Reset { seq, error } => reset(*seq, error, out),
        Frame::Window { seq, credit } => varints(FrameType::Window, &[*seq, *credit], out),
        Frame::Ack(ack) => put_ack(ack, out),
        Frame::Ping { id, next_beat_s } => varints(FrameType::Ping, &[*id, *next_beat_s], out),
        Frame::Pong { id } => varints(FrameType::Pong, &[*id], out),
        Frame::Push(push) => put_push(push, out),
        Frame::PushAck { priority, id } => {
            put_head(FrameType::PushAck, 0, varint::size(*id) + 1, out);
            varint::put(out, *id);
            out.put_u8(priority.urgency());
        }
        Frame::GoAway(goaway) => protobuf(FrameType::GoAway, goaway.as_ref(), out),
        Frame::Policy(policy) => protobuf(FrameType::Policy, policy, out),
        Frame::PolicyAck { revision, accepted, text } => {
            let text = cut(text);
            put_head(FrameType::PolicyAck, 0, varint::size(*revision) + 1 + text.len(), out);
            varint::put(out, *revision);
            out.put_u8(u8::from(*accepted));
            out.put_slice(text);
        }
        Frame::Subscribe(subscribe) => protobuf(FrameType::Subscribe, subscribe, out),
        Frame::Subscribed(subscribed) => protobuf(FrameType::Subscribed, subscribed, out),
        Frame::Close { code, text } => {
            let text = cut(text);
            put_head(FrameType::Close, 0, 1 + text.len(), out);
            out.put_u8(*code as u8);
            out.put_slice(text);
        }
        Frame::Publish(publish) => put_publish(publish, out),
        Frame::Published { id, error } => {
            let text = cut(error);
            put_head(FrameType::Published, 0, varint::size(*id) + text.len(), out);
            varint::put(out, *id);
            out.put_slice(text);
        }
        Frame::Attach { seq, received: Place { messages, bytes }, continues } => {
            let flags = if *continues { FLAG_MORE } else { 0 };
            // A server that does not go on inside a message is told of none.
            let bytes = Some(*bytes).filter(|&bytes| bytes > 0);
            let length = varint::size(*seq) + varint::size(*messages) + bytes.map_or(0, varint::size);
            put_head(FrameType::Attach, flags, length, out);
            varint::put(out, *seq);
            varint::put(out, *messages);
            bytes.into_iter().for_each(|bytes| varint::put(out, bytes));
        }
        Frame::QpackEncoder(instructions) => raw(FrameType::QpackEncoder, instructions, out),
        Frame::QpackDecoder(instructions) => raw(FrameType::QpackDecoder, instructions, out),
        Frame::Offer(offer) => protobuf(FrameType::Offer, offer, out),
        Frame::Fetch(fetch) => protobuf(FrameType::Fetch, fetch, out),
        Frame::Piece(piece) => protobuf(FrameType::Piece, piece, out),
        Frame::Report(report) => protobuf(FrameType::Report, report.as_ref(), out),
        Frame::Moved => raw(FrameType::Moved, &[], out),
        Frame::Answer { seq, part } => {
            put_stream_frame(FrameType::Answer, part_flags(Some(part), false), *seq, &[&part.bytes], out);
        }
        Frame::Extension(kind) => out.put_slice(&[*kind, 0]),
    }
}

/// Appends a frame header.
fn put_head(kind: FrameType, flags: u8, payload_bytes: usize, out: &mut BytesMut) {
    out.reserve(super::FRAME_HEADER_BYTES_MAX + payload_bytes);
    out.put_u8(kind as u8 | flags);
    varint::put(out, payload_bytes as u64);
}

/// Appends a frame that belongs to a request; its payload is the sequence number and then `slices`.
pub(crate) fn put_stream_frame(kind: FrameType, flags: u8, seq: u64, slices: &[&[u8]], out: &mut BytesMut) {
    let payload_bytes = varint::size(seq) + slices.iter().map(|slice| slice.len()).sum::<usize>();
    put_head(kind, flags, payload_bytes, out);
    varint::put(out, seq);
    for slice in slices {
        out.put_slice(slice);
    }
}

/// What REQUEST says beside its header block and message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOptions {
    pub(crate) priority: Priority,
    pub(crate) idempotent: bool,
    pub(crate) acknowledges: bool,
    pub(crate) heard: bool,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) has_message: bool,
}

impl RequestOptions {
    /// Of a request's head. `heard`: WELCOME has been read.
    pub(crate) fn of(head: &RequestHead, heard: bool, has_message: bool) -> Self {
        let RequestHead { priority, idempotent, acknowledges, deadline, .. } = *head;
        let deadline_ms = deadline.map(|deadline| deadline.as_millis() as u64);
        Self { priority, idempotent, acknowledges, heard, deadline_ms, has_message }
    }

    /// REQUEST's fields between sequence number and header block.
    pub(crate) fn encode(self, block_bytes: usize) -> Fixed {
        let mut fixed = Fixed::default();
        let options = self.priority.urgency()
            | u8::from(self.idempotent) << 3
            | u8::from(self.deadline_ms.is_some()) << 4
            | u8::from(self.has_message) << 5
            | u8::from(self.acknowledges) << 6
            | u8::from(self.heard) << 7;
        fixed.put_u8(options);
        if let Some(deadline_ms) = self.deadline_ms {
            fixed.put_varint(deadline_ms);
        }
        fixed.put_varint(block_bytes as u64);
        fixed
    }
}

/// RESPONSE's fields between sequence number and header block.
pub(crate) fn response_options(has_message: bool, block_bytes: usize) -> Fixed {
    let mut fixed = Fixed::default();
    fixed.put_u8(u8::from(has_message) << 5);
    fixed.put_varint(block_bytes as u64);
    fixed
}

/// A few small fields, built without allocating: an options byte and two integers at the most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed {
    bytes: [u8; 17],
    length: u8,
}

impl Fixed {
    pub(crate) fn put_u8(&mut self, value: u8) {
        self.bytes[usize::from(self.length)] = value;
        self.length += 1;
    }

    pub(crate) fn put_varint(&mut self, value: u64) {
        let mut rest = &mut self.bytes[usize::from(self.length)..];
        varint::put(&mut rest, value);
        self.length += varint::size(value) as u8;
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

fn put_request(frame: &RequestFrame, out: &mut BytesMut) {
    let RequestFrame { priority, idempotent, acknowledges, heard, deadline_ms, ref part, .. } = *frame;
    let has_message = part.is_some();
    let options = RequestOptions { priority, idempotent, acknowledges, heard, deadline_ms, has_message };
    let fixed = options.encode(frame.header_block.len());
    let part_bytes = part.as_ref().map_or(&[][..], |part| &part.bytes);
    let flags = part_flags(part.as_ref(), frame.end);
    let slices = [fixed.as_slice(), &frame.header_block, part_bytes];
    put_stream_frame(FrameType::Request, flags, frame.seq, &slices, out);
}

fn put_response(frame: &ResponseFrame, out: &mut BytesMut) {
    let ResponseFrame { seq, header_block, part, end } = frame;
    let fixed = response_options(part.is_some(), header_block.len());
    let part_bytes = part.as_ref().map_or(&[][..], |part| &part.bytes);
    let flags = part_flags(part.as_ref(), *end);
    put_stream_frame(FrameType::Response, flags, *seq, &[fixed.as_slice(), header_block, part_bytes], out);
}

fn put_data(frame: &DataFrame, out: &mut BytesMut) {
    let flags = part_flags(Some(&frame.part), frame.end);
    put_stream_frame(FrameType::Data, flags, frame.seq, &[&frame.part.bytes], out);
}

fn put_ack(ack: &Ack, out: &mut BytesMut) {
    let singles: usize = ack.seqs.iter().copied().map(varint::size).sum();
    put_head(FrameType::Ack, 0, varint::size(ack.floor) + singles, out);
    varint::put(out, ack.floor);
    for &seq in &ack.seqs {
        varint::put(out, seq);
    }
}

fn put_push(push: &PushFrame, out: &mut BytesMut) {
    let payload_bytes = varint::size(push.id)
        + 1
        + prefixed_size(&push.topic)
        + prefixed_size(&push.content_type)
        + push.content_bytes.map_or(0, varint::size)
        + push.payload.len();
    put_head(FrameType::Push, compressed(push.content_bytes), payload_bytes, out);
    varint::put(out, push.id);
    out.put_u8(push.priority.urgency());
    put_prefixed(&push.topic, out);
    put_prefixed(&push.content_type, out);
    put_content(push.content_bytes, &push.payload, out);
}

fn put_publish(publish: &PublishFrame, out: &mut BytesMut) {
    let payload_bytes = varint::size(publish.id)
        + 1
        + prefixed_size(&publish.topic)
        + publish.content_bytes.map_or(0, varint::size)
        + publish.payload.len();
    put_head(FrameType::Publish, compressed(publish.content_bytes), payload_bytes, out);
    varint::put(out, publish.id);
    out.put_u8(publish.qos);
    put_prefixed(&publish.topic, out);
    put_content(publish.content_bytes, &publish.payload, out);
}

fn reset(seq: u64, error: &RpcError, out: &mut BytesMut) {
    let text = cut(&error.message);
    let retry_after_ms = error.retry_after.map_or(0, |pause| pause.as_millis() as u64);
    put_head(FrameType::Reset, 0, varint::size(seq) + 2 + varint::size(retry_after_ms) + text.len(), out);
    varint::put(out, seq);
    out.put_u8(error.kind as u8);
    out.put_u8(error.execution as u8);
    varint::put(out, retry_after_ms);
    out.put_slice(text);
}

fn protobuf(kind: FrameType, message: &impl Message, out: &mut BytesMut) {
    put_head(kind, 0, message.encoded_len(), out);
    // BytesMut grows as needed, so there is no room to run out of.
    message.encode_raw(out);
}

fn varints(kind: FrameType, values: &[u64], out: &mut BytesMut) {
    put_head(kind, 0, values.iter().copied().map(varint::size).sum(), out);
    for &value in values {
        varint::put(out, value);
    }
}

fn raw(kind: FrameType, payload: &[u8], out: &mut BytesMut) {
    put_head(kind, 0, payload.len(), out);
    out.put_slice(payload);
}

fn prefixed_size(bytes: &[u8]) -> usize {
    varint::size(bytes.len() as u64) + bytes.len()
}

fn put_prefixed(bytes: &[u8], out: &mut BytesMut) {
    varint::put(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_content(content_bytes: Option<u64>, payload: &[u8], out: &mut BytesMut) {
    if let Some(content_bytes) = content_bytes {
        varint::put(out, content_bytes);
    }
    out.put_slice(payload);
}

fn part_flags(part: Option<&Part>, end: bool) -> u8 {
    let mut flags = if end { FLAG_END } else { 0 };
    if let Some(part) = part {
        flags |= if part.compressed { FLAG_COMPRESSED } else { 0 };
        flags |= if part.more { FLAG_MORE } else { 0 };
    }
    flags
}

fn compressed(content_bytes: Option<u64>) -> u8 {
    if content_bytes.is_some() { FLAG_COMPRESSED } else { 0 }
}

/// Cuts a text at a character boundary.
fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(RESET_TEXT_BYTES_MAX)]
}
