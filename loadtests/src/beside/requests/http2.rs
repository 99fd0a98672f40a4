//! HTTP/2 (RFC 9113) as far as a load generator needs it: one request in a fixed header block, answers judged by
//! their frames. A client library would cost more than most servers do.

use bytes::{Buf, BufMut, BytesMut};

use super::client::PATH;
use crate::beside::frames::{self, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS};

/// A client's side of one connection.
pub(super) struct Http2 {
    encrypted: bool,
    stream: u32,
    /// Open streams.
    due: Vec<Asked>,
    /// Bytes of DATA since the connection's window was filled.
    received: u64,
}

struct Asked {
    stream: u32,
    due: u64,
    /// The answer's head is there; a further header block holds trailers.
    has_head: bool,
}

/// Bytes of answers on a connection before its window is filled again.
const REFILL: u64 = 1 << 30;
/// `:status: 200` in the static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

impl Http2 {
    pub(super) fn new(encrypted: bool) -> Self {
        Self { encrypted, stream: 1, due: Vec::new(), received: 0 }
    }

    pub(super) fn open(&self) -> usize {
        self.due.len()
    }

    pub(super) fn greet(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(frames::PREFACE);
        frames::put_settings(
            &[(frames::ENABLE_PUSH, 0), (frames::INITIAL_WINDOW_SIZE, i32::MAX as u32)],
            out,
        );
        frames::put_window_update(0, (i32::MAX as u32) - 65_535, out);
    }

    pub(super) fn request(&mut self, due: u64, out: &mut BytesMut) {
        let scheme = if self.encrypted { 0x87 } else { 0x86 };
        let block = &mut BytesMut::with_capacity(64);
        block.extend_from_slice(&[0x82, scheme]);
        if self.stream == 1 {
            // Literals that both sides index: :authority, :path, user-agent.
            for (name, value) in [(0x41, "localhost"), (0x44, PATH), (0x7a, "towline-load")] {
                block.put_u8(name);
                block.put_u8(value.len() as u8);
                block.extend_from_slice(value.as_bytes());
            }
        } else {
            block.extend_from_slice(&[0xc0, 0xbf, 0xbe]);
        }
        frames::put(HEADERS, END_STREAM | frames::END_HEADERS, self.stream, block, out);
        self.due.push(Asked { stream: self.stream, due, has_head: false });
        self.stream += 2;
    }

    pub(super) fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Vec<u64>, String> {
        let mut answered = Vec::new();
        while let Some(Frame { kind, flags, stream, length }) = frames::next(input)? {
            let payload = &input[..length];
            match kind {
                HEADERS if self.begins(stream) && !is_success(payload) => {
                    return Err(format!(
                        "an answer's header block begins with {:x?}",
                        payload.first_chunk::<4>()
                    ));
                }
                SETTINGS | PING => frames::acknowledge(kind, flags, payload, out),
                RST_STREAM | GOAWAY => return Err(format!("frame {kind} of stream {stream}: {payload:x?}")),
                _ => {}
            }
            if kind == DATA {
                self.received += length as u64;
                if self.received > REFILL {
                    frames::put_window_update(0, self.received as u32, out);
                    self.received = 0;
                }
            }
            input.advance(length);
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                let place = self.due.iter().position(|asked| asked.stream == stream);
                answered.extend(place.map(|place| self.due.swap_remove(place).due));
            }
        }
        Ok(answered)
    }

    /// Whether this is the stream's first header block.
    fn begins(&mut self, stream: u32) -> bool {
        let asked = self.due.iter_mut().find(|asked| asked.stream == stream);
        asked.is_some_and(|asked| !std::mem::replace(&mut asked.has_head, true))
    }
}

/// Whether a header block says 200; a size update may stand before it (RFC 7541, section 6.3).
fn is_success(block: &[u8]) -> bool {
    let mut rest = block;
    while let [first, after @ ..] = rest {
        match first {
            &STATUS_200 => return true,
            0x20..=0x3e => rest = after,
            0x3f => {
                let long = after.iter().take_while(|byte| **byte & 0x80 != 0).count();
                rest = after.get(long + 1..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_found_behind_size_updates() {
        assert!(is_success(&[0x88, 0x5f]));
        assert!(is_success(&[0x20, 0x3f, 0xe1, 0x1f, 0x88]));
        assert!(!is_success(&[0x8d]));
        assert!(!is_success(&[0x20]));
    }

    #[test]
    fn an_answer_is_complete_with_its_last_frame() {
        let (mut client, mut out) = (Http2::new(true), BytesMut::new());
        client.request(7, &mut out);
        client.request(8, &mut out);
        client.request(9, &mut out);
        let mut input = BytesMut::new();
        frames::put(HEADERS, frames::END_HEADERS, 3, &[0x88], &mut input);
        frames::put(DATA, END_STREAM, 3, b"x", &mut input);
        frames::put(HEADERS, frames::END_HEADERS, 1, &[0x88], &mut input);
        let cut = input.split_off(input.len() - 1);
        assert_eq!(client.take(&mut input, &mut out), Ok(vec![8]));
        input.extend_from_slice(&cut);
        assert_eq!(client.take(&mut input, &mut out), Ok(vec![]));
        frames::put(HEADERS, frames::END_HEADERS | END_STREAM, 1, &[0, 1, b'a', 1, b'0'], &mut input);
        assert_eq!(client.take(&mut input, &mut out), Ok(vec![7]), "trailers");
        frames::put(HEADERS, frames::END_HEADERS, 5, &[0x8d], &mut input);
        assert!(client.take(&mut input, &mut out).is_err(), "404 is no success");
    }
}
