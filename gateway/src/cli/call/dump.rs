//! Bytes for human eyes: text where it is text, the protobuf wire format where it parses as such, else hex.

use std::fmt::Write as _;

/// Nesting that is followed; deeper bytes are shown as they are.
const DEPTH_MAX: usize = 8;
/// Bytes shown of one value; what is left out is counted.
const SHOWN_BYTES_MAX: usize = 1024;

/// Describes a message of unknown type.
pub fn describe(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(empty)".to_owned();
    }
    // A line of text may parse as fields by accident; a message without any byte below 0x20 is rare.
    if let Some(line) = text(bytes).filter(|_| bytes.iter().all(|byte| *byte >= b' ')) {
        return line;
    }
    match fields(bytes, 0) {
        Some(shown) => shown,
        None => text(bytes).unwrap_or_else(|| hex(bytes)),
    }
}

/// One line for each field, `number: value`, nested messages indented; `None` when `bytes` do not
/// parse to the end as fields of protobuf's wire format.
fn fields(bytes: &[u8], depth: usize) -> Option<String> {
    let mut rest = bytes;
    let mut out = String::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let (number, wire_type) = (key >> 3, key & 7);
        if number == 0 || number > 0x1fff_ffff {
            return None;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        let value = value(&mut rest, wire_type, depth)?;
        let _ = write!(out, "{:indent$}{number}: {value}", "", indent = depth * 2);
    }
    Some(out)
}

/// One value. Groups (3, 4) are not followed: proto3 has none.
fn value(rest: &mut &[u8], wire_type: u64, depth: usize) -> Option<String> {
    match wire_type {
        0 => varint(rest).map(|value| value.to_string()),
        1 => rest.split_off(..8).map(|bytes| format!("0x{}", hex_reversed(bytes))),
        5 => rest.split_off(..4).map(|bytes| format!("0x{}", hex_reversed(bytes))),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Some(delimited(rest.split_off(..length)?, depth))
        }
        _ => None,
    }
}

/// Strings, bytes and nested messages look alike on the wire; text is the likeliest where it is readable.
fn delimited(bytes: &[u8], depth: usize) -> String {
    if let Some(text) = text(bytes) {
        return text;
    }
    match fields(bytes, depth + 1).filter(|_| depth < DEPTH_MAX && !bytes.is_empty()) {
        Some(nested) => format!("{{\n{nested}\n{:indent$}}}", "", indent = depth * 2),
        None => hex(bytes),
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        return None;
    }
    let shown: String = text.chars().take(SHOWN_BYTES_MAX).collect();
    let left = text.len() - shown.len();
    Some(if left == 0 { format!("{shown:?}") } else { format!("{shown:?} and {left} more bytes") })
}

fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let mut out = String::from("hex ");
    shown.iter().for_each(|byte| {
        let _ = write!(out, "{byte:02x}");
    });
    if shown.len() < bytes.len() {
        let _ = write!(out, " and {} more bytes", bytes.len() - shown.len());
    }
    out
}

/// Fixed-width values are little endian on the wire.
fn hex_reversed(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// A varint of protobuf: seven bits a byte, least significant first, ten bytes at the most.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for index in 0..10 {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f).checked_shl(7 * index)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(describe(bytes), expected, "{bytes:?}");
    }

    #[test]
    fn fields_of_a_message() {
        check(b"\x0a\x05hello", "1: \"hello\"");
        check(b"\x08\x96\x01\x12\x00", "1: 150\n2: \"\"");
        check(b"\x1a\x03\x08\x96\x01", "3: {\n  1: 150\n}");
        check(b"\x25\x01\x00\x00\x00", "4: 0x00000001");
    }

    #[test]
    fn what_is_no_message_is_text_or_hex() {
        check(b"", "(empty)");
        check(b"plain words", "\"plain words\"");
        check(&[0xff, 0xfe], "hex fffe");
        check(b"\x0a\x05hell", "hex 0a0568656c6c");
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        let mut message = vec![0x08, 0x01];
        for _ in 0..60 {
            message.insert(0, message.len() as u8);
            message.insert(0, 0x0a);
        }
        let shown = describe(&message);
        assert!(shown.contains("hex"), "the inside is left as it is: {shown}");
        assert!(describe(&[0xff; 5000]).ends_with("and 3976 more bytes"));
    }
}
