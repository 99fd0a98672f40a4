//! Paths that one side of the gateway could read differently from the other.

use std::borrow::Cow;

/// Whether a path has a segment `.` or `..`, however it is written. A backend that resolves them (RFC 3986, section
/// 5.2.4) would serve another path than the one that routes were matched against. Some do so behind decoding `%2F`,
/// take `\` for `/`, or cut a segment's parameters (`..;x`) off first.
pub(super) fn has_dot_segment(path: &str) -> bool {
    // `None` in a segment that has other characters too.
    let mut dots = Some(0);
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = next_octet(rest) {
        rest = after;
        let is_dots = matches!(dots, Some(1 | 2));
        dots = match byte {
            b'/' | b'\\' if is_dots => return true,
            b';' if is_dots => return true,
            b'/' | b'\\' => Some(0),
            b'.' => dots.map(|dots| dots + 1),
            _ => None,
        };
    }
    matches!(dots, Some(1 | 2))
}

/// The path by which routes are found: without percent-encoding where that means the same (RFC 3986, section 6.2.2),
/// and with one `/` where there are several, as most servers read it. The backend gets what the client wrote.
pub(super) fn normalized(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let encoded = if first == '%' { encoded_octet(rest.as_bytes()) } else { None };
        let taken = match encoded {
            Some(octet) if is_unreserved(octet) => {
                normal.push(char::from(octet));
                3
            }
            Some(_) => {
                normal.push_str(&rest[..3].to_ascii_uppercase());
                3
            }
            None => {
                if first != '/' || !normal.ends_with('/') {
                    normal.push(first);
                }
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(normal)
}

/// RFC 3986, section 2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

/// The first octet of `text`, decoded, and what follows it.
fn next_octet(text: &[u8]) -> Option<(u8, &[u8])> {
    match encoded_octet(text) {
        Some(octet) => Some((octet, &text[3..])),
        None => text.split_first().map(|(first, rest)| (*first, rest)),
    }
}

/// The octet of the percent-encoding that `text` begins with.
fn encoded_octet(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_however_they_are_written() {
        for path in [
            "/a/../b",
            "/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a/%2e/",
            "/a/..%2fb",
            "/a%2F..",
            "/a/..;x/b",
            "/a/..%3bx/b",
            "/a\\..\\b",
            "/a%5c..%5Cb",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in [
            "/",
            "/a.b/c",
            "/a/.../b",
            "/.well-known/x",
            "/a..b",
            "/%2e%2e%2e",
            "//a",
            "/towline.v1.S/M",
            "/a..;x",
            "/a;..",
            "/a%2fb",
            "/%",
            "/%2",
            "/.%zz",
        ] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn what_means_the_same_becomes_the_same() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/%61dmin/%7Ex%2d", "/admin/~x-"),
            ("//a///b/", "/a/b/"),
            ("/a%2fb%3F", "/a%2Fb%3F"),
            ("/%2561", "/%2561"),
            ("/%", "/%"),
            ("/%6", "/%6"),
            ("/%C3%a4/\u{e4}", "/%C3%A4/\u{e4}"),
        ] {
            assert_eq!(normalized(path), expected);
        }
    }
}
