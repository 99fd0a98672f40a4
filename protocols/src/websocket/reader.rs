//! What a client sends.

use super::{CONTROL_OCTETS_MAX, FIN, LENGTH_16, LENGTH_64, MASKED, Opcode, code};

/// Takes a client's frames apart.
///
/// ```text
///  octet 0: FIN RSV RSV RSV opcode | octet 1: MASK length | 0, 2 or 8: length | 4: masking key | payload
/// ```
#[derive(Debug)]
pub struct Reader {
    message_octets_max: u64,
    /// The frame's header, as far as it has come.
    header: [u8; HEADER_OCTETS_MAX],
    header_octets: u8,
    /// The header is complete: its payload is read.
    in_payload: bool,
    payload_left: u64,
    /// Turned so that its first octet is for the payload's next.
    key: [u8; KEY_OCTETS],
    /// Payload of a control frame, as far as it has come.
    control: Vec<u8>,
    /// Octets of the message whose frames are being read; `None` between messages.
    message_octets: Option<u64>,
    /// What the latest Ping carried that was not taken.
    ping: Option<Vec<u8>>,
    /// The client's Close; nothing is read behind it.
    close: Option<Option<u16>>,
}

/// How a client broke the protocol. The connection is to be closed with its code (section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A rule of RFC 6455.
    #[error("WebSocket protocol error: {0}")]
    Protocol(&'static str),
    /// "If any other type of data frame is received the recipient MUST close the Network Connection" [MQTT-6.0.0-1].
    #[error("a WebSocket text frame, where only binary frames are taken")]
    NotBinary,
    /// A Close gives its reason in something else than UTF-8.
    #[error("the reason of a WebSocket Close is not UTF-8")]
    NotUtf8,
    /// A message is longer than it may be.
    #[error("a WebSocket message is longer than is taken")]
    TooLong,
}

impl Violation {
    /// The status code that says so.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => code::PROTOCOL_ERROR,
            Self::NotBinary => code::UNSUPPORTED,
            Self::NotUtf8 => code::NOT_UTF_8,
            Self::TooLong => code::TOO_BIG,
        }
    }
}

const KEY_OCTETS: usize = 4;
const HEADER_OCTETS_MAX: usize = 2 + 8 + KEY_OCTETS;

impl Reader {
    /// At the beginning of a connection, or between two messages. A message, and so a frame, has at most
    /// `message_octets_max` octets.
    pub fn new(message_octets_max: u64) -> Self {
        Self {
            message_octets_max,
            header: [0; HEADER_OCTETS_MAX],
            header_octets: 0,
            in_payload: false,
            payload_left: 0,
            key: [0; KEY_OCTETS],
            control: Vec::new(),
            message_octets: None,
            ping: None,
            close: None,
        }
    }

    /// Takes octets in and leaves what is data among them at their beginning. Returns how many those are.
    ///
    /// # Errors
    /// What the client did wrong; nothing is to be read after it.
    pub fn handle(&mut self, octets: &mut [u8]) -> Result<usize, Violation> {
        let (mut at, mut kept) = (0, 0);
        while at < octets.len() && self.close.is_none() {
            if !self.in_payload {
                self.handle_header(octets[at])?;
                at += 1;
            } else {
                let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let end = at + left.min(octets.len() - at);
                unmask(&mut octets[at..end], &mut self.key);
                if self.opcode().is_some_and(Opcode::is_control) {
                    self.control.extend_from_slice(&octets[at..end]);
                } else {
                    octets.copy_within(at..end, kept);
                    kept += end - at;
                }
                self.payload_left -= (end - at) as u64;
                at = end;
            }
            if self.in_payload && self.payload_left == 0 {
                self.end_frame()?;
            }
        }
        Ok(kept)
    }

    /// What the latest Ping carried, to be answered by Pong: "an endpoint … MAY elect to send a Pong frame for only
    /// the most recently processed Ping frame" (section 5.5.3).
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// The client's Close, with its status code if it gave one.
    pub fn close(&self) -> Option<Option<u16>> {
        self.close
    }

    /// Whether nothing of a message has come and not its end.
    pub fn is_between_messages(&self) -> bool {
        self.header_octets == 0
            && self.message_octets.is_none()
            && self.close.is_none()
            && self.ping.is_none()
    }

    fn handle_header(&mut self, octet: u8) -> Result<(), Violation> {
        self.header[usize::from(self.header_octets)] = octet;
        self.header_octets += 1;
        match self.header_octets {
            0 | 1 => return Ok(()),
            2 => self.check_beginning()?,
            _ => {}
        }
        let extended = match self.header[1] & !MASKED {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        if usize::from(self.header_octets) < 2 + extended + KEY_OCTETS {
            return Ok(());
        }
        self.begin_payload(extended)
    }

    /// Checks the first two octets as soon as they are there.
    fn check_beginning(&self) -> Result<(), Violation> {
        let [first, second, ..] = self.header;
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("reserved bits are set, and no extension was agreed on"));
        }
        let opcode = self.opcode().ok_or(Violation::Protocol("an unknown opcode"))?;
        if second & MASKED == 0 {
            return Err(Violation::Protocol("a client's frame must be masked"));
        }
        match (opcode, self.message_octets) {
            (Opcode::Text, _) => Err(Violation::NotBinary),
            (Opcode::Binary, Some(_)) => Err(Violation::Protocol("a new message within a message")),
            (Opcode::Continuation, None) => Err(Violation::Protocol("a continuation of nothing")),
            (Opcode::Binary | Opcode::Continuation, _) => Ok(()),
            _ if first & FIN == 0 => Err(Violation::Protocol("a control frame in fragments")),
            _ if usize::from(second & !MASKED) > CONTROL_OCTETS_MAX => {
                Err(Violation::Protocol("a control frame of more than 125 octets"))
            }
            _ => Ok(()),
        }
    }

    fn begin_payload(&mut self, extended: usize) -> Result<(), Violation> {
        let (length, rest) = self.header[2..].split_at(extended);
        let number = length.iter().fold(0, |number: u64, octet| number << 8 | u64::from(*octet));
        self.payload_left = match (extended, number) {
            (0, _) => u64::from(self.header[1] & !MASKED),
            // "The minimal number of bytes MUST be used to encode the length" (section 5.2).
            (2, 0..=125) | (8, 0..=0xffff) => {
                return Err(Violation::Protocol("a length in more octets than it needs"));
            }
            (_, length) if length > i64::MAX as u64 => {
                return Err(Violation::Protocol("the length's most significant bit is set"));
            }
            (_, length) => length,
        };
        self.key.copy_from_slice(&rest[..KEY_OCTETS]);
        if !self.opcode().is_some_and(Opcode::is_control) {
            let message_octets = self.message_octets.unwrap_or(0).saturating_add(self.payload_left);
            if message_octets > self.message_octets_max {
                return Err(Violation::TooLong);
            }
            self.message_octets = Some(message_octets);
        }
        self.in_payload = true;
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), Violation> {
        let control = std::mem::take(&mut self.control);
        match self.opcode() {
            Some(Opcode::Ping) => self.ping = Some(control),
            Some(Opcode::Close) => self.close = Some(status(&control)?),
            // "A response to an unsolicited Pong frame is not expected" (section 5.5.3), and none is asked for.
            Some(Opcode::Pong) | None => {}
            Some(Opcode::Continuation | Opcode::Text | Opcode::Binary) => {
                if self.header[0] & FIN != 0 {
                    self.message_octets = None;
                }
            }
        }
        (self.header_octets, self.in_payload) = (0, false);
        Ok(())
    }

    fn opcode(&self) -> Option<Opcode> {
        Opcode::from_bits(self.header[0] & 0xf)
    }
}

/// The status code of a Close (sections 5.5.1 and 7.4).
fn status(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Violation::Protocol("a Close with half a status code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    // Others are not assigned, or never sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("a Close with a status code that is not to be sent"));
    }
    if str::from_utf8(reason).is_err() {
        return Err(Violation::NotUtf8);
    }
    Ok(Some(code))
}

/// Section 5.3: octet i is combined with octet i mod 4 of the key.
fn unmask(octets: &mut [u8], key: &mut [u8; KEY_OCTETS]) {
    let [a, b, c, d] = *key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = octets.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (octet, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *octet ^= key;
    }
    key.rotate_left(rest.len() % KEY_OCTETS);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = match payload.len() {
            length @ 0..=125 => vec![first, MASKED | length as u8],
            length @ 126..=0xffff => vec![first, MASKED | LENGTH_16, (length >> 8) as u8, length as u8],
            length => [&[first, MASKED | LENGTH_64][..], &(length as u64).to_be_bytes()].concat(),
        };
        frame.extend(KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(octet, key)| octet ^ key));
        frame
    }

    /// What is read of `octets` that come in pieces of `piece`.
    fn read(octets: &[u8], piece: usize, max: u64) -> Result<(Vec<u8>, Reader), Violation> {
        let mut reader = Reader::new(max);
        let mut data = Vec::new();
        for piece in octets.chunks(piece) {
            let mut piece = piece.to_vec();
            let kept = reader.handle(&mut piece)?;
            data.extend_from_slice(&piece[..kept]);
        }
        Ok((data, reader))
    }

    #[track_caller]
    fn check(frames: &[&[u8]], data: &[u8]) -> Reader {
        let octets = frames.concat();
        for piece in 1..octets.len() {
            assert_eq!(read(&octets, piece, 1 << 20).unwrap().0, data, "in pieces of {piece}");
        }
        let (read, reader) = read(&octets, octets.len(), 1 << 20).unwrap();
        assert_eq!(read, data);
        reader
    }

    #[track_caller]
    fn check_refused(octets: &[u8], violation: Violation) {
        for piece in 1..=octets.len() {
            assert_eq!(read(octets, piece, 1000).err(), Some(violation), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_examples_of_section_5_7() {
        let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(0x8a, b"Hello"), pong);
        check(&[&pong], b"");
    }

    #[test]
    fn data_is_a_stream_whatever_its_frames() {
        let reader = check(&[&frame(0x82, b"\x10\x0c\0"), &frame(0x82, b"\x04MQTT")], b"\x10\x0c\0\x04MQTT");
        assert!(reader.is_between_messages());
        let long = vec![7; 70_000];
        let reader = check_some(&[&frame(0x02, b"ab"), &frame(0x00, b""), &frame(0x80, &long)]);
        assert!(reader.is_between_messages());
        assert!(!check(&[&frame(0x02, b"ab")], b"ab").is_between_messages());
        assert!(!check(&[&frame(0x82, b"abc")[..4]], b"").is_between_messages());
    }

    /// Frames that are too long for every length of pieces.
    fn check_some(frames: &[&[u8]]) -> Reader {
        let octets = frames.concat();
        let lengths = [1, 3, 8, 1000, octets.len()];
        let mut read = lengths.map(|piece| read(&octets, piece, 1 << 20).unwrap());
        assert!(read.windows(2).all(|pair| pair[0].0 == pair[1].0));
        assert_eq!(read[0].0.len(), 70_002);
        std::mem::replace(&mut read[4].1, Reader::new(0))
    }

    #[test]
    fn control_frames_stand_within_messages() {
        let mut reader =
            check(&[&frame(0x02, b"a"), &frame(0x89, b"1"), &frame(0x89, b"2"), &frame(0x80, b"b")], b"ab");
        assert_eq!(reader.take_ping().as_deref(), Some(&b"2"[..]), "the latest");
        assert!(reader.is_between_messages());
    }

    #[test]
    fn nothing_is_read_behind_a_close() {
        let reader = check(&[&frame(0x82, b"a"), &frame(0x88, b"\x03\xe8bye"), &frame(0x81, b"b")], b"a");
        assert_eq!(reader.close(), Some(Some(1000)));
        assert_eq!(check(&[&frame(0x88, b"")], b"").close(), Some(None));
    }

    #[test]
    fn rules_of_closing() {
        let half = Violation::Protocol("a Close with half a status code");
        check_refused(&frame(0x88, b"\x03"), half);
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            let violation = Violation::Protocol("a Close with a status code that is not to be sent");
            check_refused(&frame(0x88, &code.to_be_bytes()), violation);
        }
        check_refused(&frame(0x88, b"\x03\xe8\xff"), Violation::NotUtf8);
    }

    #[test]
    fn rules_of_frames() {
        let protocol = Violation::Protocol;
        check_refused(&[0x82, 0x01, b'a'], protocol("a client's frame must be masked"));
        let reserved = protocol("reserved bits are set, and no extension was agreed on");
        check_refused(&frame(0xc2, b"a"), reserved);
        check_refused(&frame(0x92, b"a"), reserved);
        check_refused(&frame(0x83, b"a"), protocol("an unknown opcode"));
        check_refused(&frame(0x8b, b"a"), protocol("an unknown opcode"));
        check_refused(&frame(0x81, b"a"), Violation::NotBinary);
        check_refused(&frame(0x80, b"a"), protocol("a continuation of nothing"));
        let within = [frame(0x02, b"a"), frame(0x82, b"b")].concat();
        check_refused(&within, protocol("a new message within a message"));
        check_refused(&frame(0x09, b"a"), protocol("a control frame in fragments"));
        check_refused(&frame(0x89, &[0; 126]), protocol("a control frame of more than 125 octets"));
        let lengths = protocol("a length in more octets than it needs");
        check_refused(&[0x82, 0xfe, 0, 125, 1, 2, 3, 4], lengths);
        check_refused(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], lengths);
        let top = protocol("the length's most significant bit is set");
        check_refused(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], top);
    }

    #[test]
    fn messages_are_bounded_before_they_are_there() {
        assert_eq!(read(&frame(0x82, &[0; 1000]), 9, 1000).unwrap().0.len(), 1000);
        check_refused(&frame(0x82, &[0; 1001])[..8], Violation::TooLong);
        let fragments = [frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat();
        check_refused(&fragments, Violation::TooLong);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(octets in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..20) {
            let whole = read(&octets, octets.len().max(1), 1000);
            let pieces = read(&octets, piece, 1000);
            prop_assert_eq!(whole.as_ref().err(), pieces.as_ref().err());
            if let (Ok((a, x)), Ok((b, y))) = (whole, pieces) {
                prop_assert_eq!(a, b);
                prop_assert_eq!(x.close(), y.close());
            }
        }
    }
}
