//! One token: taken apart, and verified.

use std::{
    str,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use serde_json::{Map, Value};

use super::key::{Algorithm, Fit, KeyMark, KeySet};

/// Issuers' tokens are one or two KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A date beyond is no date (the year 9999).
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// A token in the compact form (RFC 7515, section 3.1), not verified.
pub struct Token<'t> {
    pub(super) algorithm: Algorithm,
    key_id: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// Header and payload as they were signed.
    signed: &'t [u8],
    signature: Vec<u8>,
}

/// Why a token is of no use. The client is not told which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is not a token in the compact form.
    #[error("not a JSON web token")]
    Malformed,
    /// It is signed by an algorithm that is not allowed.
    #[error("an algorithm that is not in auth.jwt.algorithms")]
    Algorithm,
    /// There is no key for it.
    #[error("no key for it is known")]
    UnknownKey,
    /// It was not signed by the key that it names.
    #[error("the signature is wrong")]
    Signature,
    /// It has no end, or it is over.
    #[error("expired, or without `exp`")]
    Expired,
    /// It is for a later time.
    #[error("not valid yet (`nbf`)")]
    Early,
    /// Another issuer's.
    #[error("another issuer (`iss`)")]
    Issuer,
    /// For somebody else.
    #[error("another audience (`aud`)")]
    Audience,
    /// It names no user, or another than the client.
    #[error("no user, or another than the client's")]
    User,
    /// It is another client's.
    #[error("another client's")]
    ClientId,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is none, or one that nobody here can judge.
    pub fn parse(text: &'t [u8]) -> Result<Self, TokenRefused> {
        let malformed = TokenRefused::Malformed;
        let text = str::from_utf8(text).ok().filter(|text| text.len() <= TOKEN_BYTES_MAX).ok_or(malformed)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(malformed)?;
        let object = |part: &str| -> Option<Map<String, Value>> {
            serde_json::from_slice(&BASE64_URL.decode(part).ok()?).ok()
        };
        let header = object(header).ok_or(malformed)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(malformed)?;
        // "If any of the listed extension Header Parameters are not understood and supported by the recipient, then
        // the JWS is invalid" (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(malformed);
        }
        let key_id = match header.get("kid") {
            Some(id) => Some(id.as_str().ok_or(malformed)?.to_owned()),
            None => None,
        };
        Ok(Self {
            algorithm: Algorithm::parse(algorithm).ok_or(TokenRefused::Algorithm)?,
            key_id,
            claims: object(payload).ok_or(malformed)?,
            signed: signed.as_bytes(),
            signature: BASE64_URL.decode(signature).map_err(|_| malformed)?,
        })
    }

    /// Says which key it is signed with.
    pub(super) fn verify<'k>(&self, sets: impl Iterator<Item = &'k KeySet>) -> Result<KeyMark, TokenRefused> {
        let mut refused = TokenRefused::UnknownKey;
        for keys in sets {
            match keys.verify(self.algorithm, self.key_id.as_deref(), self.signed, &self.signature) {
                Fit::Verifies(key) => return Ok(key),
                Fit::Fails => refused = TokenRefused::Signature,
                Fit::None => {}
            }
        }
        Err(refused)
    }

    /// Says until when it is good: its end, and the leeway.
    pub(super) fn check_times(&self, leeway: Duration, now: SystemTime) -> Result<SystemTime, TokenRefused> {
        let ends =
            self.date("exp")?.and_then(|ends| ends.checked_add(leeway)).ok_or(TokenRefused::Expired)?;
        if ends <= now {
            return Err(TokenRefused::Expired);
        }
        match self.date("nbf")? {
            Some(begins) if begins > now + leeway => Err(TokenRefused::Early),
            _ => Ok(ends),
        }
    }

    /// `NumericDate` (RFC 7519, section 2).
    fn date(&self, claim: &str) -> Result<Option<SystemTime>, TokenRefused> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
        let seconds = seconds.ok_or(TokenRefused::Malformed)?;
        Ok(UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds)))
    }
}
