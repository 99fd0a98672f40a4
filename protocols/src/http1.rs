//! HTTP/1.1's chunked transfer coding, as a recipient reads it (RFC 9112, section 7.1).
//!
//! ```text
//!  chunked-body = *( size [ extensions ] CRLF data CRLF ) "0" [ extensions ] CRLF *( field-line CRLF ) CRLF
//!
//!  Size --CRLF--> Data --all of it--> DataEnd --CRLF--> Size
//!    \--CRLF behind a size of 0--> Trailers --empty line--> Over
//! ```
//!
//! Lines end with CRLF and nothing else: whoever takes a lone LF for the end of a line, too, sees other messages in
//! the same bytes than one who does not.

use bytes::{Buf as _, Bytes, BytesMut};

/// A chunk's size line, with its extensions; they mean nothing here.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// Digits that say what fits into 64 bits.
const SIZE_DIGITS_MAX: usize = 16;
/// The trailer section, with its empty line.
const TRAILERS_BYTES_MAX: usize = 16 * 1024;
/// Extension bytes of all chunks of a body: a chunk of one byte must not cost a line each time without end.
const EXTENSIONS_BYTES_MAX: usize = 64 * 1024;

/// Reads one body that is sent in chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So many bytes of the chunk are still to come.
    Data(u64),
    DataEnd,
    Trailers,
    Over,
}

/// What a body in chunks is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body, not empty. Chunks are not kept apart.
    Data(Bytes),
    /// The body has ended. The field lines of its trailer section, each with its CRLF, and an empty line behind
    /// them, as [`Chunked`] found them; empty where there are none.
    End(Bytes),
}

/// The bytes are no chunked body: where the message ends cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A size is no hexadecimal number, or its line does not end with CRLF.
    #[error("a chunk's size is no hexadecimal number on a line that ends with CRLF")]
    Size,
    /// A line is longer than any that means something.
    #[error("a chunk's size line, or the extensions of all chunks, are too long")]
    TooLong,
    /// A chunk's data is not followed by CRLF.
    #[error("a chunk is longer than its size says")]
    Data,
    /// The trailer section exceeds what is kept of it.
    #[error("the trailer section is too long")]
    Trailers,
}

impl Chunked {
    /// The next piece, taken off `input`; `None` when more has to arrive first, or when the body has ended. What
    /// stands behind the end is left in `input`.
    ///
    /// # Errors
    /// Nothing more can be read from these bytes.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        loop {
            match self.state {
                State::Size => match self.size(input)? {
                    None => return Ok(None),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    if here == 0 {
                        return Ok(None);
                    }
                    let left = left - here as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(Piece::Data(input.split_to(here).freeze())));
                }
                State::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(ChunkError::Data),
                    None => return Ok(None),
                },
                State::Trailers => return self.trailers(input),
                State::Over => return Ok(None),
            }
        }
    }

    /// Whether all of the body has been read.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The size that a chunk begins with, once its line is there.
    fn size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, ChunkError> {
        let Some(end) = input.iter().take(SIZE_LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            let is_long = input.len() >= SIZE_LINE_BYTES_MAX;
            return if is_long { Err(ChunkError::TooLong) } else { Ok(None) };
        };
        let line = input[..end].strip_suffix(b"\r").ok_or(ChunkError::Size)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at(digits);
        // White space before an extension is bad, and tolerated (section 7.1.1).
        let first = extensions.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        if !(1..=SIZE_DIGITS_MAX).contains(&digits) || first.is_some_and(|byte| *byte != b';') {
            return Err(ChunkError::Size);
        }
        let size = size.iter().fold(0, |size: u64, digit| size << 4 | u64::from(hex(*digit)));
        self.extensions += extensions.len();
        if self.extensions > EXTENSIONS_BYTES_MAX || extensions.contains(&b'\r') {
            return Err(if extensions.contains(&b'\r') { ChunkError::Size } else { ChunkError::TooLong });
        }
        input.advance(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        const END: &[u8] = b"\r\n\r\n";
        let taken = if input.starts_with(b"\r\n") {
            input.advance(2);
            Bytes::new()
        } else {
            let end = input.windows(END.len()).take(TRAILERS_BYTES_MAX).position(|bytes| bytes == END);
            let Some(end) = end else {
                let is_long = input.len() >= TRAILERS_BYTES_MAX + END.len();
                return if is_long { Err(ChunkError::Trailers) } else { Ok(None) };
            };
            input.split_to(end + END.len()).freeze()
        };
        self.state = State::Over;
        Ok(Some(Piece::End(taken)))
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body, trailer section and what is left, of bytes that arrive in pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> Result<(String, String, String), ChunkError> {
        let (mut chunked, mut input) = (Chunked::default(), BytesMut::new());
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(piece) = chunked.next(&mut input)? {
                match piece {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End(lines) => trailers.extend_from_slice(&lines),
                }
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let left = if chunked.is_over() { text(&input) } else { "more".to_owned() };
        Ok((text(&body), text(&trailers), left))
    }

    fn check(bytes: &str, expected: Result<(&str, &str, &str), ChunkError>) {
        for piece in 1..=bytes.len() {
            let read = read(bytes.as_bytes(), piece);
            let read = read.as_ref().map(|(body, trailers, left)| (&**body, &**trailers, &**left));
            assert_eq!(read, expected.as_ref().map(|parts| *parts), "{bytes:?} in pieces of {piece}");
        }
    }

    #[test]
    fn chunks_become_a_body_however_they_arrive() {
        check("0\r\n\r\n", Ok(("", "", "")));
        check("3\r\nabc\r\n0\r\n\r\n", Ok(("abc", "", "")));
        check("1\r\na\r\n00A\r\n0123456789\r\n0\r\n\r\nHTTP", Ok(("a0123456789", "", "HTTP")));
        check("3;name=value\r\nabc\r\n0 ;last\r\nx-sum: 1\r\n\r\n", Ok(("abc", "x-sum: 1\r\n\r\n", "")));
        check("3\r\nabc\r\n0\r\n", Ok(("abc", "", "more")));
    }

    #[test]
    fn what_could_be_read_in_another_way_is_refused() {
        for size in ["", "g", "-1", "0x3", "3 3", "+3", "11111111111111111", "3\r", " 3", "3;\r"] {
            check(&format!("{size}\r\nabc\r\n"), Err(ChunkError::Size));
        }
        check("3\nabc\r\n", Err(ChunkError::Size));
        check("3\r\nabcd\r\n", Err(ChunkError::Data));
        check("3\r\nabc\n0\r\n", Err(ChunkError::Data));
    }

    #[test]
    fn lines_without_end_are_refused() {
        let long = format!("1;{}", "x".repeat(SIZE_LINE_BYTES_MAX));
        assert_eq!(read(long.as_bytes(), 100), Err(ChunkError::TooLong));
        let many = format!("1;{}\r\na\r\n", "x".repeat(SIZE_LINE_BYTES_MAX / 2)).repeat(200);
        assert_eq!(read(many.as_bytes(), 4096), Err(ChunkError::TooLong));
        let trailers = format!("0\r\n{}", "x-sum: 1\r\n".repeat(TRAILERS_BYTES_MAX / 8));
        assert_eq!(read(trailers.as_bytes(), 1000), Err(ChunkError::Trailers));
    }
}
