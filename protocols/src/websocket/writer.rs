//! What the server sends.

use super::{CONTROL_OCTETS_MAX, FIN, LENGTH_16, LENGTH_64, Opcode};

/// Says what is to be written next: headers and control frames as octets, data by how much of it may follow.
#[derive(Debug, Default)]
pub struct Writer {
    /// Octets to be written: the rest of a control frame, or of a data frame's header.
    head: Vec<u8>,
    /// How much of `head` is written.
    written: usize,
    /// Data that the frame still has to have; `head` is before it.
    data_left: u64,
    /// What a Pong is to carry. A newer one takes its place.
    pong: Option<Vec<u8>>,
    /// A Close is to be sent, with its code.
    close: Option<Option<u16>>,
    /// It is in `head`, or was.
    close_begun: bool,
}

impl Writer {
    /// Answers a Ping as soon as a frame may begin.
    pub fn pong(&mut self, payload: Vec<u8>) {
        self.pong = Some(payload);
    }

    /// Says that nothing follows, as soon as a frame may begin. The first one counts.
    pub fn close(&mut self, code: Option<u16>) {
        self.close.get_or_insert(code);
    }

    /// Whether [`Writer::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.close.is_some()
    }

    /// Whether nothing is to be written.
    pub fn is_idle(&self) -> bool {
        !self.has_head() && self.data_left == 0 && self.pong.is_none() && self.close.is_none()
    }

    /// Whether a data frame is begun whose data has not all been written.
    pub fn is_within_data(&self) -> bool {
        self.data_left > 0
    }

    /// Octets that go before any data, if there are some: of a control frame only, unless a data frame is begun.
    pub fn poll_head(&mut self) -> Option<&[u8]> {
        if !self.has_head() && self.data_left == 0 && !self.close_begun {
            if let Some(payload) = self.pong.take() {
                self.begin_control(Opcode::Pong, &payload);
            } else if let Some(code) = self.close {
                self.close_begun = true;
                let payload = code.map(u16::to_be_bytes);
                self.begin_control(Opcode::Close, payload.as_ref().map_or(&[], |code| &code[..]));
            }
        }
        self.has_head().then(|| &self.head[self.written..])
    }

    /// So many octets of [`Writer::poll_head`] are written.
    pub fn wrote_head(&mut self, octets: usize) {
        self.written += octets;
        if !self.has_head() {
            // A quiet connection owns no buffer.
            (self.head, self.written) = (Vec::new(), 0);
        }
    }

    /// How much of `octets` of data may follow the head. It begins a frame for all of them unless one is begun.
    pub fn poll_data(&mut self, octets: usize) -> usize {
        if self.data_left == 0 && octets > 0 {
            self.data_left = octets as u64;
            self.begin(FIN | Opcode::Binary.bits(), octets);
        }
        octets.min(usize::try_from(self.data_left).unwrap_or(usize::MAX))
    }

    /// So many octets of data are written.
    pub fn wrote_data(&mut self, octets: usize) {
        self.data_left -= octets as u64;
    }

    fn has_head(&self) -> bool {
        self.written < self.head.len()
    }

    fn begin_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let payload = &payload[..payload.len().min(CONTROL_OCTETS_MAX)];
        self.begin(FIN | opcode.bits(), payload.len());
        self.head.extend_from_slice(payload);
    }

    /// "A server MUST NOT mask any frames that it sends to the client" (section 5.1).
    fn begin(&mut self, first: u8, length: usize) {
        self.head.push(first);
        match length {
            0..=125 => self.head.push(length as u8),
            126..=0xffff => {
                self.head.push(LENGTH_16);
                self.head.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                self.head.push(LENGTH_64);
                self.head.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything that there is, `piece` octets at a time.
    fn drain(writer: &mut Writer, mut data: &[u8], piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            if data.is_empty() || writer.is_within_data() || writer.poll_head().is_none() {
                writer.poll_data(data.len());
            }
            if let Some(head) = writer.poll_head() {
                let count = head.len().min(piece);
                out.extend_from_slice(&head[..count]);
                writer.wrote_head(count);
            } else {
                let count = writer.poll_data(data.len()).min(piece);
                if count == 0 {
                    return out;
                }
                out.extend_from_slice(&data[..count]);
                writer.wrote_data(count);
                data = &data[count..];
            }
        }
    }

    #[test]
    fn lengths_take_what_they_need() {
        for (length, head) in [
            (1, &[0x82, 1][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let data = vec![5; length];
            for piece in [1, 1000, 100_000] {
                let written = drain(&mut Writer::default(), &data, piece);
                assert_eq!(written, [head, &data].concat(), "{length} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_pong_waits_for_the_end_of_a_frame_and_a_newer_one_takes_its_place() {
        let mut writer = Writer::default();
        assert_eq!(writer.poll_data(3), 3);
        writer.pong(b"old".to_vec());
        assert_eq!(writer.poll_head(), Some(&[0x82, 3][..]));
        writer.wrote_head(2);
        writer.wrote_data(1);
        writer.pong(b"new".to_vec());
        assert_eq!(writer.poll_head(), None);
        assert_eq!(writer.poll_data(10), 2, "what is left of the frame");
        writer.wrote_data(2);
        assert_eq!(writer.poll_head(), Some(&b"\x8a\x03new"[..]));
        writer.wrote_head(5);
        assert!(writer.is_idle());
    }

    #[test]
    fn a_close_is_the_last_frame() {
        let mut writer = Writer::default();
        writer.close(Some(1002));
        writer.close(Some(1000));
        assert_eq!(drain(&mut writer, b"", 1), b"\x88\x02\x03\xea");
        writer.pong(b"late".to_vec());
        assert_eq!(writer.poll_head(), None);
        assert!(writer.is_closing() && !writer.is_idle());
        let mut writer = Writer::default();
        writer.close(None);
        assert_eq!(drain(&mut writer, b"", 9), b"\x88\0");
    }
}
