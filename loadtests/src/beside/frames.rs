//! Frames of HTTP/2 (RFC 9113, section 4.1), for clients and servers that must cost next to nothing.

use bytes::{Buf, BufMut, BytesMut};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
const ACK: u8 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
const HEADER_BYTES: usize = 9;
/// SETTINGS_MAX_FRAME_SIZE's default, which nobody here raises.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// A frame's header; its payload is the next `length` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: usize,
}

/// Takes a frame's header off `input` if the frame is there whole.
pub(super) fn next(input: &mut BytesMut) -> Result<Option<Frame>, String> {
    let Some(&[a, b, c, kind, flags, s1, s2, s3, s4]) = input.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(format!("a frame of {length} bytes"));
    }
    if input.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    input.advance(HEADER_BYTES);
    Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), length }))
}

pub(super) fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut BytesMut) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.extend_from_slice(payload);
}

pub(super) fn put_settings(settings: &[(u16, u32)], out: &mut BytesMut) {
    let mut payload = BytesMut::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        payload.put_u16(*name);
        payload.put_u32(*value);
    }
    put(SETTINGS, 0, 0, &payload, out);
}

pub(super) fn put_window_update(stream: u32, bytes: u32, out: &mut BytesMut) {
    put(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes(), out);
}

/// Answers SETTINGS or PING, unless that is an answer itself.
pub(super) fn acknowledge(kind: u8, flags: u8, payload: &[u8], out: &mut BytesMut) {
    if flags & ACK == 0 {
        put(kind, ACK, 0, if kind == PING { payload } else { &[] }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut out = BytesMut::new();
        put(DATA, END_STREAM, 5, b"abc", &mut out);
        let mut cut = BytesMut::from(&out[..out.len() - 1]);
        assert_eq!(next(&mut cut), Ok(None));
        let frame = Frame { kind: DATA, flags: END_STREAM, stream: 5, length: 3 };
        assert_eq!(next(&mut out), Ok(Some(frame)));
        assert_eq!(&out[..], b"abc");
    }
}
