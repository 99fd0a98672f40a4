//! A backend that costs next to nothing: the same answer of 1 KB to every request, whatever it asks for, over
//! HTTP/1.1 and HTTP/2 in plaintext on one port, on one thread.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use bytes::{Buf, BytesMut};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::beside::frames::{
    self, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PING, SETTINGS, WINDOW_UPDATE,
};

/// The body's length.
const BODY_BYTES: usize = 1024;
const STREAMS_MAX: u32 = 250;
/// Of a connection (RFC 9113, section 6.9.2).
const WINDOW: i64 = 65_535;
/// Request bytes on a connection before its window is filled again.
const REFILL: u64 = 1 << 30;
const LISTENER: u64 = u64::MAX;
const EVENTS_MAX: usize = 256;
const READ_BYTES: usize = 64 << 10;

/// What is answered over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// A plain body.
    Body,
    /// One gRPC message, and that all went well.
    Grpc,
}

/// One connection.
struct Line {
    socket: TcpStream,
    input: BytesMut,
    output: BytesMut,
    http2: Option<Http2>,
}

struct Http2 {
    /// What the peer takes on the connection.
    window: i64,
    /// Streams whose answer waits for it.
    waiting: VecDeque<u32>,
    received: u64,
}

/// The bytes of an answer.
struct Answer {
    http1: Vec<u8>,
    block: Vec<u8>,
    body: Vec<u8>,
    trailers: Option<Vec<u8>>,
}

/// Serves until it is killed.
pub(super) fn run(bind: SocketAddr, says: Says) -> Result<(), String> {
    serve(bind, &Answer::new(says)).map_err(|error| format!("{bind}: {error}"))
}

fn serve(bind: SocketAddr, answer: &Answer) -> io::Result<()> {
    let listener = TcpListener::bind(bind)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut lines: Vec<Option<Line>> = Vec::new();
    let (mut events, mut scratch) = (Vec::with_capacity(EVENTS_MAX), vec![0; READ_BYTES]);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let place = { event.data }.u64();
            if place == LISTENER {
                let (socket, _) = listener.accept()?;
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                let data = EventData::new_u64(lines.len() as u64);
                epoll::add(&epoll, &socket, data, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
                let (input, output) = (BytesMut::new(), BytesMut::new());
                lines.push(Some(Line { socket, input, output, http2: None }));
                continue;
            }
            let line = &mut lines[place as usize];
            // A peer that left, or that makes no sense, is let go.
            if line.as_mut().is_some_and(|line| line.attend(answer, &mut scratch).is_err()) {
                *line = None;
            }
        }
    }
}

impl Line {
    /// Reads and answers until the socket has no more: epoll tells once.
    fn attend(&mut self, answer: &Answer, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    self.answer(answer)?;
                    // Less than there was room for: nothing is left.
                    if count < scratch.len() {
                        return self.flush();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        if self.http2.is_none() && self.input.starts_with(frames::PREFACE) {
            self.input.advance(frames::PREFACE.len());
            self.http2 = Some(Http2 { window: WINDOW, waiting: VecDeque::new(), received: 0 });
            frames::put_settings(
                &[(frames::MAX_CONCURRENT_STREAMS, STREAMS_MAX), (frames::INITIAL_WINDOW_SIZE, 1 << 20)],
                &mut self.output,
            );
            frames::put_window_update(0, (i32::MAX as u32) - 65_535, &mut self.output);
        }
        match &mut self.http2 {
            Some(http2) => http2.answer(&mut self.input, &mut self.output, answer),
            None => {
                while let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                    self.input.advance(end + 4);
                    self.output.extend_from_slice(&answer.http1);
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Http2 {
    fn answer(&mut self, input: &mut BytesMut, out: &mut BytesMut, answer: &Answer) -> io::Result<()> {
        while let Some(Frame { kind, flags, stream, length }) =
            frames::next(input).map_err(io::Error::other)?
        {
            let payload = &input[..length];
            match kind {
                SETTINGS | PING => frames::acknowledge(kind, flags, payload, out),
                WINDOW_UPDATE if stream == 0 => {
                    let bytes = payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                    self.window += i64::from(bytes);
                }
                DATA => {
                    self.received += length as u64;
                    if self.received > REFILL {
                        frames::put_window_update(0, self.received as u32, out);
                        self.received = 0;
                    }
                }
                _ => {}
            }
            input.advance(length);
            if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                self.waiting.push_back(stream);
            }
        }
        while self.window >= answer.body.len() as i64
            && let Some(stream) = self.waiting.pop_front()
        {
            self.window -= answer.body.len() as i64;
            frames::put(HEADERS, END_HEADERS, stream, &answer.block, out);
            match &answer.trailers {
                None => frames::put(DATA, END_STREAM, stream, &answer.body, out),
                Some(trailers) => {
                    frames::put(DATA, 0, stream, &answer.body, out);
                    frames::put(HEADERS, END_HEADERS | END_STREAM, stream, trailers, out);
                }
            }
        }
        Ok(())
    }
}

impl Answer {
    fn new(says: Says) -> Self {
        let content_type = match says {
            Says::Body => "application/json",
            Says::Grpc => "application/grpc",
        };
        let mut http1 = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {BODY_BYTES}\r\n\
             server: light\r\n\r\n"
        )
        .into_bytes();
        http1.resize(http1.len() + BODY_BYTES, b'x');
        // `:status: 200`, then literals without indexing by names of the static table (RFC 7541, appendix A).
        let mut block = vec![0x88];
        put_literal(&mut block, 31, content_type);
        put_literal(&mut block, 54, "light");
        let mut body = vec![b'x'; BODY_BYTES];
        let trailers = match says {
            Says::Body => {
                put_literal(&mut block, 28, &BODY_BYTES.to_string());
                None
            }
            Says::Grpc => {
                let prefix = (BODY_BYTES as u32).to_be_bytes();
                body.splice(..0, [0].into_iter().chain(prefix));
                Some([&[0x00, 11], &b"grpc-status"[..], &[1, b'0']].concat())
            }
        };
        Self { http1, block, body, trailers }
    }
}

/// A name of the static table, 15 or more, and a value.
fn put_literal(block: &mut Vec<u8>, name: u8, value: &str) {
    block.extend_from_slice(&[0x0f, name - 15, value.len() as u8]);
    block.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_wait_for_the_connections_window() {
        let answer = Answer::new(Says::Body);
        let mut http2 = Http2 { window: 1500, waiting: VecDeque::new(), received: 0 };
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        for stream in [1, 3] {
            frames::put(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82], &mut input);
        }
        http2.answer(&mut input, &mut out, &answer).unwrap();
        assert_eq!((http2.window, &http2.waiting), (476, &VecDeque::from([3])));
        frames::put_window_update(0, 1000, &mut input);
        http2.answer(&mut input, &mut out, &answer).unwrap();
        assert!(http2.waiting.is_empty());
    }

    #[test]
    fn the_header_block_is_what_a_decoder_reads() {
        let answer = Answer::new(Says::Grpc);
        let mut decoder = towline_protocols::hpack::Decoder::new(
            towline_protocols::hpack::StaticTable::rfc7541(),
            4096,
            4096,
        );
        let fields = decoder.decode(&answer.block).unwrap();
        let texts: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(&field.value)).collect();
        assert_eq!(texts, ["200", "application/grpc", "light"]);
    }
}
