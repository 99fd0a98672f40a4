//! Follows the frames of a stream (RFC 9114, section 7.1) without keeping any of it, so that what h3 gathers
//! before it looks at it has a bound.
//!
//! ```text
//! request stream:           ┌─> type ─> length ─> payload ─┐
//! other streams:  kind ─────┤      └──────────────────────<┘
//!                           └─> opaque (not a control stream)
//! ```

use bytes::Buf as _;
use towline_protocols::varint;

/// RFC 9114, section 7.2.1: the one frame whose payload is handed on as it comes.
const DATA: u64 = 0;
/// RFC 9114, section 6.2.1.
const CONTROL_STREAM: u64 = 0;
/// The longest integer of RFC 9000, section 16.
const VARINT_BYTES_MAX: usize = 8;

/// Where a stream stands.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    /// An integer of which a part has arrived.
    partial: [u8; VARINT_BYTES_MAX],
    partial_len: usize,
    /// Bound on the payload of every frame but DATA, bytes.
    payload_max: u64,
}

#[derive(Debug)]
enum At {
    Kind,
    Type,
    Length { data: bool },
    Payload { data: bool, left: u64 },
    Opaque,
}

/// A frame that has to be gathered whole is larger than its bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Frames {
    /// Of a request stream, from its start.
    pub(super) fn of_request(payload_max: usize) -> Self {
        Self::new(At::Type, payload_max)
    }

    /// Of a unidirectional stream, from its start.
    pub(super) fn of_unidirectional(payload_max: usize) -> Self {
        Self::new(At::Kind, payload_max)
    }

    fn new(at: At, payload_max: usize) -> Self {
        Self { at, partial: [0; VARINT_BYTES_MAX], partial_len: 0, payload_max: payload_max as u64 }
    }

    /// Follows `bytes`; says how many of them are payload of DATA frames.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Result<usize, TooLarge> {
        let mut data_bytes = 0;
        while !bytes.is_empty() {
            self.at = match self.at {
                At::Opaque => break,
                At::Payload { data, left } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.advance(take);
                    data_bytes += if data { take } else { 0 };
                    match left - take as u64 {
                        0 => At::Type,
                        left => At::Payload { data, left },
                    }
                }
                At::Kind | At::Type | At::Length { .. } => {
                    let Some(value) = self.integer(&mut bytes) else { break };
                    self.next(value)?
                }
            };
        }
        Ok(data_bytes)
    }

    fn next(&self, value: u64) -> Result<At, TooLarge> {
        Ok(match self.at {
            At::Kind if value == CONTROL_STREAM => At::Type,
            At::Kind => At::Opaque,
            At::Type => At::Length { data: value == DATA },
            At::Length { data: false } if value > self.payload_max => return Err(TooLarge),
            At::Length { .. } if value == 0 => At::Type,
            At::Length { data } => At::Payload { data, left: value },
            At::Payload { .. } | At::Opaque => At::Opaque,
        })
    }

    /// The integer that `bytes` begin or end; `None` until it is whole.
    fn integer(&mut self, bytes: &mut &[u8]) -> Option<u64> {
        while self.partial_len < VARINT_BYTES_MAX && bytes.has_remaining() {
            self.partial[self.partial_len] = bytes.get_u8();
            self.partial_len += 1;
            if let Some(value) = varint::get(&mut &self.partial[..self.partial_len]) {
                self.partial_len = 0;
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the stream in pieces of every size.
    #[track_caller]
    fn check(
        make: fn(usize) -> Frames,
        stream: &[u8],
        payload_max: usize,
        expected: Result<usize, TooLarge>,
    ) {
        for size in 1..=stream.len() {
            let mut frames = make(payload_max);
            let followed: Result<usize, TooLarge> =
                stream.chunks(size).try_fold(0, |sum, piece| Ok(sum + frames.follow(piece)?));
            assert_eq!(followed, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn data_is_counted_and_everything_else_bounded() {
        // HEADERS of 3, DATA of 2, an empty DATA, a reserved type of 70 whose length takes two bytes.
        let mut stream = b"\x01\x03abc\x00\x02de\x00\x00\x21\x40\x46".to_vec();
        stream.extend([0; 70]);
        check(Frames::of_request, &stream, 70, Ok(2));
        check(Frames::of_request, &stream, 69, Err(TooLarge));
        let endless_data = b"\x00\xff\xff\xff\xff\xff\xff\xff\xffabc";
        check(Frames::of_request, endless_data, 0, Ok(3));
        check(Frames::of_request, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff", 1 << 20, Err(TooLarge));
    }

    #[test]
    fn of_other_streams_only_the_control_stream_has_frames() {
        check(Frames::of_unidirectional, b"\x00\x04\x02ab\x07\x01\x00", 2, Ok(0));
        check(Frames::of_unidirectional, b"\x00\x04\x03abc", 2, Err(TooLarge));
        check(Frames::of_unidirectional, b"\x02\x04\x03abc", 2, Ok(0));
    }
}
