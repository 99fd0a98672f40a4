//! Record headers (RFC 8446, section 5.1), and the ClientHello that records carry.

use std::borrow::Cow;

use super::{Alert, client_hello::HELLO_BYTES_MAX};

/// Octets of a record's header.
pub const HEADER_BYTES: usize = 5;
/// The longest content of a record (RFC 8446, section 5.1).
pub const CONTENT_BYTES_MAX: usize = 1 << 14;
/// The longest content of a protected record: the plaintext's type, padding and the AEAD's expansion
/// beside it (RFC 8446, section 5.2).
pub const PROTECTED_BYTES_MAX: usize = CONTENT_BYTES_MAX + 256;
/// The records that a ClientHello may be spread over. One does; clients that cut it for middleboxes' sake
/// make a few.
pub const HELLO_RECORDS_MAX: usize = 32;

/// Content type: change_cipher_spec.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type: alert.
pub const ALERT: u8 = 21;
/// Content type: handshake.
pub const HANDSHAKE: u8 = 22;
/// Content type: application_data, which is also what protected records say outside.
pub const APPLICATION_DATA: u8 = 23;

/// ```text
/// type | 03 03 (legacy_record_version) | length, 2 octets | content
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Content type; for a protected record, [`APPLICATION_DATA`].
    pub content_type: u8,
    /// Octets of content that follow the header.
    pub length: usize,
}

impl Header {
    /// The header that `bytes` begin with; `None` if they are too few. Nothing is checked.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[content_type, _, _, high, low] = bytes.first_chunk::<HEADER_BYTES>()?;
        Some(Self { content_type, length: usize::from(u16::from_be_bytes([high, low])) })
    }

    /// The header's octets, with the version that TLS 1.2 and 1.3 write.
    ///
    /// A length beyond 65535 is cut; no caller has one, as contents end at [`PROTECTED_BYTES_MAX`].
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [high, low] = (self.length as u16).to_be_bytes();
        [self.content_type, 3, 3, high, low]
    }
}

/// Why records do not carry a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another content type than handshake.
    #[error("a record of type {0} stands where a ClientHello is expected")]
    NotHandshake(u8),
    /// A version that never was one of TLS.
    #[error("a record's version is {0:#06x}")]
    Version(u16),
    /// Longer than any record.
    #[error("a record of {0} bytes is longer than {CONTENT_BYTES_MAX}")]
    TooLong(usize),
    /// No content (RFC 8446, section 5.1, forbids such handshake records).
    #[error("a handshake record is empty")]
    Empty,
    /// Spread over more than [`HELLO_RECORDS_MAX`] records.
    #[error("the ClientHello is spread over more than {HELLO_RECORDS_MAX} records")]
    TooManyRecords,
    /// Another message than a ClientHello.
    #[error("a handshake message of type {0} stands where a ClientHello is expected")]
    NotClientHello(u8),
    /// Longer than [`HELLO_BYTES_MAX`].
    #[error("a ClientHello of {0} bytes is longer than {HELLO_BYTES_MAX}")]
    HelloTooLong(usize),
    /// Bytes behind the ClientHello, in its last record.
    #[error("a message follows the ClientHello in its record")]
    Trailing,
}

impl RecordError {
    /// What to tell the peer.
    pub fn alert(self) -> Alert {
        match self {
            Self::NotHandshake(_) | Self::NotClientHello(_) | Self::Empty | Self::Trailing => {
                Alert::UnexpectedMessage
            }
            Self::Version(_) => Alert::ProtocolVersion,
            Self::TooLong(_) => Alert::RecordOverflow,
            Self::TooManyRecords | Self::HelloTooLong(_) => Alert::DecodeError,
        }
    }
}

/// The ClientHello that a connection's first `bytes` carry, with its four octets of header: borrowed if one
/// record holds it, joined otherwise. `None` while there are too few bytes. What is in it remains to be
/// parsed; what follows its last record is left alone.
///
/// # Errors
/// The bytes so far cannot become an acceptable ClientHello.
pub fn hello_from_records(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, RecordError> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = bytes;
    for _ in 0..HELLO_RECORDS_MAX {
        let Some(header) = hello_header(rest)? else { return Ok(None) };
        let end = rest.len().min(HEADER_BYTES + header.length);
        append(&mut message, &rest[HEADER_BYTES..end]);
        let whole = hello_bytes(&message)?;
        if end < HEADER_BYTES + header.length {
            return Ok(None);
        }
        match whole {
            Some(whole) if message.len() > whole => return Err(RecordError::Trailing),
            Some(whole) if message.len() == whole => return Ok(Some(message)),
            _ => rest = &rest[end..],
        }
    }
    Err(RecordError::TooManyRecords)
}

/// The header of a record that may carry a ClientHello, or a part of one.
fn hello_header(bytes: &[u8]) -> Result<Option<Header>, RecordError> {
    if let Some(&content_type) = bytes.first()
        && content_type != HANDSHAKE
    {
        return Err(RecordError::NotHandshake(content_type));
    }
    let Some(header) = Header::read(bytes) else { return Ok(None) };
    // "MUST be ignored for all purposes" (RFC 8446, section 5.1), which means the minor version; TLCP
    // (GB/T 38636) alone has another major one.
    const TLCP: u16 = 0x0101;
    let version = u16::from_be_bytes([bytes[1], bytes[2]]);
    match header.length {
        _ if version >> 8 != 3 && version != TLCP => Err(RecordError::Version(version)),
        0 => Err(RecordError::Empty),
        length if length > CONTENT_BYTES_MAX => Err(RecordError::TooLong(length)),
        _ => Ok(Some(header)),
    }
}

/// How long the message that `message` begins will be, with its header.
fn hello_bytes(message: &[u8]) -> Result<Option<usize>, RecordError> {
    const CLIENT_HELLO: u8 = 1;
    if let Some(&message_type) = message.first()
        && message_type != CLIENT_HELLO
    {
        return Err(RecordError::NotClientHello(message_type));
    }
    let Some(&[_, a, b, c]) = message.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > HELLO_BYTES_MAX {
        return Err(RecordError::HelloTooLong(length));
    }
    Ok(Some(4 + length))
}

fn append<'a>(message: &mut Cow<'a, [u8]>, fragment: &'a [u8]) {
    if message.is_empty() {
        *message = Cow::Borrowed(fragment);
    } else {
        message.to_mut().extend_from_slice(fragment);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(content: &[u8]) -> Vec<u8> {
        let mut record = Header { content_type: HANDSHAKE, length: content.len() }.encode().to_vec();
        record.extend_from_slice(content);
        record
    }

    fn message(length: usize) -> Vec<u8> {
        let mut message = (length as u32).to_be_bytes().to_vec();
        message[0] = 1;
        message.resize(4 + length, 7);
        message
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header { content_type: APPLICATION_DATA, length: 0x1234 };
        assert_eq!(header.encode(), [23, 3, 3, 0x12, 0x34]);
        assert_eq!(Header::read(&header.encode()), Some(header));
        assert_eq!(Header::read(&header.encode()[..4]), None);
    }

    #[test]
    fn one_record_is_borrowed_and_what_follows_it_left_alone() {
        let mut bytes = record(&message(100));
        bytes.extend_from_slice(b"early data");
        let hello = hello_from_records(&bytes).unwrap().unwrap();
        assert!(matches!(hello, Cow::Borrowed(_)));
        assert_eq!(*hello, message(100));
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: RecordError) {
        assert_eq!(hello_from_records(bytes), Err(expected));
    }

    #[test]
    fn records_that_carry_no_client_hello_are_refused() {
        check(&[23], RecordError::NotHandshake(23));
        check(&[22, 2, 0, 0, 1], RecordError::Version(0x0200));
        check(&[22, 3, 1, 0, 0], RecordError::Empty);
        check(&[22, 3, 1, 0x40, 1], RecordError::TooLong(0x4001));
        check(&record(&[2]), RecordError::NotClientHello(2));
        check(&record(&[1, 0, 0x40, 1]), RecordError::HelloTooLong(0x4001));
        check(&record(&[message(1), vec![0]].concat()), RecordError::Trailing);
        let crumbs: Vec<u8> = message(100).iter().flat_map(|byte| record(&[*byte])).collect();
        check(&crumbs, RecordError::TooManyRecords);
    }

    proptest! {
        #[test]
        fn a_hello_in_any_pieces_is_joined_and_not_before_it_is_whole(
            length in 0usize..5000, cuts in prop::collection::vec(1usize..2000, 0..8),
        ) {
            let whole = message(length);
            let mut rest = &whole[..];
            let mut bytes = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                if !piece.is_empty() {
                    bytes.extend(record(piece));
                }
                rest = after;
            }
            if !rest.is_empty() {
                bytes.extend(record(rest));
            }
            for length in (0..bytes.len()).step_by(37) {
                prop_assert_eq!(hello_from_records(&bytes[..length]), Ok(None));
            }
            prop_assert_eq!(hello_from_records(&bytes).unwrap().unwrap().into_owned(), whole);
        }

        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(&[22, 3, 1, 0, 20, 1]);
            }
            let _ = hello_from_records(&bytes);
        }
    }
}
