//! Who clients are: users with passwords, SCRAM, which proves a password without showing it, and tokens of an issuer.

mod decoy;
pub mod jwt;
pub mod scram;
mod users;
mod verifier;

use std::{fmt, sync::Arc, time::SystemTime};

pub(crate) use self::users::FINGERPRINT_BYTES;
pub use self::{
    decoy::DecoyKey,
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
    /// Its line in the password file vouches for it: what is remembered of that is void when the line changes.
    pub is_by_password: bool,
}

impl Identity {
    /// Of a user who is known by nothing but the name.
    pub fn of_user(user: Arc<str>) -> Self {
        Self { user: Some(user), ..Self::default() }
    }
}
