//! Who clients are: users with passwords, SCRAM, which proves a password without showing it, tokens of an issuer, and a
//! backend that is asked.

mod decoy;
mod guesses;
pub mod hook;
pub mod jwt;
pub mod scram;
mod users;
mod verifier;

use std::{fmt, sync::Arc, time::SystemTime};

pub(crate) use self::users::FINGERPRINT_BYTES;
pub use self::{
    decoy::DecoyKey,
    guesses::{Attempt, Guesses, TooMany},
    users::{Checked, PasswordFileError, Users},
    verifier::{Scheme, password_line, password_line_by},
};
use crate::access::Claims;

/// What a client shows of itself.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The id that it wants to have; empty if one is to be chosen for it.
    pub client_id: &'a str,
    /// User name.
    pub user: Option<&'a str>,
    /// Password.
    pub password: &'a [u8],
}

/// The password is nobody's business.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("client_id", &self.client_id).field("user", &self.user).finish()
    }
}

/// A client that is who it says it is, or whose listener does not ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its user, where the listener asks for one.
    pub user: Option<Arc<str>>,
    /// What the issuer of its token says of it.
    pub claims: Option<Arc<Claims>>,
    /// When it has to prove itself anew.
    pub until: Option<SystemTime>,
    /// What vouches for it.
    pub by: By,
}

/// What vouches for who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Nothing: its listener does not ask.
    #[default]
    Nothing,
    /// Its line in the password file: what is remembered of that is void when the line changes.
    PasswordFile,
    /// A token of the issuer, signed with that key.
    Token(jwt::KeyMark),
    /// Its certificate.
    Certificate,
    /// The hook, which remembers that as long as it may; with the name that the client came by, if the hook gave it
    /// another.
    #[allow(clippy::box_collection, reason = "a word less for each connection")]
    Hook(Option<Box<String>>),
}

/// Why a client is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No user, an unknown user, a wrong password or no certificate; which of them is nobody's business.
    #[error("unknown user, wrong password or no certificate")]
    Unauthorized,
    /// The hook said so, with a text for the client.
    #[error("{}", .1.as_deref().unwrap_or(.0.text()))]
    Denied(DenyReason, Option<Arc<str>>),
    /// Wrong passwords were too many before this one, which nobody has looked at.
    #[error("too many wrong passwords: try again later")]
    TooManyGuesses,
    /// Nobody can say now: another attempt may do better.
    #[error("who the client is cannot be found out at the moment: try again later")]
    Unavailable,
}

impl Refusal {
    /// Whether the same credentials may be admitted later.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable | Self::TooManyGuesses | Self::Denied(DenyReason::Busy, _))
    }
}

/// Why the hook denies a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// Unknown user or wrong password.
    Credentials,
    /// Known, and not admitted here.
    NotAuthorized,
    /// It must not have its client id.
    ClientId,
    /// Sent away for good.
    Banned,
    /// It should come back later.
    Busy,
}

impl DenyReason {
    /// For clients, where the hook says nothing of its own.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Credentials => "unknown user or wrong password",
            Self::NotAuthorized => "not admitted here",
            Self::ClientId => "this client id is not the client's",
            Self::Banned => "banned",
            Self::Busy => "too busy: try again later",
        }
    }
}

impl Identity {
    /// Of a user who is known by nothing but the name.
    pub fn of_user(user: Arc<str>) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    /// Of what vouches for such a user.
    pub fn by(by: By, user: Arc<str>) -> Self {
        Self { by, ..Self::of_user(user) }
    }
}
