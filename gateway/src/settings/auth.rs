//! Who clients are, as the operator says it.

use std::{path::PathBuf, time::Duration};

use http::Uri;

use crate::auth::jwt::Algorithm;

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Lines `user:HASH`: Argon2id, PBKDF2 as mosquitto_passwd writes it, or a SCRAM verifier.
    pub password_file: Option<PathBuf>,
    /// Costly checks of passwords at one time; more wait.
    pub password_checks_max: usize,
    /// Tokens in place of passwords.
    pub jwt: Option<Jwt>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { password_file: None, password_checks_max: 4, jwt: None }
    }
}

/// JSON web tokens, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// The issuer's public keys (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// The same at a URL.
    pub jwks: Option<Jwks>,
    /// A secret that the issuer shares with the gateway, for HS256.
    pub hmac_secret_file: Option<PathBuf>,
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// What `iss` must be; `None` takes any.
    pub issuer: Option<String>,
    /// What `aud` must be or hold one of; empty takes any.
    pub audience: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that must be the client's id.
    pub client_id_claim: Option<String>,
}

impl Default for Jwt {
    fn default() -> Self {
        use Algorithm::{EdDsa, Es256, Ps256, Rs256};
        Self {
            jwks_file: None,
            jwks: None,
            hmac_secret_file: None,
            algorithms: vec![Es256, Rs256, Ps256, EdDsa],
            issuer: None,
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            user_claim: "sub".to_owned(),
            client_id_claim: None,
        }
    }
}

/// Where an issuer's keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    /// `https`, or `http` on loopback.
    pub url: Uri,
    /// Authorities that are trusted there.
    pub ca: Option<PathBuf>,
    /// Time between fetches.
    pub refresh: Duration,
    /// The least time between fetches, whatever keys tokens name, and after one that failed.
    pub refetch_after: Duration,
    /// How long keys are used that could not be fetched again.
    pub age_max: Duration,
}

impl Jwks {
    /// With the default times.
    pub fn new(url: Uri) -> Self {
        Self {
            url,
            ca: None,
            refresh: Duration::from_secs(3600),
            refetch_after: Duration::from_secs(30),
            age_max: Duration::from_secs(86_400),
        }
    }
}
