//! How a list is read: strictly, since every reader has to see the same list in the same bytes.

use std::net::IpAddr;

use super::{
    ENDPOINT_LIST_BYTES_MAX, ENDPOINTS_MAX, EndpointList, EndpointListError as Error, FIRST_LINE, LIFE_MAX,
    ListSignature, ListedEndpoint, SIGNATURES_MAX, SignedEndpoints,
};

/// Longest DNS name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// As long as `ClientFacts.region` may be.
const REGION_BYTES_MAX: usize = 64;

impl SignedEndpoints {
    /// Reads a list; whoever signed it is still to be checked.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > ENDPOINT_LIST_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::FirstLine)?;
        let mut lines = Lines { rest: text, number: 0 };
        if lines.next() != Some(FIRST_LINE) {
            return Err(Error::FirstLine);
        }
        let serial = lines.number("serial ", "`serial NUMBER` with a number above 0")?;
        let issued_s = lines.number("issued ", "`issued SECONDS`")?;
        let expires_s = lines.number("expires ", "`expires SECONDS`")?;
        if serial == 0 {
            return Err(Error::Line { line: 2, expected: "`serial NUMBER` with a number above 0" });
        }
        if expires_s <= issued_s || expires_s - issued_s > LIFE_MAX.as_secs() {
            return Err(Error::Life);
        }
        let entries = lines.entries()?;
        let signed = 0..text.len() - lines.rest.len();
        let signatures = lines.signatures()?;
        Ok(Self { list: EndpointList { serial, issued_s, expires_s, entries }, signed, signatures })
    }
}

/// The lines, each with one newline behind it.
struct Lines<'t> {
    rest: &'t str,
    number: usize,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let (line, rest) = self.rest.split_once('\n')?;
        (self.rest, self.number) = (rest, self.number + 1);
        Some(line)
    }

    fn number(&mut self, before: &str, expected: &'static str) -> Result<u64, Error> {
        let line = self.next().and_then(|line| line.strip_prefix(before));
        line.and_then(number).ok_or(Error::Line { line: self.number.max(1), expected })
    }

    fn entries(&mut self) -> Result<Vec<ListedEndpoint>, Error> {
        let mut entries: Vec<ListedEndpoint> = Vec::new();
        while self.rest.starts_with("endpoint ") {
            if entries.len() == ENDPOINTS_MAX {
                return Err(Error::TooLarge);
            }
            let entry = self.next().and_then(entry).ok_or(Error::Line {
                line: self.number.max(1),
                expected: "`endpoint HOST:PORT quic,tcp PRIORITY WEIGHT [name=NAME] [region=REGION]`",
            })?;
            let is_same = |other: &ListedEndpoint| (&other.host, other.port) == (&entry.host, entry.port);
            if entries.iter().any(is_same) {
                return Err(Error::Repeated(self.number));
            }
            entries.push(entry);
        }
        if entries.is_empty() { Err(Error::Empty) } else { Ok(entries) }
    }

    fn signatures(&mut self) -> Result<Vec<ListSignature>, Error> {
        let mut signatures = Vec::new();
        while !self.rest.is_empty() {
            if signatures.len() == SIGNATURES_MAX {
                return Err(Error::TooLarge);
            }
            let expected = "`signature KEY SIGNATURE`, in hexadecimal digits, with a newline behind it";
            let line = self.number + 1;
            signatures.push(self.next().and_then(signature).ok_or(Error::Line { line, expected })?);
        }
        if signatures.is_empty() { Err(Error::Unsigned) } else { Ok(signatures) }
    }
}

fn entry(line: &str) -> Option<ListedEndpoint> {
    let mut words = line.strip_prefix("endpoint ")?.split(' ');
    let (host, port) = host_and_port(words.next()?)?;
    let (quic, tcp) = match words.next()? {
        "quic,tcp" => (true, true),
        "quic" => (true, false),
        "tcp" => (false, true),
        _ => return None,
    };
    let priority = number(words.next()?)?.try_into().ok()?;
    let weight = number(words.next()?)?.try_into().ok().filter(|weight| *weight > 0)?;
    let (mut name, mut region) = (None, None);
    for word in words {
        match word.split_once('=')? {
            ("name", value) if name.is_none() && region.is_none() && is_host(value) => {
                name = Some(value.to_owned());
            }
            ("region", value) if region.is_none() && is_region(value) => region = Some(value.to_owned()),
            _ => return None,
        }
    }
    Some(ListedEndpoint { host, port, quic, tcp, priority, weight, name, region })
}

/// `host:port`, `1.2.3.4:port` or `[::1]:port`.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = number(port)?.try_into().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(six) => six.strip_suffix(']').filter(|six| six.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| !host.contains(':') && is_host(host))?,
    };
    Some((host.to_owned(), port))
}

/// A DNS name, or an IP address without brackets.
fn is_host(text: &str) -> bool {
    let is_name = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
    is_name || text.parse::<IpAddr>().is_ok()
}

fn is_region(text: &str) -> bool {
    (1..=REGION_BYTES_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
}

fn signature(line: &str) -> Option<ListSignature> {
    let (key, bytes) = line.strip_prefix("signature ")?.split_once(' ')?;
    Some(ListSignature { key: unhex(key)?, bytes: unhex(bytes)? })
}

/// Digits alone, in their shortest form.
fn number(text: &str) -> Option<u64> {
    let is_plain =
        text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
