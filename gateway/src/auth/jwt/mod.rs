//! JSON Web Tokens (RFC 7519) in place of passwords: signed by an issuer whose keys are in a file or at a URL
//! (RFC 7517).

mod fetch;
mod key;
mod remote;
mod token;

use std::{fs, path::Path, sync::Arc, time::SystemTime};

pub use self::{
    fetch::fetch,
    key::{Algorithm, KeyMark, KeySet},
    remote::Remote,
    token::{Token, TokenRefused},
};
use super::{By, Credentials, Identity};
use crate::{access::Claims, settings};

/// The method's name in MQTT's Authentication Method, as Azure Event Grid has it: the data is the token.
pub const METHOD: &str = "OAUTH2-JWT";
/// A secret for HMAC with SHA-256 has at least as many bytes as the hash (RFC 7518, section 3.2).
const HMAC_SECRET_BYTES_MIN: usize = 32;

/// What tokens are judged by.
pub struct Issuer {
    settings: settings::Jwt,
    /// Of files; those of the URL are [`Remote`]'s.
    keys: KeySet,
}

impl Issuer {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn new(settings: &settings::Jwt) -> Result<Self, String> {
        let mut keys = KeySet::default();
        if let Some(path) = &settings.jwks_file {
            let read = KeySet::parse(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
            keys = read;
        }
        if let Some(path) = &settings.hmac_secret_file {
            let secret = read(path)?;
            let secret = secret.trim_ascii_end();
            if secret.len() < HMAC_SECRET_BYTES_MIN {
                let text = "holds less than 32 bytes, which anybody who has a token could guess";
                return Err(format!("{}: {text}", path.display()));
            }
            keys.add_secret(secret);
        }
        Ok(Self { settings: settings.clone(), keys })
    }

    /// Whether a password is a token rather than a password.
    pub fn is_token(password: &[u8]) -> bool {
        Token::parse(password).is_ok()
    }

    /// Who a token says its bearer is.
    ///
    /// # Errors
    /// Why it is of no use. [`TokenRefused::UnknownKey`] may be otherwise when the remote keys were fetched again.
    pub fn verify(
        &self,
        remote: &Remote,
        credentials: Credentials<'_>,
        now: SystemTime,
    ) -> Result<Identity, TokenRefused> {
        let token = Token::parse(credentials.password)?;
        if !self.settings.algorithms.contains(&token.algorithm) {
            return Err(TokenRefused::Algorithm);
        }
        let fetched = remote.keys(now);
        let keys = [Some(&self.keys), fetched.as_deref()];
        let key = token.verify(keys.into_iter().flatten())?;
        let until = token.check_times(self.settings.leeway, now)?;
        self.check_parties(&token)?;
        let claims = Claims::of(&token.claims);
        let user = claims.one(&self.settings.user_claim).filter(|user| !user.is_empty());
        let user = user.ok_or(TokenRefused::User)?;
        if credentials.user.is_some_and(|said| !said.is_empty() && said != user) {
            return Err(TokenRefused::User);
        }
        if let Some(claim) = &self.settings.client_id_claim
            && claims.one(claim) != Some(credentials.client_id)
        {
            return Err(TokenRefused::ClientId);
        }
        let user = Some(user.into());
        Ok(Identity { user, claims: Some(Arc::new(claims)), until: Some(until), by: By::Token(key) })
    }

    /// Whether nobody would be admitted by a token of that key any more. While keys are not there, nobody can say.
    pub fn has_lost(&self, remote: &Remote, key: KeyMark) -> bool {
        if self.keys.holds(key) {
            return false;
        }
        match remote.keys(SystemTime::now()) {
            Some(fetched) => !fetched.holds(key),
            None => self.settings.jwks.is_none(),
        }
    }

    /// Whether all keys of its files are those of `other` too.
    pub fn keys_are_within(&self, other: &Self) -> bool {
        self.keys.is_within(&other.keys)
    }

    /// Whether tokens are asked for the same as by `other`, and its keys are at the same URL.
    pub fn asks_as(&self, other: &Self) -> bool {
        let asked = |it: &Self| {
            let settings::Jwt { algorithms, issuer, audience, user_claim, client_id_claim, jwks, .. } =
                it.settings.clone();
            (algorithms, issuer, audience, user_claim, client_id_claim, jwks.map(|jwks| jwks.url))
        };
        asked(self) == asked(other)
    }

    fn check_parties(&self, token: &Token) -> Result<(), TokenRefused> {
        let settings::Jwt { issuer, audience, .. } = &self.settings;
        let text = |value: &serde_json::Value, wanted: &String| value.as_str() == Some(wanted);
        if let Some(issuer) = issuer
            && !token.claims.get("iss").is_some_and(|said| text(said, issuer))
        {
            return Err(TokenRefused::Issuer);
        }
        let is_for = |said: &serde_json::Value| match said {
            serde_json::Value::Array(list) => {
                list.iter().any(|each| audience.iter().any(|one| text(each, one)))
            }
            said => audience.iter().any(|one| text(said, one)),
        };
        if !audience.is_empty() && !token.claims.get("aud").is_some_and(is_for) {
            return Err(TokenRefused::Audience);
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
