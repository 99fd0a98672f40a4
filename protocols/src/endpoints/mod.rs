//! Signed endpoint lists (PROTOCOL.md, section 22): where an operator has clients knock, beside the endpoints that an
//! app was built with. Who signed is for others to check, since there is no cryptography in this crate; until they have,
//! nothing of a list is to be used.

mod parse;
mod text;

#[cfg(test)]
mod tests;

use std::{ops::Range, time::Duration};

use thiserror::Error;

/// The first line; it also keeps what is signed apart from everything else that a key may sign.
const FIRST_LINE: &str = "towline endpoints 1";
/// Longest text, bytes: a phone keeps it, and reads it whole.
pub const ENDPOINT_LIST_BYTES_MAX: usize = 8 * 1024;
/// Most entries.
pub const ENDPOINTS_MAX: usize = 32;
/// Most signatures: of a key and of those that replace it.
pub const SIGNATURES_MAX: usize = 4;
/// Longest life of a list. What was signed for longer could be shown again long after nobody means it any more.
pub const LIFE_MAX: Duration = Duration::from_secs(400 * 86_400);
/// So far ahead of the reader's clock a list may be issued: clocks differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(86_400);
/// Length of a signature (RFC 8032), bytes.
pub const SIGNATURE_BYTES: usize = 64;
/// What names a key: the first bytes of the SHA-256 of its 32 bytes.
pub const KEY_ID_BYTES: usize = 8;

/// A list that somebody has to have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointList {
    /// Rises with each list of an operator; a reader takes no lower one after a higher one.
    pub serial: u64,
    /// When it was signed, seconds since 1970.
    pub issued_s: u64,
    /// It is not used from then on, seconds since 1970.
    pub expires_s: u64,
    /// At least one.
    pub entries: Vec<ListedEndpoint>,
}

/// A place to knock at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEndpoint {
    /// DNS name or IP address.
    pub host: String,
    /// Port of TCP and UDP alike.
    pub port: u16,
    /// It takes QUIC.
    pub quic: bool,
    /// It takes TCP.
    pub tcp: bool,
    /// The lowest is tried first.
    pub priority: u16,
    /// Of those of one priority, each comes first as often as its weight says; at least 1.
    pub weight: u16,
    /// What its certificate names; `None`: `host`.
    pub name: Option<String>,
    /// For clients of this region rather than for others.
    pub region: Option<String>,
}

/// A list as it was read: nobody knows yet whether it is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEndpoints {
    list: EndpointList,
    signed: Range<usize>,
    signatures: Vec<ListSignature>,
}

/// One signature of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSignature {
    /// Whose.
    pub key: [u8; KEY_ID_BYTES],
    /// Ed25519 (RFC 8032).
    pub bytes: [u8; SIGNATURE_BYTES],
}

/// Why a text is no endpoint list.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointListError {
    /// It does not begin as one.
    #[error("an endpoint list begins with the line `{FIRST_LINE}`")]
    FirstLine,
    /// More bytes, entries or signatures than allowed.
    #[error(
        "an endpoint list has at most {ENDPOINT_LIST_BYTES_MAX} bytes, {ENDPOINTS_MAX} endpoints and \
         {SIGNATURES_MAX} signatures"
    )]
    TooLarge,
    /// A line is not what belongs there.
    #[error("line {line} is not {expected}")]
    Line {
        /// From 1.
        line: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// Nowhere to knock.
    #[error("names no endpoint")]
    Empty,
    /// An endpoint is there twice.
    #[error("line {0} repeats an endpoint")]
    Repeated(usize),
    /// Nobody has signed it.
    #[error("has no signature")]
    Unsigned,
    /// Its times contradict each other.
    #[error("has to expire after it was issued, and within 400 days of that")]
    Life,
}

/// Why a list that was read is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotCurrent {
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// It comes from the future, or the clock is wrong.
    #[error("was issued more than a day ahead of the clock")]
    NotYet,
}

impl EndpointList {
    /// Whether it may be used at `now`, counted from 1970.
    pub fn check_time(&self, now: Duration) -> Result<(), NotCurrent> {
        if now.as_secs() >= self.expires_s {
            return Err(NotCurrent::Expired);
        }
        if Duration::from_secs(self.issued_s) > now + CLOCK_SKEW {
            return Err(NotCurrent::NotYet);
        }
        Ok(())
    }
}

impl ListedEndpoint {
    /// What its certificate has to name.
    pub fn server_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.host)
    }

    /// Where it is, as `host:port`; IPv6 addresses in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl SignedEndpoints {
    /// The list, if `verify` says of one of its signatures that it is one of a trusted key over the bytes that it is shown.
    /// `text` is what was parsed.
    pub fn verified(
        self,
        text: &[u8],
        mut verify: impl FnMut(&ListSignature, &[u8]) -> bool,
    ) -> Option<EndpointList> {
        let message = text.get(self.signed)?;
        self.signatures.iter().any(|signature| verify(signature, message)).then_some(self.list)
    }

    /// The list, for people who are told that nobody has checked it.
    pub fn unverified(&self) -> &EndpointList {
        &self.list
    }

    /// Its signatures.
    pub fn signatures(&self) -> &[ListSignature] {
        &self.signatures
    }
}
