//! Frames: `type_flags u8 | length varint | payload`.
//!
//! ```text
//!    7     6    5   4   3   2   1   0
//!  +-----+----+----+-------------------+
//!  | END |COMP|MORE|       type        |
//!  +-----+----+----+-------------------+
//!  |  length of the payload (varint)   |
//!  +-----------------------------------+
//!  |  payload                          |
//! ```
//!
//! Decoding copies nothing: header blocks, message parts and topics are slices of the read buffer.

mod decode;
mod encode;

use bytes::{Bytes, BytesMut};

use super::{CloseCode, LinkError, Place, Priority, RpcError, proto};
use crate::varint;

pub(crate) use encode::{Fixed, RequestOptions, put_stream_frame, response_options};
pub use encode::{RESET_TEXT_BYTES_MAX, encode};

/// What a TCP client sends before its first frame: 0xF4, which starts neither TLS, HTTP nor MQTT, and "TWL".
pub const PREFACE: [u8; 4] = [0xf4, b'T', b'W', b'L'];

/// `END`: the sender's half of the request is complete with this frame.
pub const FLAG_END: u8 = 0x80;
/// `COMPRESSED`: the message that begins in this frame is a zstd frame.
pub const FLAG_COMPRESSED: u8 = 0x40;
/// `MORE`: the message goes on in following DATA frames of the stream.
pub const FLAG_MORE: u8 = 0x20;

/// Type bits of the first byte.
const TYPE_MASK: u8 = 0x1f;
/// Longest frame header: type and an 8-byte varint.
pub const FRAME_HEADER_BYTES_MAX: usize = 9;

/// Frame types.
#[allow(missing_docs, reason = "PROTOCOL.md describes each under the same name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    Hello = 1,
    Welcome = 2,
    Request = 3,
    Response = 4,
    Data = 5,
    Trailers = 6,
    Reset = 7,
    Window = 8,
    Ack = 9,
    Ping = 10,
    Pong = 11,
    Push = 12,
    PushAck = 13,
    GoAway = 14,
    Policy = 15,
    PolicyAck = 16,
    Subscribe = 17,
    Subscribed = 18,
    Close = 19,
    Publish = 20,
    Published = 21,
    Attach = 22,
    QpackEncoder = 23,
    QpackDecoder = 24,
    Offer = 25,
    Fetch = 26,
    Piece = 27,
    Answer = 28,
    Report = 29,
    Moved = 30,
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The client's first frame.
    Hello(Box<proto::Hello>),
    /// The server's first frame.
    Welcome(Box<proto::Welcome>),
    /// Opens a request.
    Request(RequestFrame),
    /// Head of the answer.
    Response(ResponseFrame),
    /// A message part.
    Data(DataFrame),
    /// Header block behind the last message; ends the half.
    Trailers {
        /// The request.
        seq: u64,
        /// HPACK block.
        header_block: Bytes,
    },
    /// The request has no (further) answer, or its answer is not wanted.
    Reset {
        /// The request.
        seq: u64,
        /// Why.
        error: RpcError,
    },
    /// More credit.
    Window {
        /// The request; 0 is the connection.
        seq: u64,
        /// Bytes.
        credit: u64,
    },
    /// Outcomes that the client has taken.
    Ack(Ack),
    /// Sign of life that is answered.
    Ping {
        /// Echoed by PONG.
        id: u64,
        /// Promise: the next bytes come within this many seconds; 0 promises nothing new.
        next_beat_s: u64,
    },
    /// Answer to PING.
    Pong {
        /// PING's id.
        id: u64,
    },
    /// A message from the server that nobody asked for.
    Push(PushFrame),
    /// Pushes of this urgency up to this id have been taken.
    PushAck {
        /// Their urgency.
        priority: Priority,
        /// Cumulative.
        id: u64,
    },
    /// Go elsewhere when convenient.
    GoAway(Box<proto::GoAway>),
    /// How the client should behave.
    Policy(proto::Policy),
    /// Answer to POLICY.
    PolicyAck {
        /// The policy's revision.
        revision: u64,
        /// Whether it is in use now.
        accepted: bool,
        /// Why not.
        text: String,
    },
    /// Changes subscriptions.
    Subscribe(proto::Subscribe),
    /// Answer to SUBSCRIBE.
    Subscribed(proto::Subscribed),
    /// The connection ends for this reason.
    Close {
        /// Code.
        code: CloseCode,
        /// For people.
        text: String,
    },
    /// The client publishes to a topic.
    Publish(PublishFrame),
    /// Answer to PUBLISH with quality 1.
    Published {
        /// PUBLISH's id.
        id: u64,
        /// Empty: accepted.
        error: String,
    },
    /// First frame of a QUIC stream that continues a request of an earlier connection.
    Attach {
        /// The request.
        seq: u64,
        /// What of the answer need not be sent again.
        received: Place,
        /// MORE: the client's half goes on behind it.
        continues: bool,
    },
    /// QPACK's encoder stream goes on (RFC 9204, section 4.3); whole instructions.
    QpackEncoder(Bytes),
    /// QPACK's decoder stream goes on (RFC 9204, section 4.4); whole instructions.
    QpackDecoder(Bytes),
    /// Dictionaries that the client may fetch.
    Offer(proto::Offer),
    /// The client asks for a piece of one, or holds it.
    Fetch(proto::Fetch),
    /// A piece of a dictionary.
    Piece(proto::Piece),
    /// A whole answer of gRPC: `super::answer` has the fields that it stands for.
    Answer {
        /// The request.
        seq: u64,
        /// Its only message, whole.
        part: Part,
    },
    /// What the client says of itself now and then.
    Report(Box<proto::Report>),
    /// On QUIC: the client's packets come from another address than before.
    Moved,
    /// An extension frame (type 31) that this version ignores.
    Extension(u8),
}

/// REQUEST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFrame {
    /// Sequence number within the session.
    pub seq: u64,
    /// Urgency of its answer and of what the client sends for it.
    pub priority: Priority,
    /// Running it twice does no harm.
    pub idempotent: bool,
    /// The outcomes of all requests before this one have been taken.
    pub acknowledges: bool,
    /// Its sender had read WELCOME of this connection.
    pub heard: bool,
    /// Milliseconds that the caller still waits.
    pub deadline_ms: Option<u64>,
    /// HPACK block.
    pub header_block: Bytes,
    /// The first message or its first part.
    pub part: Option<Part>,
    /// The request ends here.
    pub end: bool,
}

/// RESPONSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseFrame {
    /// The request.
    pub seq: u64,
    /// HPACK block; `:status` is its first field.
    pub header_block: Bytes,
    /// The first message or its first part.
    pub part: Option<Part>,
    /// The answer ends here, without trailers.
    pub end: bool,
}

/// DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFrame {
    /// The request.
    pub seq: u64,
    /// Its part of a message. Empty on an ended stream between messages: no message at all.
    pub part: Part,
    /// The sender's half ends here.
    pub end: bool,
}

/// What of a message stands in one frame. Whether the lengths of a message's beginning lead `bytes`
/// depends on the stream's state, so it is the stream that reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// COMPRESSED: a message begins here and it is a zstd frame.
    pub compressed: bool,
    /// MORE: the message goes on.
    pub more: bool,
    /// Payload behind the sequence number.
    pub bytes: Bytes,
}

/// ACK: outcomes that the client has taken, so that the server may forget them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// All requests up to this one.
    pub floor: u64,
    /// Single requests above the floor.
    pub seqs: Vec<u64>,
}

/// PUSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushFrame {
    /// Counts from 1 within the session.
    pub id: u64,
    /// Urgency.
    pub priority: Priority,
    /// Topic name.
    pub topic: Bytes,
    /// Media type, may be empty.
    pub content_type: Bytes,
    /// Length before compression, when `payload` is a zstd frame.
    pub content_bytes: Option<u64>,
    /// Payload as sent.
    pub payload: Bytes,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishFrame {
    /// The client's choice; PUBLISHED names it. Meaningless with quality 0.
    pub id: u64,
    /// 0 or 1.
    pub qos: u8,
    /// Topic name.
    pub topic: Bytes,
    /// Payload as sent.
    pub payload: Bytes,
    /// Length before compression, when `payload` is a zstd frame.
    pub content_bytes: Option<u64>,
}

/// Takes the next frame off `input`, or returns `None` when it is not there whole. A frame whose header
/// announces more than `payload_bytes_max` is refused before its payload arrives.
pub fn decode(input: &mut BytesMut, payload_bytes_max: usize) -> Result<Option<Frame>, LinkError> {
    let Some(&first) = input.first() else { return Ok(None) };
    let mut rest = &input[1..];
    let before = rest.len();
    let Some(length) = varint::get(&mut rest) else { return Ok(None) };
    if length > payload_bytes_max as u64 {
        return Err(LinkError::new(
            CloseCode::FrameTooLarge,
            format!(
                "frame of type {} has {length} bytes, the limit is {payload_bytes_max}",
                first & TYPE_MASK
            ),
        ));
    }
    let header_bytes = 1 + before - rest.len();
    let length = length as usize;
    if input.len() < header_bytes + length {
        return Ok(None);
    }
    let mut frame = input.split_to(header_bytes + length).freeze();
    let payload = frame.split_off(header_bytes);
    decode::payload(first & TYPE_MASK, first & !TYPE_MASK, payload).map(Some)
}
