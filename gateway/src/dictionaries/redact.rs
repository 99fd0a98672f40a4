//! What is blanked in a message before it is kept as a sample: a dictionary is shown to every client.

use serde::de::IgnoredAny;

/// One thing to blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `field:NAME`: the values of all members of this name, at any depth of a JSON message.
    Field(String),
    /// `digits`: runs of six digits or more, as of cards, accounts and telephones.
    Digits,
    /// `emails`: what stands around an `@` without a space.
    Emails,
}

/// A rule that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not field:NAME, digits or emails")]
pub struct InvalidRule(String);

impl std::str::FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        match text {
            "digits" => Ok(Self::Digits),
            "emails" => Ok(Self::Emails),
            _ => match text.strip_prefix("field:") {
                Some(name) if !name.is_empty() => Ok(Self::Field(name.to_owned())),
                _ => Err(InvalidRule(text.to_owned())),
            },
        }
    }
}

/// The message with everything blanked that the rules name; lengths stay, so that it is still typical.
/// `None` where a rule cannot be followed: such a message is no sample.
pub(super) fn redact(mut message: Vec<u8>, rules: &[Rule]) -> Option<Vec<u8>> {
    let fields: Vec<&str> = rules
        .iter()
        .filter_map(|rule| match rule {
            Rule::Field(name) => Some(&**name),
            _ => None,
        })
        .collect();
    if !fields.is_empty() {
        serde_json::from_slice::<IgnoredAny>(&message).ok()?;
        blank_fields(&mut message, &fields);
    }
    if rules.contains(&Rule::Digits) {
        blank_runs(&mut message, DIGITS_MIN, u8::is_ascii_digit, b'0');
    }
    if rules.contains(&Rule::Emails) {
        blank_emails(&mut message);
    }
    Some(message)
}

/// Shorter runs are amounts and years.
const DIGITS_MIN: usize = 6;

/// In place, since the order of members is what a dictionary learns. `message` is valid JSON.
fn blank_fields(message: &mut [u8], fields: &[&str]) {
    let mut at = 0;
    while at < message.len() {
        if message[at] != b'"' {
            at += 1;
            continue;
        }
        let end = string_end(message, at);
        // A name may be written with escapes.
        let name: Option<String> = serde_json::from_slice(&message[at..end]).ok();
        let value = end + message[end..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let is_name = message.get(value) == Some(&b':');
        at = match is_name && name.is_some_and(|name| fields.contains(&&*name)) {
            true => blank_value(message, value + 1),
            false => end,
        };
    }
}

/// Where the string that begins at `start` is over.
fn string_end(message: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < message.len() && message[at] != b'"' {
        at += if message[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(message.len())
}

/// Blanks all texts and numbers of one value, and says where it is over.
fn blank_value(message: &mut [u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while at < message.len() {
        match message[at] {
            b'"' => {
                let end = string_end(message, at);
                message[at + 1..end - 1].fill(b'x');
                at = end;
                // A name within is blanked as well.
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return if depth == 0 { at } else { at + 1 },
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return at,
            byte if byte.is_ascii_digit() => message[at] = b'0',
            _ => {}
        }
        at += 1;
    }
    at
}

fn blank_runs(message: &mut [u8], length_min: usize, belongs: impl Fn(&u8) -> bool, with: u8) {
    let mut start = 0;
    while start < message.len() {
        let length = message[start..].iter().take_while(|byte| belongs(byte)).count();
        if length >= length_min {
            message[start..start + length].fill(with);
        }
        start += length.max(1);
    }
}

fn blank_emails(message: &mut [u8]) {
    let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-@".contains(byte);
    let mut start = 0;
    while start < message.len() {
        let length = message[start..].iter().take_while(|byte| belongs(byte)).count();
        let run = &mut message[start..start + length];
        if run.contains(&b'@') {
            run.iter_mut().filter(|byte| **byte != b'@').for_each(|byte| *byte = b'x');
        }
        start += length.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, rules: &[&str], expected: Option<&str>) {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let redacted = redact(message.into(), &rules);
        assert_eq!(redacted.as_deref(), expected.map(str::as_bytes), "{message}");
    }

    #[test]
    fn fields_digits_and_emails_are_blanked() {
        let json = r#"{"card":{"pan":"4111","exp":7},"list":[{"name":"Ann"}],"sum":12}"#;
        let blanked = r#"{"card":{"xxx":"xxxx","xxx":0},"list":[{"name":"xxx"}],"sum":12}"#;
        check(json, &["field:card", "field:name"], Some(blanked));
        check(
            r#"{"pin": 1234 ,"a":"pin","b":[7]}"#,
            &["field:pin"],
            Some(r#"{"pin": 0000 ,"a":"pin","b":[7]}"#),
        );
        let escaped = r#"{"p\u0069n":"a\"b","on":true,"list":[1]}"#;
        let hidden = r#"{"p\u0069n":"xxxx","on":true,"list":[0]}"#;
        check(escaped, &["field:pin", "field:list"], Some(hidden));
        check("pay 4111111111111111 in 2026", &["digits"], Some("pay 0000000000000000 in 2026"));
        check("to ann@shop.example, please", &["emails"], Some("to xxx@xxxxxxxxxxxx, please"));
        check("as it is", &[], Some("as it is"));
    }

    #[test]
    fn a_message_whose_fields_cannot_be_found_is_no_sample() {
        check("\x08\x07card", &["field:card"], None);
        check(r#"{"card":"#, &["field:card"], None);
    }

    #[test]
    fn rules_are_named() {
        for wrong in ["", "field:", "digit", "email"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
