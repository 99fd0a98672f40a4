//! Who clients are, as the operator says it.

use std::{path::PathBuf, sync::Arc, time::Duration};

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
    /// A backend that is asked.
    pub hook: Option<Hook>,
    /// What becomes of clients that are wrong too often.
    pub guesses: Guesses,
    /// Connections that are ended in a second because what vouched for their clients is withdrawn.
    pub ends_per_second_max: usize,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            password_file: None,
            password_checks_max: 4,
            jwt: None,
            hook: None,
            guesses: Guesses::default(),
            ends_per_second_max: 500,
        }
    }
}

/// How often a password may be wrong before no other is looked at for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// Of one user from one address; 0 is no bound.
    pub failures_max: u32,
    /// Of all users from one address (IPv6: /64), which many may share; 0 is no bound.
    pub address_failures_max: u32,
    /// Counted from the first one on for so long.
    pub within: Duration,
    /// How long clients are refused then.
    pub refused_for: Duration,
    /// Users and addresses that are counted; beyond, those that were wrong least recently are forgotten.
    pub entries_max: usize,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            failures_max: 10,
            address_failures_max: 1000,
            within: Duration::from_secs(60),
            refused_for: Duration::from_secs(60),
            entries_max: 100_000,
        }
    }
}

/// A backend that says who clients are, and what they may do. Whom it cannot be asked about is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of a backend that takes requests; one of kind gRPC implements `towline.auth.v1.Auth`.
    pub backend: Arc<str>,
    /// The operator's word that passwords may go to a backend beyond loopback in plaintext.
    pub plaintext: bool,
    /// HTTP only: what stands before `/connect` and `/access`.
    pub path: String,
    /// Asked about clients of listeners that go by certificates, too.
    pub certificates: bool,
    /// From a question to its whole answer, the wait for a place included.
    pub deadline: Duration,
    /// Questions that are with the backend at one time; more wait.
    pub questions_max: usize,
    /// Questions that wait for a place; beyond, clients are refused.
    pub waiting_max: usize,
    /// Answers that are kept; beyond, those that were used least recently go.
    pub cache_entries_max: usize,
    /// How long an answer is kept that allows, at the most; zero keeps none.
    pub allowed_for: Duration,
    /// The same for others.
    pub denied_for: Duration,
}

impl Hook {
    /// With the default bounds.
    pub fn new(backend: &str) -> Self {
        Self {
            backend: backend.into(),
            plaintext: false,
            path: "/towline/auth".to_owned(),
            certificates: false,
            deadline: Duration::from_secs(3),
            questions_max: 256,
            waiting_max: 4096,
            cache_entries_max: 100_000,
            allowed_for: Duration::from_secs(60),
            denied_for: Duration::from_secs(5),
        }
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
