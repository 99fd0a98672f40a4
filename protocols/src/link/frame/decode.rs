//! Payloads to frames.

use bytes::{Buf, Bytes};
use prost::Message;

use super::{
    Ack, DataFrame, FLAG_COMPRESSED, FLAG_END, FLAG_MORE, Frame, FrameType, Part, PublishFrame, PushFrame,
    RequestFrame, ResponseFrame,
};
use crate::{
    link::{CloseCode, Execution, LinkError, Place, Priority, RpcError, RpcErrorKind},
    varint,
};

use std::time::Duration;

/// Singles in one ACK: a client that has taken more sends another frame.
const ACK_SINGLES_MAX: usize = 1024;
/// The first of the types that are left to extensions.
const EXTENSION_TYPE_MIN: u8 = 31;
/// Bits of the options byte, see PROTOCOL.md.
const URGENCY: u8 = 0x07;
const IDEMPOTENT: u8 = 0x08;
const DEADLINE: u8 = 0x10;
const MESSAGE: u8 = 0x20;
const ACKNOWLEDGES: u8 = 0x40;
const HEARD: u8 = 0x80;

/// Decodes the payload of a frame of type `kind`; `flags` are the upper three bits of the first byte.
pub(super) fn payload(kind: u8, flags: u8, payload: Bytes) -> Result<Frame, LinkError> {
    let Some(kind) = FrameType::from_wire(kind) else {
        return if kind >= EXTENSION_TYPE_MIN {
            Ok(Frame::Extension(kind))
        } else {
            Err(LinkError::protocol(format!("frame type {kind} is not defined")))
        };
    };
    if flags & !kind.flags_allowed() != 0 {
        return Err(LinkError::protocol(format!("{} must not carry flags {flags:#04x}", kind.name())));
    }
    let mut fields = Fields { frame: kind.name(), rest: payload };
    let frame = match kind {
        FrameType::Hello => Frame::Hello(Box::new(fields.message()?)),
        FrameType::Welcome => Frame::Welcome(Box::new(fields.message()?)),
        FrameType::Request => request(&mut fields, flags)?,
        FrameType::Response => response(&mut fields, flags)?,
        FrameType::Data => {
            let seq = fields.seq()?;
            let part = Part::new(flags, fields.take_rest());
            Frame::Data(DataFrame { seq, part, end: flags & FLAG_END != 0 })
        }
        FrameType::Trailers => Frame::Trailers { seq: fields.seq()?, header_block: fields.take_rest() },
        FrameType::Reset => reset(&mut fields)?,
        FrameType::Window => window(&mut fields)?,
        FrameType::Ack => ack(&mut fields)?,
        FrameType::Ping => Frame::Ping { id: fields.varint("id")?, next_beat_s: fields.varint("next beat")? },
        FrameType::Pong => Frame::Pong { id: fields.varint("id")? },
        FrameType::Push => push(&mut fields, flags)?,
        FrameType::PushAck => push_ack(&mut fields)?,
        FrameType::GoAway => Frame::GoAway(Box::new(fields.message()?)),
        FrameType::Policy => Frame::Policy(fields.message()?),
        FrameType::PolicyAck => Frame::PolicyAck {
            revision: fields.varint("revision")?,
            accepted: match fields.byte("accepted")? {
                0 => false,
                1 => true,
                _ => return Err(fields.error("accepted must be 0 or 1")),
            },
            text: fields.text()?,
        },
        FrameType::Subscribe => Frame::Subscribe(fields.message()?),
        FrameType::Subscribed => Frame::Subscribed(fields.message()?),
        FrameType::Close => {
            Frame::Close { code: CloseCode::from_wire(fields.byte("code")?), text: fields.text()? }
        }
        FrameType::Publish => publish(&mut fields, flags)?,
        FrameType::Published => Frame::Published { id: fields.varint("id")?, error: fields.text()? },
        FrameType::Offer => Frame::Offer(fields.message()?),
        FrameType::Fetch => Frame::Fetch(fields.message()?),
        FrameType::Piece => Frame::Piece(fields.message()?),
        FrameType::Report => Frame::Report(Box::new(fields.message()?)),
        FrameType::Moved => Frame::Moved,
        FrameType::Attach => Frame::Attach {
            seq: fields.seq()?,
            received: Place {
                messages: fields.varint("message count")?,
                bytes: if fields.is_empty() { 0 } else { fields.varint("byte count")? },
            },
            continues: flags & FLAG_MORE != 0,
        },
        FrameType::QpackEncoder => Frame::QpackEncoder(fields.take_rest()),
        FrameType::QpackDecoder => Frame::QpackDecoder(fields.take_rest()),
        FrameType::Answer => {
            let seq = fields.seq()?;
            Frame::Answer { seq, part: Part::new(flags, fields.take_rest()) }
        }
    };
    fields.end()?;
    Ok(frame)
}

fn request(fields: &mut Fields, flags: u8) -> Result<Frame, LinkError> {
    let seq = fields.seq()?;
    let options = fields.byte("options")?;
    let deadline_ms = match options & DEADLINE {
        0 => None,
        _ => Some(fields.varint("deadline")?),
    };
    let header_block = fields.prefixed("header block")?;
    let part = fields.inline_part(flags, options)?;
    Ok(Frame::Request(RequestFrame {
        seq,
        priority: Priority::new(options & URGENCY),
        idempotent: options & IDEMPOTENT != 0,
        acknowledges: options & ACKNOWLEDGES != 0,
        heard: options & HEARD != 0,
        deadline_ms,
        header_block,
        part,
        end: flags & FLAG_END != 0,
    }))
}

fn response(fields: &mut Fields, flags: u8) -> Result<Frame, LinkError> {
    let seq = fields.seq()?;
    let options = fields.byte("options")?;
    if options & !MESSAGE != 0 {
        return Err(fields.error("only bit 5 of options may be set"));
    }
    let header_block = fields.prefixed("header block")?;
    let part = fields.inline_part(flags, options)?;
    Ok(Frame::Response(ResponseFrame { seq, header_block, part, end: flags & FLAG_END != 0 }))
}

fn reset(fields: &mut Fields) -> Result<Frame, LinkError> {
    let seq = fields.seq()?;
    let kind = RpcErrorKind::from_wire(fields.byte("kind")?);
    let execution = match fields.byte("execution")? {
        0 => Execution::NotRun,
        2 => Execution::Ran,
        3 => Execution::NotNow,
        // What a newer version may say is at least this careful.
        _ => Execution::MayHaveRun,
    };
    let retry_after = match fields.varint("retry after")? {
        0 => None,
        ms => Some(Duration::from_millis(ms)),
    };
    let message = fields.text()?;
    Ok(Frame::Reset { seq, error: RpcError { kind, execution, retry_after, message } })
}

fn window(fields: &mut Fields) -> Result<Frame, LinkError> {
    let seq = fields.varint("sequence number")?;
    let credit = fields.varint("credit")?;
    if credit == 0 {
        return Err(fields.error("credit must not be 0"));
    }
    Ok(Frame::Window { seq, credit })
}

fn ack(fields: &mut Fields) -> Result<Frame, LinkError> {
    let mut ack = Ack { floor: fields.varint("floor")?, seqs: Vec::new() };
    while !fields.rest.is_empty() {
        if ack.seqs.len() == ACK_SINGLES_MAX {
            return Err(fields.error("at most 1024 single sequence numbers"));
        }
        ack.seqs.push(fields.seq()?);
    }
    Ok(Frame::Ack(ack))
}

fn push(fields: &mut Fields, flags: u8) -> Result<Frame, LinkError> {
    let id = fields.varint("push id")?;
    if id == 0 {
        return Err(fields.error("push ids start at 1"));
    }
    let options = fields.byte("options")?;
    if options & !URGENCY != 0 {
        return Err(fields.error("bits 3 to 7 of options must be zero"));
    }
    Ok(Frame::Push(PushFrame {
        id,
        priority: Priority::new(options),
        topic: fields.prefixed_text("topic")?,
        content_type: fields.prefixed_text("content type")?,
        content_bytes: fields.content_bytes(flags)?,
        payload: fields.take_rest(),
    }))
}

fn push_ack(fields: &mut Fields) -> Result<Frame, LinkError> {
    let id = fields.varint("push id")?;
    let urgency = fields.byte("urgency")?;
    if urgency & !URGENCY != 0 {
        return Err(fields.error("urgency is 0 to 7"));
    }
    Ok(Frame::PushAck { priority: Priority::new(urgency), id })
}

fn publish(fields: &mut Fields, flags: u8) -> Result<Frame, LinkError> {
    let id = fields.varint("publish id")?;
    let qos = fields.byte("options")?;
    if qos > 1 {
        return Err(fields.error("options must be 0 or 1"));
    }
    Ok(Frame::Publish(PublishFrame {
        id,
        qos,
        topic: fields.prefixed_text("topic")?,
        content_bytes: fields.content_bytes(flags)?,
        payload: fields.take_rest(),
    }))
}

/// The unread rest of a payload. Its errors name the frame and the field.
struct Fields {
    frame: &'static str,
    rest: Bytes,
}

impl Fields {
    fn error(&self, rule: &str) -> LinkError {
        LinkError::protocol(format!("{}: {rule}", self.frame))
    }

    fn short(&self, field: &str) -> LinkError {
        LinkError::protocol(format!("{} ends inside its {field}", self.frame))
    }

    fn byte(&mut self, field: &str) -> Result<u8, LinkError> {
        if self.rest.is_empty() { Err(self.short(field)) } else { Ok(self.rest.get_u8()) }
    }

    fn varint(&mut self, field: &str) -> Result<u64, LinkError> {
        varint::get(&mut self.rest).ok_or_else(|| self.short(field))
    }

    fn seq(&mut self) -> Result<u64, LinkError> {
        match self.varint("sequence number")? {
            0 => Err(self.error("sequence numbers start at 1")),
            seq => Ok(seq),
        }
    }

    fn prefixed(&mut self, field: &str) -> Result<Bytes, LinkError> {
        let length = self.varint(field)?;
        if length > self.rest.len() as u64 {
            return Err(self.short(field));
        }
        Ok(self.rest.split_to(length as usize))
    }

    fn prefixed_text(&mut self, field: &str) -> Result<Bytes, LinkError> {
        let text = self.prefixed(field)?;
        match std::str::from_utf8(&text) {
            Ok(_) => Ok(text),
            Err(_) => Err(self.error(&format!("{field} is not UTF-8"))),
        }
    }

    fn content_bytes(&mut self, flags: u8) -> Result<Option<u64>, LinkError> {
        match flags & FLAG_COMPRESSED {
            0 => Ok(None),
            _ => self.varint("content length").map(Some),
        }
    }

    /// The message part behind a header block, if bit 5 of options says that there is one.
    fn inline_part(&mut self, flags: u8, options: u8) -> Result<Option<Part>, LinkError> {
        if options & MESSAGE != 0 {
            return Ok(Some(Part::new(flags, self.take_rest())));
        }
        match flags & (FLAG_MORE | FLAG_COMPRESSED) {
            0 => Ok(None),
            _ => Err(self.error("MORE and COMPRESSED need a message part")),
        }
    }

    fn text(&mut self) -> Result<String, LinkError> {
        let text = self.take_rest();
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error("text is not UTF-8")),
        }
    }

    fn message<M: Message + Default>(&mut self) -> Result<M, LinkError> {
        M::decode(self.take_rest())
            .map_err(|error| LinkError::protocol(format!("{}: malformed protobuf: {error}", self.frame)))
    }

    fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn end(&self) -> Result<(), LinkError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(self.error(&format!("{extra} bytes follow the last field"))),
        }
    }
}

impl Part {
    fn new(flags: u8, bytes: Bytes) -> Self {
        Self { compressed: flags & FLAG_COMPRESSED != 0, more: flags & FLAG_MORE != 0, bytes }
    }
}

impl FrameType {
    fn from_wire(kind: u8) -> Option<Self> {
        use FrameType::*;
        const ALL: [FrameType; 30] = [
            Hello,
            Welcome,
            Request,
            Response,
            Data,
            Trailers,
            Reset,
            Window,
            Ack,
            Ping,
            Pong,
            Push,
            PushAck,
            GoAway,
            Policy,
            PolicyAck,
            Subscribe,
            Subscribed,
            Close,
            Publish,
            Published,
            Attach,
            QpackEncoder,
            QpackDecoder,
            Offer,
            Fetch,
            Piece,
            Answer,
            Report,
            Moved,
        ];
        ALL.into_iter().find(|named| *named as u8 == kind)
    }

    fn flags_allowed(self) -> u8 {
        match self {
            Self::Request | Self::Response | Self::Data => FLAG_END | FLAG_COMPRESSED | FLAG_MORE,
            Self::Push | Self::Publish | Self::Answer => FLAG_COMPRESSED,
            Self::Trailers => FLAG_END,
            Self::Attach => FLAG_MORE,
            _ => 0,
        }
    }

    /// As PROTOCOL.md writes it.
    pub fn name(self) -> &'static str {
        use FrameType::*;
        match self {
            Hello => "HELLO",
            Welcome => "WELCOME",
            Request => "REQUEST",
            Response => "RESPONSE",
            Data => "DATA",
            Trailers => "TRAILERS",
            Reset => "RESET",
            Window => "WINDOW",
            Ack => "ACK",
            Ping => "PING",
            Pong => "PONG",
            Push => "PUSH",
            PushAck => "PUSH_ACK",
            GoAway => "GOAWAY",
            Policy => "POLICY",
            PolicyAck => "POLICY_ACK",
            Subscribe => "SUBSCRIBE",
            Subscribed => "SUBSCRIBED",
            Close => "CLOSE",
            Publish => "PUBLISH",
            Published => "PUBLISHED",
            Attach => "ATTACH",
            QpackEncoder => "QPACK_ENCODER",
            QpackDecoder => "QPACK_DECODER",
            Offer => "OFFER",
            Fetch => "FETCH",
            Piece => "PIECE",
            Answer => "ANSWER",
            Report => "REPORT",
            Moved => "MOVED",
        }
    }
}
