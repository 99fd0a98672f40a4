//! Who sends next, and what.

use bytes::BytesMut;

use super::{
    Connection, Event,
    stream::{Item, Sending},
};
use crate::{
    hpack::{Encoder, HeaderField},
    link::{
        Limits, RequestHead, Role, answer,
        frame::{FLAG_END, FrameType, RequestOptions, put_stream_frame, response_options},
        message::Chunk,
    },
};

/// Message bytes in one frame at the most, whatever the peer takes: so long an urgent request waits.
const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Sequence number, options, deadline and the header block's length.
const HEAD_BYTES_MAX: usize = 8 + 1 + 8 + 8;

impl Connection {
    /// Writes the next frame; false when there is none that may be sent now.
    pub(super) fn transmit_next(&mut self, out: &mut BytesMut) -> bool {
        if !self.control.may_send_requests() {
            return false;
        }
        loop {
            let next = self.ready.first().copied();
            let message_first = match (self.control.message_urgency(), next) {
                (Some(message), Some((stream, ..))) => message <= stream,
                (message, _) => message.is_some(),
            };
            if message_first && let Some(message) = self.control.take_message() {
                out.extend_from_slice(&message);
                return true;
            }
            // Nothing else waits: the link is idle.
            let Some(entry) = next else { return self.control.take_piece(out) };
            self.ready.remove(&entry);
            if self.transmit_stream(entry.2, out) {
                return true;
            }
        }
    }

    /// Puts a stream that has something to send at the end of its urgency's round.
    pub(super) fn schedule(&mut self, seq: u64) {
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        if stream.is_scheduled || stream.queue.is_empty() {
            return;
        }
        stream.is_scheduled = true;
        self.turn += 1;
        stream.turn = self.turn;
        self.ready.insert((stream.urgency, self.turn, seq));
    }

    /// The connection's window has opened.
    pub(super) fn unblock(&mut self) {
        for seq in std::mem::take(&mut self.backlog.blocked) {
            if let Some(stream) = self.streams.get_mut(&seq) {
                stream.is_scheduled = false;
                self.schedule(seq);
            }
        }
    }

    /// Writes one frame of this stream; false when it has to wait for credit.
    fn transmit_stream(&mut self, seq: u64, out: &mut BytesMut) -> bool {
        let Some(stream) = self.streams.get_mut(&seq) else { return false };
        stream.is_scheduled = false;
        let Some(item) = stream.queue.pop_front() else { return false };
        let sent = match item {
            Item::Request(head, end) => self.transmit_request(seq, &head, end, out),
            Item::Response(fields, end) => self.transmit_response(seq, &fields, end, out),
            Item::Trailers(fields) => {
                self.encode_block(&fields);
                put_stream_frame(FrameType::Trailers, FLAG_END, seq, &[&self.block], out);
                self.end_half(seq);
                true
            }
            Item::End => {
                put_stream_frame(FrameType::Data, FLAG_END, seq, &[], out);
                self.end_half(seq);
                true
            }
            part @ Item::Part(_) => self.transmit_part(seq, part, out),
        };
        if sent {
            self.schedule(seq);
            self.tell_if_writable(seq);
        }
        self.remove_if_over(seq);
        sent
    }

    fn transmit_request(&mut self, seq: u64, head: &RequestHead, end: bool, out: &mut BytesMut) -> bool {
        self.encode_block(&head.fields);
        let chunk = self.inline_chunk(seq);
        let options = RequestOptions::of(head, head.heard, chunk.is_some());
        let options = options.encode(self.block.len());
        self.put_head(FrameType::Request, seq, options.as_slice(), chunk, end, out);
        true
    }

    fn transmit_response(&mut self, seq: u64, fields: &[HeaderField], end: bool, out: &mut BytesMut) -> bool {
        if !end
            && answer::is_head(fields)
            && let Some(chunk) = self.take_whole_answer(seq)
        {
            let slices = [chunk.lengths.as_slice(), &chunk.bytes];
            put_stream_frame(FrameType::Answer, chunk.flags, seq, &slices, out);
            self.end_half(seq);
            return true;
        }
        self.encode_block(fields);
        let chunk = self.inline_chunk(seq);
        let options = response_options(chunk.is_some(), self.block.len());
        self.put_head(FrameType::Response, seq, options.as_slice(), chunk, end, out);
        true
    }

    /// A frame with a header block, and a message part if there is one.
    fn put_head(
        &mut self,
        kind: FrameType,
        seq: u64,
        options: &[u8],
        chunk: Option<Chunk>,
        end: bool,
        out: &mut BytesMut,
    ) {
        let end_flag = if end { FLAG_END } else { 0 };
        match &chunk {
            None => put_stream_frame(kind, end_flag, seq, &[options, &self.block], out),
            Some(chunk) => {
                let slices = [options, &self.block, chunk.lengths.as_slice(), &chunk.bytes];
                put_stream_frame(kind, end_flag | chunk.flags, seq, &slices, out);
            }
        }
        if end || chunk.is_some_and(|chunk| chunk.flags & FLAG_END != 0) {
            self.end_half(seq);
        }
    }

    /// The rest of an answer whose head ANSWER can stand for, if it is here to its end and fits one frame.
    fn take_whole_answer(&mut self, seq: u64) -> Option<Chunk> {
        let room = self.frame_room(0).checked_sub(HEAD_BYTES_MAX)?;
        let stream = self.streams.get_mut(&seq)?;
        let (Some(Item::Part(part)), Some(Item::Trailers(trailers))) =
            (stream.queue.front(), stream.queue.get(1))
        else {
            return None;
        };
        let credit = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
        if !answer::is_trailers(trailers) || part.whole_bytes()? > room.min(credit) {
            return None;
        }
        let chunk = self.take_chunk(seq, room)?;
        if let Some(stream) = self.streams.get_mut(&seq) {
            stream.queue.pop_front();
        }
        Some(chunk)
    }

    /// What of the first message fits behind the header block in the same frame.
    fn inline_chunk(&mut self, seq: u64) -> Option<Chunk> {
        let room = self.frame_room(self.block.len()).checked_sub(HEAD_BYTES_MAX + self.block.len())?;
        self.take_chunk(seq, room)
    }

    fn transmit_part(&mut self, seq: u64, part: Item, out: &mut BytesMut) -> bool {
        let Some(stream) = self.streams.get_mut(&seq) else { return false };
        // A DATA frame with END and no bytes says that there is no message, so the end goes separately.
        let part = match part {
            Item::Part(part) if part.is_empty_end() => {
                stream.queue.push_front(Item::End);
                Item::Part(part.without_end())
            }
            part => part,
        };
        stream.queue.push_front(part);
        let room = self.frame_room(0).saturating_sub(HEAD_BYTES_MAX);
        let Some(chunk) = self.take_chunk(seq, room) else {
            self.wait_for_credit(seq);
            return false;
        };
        put_stream_frame(FrameType::Data, chunk.flags, seq, &[chunk.lengths.as_slice(), &chunk.bytes], out);
        if chunk.flags & FLAG_END != 0 {
            self.end_half(seq);
        }
        true
    }

    /// Takes a chunk off the part at the head of the queue, within `room` and both windows.
    fn take_chunk(&mut self, seq: u64, room: usize) -> Option<Chunk> {
        let stream = self.streams.get_mut(&seq)?;
        let Some(Item::Part(part)) = stream.queue.front_mut() else { return None };
        let credit = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
        let before = part.len();
        let chunk = part.next_chunk(room.min(credit))?;
        stream.queued_bytes -= before - part.len();
        stream.send_window -= chunk.len() as i64;
        self.send_window -= chunk.len() as i64;
        if chunk.done {
            stream.queue.pop_front();
        }
        Some(chunk)
    }

    /// Leaves the stream to the WINDOW frame that it needs. The windows are nearly empty where a few bytes
    /// of lengths do not fit.
    fn wait_for_credit(&mut self, seq: u64) {
        let connection_is_short = self.send_window <= i64::from(u8::MAX);
        if let Some(stream) = self.streams.get_mut(&seq)
            && connection_is_short
        {
            stream.is_scheduled = true;
            self.backlog.blocked.push(seq);
        }
    }

    fn end_half(&mut self, seq: u64) {
        if let Some(stream) = self.streams.get_mut(&seq) {
            stream.sending = Sending::Ended;
        }
    }

    fn tell_if_writable(&mut self, seq: u64) {
        let window = self.queue_bytes_max();
        if let Some(stream) = self.streams.get_mut(&seq)
            && stream.is_starved
            && stream.queued_bytes <= window / 2
        {
            stream.is_starved = false;
            self.control.emit(Event::Writable { seq });
        }
    }

    /// Payload bytes of one frame with a header block of this length.
    fn frame_room(&self, block_bytes: usize) -> usize {
        let frame_bytes_max = self.control.peer().limits.frame_bytes_max as usize;
        frame_bytes_max.min(CHUNK_BYTES_MAX + HEAD_BYTES_MAX + block_bytes)
    }

    fn encode_block(&mut self, fields: &[HeaderField]) {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => {
                // The client may not know the server's limit yet: its first blocks use the default.
                let table_bytes = match self.control.role() {
                    Role::Client => Limits::default().header_table_bytes,
                    Role::Server => self.control.peer().limits.header_table_bytes,
                };
                let encoder = Encoder::new(self.control.known_fields(), table_bytes as usize);
                self.encoder.insert(Box::new(encoder))
            }
        };
        // This side's own limit also bounds what it keeps for the other direction.
        let own = self.control.config().limits.header_table_bytes;
        encoder.set_table_size(own.min(self.control.peer().limits.header_table_bytes) as usize);
        self.block.clear();
        encoder.encode(fields, &mut self.block);
    }
}
