//! Messages in parts: cutting them for frames, and putting them together again.
//!
//! ```text
//!                first part                                   continuing part
//!  whole         [content length if COMPRESSED] bytes
//!  with MORE     total length [content length if COMPRESSED] bytes     bytes
//! ```

use bytes::{Bytes, BytesMut};

use super::{
    Execution, RpcError, RpcErrorKind,
    frame::{FLAG_COMPRESSED, FLAG_END, FLAG_MORE, Fixed, Part},
};
use crate::{
    compress::{self, CompressError, Compressor, DictionarySet, Kind, decompress},
    hpack::HeaderField,
    varint,
};

/// Larger messages are sent as they are: what is compressed must be put together whole by its receiver,
/// which reserves room for it.
const COMPRESSED_CONTENT_BYTES_MAX: usize = 1024 * 1024;

/// Puts the messages of one half of a request together. Parts of uncompressed messages pass through.
#[derive(Debug, Default)]
pub(crate) struct MessageReader {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Between,
    Plain {
        bytes_left: u64,
    },
    Compressed(Box<Assembly>),
}

#[derive(Debug)]
struct Assembly {
    frame: BytesMut,
    frame_bytes: u64,
    content_bytes: u64,
}

/// What a part amounts to.
#[derive(Debug, PartialEq)]
pub(crate) enum Arrival {
    /// A compressed message goes on.
    Nothing,
    /// To be passed on.
    Part { message_bytes: Option<u64>, bytes: Bytes, end_of_message: bool },
    /// A compressed message is whole.
    Compressed { frame: Bytes, content_bytes: u64 },
}

impl MessageReader {
    /// Whether no message is unfinished.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Bytes kept of a compressed message that is still arriving.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Compressed(assembly) => assembly.frame.len(),
            _ => 0,
        }
    }

    /// Length of the compressed message that is arriving, as it is on the wire.
    pub(crate) fn arriving_bytes(&self) -> usize {
        match &self.state {
            State::Compressed(assembly) => assembly.frame_bytes as usize,
            _ => 0,
        }
    }

    /// Takes one part.
    pub(crate) fn accept(&mut self, part: Part, message_bytes_max: u32) -> Result<Arrival, RpcError> {
        let Part { compressed, more, mut bytes } = part;
        if let State::Between = self.state {
            return self.begin(compressed, more, bytes, message_bytes_max);
        }
        if compressed {
            return Err(malformed("COMPRESSED stands on a part that continues a message"));
        }
        if more && bytes.is_empty() {
            return Err(malformed("a part with MORE is empty"));
        }
        let left_after = |left: u64| match left.checked_sub(bytes.len() as u64) {
            Some(0) if !more => Ok(0),
            Some(left) if more && left > 0 => Ok(left),
            _ => Err(malformed("the message's parts do not add up to its length")),
        };
        match &mut self.state {
            State::Between => Err(malformed("a part continues no message")),
            State::Plain { bytes_left } => {
                *bytes_left = left_after(*bytes_left)?;
                if !more {
                    self.state = State::Between;
                }
                Ok(Arrival::Part { message_bytes: None, bytes, end_of_message: !more })
            }
            State::Compressed(assembly) => {
                left_after(assembly.frame_bytes - assembly.frame.len() as u64)?;
                assembly.frame.extend_from_slice(&bytes);
                bytes.clear();
                if more {
                    return Ok(Arrival::Nothing);
                }
                let frame = assembly.frame.split().freeze();
                let content_bytes = assembly.content_bytes;
                self.state = State::Between;
                Ok(Arrival::Compressed { frame, content_bytes })
            }
        }
    }

    fn begin(
        &mut self,
        compressed: bool,
        more: bool,
        mut bytes: Bytes,
        message_bytes_max: u32,
    ) -> Result<Arrival, RpcError> {
        let truncated = || malformed("a message part ends inside its length");
        let total = match more {
            true => Some(varint::get(&mut bytes).ok_or_else(truncated)?),
            false => None,
        };
        let content = match compressed {
            true => Some(varint::get(&mut bytes).ok_or_else(truncated)?),
            false => None,
        };
        let wire_bytes = total.unwrap_or(bytes.len() as u64);
        if wire_bytes.max(content.unwrap_or(0)) > u64::from(message_bytes_max) {
            let size = wire_bytes.max(content.unwrap_or(0));
            return Err(RpcError::new(
                RpcErrorKind::LimitExceeded,
                Execution::MayHaveRun,
                format!("message of {size} bytes, message_bytes_max is {message_bytes_max}"),
            ));
        }
        if more && (bytes.is_empty() || bytes.len() as u64 >= wire_bytes) {
            return Err(malformed("a first part with MORE is empty or not shorter than its message"));
        }
        match content {
            None if more => {
                self.state = State::Plain { bytes_left: wire_bytes - bytes.len() as u64 };
                Ok(Arrival::Part { message_bytes: Some(wire_bytes), bytes, end_of_message: false })
            }
            None => Ok(Arrival::Part { message_bytes: Some(wire_bytes), bytes, end_of_message: true }),
            Some(content_bytes) if more => {
                // The buffer grows with what arrives, not with what is announced.
                let frame = BytesMut::from(&bytes[..]);
                self.state =
                    State::Compressed(Box::new(Assembly { frame, frame_bytes: wire_bytes, content_bytes }));
                Ok(Arrival::Nothing)
            }
            // It may have to wait, and must not hold all the input that it came in.
            Some(content_bytes) => {
                Ok(Arrival::Compressed { frame: Bytes::copy_from_slice(&bytes), content_bytes })
            }
        }
    }
}

/// Decompresses a whole message.
pub(crate) fn inflate(
    frame: &[u8],
    content_bytes: u64,
    dictionaries: &DictionarySet,
    message_bytes_max: u32,
) -> Result<Bytes, RpcError> {
    let message = decompress(frame, dictionaries, message_bytes_max as usize).map_err(refused_frame)?;
    check_content(message.len(), content_bytes)?;
    Ok(message)
}

/// Finds, without decompressing it, what is wrong with a compressed message, apart from corrupt blocks.
pub(crate) fn check_compressed(
    frame: &[u8],
    content_bytes: u64,
    dictionaries: &DictionarySet,
    message_bytes_max: u32,
) -> Result<(), RpcError> {
    let declared =
        compress::content_bytes(frame, dictionaries, message_bytes_max as usize).map_err(refused_frame)?;
    check_content(declared, content_bytes)
}

fn refused_frame(error: CompressError) -> RpcError {
    let kind = match error {
        CompressError::UnknownDictionary(_) => RpcErrorKind::UnknownDictionary,
        CompressError::TooLarge { .. } | CompressError::WindowTooLarge(_) => RpcErrorKind::LimitExceeded,
        CompressError::OutOfMemory => RpcErrorKind::Internal,
        CompressError::ContentSizeMissing | CompressError::Malformed(_) => RpcErrorKind::Malformed,
    };
    RpcError::new(kind, Execution::MayHaveRun, error.to_string())
}

fn check_content(content_bytes: usize, announced: u64) -> Result<(), RpcError> {
    match content_bytes as u64 == announced {
        true => Ok(()),
        false => Err(malformed("a compressed message is not as long as its part says")),
    }
}

/// Messages of one half on their way out: checks that parts add up.
#[derive(Debug, Default)]
pub(crate) struct MessageWriter {
    bytes_left: u64,
    /// Length of a message whose first byte has not come yet.
    begun: Option<u64>,
    /// What the messages are for, as far as compressing them goes.
    kind: Kind,
}

/// Bytes of a message that wait to be sent.
#[derive(Debug)]
pub(crate) struct OutPart {
    bytes: Bytes,
    first: Option<First>,
    /// The message is whole with these.
    last: bool,
    /// The half ends behind the message.
    end: bool,
}

#[derive(Clone, Copy, Debug)]
struct First {
    wire_bytes: u64,
    content_bytes: Option<u64>,
}

/// What of an [`OutPart`] goes into one frame.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) flags: u8,
    pub(crate) lengths: Fixed,
    pub(crate) bytes: Bytes,
    /// Nothing is left of the part.
    pub(crate) done: bool,
}

impl MessageWriter {
    /// The messages belong to the request with this header list.
    pub(crate) fn belongs_to(&mut self, fields: &[HeaderField]) {
        let path = fields.iter().find(|field| &*field.name == b":path");
        self.kind = path.map_or(Kind::default(), |path| Kind::of_path(&path.value));
    }

    /// A whole message.
    pub(crate) fn message(
        &mut self,
        message: Bytes,
        end: bool,
        compressor: Option<&Compressor>,
        message_bytes_max: u32,
    ) -> Result<OutPart, RpcError> {
        if self.bytes_left > 0 || self.begun.is_some() {
            return Err(misuse("a message begins before the one before it is whole"));
        }
        check_length(message.len() as u64, message_bytes_max)?;
        let compressed = compressor
            .filter(|_| message.len() <= COMPRESSED_CONTENT_BYTES_MAX)
            .and_then(|compressor| compressor.compress_kind(self.kind, &message));
        let (bytes, content_bytes) = match compressed {
            Some(compressed) => (compressed.frame, Some(compressed.bytes_before as u64)),
            None => (message, None),
        };
        let first = First { wire_bytes: bytes.len() as u64, content_bytes };
        Ok(OutPart { bytes, first: Some(first), last: true, end })
    }

    /// Some of a message; `None` when there is nothing to send yet.
    pub(crate) fn part(
        &mut self,
        message_bytes: Option<u64>,
        bytes: Bytes,
        end: bool,
        message_bytes_max: u32,
    ) -> Result<Option<OutPart>, RpcError> {
        if let Some(total) = message_bytes {
            if self.bytes_left > 0 || self.begun.is_some() {
                return Err(misuse("a message begins before the one before it is whole"));
            }
            check_length(total, message_bytes_max)?;
            (self.begun, self.bytes_left) = (Some(total), total);
        }
        if bytes.is_empty() && self.begun != Some(0) {
            return Ok(None);
        }
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| misuse("a message's parts exceed the length it was begun with"))?;
        let first = self.begun.take().map(|wire_bytes| First { wire_bytes, content_bytes: None });
        let last = self.bytes_left == 0;
        Ok(Some(OutPart { bytes, first, last, end: end && last }))
    }

    /// Whether the half may end here.
    pub(crate) fn check_end(&self) -> Result<(), RpcError> {
        match self.bytes_left > 0 || self.begun.is_some() {
            true => Err(misuse("the half ends inside a message")),
            false => Ok(()),
        }
    }
}

impl OutPart {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the half ends with this part.
    pub(crate) fn ends(&self) -> bool {
        self.end
    }

    /// Bytes in a frame that holds the whole message, lengths included; `None` when it begins or ends elsewhere, or
    /// when the half ends with it.
    pub(crate) fn whole_bytes(&self) -> Option<usize> {
        let first = self.first.filter(|_| self.last && !self.end)?;
        Some(first.content_bytes.map_or(0, varint::size) + self.bytes.len())
    }

    /// Takes what fits into `room` bytes of frame and flow-control credit, lengths included; `None` when
    /// not even one byte of the message does.
    pub(crate) fn next_chunk(&mut self, room: usize) -> Option<Chunk> {
        let mut lengths = Fixed::default();
        let mut flags = 0;
        let mut more = !self.last || self.bytes.len() > room;
        if let Some(First { wire_bytes, content_bytes }) = self.first {
            let content_size = content_bytes.map_or(0, varint::size);
            more = !self.last || content_size + self.bytes.len() > room;
            if more {
                lengths.put_varint(wire_bytes);
            }
            if let Some(content_bytes) = content_bytes {
                flags |= FLAG_COMPRESSED;
                lengths.put_varint(content_bytes);
            }
        }
        let size = self.bytes.len().min(room.saturating_sub(lengths.as_slice().len()));
        if size == 0 && !self.bytes.is_empty() {
            return None;
        }
        self.first = None;
        let bytes = self.bytes.split_to(size);
        let done = self.bytes.is_empty();
        flags |= if more { FLAG_MORE } else { 0 };
        flags |= if done && self.end { FLAG_END } else { 0 };
        Some(Chunk { flags, lengths, bytes, done })
    }

    /// Whether an empty last message ends the half: a DATA frame with END and no bytes would mean that
    /// there is no message.
    pub(crate) fn is_empty_end(&self) -> bool {
        self.end && self.bytes.is_empty()
    }

    /// Leaves the end of the half to a frame of its own.
    pub(crate) fn without_end(mut self) -> Self {
        self.end = false;
        self
    }
}

impl Chunk {
    /// What flow control counts.
    pub(crate) fn len(&self) -> usize {
        self.lengths.as_slice().len() + self.bytes.len()
    }
}

pub(crate) fn malformed(rule: &str) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, Execution::MayHaveRun, rule)
}

/// The caller broke a rule; nothing was sent.
pub(crate) fn misuse(rule: &str) -> RpcError {
    RpcError::new(RpcErrorKind::Internal, Execution::NotRun, rule)
}

fn check_length(message_bytes: u64, message_bytes_max: u32) -> Result<(), RpcError> {
    if message_bytes <= u64::from(message_bytes_max) {
        return Ok(());
    }
    Err(RpcError::new(
        RpcErrorKind::LimitExceeded,
        Execution::NotRun,
        format!("message of {message_bytes} bytes, the peer's message_bytes_max is {message_bytes_max}"),
    ))
}
