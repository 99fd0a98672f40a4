//! What a backend answers, in JSON and in protobuf. What cannot be read is no answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;

use super::Failure;
use crate::{access::Claims, auth::DenyReason, proto::auth as proto};

/// Of what a backend says to a client; a reason string has to fit beside it into a small packet.
const TEXT_CHARS_MAX: usize = 128;
/// As of names in a password file.
const USER_BYTES_MAX: usize = 1024;
/// Seconds beyond are no date (the year 9999).
const SECONDS_MAX: u64 = 253_402_300_799;

/// An answer, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub verdict: Verdict,
    /// How long it may be kept, as its backend has it.
    pub(super) keep: Option<Duration>,
}

/// What a backend says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow(Arc<Allowed>),
    /// It may not, and why.
    Deny(DenyReason, Option<Arc<str>>),
    /// Another is to decide.
    NotMine,
}

/// Who a client is that may connect. Nothing where the question was another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `None`: the one that it says it is.
    pub user: Option<Arc<str>>,
    /// What is known of it.
    pub claims: Option<Arc<Claims>>,
    /// When its connection ends.
    pub until: Option<SystemTime>,
}

#[derive(Deserialize)]
struct Said {
    verdict: Word,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    claims: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    expires_at_s: u64,
    #[serde(default)]
    keep_s: Option<u32>,
    #[serde(default)]
    reason: Reason,
    #[serde(default)]
    text: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Allow,
    Deny,
    NotMine,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    #[default]
    BadCredentials,
    NotAuthorized,
    ClientId,
    Banned,
    Busy,
}

impl Answer {
    /// Reads JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Failure> {
        // What serde says of an error quotes the answer, which may repeat the question.
        let said: Said = serde_json::from_slice(json).map_err(|_| Failure::of("unreadable answer"))?;
        let reason = match said.reason {
            Reason::BadCredentials => DenyReason::Credentials,
            Reason::NotAuthorized => DenyReason::NotAuthorized,
            Reason::ClientId => DenyReason::ClientId,
            Reason::Banned => DenyReason::Banned,
            Reason::Busy => DenyReason::Busy,
        };
        let claims = Claims::of(&said.claims);
        let keep = said.keep_s;
        Self::new(said.verdict, said.user, claims, said.expires_at_s, keep, (reason, &said.text))
    }

    pub(super) fn of_connect(reply: proto::ConnectReply) -> Result<Self, Failure> {
        use proto::Reason;
        let word = word(reply.verdict())?;
        let reason = match reply.reason() {
            Reason::Unspecified | Reason::BadCredentials => DenyReason::Credentials,
            Reason::NotAuthorized => DenyReason::NotAuthorized,
            Reason::ClientId => DenyReason::ClientId,
            Reason::Banned => DenyReason::Banned,
            Reason::Busy => DenyReason::Busy,
        };
        let claims = Claims::of_lists(reply.claims.into_iter().map(|(name, values)| (name, values.values)));
        Self::new(word, reply.user, claims, reply.expires_at_s, reply.keep_s, (reason, &reply.text))
    }

    pub(super) fn of_access(reply: proto::AccessReply) -> Result<Self, Failure> {
        let word = word(reply.verdict())?;
        Self::new(word, None, Claims::default(), 0, reply.keep_s, (DenyReason::NotAuthorized, ""))
    }

    fn new(
        word: Word,
        user: Option<String>,
        claims: Claims,
        expires_at_s: u64,
        keep_s: Option<u32>,
        (reason, text): (DenyReason, &str),
    ) -> Result<Self, Failure> {
        if user.as_ref().is_some_and(|user| user.is_empty() || user.len() > USER_BYTES_MAX) {
            return Err(Failure::of("unusable user"));
        }
        let until = match expires_at_s {
            0 => None,
            seconds if seconds > SECONDS_MAX => return Err(Failure::of("unusable expires_at_s")),
            seconds => Some(UNIX_EPOCH + Duration::from_secs(seconds)),
        };
        let verdict = match word {
            Word::Allow => Verdict::Allow(Arc::new(Allowed {
                user: user.map(Into::into),
                claims: (!claims.is_empty()).then(|| Arc::new(claims)),
                until,
            })),
            Word::Deny => Verdict::Deny(reason, shown(text)),
            Word::NotMine => Verdict::NotMine,
        };
        Ok(Self { verdict, keep: keep_s.map(|seconds| Duration::from_secs(seconds.into())) })
    }
}

fn word(verdict: proto::Verdict) -> Result<Word, Failure> {
    match verdict {
        proto::Verdict::Allow => Ok(Word::Allow),
        proto::Verdict::Deny => Ok(Word::Deny),
        proto::Verdict::NotMine => Ok(Word::NotMine),
        proto::Verdict::Unspecified => Err(Failure::of("answer without a verdict")),
    }
}

/// What of a text goes to clients and logs: a line of it.
fn shown(text: &str) -> Option<Arc<str>> {
    let line: String = text.chars().filter(|char| !char.is_control()).take(TEXT_CHARS_MAX).collect();
    (!line.is_empty()).then(|| line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_allows_nobody() {
        for json in [
            "",
            "[]",
            "{}",
            "true",
            "{\"verdict\":\"yes\"}",
            "{\"verdict\":\"Allow\"}",
            "{\"verdict\":1}",
            "{\"verdict\":\"allow\",\"user\":\"\"}",
            "{\"verdict\":\"allow\",\"user\":7}",
            "{\"verdict\":\"allow\",\"expires_at_s\":-1}",
            "{\"verdict\":\"allow\",\"expires_at_s\":1e300}",
            "{\"verdict\":\"allow\",\"expires_at_s\":253402300800}",
            "{\"verdict\":\"allow\"} and more",
        ] {
            assert!(Answer::parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Answer::of_connect(proto::ConnectReply::default()).is_err());
        assert!(Answer::of_access(proto::AccessReply { verdict: 77, keep_s: None }).is_err());
    }

    #[test]
    fn a_text_is_one_short_line() {
        let long = "no\r\nway \u{1b}[31m".to_owned() + &"x".repeat(1000);
        let json = serde_json::json!({ "verdict": "deny", "reason": "banned", "text": long });
        let Verdict::Deny(DenyReason::Banned, Some(text)) =
            Answer::parse(json.to_string().as_bytes()).unwrap().verdict
        else {
            panic!("not banned")
        };
        assert!(text.starts_with("noway [31mx") && text.chars().count() == TEXT_CHARS_MAX, "{text}");
    }
}
