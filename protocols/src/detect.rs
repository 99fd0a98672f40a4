//! Which protocol a peer speaks, from the first bytes it sends.

use Detection::{Http1, Http2, Link, Mqtt, NeedMore, Tlcp, Tls, Unknown};

use crate::link::frame::PREFACE;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detection {
    /// A TLS record with a ClientHello.
    Tls,
    /// A TLCP record with a ClientHello (GB/T 38636).
    Tlcp,
    /// The link protocol's TCP preface.
    Link,
    /// An MQTT CONNECT packet.
    Mqtt,
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// The bytes so far begin one of these, and more are needed to say which.
    NeedMore,
    /// None of these, whatever follows.
    Unknown,
}

/// With this many bytes [`detect`] always decides: an empty line, the longest method, a space and the
/// first byte of a target. The other openings are shorter.
pub const DETECT_BYTES_MAX: usize = 2 + METHOD_BYTES_MAX + 2;

/// The HTTP/2 connection preface (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longer than any registered method (the longest is UPDATEREDIRECTREF with 17).
const METHOD_BYTES_MAX: usize = 32;

/// Says which protocol a connection's first bytes belong to.
///
/// An answer other than [`Detection::NeedMore`] is final: more bytes do not change it. It is a guess from
/// a few bytes, no validation; the chosen protocol's parser still has to accept what follows.
pub fn detect(first_bytes: &[u8]) -> Detection {
    match first_bytes.first() {
        None => NeedMore,
        Some(0x16) => detect_tls(first_bytes),
        Some(0xf4) => detect_constant(first_bytes, &PREFACE, Link, Unknown),
        Some(0x10) => detect_mqtt(first_bytes),
        Some(b'P') => match detect_constant(first_bytes, HTTP2_PREFACE, Http2, Unknown) {
            // POST, PUT, PATCH, and whoever says PRI without meaning HTTP/2.
            Unknown => detect_http1(first_bytes),
            decided => decided,
        },
        Some(_) => detect_http1(first_bytes),
    }
}

/// Whether `bytes` begins with `constant`, or may come to.
fn detect_constant(bytes: &[u8], constant: &[u8], whole: Detection, otherwise: Detection) -> Detection {
    if bytes.starts_with(constant) {
        whole
    } else if constant.starts_with(bytes) {
        NeedMore
    } else {
        otherwise
    }
}

/// A record that begins with a ClientHello, of TLS (RFC 8446, sections 5.1 and 4) or of TLCP, whose version
/// is 1.1 (GB/T 38636, sections 6.3.3 and 6.4.5.2):
///
/// ```text
/// 16 | 03 xx or 01 01 | length of the record, 2 octets | 01 ...
/// ```
fn detect_tls(bytes: &[u8]) -> Detection {
    const RECORD_BYTES_MAX: u16 = 1 << 14;
    let plausible = match *bytes {
        [_, major, ..] if major != 3 && major != 1 => false,
        // 3.0 to 3.4: the field says little, as TLS 1.3 freezes it.
        [_, 3, minor, ..] if minor > 4 => false,
        [_, 1, minor, ..] if minor != 1 => false,
        [_, _, _, high, ..] if high > (RECORD_BYTES_MAX >> 8) as u8 => false,
        [_, _, _, high, low, ..] if !(1..=RECORD_BYTES_MAX).contains(&u16::from_be_bytes([high, low])) => {
            false
        }
        [_, _, _, _, _, handshake_type, ..] if handshake_type != 1 => false,
        [_, major, _, _, _, _, ..] => return if major == 3 { Tls } else { Tlcp },
        _ => true,
    };
    if plausible { NeedMore } else { Unknown }
}

/// An MQTT CONNECT packet, up to its protocol name (MQTT 5.0, section 3.1; 3.1 had another name):
///
/// ```text
/// 10 | remaining length, 1-4 octets | 00 04 M Q T T, or 00 06 M Q I s d p
/// ```
fn detect_mqtt(bytes: &[u8]) -> Detection {
    /// The name, its length, the level, flags, keep alive, and an empty client id.
    const REMAINING_LENGTH_MIN: usize = 12;
    const REMAINING_LENGTH_OCTETS_MAX: usize = 4;

    let mut remaining_length = 0;
    for position in 0..REMAINING_LENGTH_OCTETS_MAX {
        let Some(&octet) = bytes.get(1 + position) else { return NeedMore };
        remaining_length |= usize::from(octet & 0x7f) << (7 * position);
        if octet & 0x80 != 0 {
            continue;
        }
        if remaining_length < REMAINING_LENGTH_MIN {
            return Unknown;
        }
        let name = &bytes[2 + position..];
        return match detect_constant(name, b"\0\x04MQTT", Mqtt, Unknown) {
            Unknown => detect_constant(name, b"\0\x06MQIsdp", Mqtt, Unknown),
            decided => decided,
        };
    }
    Unknown
}

/// A request line up to the first byte of its target (RFC 9112, section 3), after at most one empty line
/// (section 2.2).
fn detect_http1(bytes: &[u8]) -> Detection {
    let line = match bytes {
        [b'\r'] => return NeedMore,
        [b'\r', b'\n', line @ ..] => line,
        line => line,
    };
    let method_bytes = line.iter().take_while(|&&byte| is_token_byte(byte)).count();
    if method_bytes > METHOD_BYTES_MAX {
        return Unknown;
    }
    let (method, rest) = line.split_at(method_bytes);
    match *rest {
        [] => NeedMore,
        _ if method.is_empty() => Unknown,
        [b' '] => NeedMore,
        [b' ', target, ..] if begins_target(method, target) => Http1,
        _ => Unknown,
    }
}

/// Origin form, asterisk form and absolute form; for CONNECT, authority form (RFC 9112, section 3.2).
fn begins_target(method: &[u8], byte: u8) -> bool {
    match byte {
        b'/' | b'*' | b'h' | b'H' => true,
        _ => method == b"CONNECT" && (byte.is_ascii_alphanumeric() || byte == b'['),
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `opening` byte by byte: NeedMore until `decided_at` bytes, and from then on `expected`.
    #[track_caller]
    fn check(opening: &[u8], decided_at: usize, expected: Detection) {
        for length in 0..=opening.len() {
            let detection = detect(&opening[..length]);
            assert_eq!(detection, if length < decided_at { NeedMore } else { expected }, "{length} bytes");
        }
        assert!(decided_at <= opening.len(), "the opening is long enough to be decided");
        assert!(decided_at <= DETECT_BYTES_MAX);
    }

    #[test]
    fn tls() {
        check(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 6, Tls);
        check(&[0x16, 3, 3, 0x40, 0, 1], 6, Tls);
        check(&[0x16, 3, 4, 0, 1, 1], 6, Tls);
        check(&[0x16, 2], 2, Unknown);
        check(&[0x16, 3, 5], 3, Unknown);
        check(&[0x16, 3, 1, 0x41], 4, Unknown);
        check(&[0x16, 3, 1, 0x40, 1], 5, Unknown);
        check(&[0x16, 3, 1, 0, 0], 5, Unknown);
        check(&[0x16, 3, 1, 0, 9, 2], 6, Unknown);
    }

    #[test]
    fn tlcp() {
        check(&[0x16, 1, 1, 0, 0x4d, 1, 0, 0, 0x49, 1, 1], 6, Tlcp);
        check(&[0x16, 1, 0], 3, Unknown);
        check(&[0x16, 1, 2], 3, Unknown);
        check(&[0x16, 1, 1, 0x41], 4, Unknown);
        check(&[0x16, 1, 1, 0, 9, 2], 6, Unknown);
    }

    #[test]
    fn link() {
        check(b"\xf4TWL\x01\x05", 4, Link);
        check(b"\xf4TWM", 4, Unknown);
        check(b"\xf4\0", 2, Unknown);
    }

    #[test]
    fn mqtt() {
        check(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", 8, Mqtt);
        check(b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0", 8, Mqtt);
        check(b"\x10\x0e\0\x06MQIsdp\x03\x02\0\x3c\0\0", 10, Mqtt);
        check(b"\x10\xff\xff\xff\x7f\0\x06MQIsdp", 13, Mqtt);
        check(b"\x10\x80\x01\0\x04MQTT", 9, Mqtt);
        check(b"\x10\x0b\0\x04MQTT", 2, Unknown);
        check(b"\x10\xff\xff\xff\xff", 5, Unknown);
        check(b"\x10\x0c\0\x05", 4, Unknown);
        check(b"\x10\x0c\0\x04MQIs", 7, Unknown);
        check(b"\x10\x0c\0\x04mqtt", 5, Unknown);
        check(b"\x30\x0c\0\x04MQTT", 2, Unknown);
    }

    #[test]
    fn http_2() {
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", 24, Http2);
        check(b"PRI * HTTP/2.0\r\n\r\nSN", 20, Http1);
        check(b"PRI * HTTP/1.1\r\n", 12, Http1);
        check(b"PRI /", 5, Http1);
    }

    #[test]
    fn http_1() {
        check(b"GET / HTTP/1.1\r\n", 5, Http1);
        check(b"POST /orders HTTP/1.1\r\n", 6, Http1);
        check(b"PATCH /orders/1 HTTP/1.1\r\n", 7, Http1);
        check(b"OPTIONS * HTTP/1.1\r\n", 9, Http1);
        check(b"GET http://example.com/ HTTP/1.1\r\n", 5, Http1);
        check(b"CONNECT example.com:443 HTTP/1.1\r\n", 9, Http1);
        check(b"CONNECT [::1]:443 HTTP/1.1\r\n", 9, Http1);
        check(b"\r\nGET / HTTP/1.1\r\n", 7, Http1);
        check(b"GET example.com", 5, Unknown);
        check(b"GET  / HTTP/1.1\r\n", 5, Unknown);
        check(b"GET\t/ HTTP/1.1\r\n", 4, Unknown);
        check(b" / HTTP/1.1\r\n", 1, Unknown);
        check(b"\r\n\r\nGET /", 3, Unknown);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", 20, Unknown);
    }

    #[test]
    fn a_method_may_be_as_long_as_the_bound_and_no_longer() {
        let longest = [b"\r\n".to_vec(), vec![b'M'; METHOD_BYTES_MAX], b" /".to_vec()].concat();
        check(&longest, DETECT_BYTES_MAX, Http1);
        check(&[b'M'; METHOD_BYTES_MAX + 1], METHOD_BYTES_MAX + 1, Unknown);
    }

    #[test]
    fn other_protocols_are_unknown() {
        for opening in [&b"\0"[..], b"\x05\x01\0", b"\x80", b"{\"a\":1}", b"\xff\xfb", b"\n"] {
            assert_eq!(detect(opening), Unknown, "{opening:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decided_in_time_and_for_good(
            opening in prop::sample::select(vec![
                &b""[..], b"\x16", b"\x16\x03\x01", b"\x16\x01\x01", b"\xf4TW", b"\x10", b"\x10\x80\x80", b"\x10\x0c\0\x04",
                b"PRI * HTTP/2.0\r\n\r\nSM", b"GET ", b"CONNECT ", b"\r\n",
            ]),
            rest in prop::collection::vec(any::<u8>(), DETECT_BYTES_MAX),
        ) {
            let bytes = [opening, &rest].concat();
            let last = detect(&bytes);
            prop_assert_ne!(last, NeedMore);
            let mut decided = NeedMore;
            for length in 0..=bytes.len() {
                let detection = detect(&bytes[..length]);
                prop_assert!(decided == NeedMore || detection == decided, "flipped at {length}");
                decided = detection;
                prop_assert!(decided != NeedMore || length < DETECT_BYTES_MAX);
            }
        }
    }
}
