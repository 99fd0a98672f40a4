//! One message, written as JSON and as protobuf: the same fields, so that the two may be compared.

use std::fmt::Write as _;

use prost::{
    bytes::BufMut,
    encoding::{WireType, encode_key, encode_varint},
};

/// A value as an app's schema knows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    Decimal(f64),
    Flag(bool),
    /// The number in protobuf, the name in JSON.
    Choice(u32, &'static str),
    /// Milliseconds since 1970: a varint in protobuf, RFC 3339 in JSON.
    Time(u64),
    Message(Fields),
    List(Vec<Value>),
}

/// The fields of a message: number, name in JSON, value.
pub(super) type Fields = Vec<(u32, &'static str, Value)>;

/// The message as JSON, as a backend's library writes it: no white space, nothing left out.
pub(super) fn json(fields: &Fields) -> String {
    let mut out = String::new();
    put_json_message(fields, &mut out);
    out
}

/// The message as proto3 writes it: zeros, empty texts and `false` are left out.
pub(super) fn protobuf(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, _, value)| put_protobuf(*number, value, &mut out));
    out
}

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

fn put_json_message(fields: &Fields, out: &mut String) {
    out.push('{');
    for (position, (_, name, value)) in fields.iter().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(out, "{comma}\"{name}\":");
        put_json(value, out);
    }
    out.push('}');
}

fn put_json(value: &Value, out: &mut String) {
    let written = match value {
        Value::Text(text) => write!(out, "{}", serde_json::Value::from(text.as_str())),
        Value::Number(number) => write!(out, "{number}"),
        Value::Decimal(number) => write!(out, "{number}"),
        Value::Flag(flag) => write!(out, "{flag}"),
        Value::Choice(_, name) => write!(out, "\"{name}\""),
        Value::Time(ms) => write!(out, "\"{}\"", rfc3339(*ms)),
        Value::Message(fields) => return put_json_message(fields, out),
        Value::List(values) => return put_json_list(values, out),
    };
    debug_assert!(written.is_ok(), "a string takes everything");
}

fn put_json_list(values: &[Value], out: &mut String) {
    out.push('[');
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        put_json(value, out);
    }
    out.push(']');
}

fn put_protobuf(number: u32, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) if !text.is_empty() => put_bytes(number, text.as_bytes(), out),
        Value::Number(count) if *count > 0 => put_varint(number, *count, out),
        Value::Time(ms) => put_varint(number, *ms, out),
        Value::Flag(true) => put_varint(number, 1, out),
        Value::Choice(choice, _) if *choice > 0 => put_varint(number, u64::from(*choice), out),
        Value::Decimal(decimal) if *decimal != 0.0 => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.put_f64_le(*decimal);
        }
        Value::Message(fields) => put_bytes(number, &protobuf(fields), out),
        Value::List(values) => values.iter().for_each(|value| put_protobuf(number, value, out)),
        _ => {}
    }
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

/// `2026-11-05T08:30:12.345Z`. Days become dates by Howard Hinnant's `civil_from_days`.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Fields {
        let inner = vec![(1, "id", text("a\"b")), (2, "on", Value::Flag(true))];
        vec![
            (1, "state", Value::Choice(2, "SENT")),
            (2, "count", Value::Number(300)),
            (3, "at", Value::Time(1_793_867_412_345)),
            (4, "items", Value::List(vec![Value::Message(inner)])),
            (5, "none", Value::Number(0)),
        ]
    }

    #[test]
    fn json_has_every_field() {
        let expected = r#"{"state":"SENT","count":300,"at":"2026-11-05T08:30:12.345Z","items":[{"id":"a\"b","on":true}],"none":0}"#;
        assert_eq!(json(&message()), expected);
    }

    #[test]
    fn protobuf_has_the_wire_format_of_proto3() {
        let expected = b"\x08\x02\x10\xac\x02\x18\xf9\xe6\xd1\xd6\x9a\x34\x22\x07\x0a\x03a\"b\x10\x01";
        assert_eq!(protobuf(&message()), expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_793_867_412_345, "2026-11-05T08:30:12.345Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }
}
