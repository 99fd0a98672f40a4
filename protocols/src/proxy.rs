//! The header of the PROXY protocol, versions 1 and 2: who is at the other end of a connection that a load balancer
//! passes on (haproxy's doc/proxy-protocol.txt, whose sections are named here).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Says who the client is, once the whole header is there; `Ok(None)` wants more bytes. Of what follows the header
/// nothing is looked at.
///
/// # Errors
/// What cannot become a header, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    if begins(bytes, SIGNATURE) {
        return version_2(bytes);
    }
    if begins(bytes, PREFIX) {
        return version_1(bytes);
    }
    Err(ProxyError::Absent)
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address. `None` where the connection's own is meant: the proxy speaks for itself (LOCAL: it looks
    /// whether the server is there), or does not know, or the client has no address of IP.
    pub client: Option<SocketAddr>,
    /// Octets that the header takes.
    pub octets: usize,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes belong to something else.
    #[error("the connection does not begin with a PROXY protocol header")]
    Absent,
    /// The line of version 1 does not end in time.
    #[error("the PROXY line is longer than {LINE_OCTETS_MAX} octets")]
    LineTooLong,
    /// The line of version 1 has another form.
    #[error("the PROXY line is malformed")]
    Line,
    /// Neither version 1 nor 2.
    #[error("PROXY protocol header of unknown version")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("PROXY protocol header with an unknown command")]
    Command,
    /// A family or transport that is not assigned, or that a TCP listener cannot have.
    #[error("PROXY protocol header with a family or transport that TCP connections do not have")]
    Family,
    /// The block of version 2 is longer than is taken.
    #[error("the PROXY protocol header announces {0} octets; {BLOCK_OCTETS_MAX} are taken")]
    TooLong(u16),
    /// The block of version 2 is shorter than its addresses.
    #[error("the PROXY protocol header is shorter than its addresses")]
    TooShort,
    /// An extension of version 2 does not end within the header.
    #[error("the PROXY protocol header's extensions are malformed")]
    Extension,
    /// The checksum is another header's.
    #[error("the PROXY protocol header's CRC32c does not match")]
    Checksum,
}

/// Section 2.1: "the longest possible line", with its end.
pub const LINE_OCTETS_MAX: usize = 107;
/// What version 2 may announce: addresses, and extensions such as names and TLS properties, which are skipped.
pub const BLOCK_OCTETS_MAX: u16 = 4096;
/// A header is no longer than this.
pub const HEADER_OCTETS_MAX: usize = FIXED_OCTETS + BLOCK_OCTETS_MAX as usize;

const PREFIX: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_OCTETS: usize = 16;
const EXTENSION_HEADER_OCTETS: usize = 3;
/// Section 2.2.3.
const PP2_TYPE_CRC32C: u8 = 3;

/// Whether `bytes` begin with `constant`, or may come to.
fn begins(bytes: &[u8], constant: &[u8]) -> bool {
    let count = bytes.len().min(constant.len());
    bytes[..count] == constant[..count]
}

/// ```text
/// PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n      or TCP6, or UNKNOWN and whatever follows
/// ```
fn version_1(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let window = &bytes[..bytes.len().min(LINE_OCTETS_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < LINE_OCTETS_MAX { Ok(None) } else { Err(ProxyError::LineTooLong) };
    };
    let line = str::from_utf8(&window[..end]).map_err(|_| ProxyError::Line)?;
    let octets = end + 2;
    let mut fields = line.split(' ').skip(1);
    let client = match fields.next() {
        // "The receiver must ignore anything presented before the CRLF is found."
        Some("UNKNOWN") => return Ok(Some(Header { client: None, octets })),
        Some("TCP4") => addresses::<Ipv4Addr>(&mut fields),
        Some("TCP6") => addresses::<Ipv6Addr>(&mut fields),
        _ => None,
    };
    let client = client.filter(|_| fields.next().is_none()).ok_or(ProxyError::Line)?;
    Ok(Some(Header { client: Some(client), octets }))
}

/// Source and destination addresses, source and destination ports; the source is wanted, all are checked.
fn addresses<'l, A>(fields: &mut impl Iterator<Item = &'l str>) -> Option<SocketAddr>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let source: A = fields.next()?.parse().ok()?;
    let _destination: A = fields.next()?.parse().ok()?;
    let source_port = port(fields.next()?)?;
    port(fields.next()?)?;
    Some(SocketAddr::new(source.into(), source_port))
}

/// Decimal without a leading zero.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    digits.then(|| text.parse().ok())?
}

/// ```text
/// signature, 12 octets | version 2, command | family, transport | length, 2 octets | addresses | extensions
/// ```
fn version_2(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(fixed) = bytes.get(..FIXED_OCTETS) else {
        // What is there already is checked, so that nonsense is not waited for.
        return match bytes.get(SIGNATURE.len()) {
            Some(version) if version >> 4 != 2 => Err(ProxyError::Version),
            _ => Ok(None),
        };
    };
    if fixed[12] >> 4 != 2 {
        return Err(ProxyError::Version);
    }
    let length = u16::from_be_bytes([fixed[14], fixed[15]]);
    if length > BLOCK_OCTETS_MAX {
        return Err(ProxyError::TooLong(length));
    }
    let octets = FIXED_OCTETS + usize::from(length);
    let Some(header) = bytes.get(..octets) else { return Ok(None) };
    let client = match fixed[12] & 0xf {
        // "The receiver must accept this connection as valid and must use the real connection endpoints."
        0 => None,
        1 => proxied(fixed[13], header)?,
        _ => return Err(ProxyError::Command),
    };
    Ok(Some(Header { client, octets }))
}

fn proxied(family_and_transport: u8, header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let block = &header[FIXED_OCTETS..];
    let (client, taken) = match family_and_transport {
        0x00 => (None, 0),
        0x11 => (Some(ipv4(block)?), 12),
        0x21 => (Some(ipv6(block)?), 36),
        // A stream of the UNIX family: two paths of 108 octets.
        0x31 => (None, 216),
        _ => return Err(ProxyError::Family),
    };
    if block.len() < taken {
        return Err(ProxyError::TooShort);
    }
    check_extensions(header, FIXED_OCTETS + taken)?;
    Ok(client)
}

fn ipv4(block: &[u8]) -> Result<SocketAddr, ProxyError> {
    let Some((&[a, b, c, d, _, _, _, _, high, low, _, _], _)) = block.split_first_chunk() else {
        return Err(ProxyError::TooShort);
    };
    Ok(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
}

fn ipv6(block: &[u8]) -> Result<SocketAddr, ProxyError> {
    let (source, rest) = block.split_first_chunk::<16>().ok_or(ProxyError::TooShort)?;
    let (_destination, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::TooShort)?;
    let Some((&[high, low, _, _], _)) = rest.split_first_chunk() else { return Err(ProxyError::TooShort) };
    Ok(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([high, low])))
}

/// Walks over the extensions from octet `at` on; a checksum among them is compared.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + EXTENSION_HEADER_OCTETS) else {
            return Err(ProxyError::Extension);
        };
        let begin = at + EXTENSION_HEADER_OCTETS;
        let end = begin + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(begin..end).ok_or(ProxyError::Extension)?;
        if kind == PP2_TYPE_CRC32C {
            let said = value.try_into().map(u32::from_be_bytes).map_err(|_| ProxyError::Extension)?;
            // "The receiver … must calculate the CRC32c … with the checksum field replaced by zeros."
            let parts = header[..begin].iter().chain(&[0; 4]).chain(&header[end..]);
            if crc32c(parts.copied()) != said {
                return Err(ProxyError::Checksum);
            }
        }
        at = end;
    }
    Ok(())
}

/// RFC 9260, appendix A (Castagnoli), bit by bit: a header has a few hundred octets.
fn crc32c(octets: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut remainder = u32::MAX;
    for octet in octets {
        remainder ^= u32::from(octet);
        for _ in 0..8 {
            remainder = if remainder & 1 == 1 { (remainder >> 1) ^ POLYNOMIAL } else { remainder >> 1 };
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every beginning of `header` wants more, and the whole of it names `client`, whatever follows.
    #[track_caller]
    fn check(header: &[u8], client: Option<&str>) {
        let client = client.map(|client| client.parse().unwrap());
        for length in 0..header.len() {
            assert_eq!(parse(&header[..length]), Ok(None), "{length} octets");
        }
        let expected = Ok(Some(Header { client, octets: header.len() }));
        assert_eq!(parse(header), expected);
        assert_eq!(parse(&[header, b"\x16\x03\x01\r\n"].concat()), expected);
    }

    #[track_caller]
    fn check_refused(header: &[u8], error: ProxyError) {
        assert_eq!(parse(header), Err(error), "{}", header.escape_ascii());
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, block].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xc7, 0x38, 1, 0xbb];

    #[test]
    fn version_1_names_the_client() {
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n", Some("192.0.2.7:51000"));
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n", Some("[2001:db8::7]:51000"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff:f 1 2 whatever\r\n", None);
    }

    #[test]
    fn version_1_is_checked_to_the_letter() {
        for line in [
            &b"PROXY TCP4 192.0.2.7 198.51.100.1 51000\r\n"[..],
            b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443 \r\n",
            b"PROXY TCP4  192.0.2.7 198.51.100.1 51000 443\r\n",
            b"PROXY TCP4 192.0.2.07 198.51.100.1 51000 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 051000 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +5100 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 51000 443\r\n",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 51000 443\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 51000 443\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4 \xff 198.51.100.1 51000 443\r\n",
        ] {
            check_refused(line, ProxyError::Line);
        }
    }

    #[test]
    fn version_1_ends_within_107_octets() {
        let line = |length: usize| [b"PROXY UNKNOWN ", &vec![b'x'; length - 16][..], b"\r\n"].concat();
        check(&line(LINE_OCTETS_MAX), None);
        check_refused(&line(LINE_OCTETS_MAX + 1), ProxyError::LineTooLong);
    }

    #[test]
    fn version_2_names_the_client() {
        check(&v2(1, 0x11, V4), Some("192.0.2.7:51000"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 7;
        v6[32..34].copy_from_slice(&[0xc7, 0x38]);
        check(&v2(1, 0x21, &v6), Some("[2001:db8::7]:51000"));
    }

    #[test]
    fn version_2_may_mean_the_connection_itself() {
        check(&v2(0, 0x00, b""), None);
        check(&v2(0, 0x11, V4), None);
        // The family of LOCAL is not looked at.
        check(&v2(0, 0x99, b"anything"), None);
        check(&v2(1, 0x00, b""), None);
        check(&v2(1, 0x31, &[b'/'; 216]), None);
    }

    #[test]
    fn version_2_refuses_what_is_not_assigned() {
        let mut other = v2(1, 0x11, V4);
        other[12] = 0x11;
        check_refused(&other, ProxyError::Version);
        check_refused(&other[..13], ProxyError::Version);
        check_refused(&v2(2, 0x11, V4), ProxyError::Command);
        for family in [0x01, 0x12, 0x22, 0x41, 0x13] {
            check_refused(&v2(1, family, V4), ProxyError::Family);
        }
        check_refused(&v2(1, 0x11, &V4[..11]), ProxyError::TooShort);
        check_refused(&v2(1, 0x21, &[0; 35]), ProxyError::TooShort);
        check_refused(&v2(1, 0x31, &[0; 215]), ProxyError::TooShort);
    }

    #[test]
    fn the_length_is_refused_before_what_it_announces_is_there() {
        let announced = [&SIGNATURE[..], &[0x21, 0x11, 0x10, 0x01]].concat();
        check_refused(&announced, ProxyError::TooLong(4097));
        check(&v2(0, 0, &[0; BLOCK_OCTETS_MAX as usize]), None);
    }

    #[test]
    fn extensions_are_skipped_when_they_are_whole() {
        let with = |extensions: &[u8]| v2(1, 0x11, &[V4, extensions].concat());
        check(&with(b"\x02\0\x05a.org\x04\0\0"), Some("192.0.2.7:51000"));
        for extensions in [&b"\x02"[..], b"\x02\0", b"\x02\0\x02a", b"\x03\0\x03abc"] {
            check_refused(&with(extensions), ProxyError::Extension);
        }
    }

    #[test]
    fn the_checksum_covers_the_header_without_itself() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "the check value of CRC-32C");
        let zeroed = v2(1, 0x11, &[V4, b"\x03\0\x04\0\0\0\0", b"\x02\0\x01a"].concat());
        let sum = crc32c(zeroed.iter().copied()).to_be_bytes();
        let at = zeroed.len() - 8;
        let mut header = zeroed;
        header[at..at + 4].copy_from_slice(&sum);
        check(&header, Some("192.0.2.7:51000"));
        for position in [17, at, header.len() - 1] {
            let mut other = header.clone();
            other[position] ^= 1;
            check_refused(&other, ProxyError::Checksum);
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x10", b"P\0", b"PROXy", b"\r\n\r\n\x01"] {
            check_refused(bytes, ProxyError::Absent);
        }
    }
}
