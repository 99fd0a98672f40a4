//! Session tokens: a login by password, sealed for the client that made it, so that it opens its session on every
//! gateway that has the keys without its password (PROTOCOL.md, section 20, draws one).
//!
//! A token is bound to a client id and a session's secret, so whoever finds one alone has nothing; and to the
//! line of the password file that it was issued under, so that a changed password or a removed user voids it. Beside a hook
//! there are none: a token holds no password that the hook could be asked about again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use bytes::Bytes;
use prometheus::IntCounterVec;
use towline_protocols::link::Hello;

use crate::{
    auth::{FINGERPRINT_BYTES, Users},
    gateway::StartError,
    key_ring::{self, KeyRing, NextKeys, Purpose, Sealed, Source},
    settings::{Authentication, Settings},
};

/// In `data_dir`, where `[tls] ticket_keys` names no file.
const KEY_FILE: &str = "session-token-keys";
const TIME_BYTES: usize = 4;

/// Issues tokens and opens them.
pub struct SessionTokens {
    keys: KeyRing,
    /// Where own keys may be kept.
    folder: Option<PathBuf>,
    outcomes: IntCounterVec,
}

/// Whom a token names.
pub struct Bearer {
    /// The user who logged in.
    pub user: Arc<str>,
    /// How long the token opens.
    pub left: Duration,
    /// More than half of its life is over: it is time for another.
    pub is_due: bool,
}

/// Why a token is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefused {
    /// `session.token_life` is 0, or there is a hook.
    Off,
    /// Sealed under a key that is not known here.
    Unknown,
    /// Forged, or another client's, or another session's.
    Forged,
    /// Its life is over.
    Expired,
    /// HELLO names another user.
    OtherUser,
    /// The password was changed, or the user removed.
    Revoked,
}

impl SessionTokens {
    /// With the keys of `[tls] ticket_keys`, or own ones, which are kept in `folder` if some listener asks for
    /// passwords. `outcomes` counts tokens by `outcome`.
    ///
    /// # Errors
    /// A file of keys cannot be used; the system has no random numbers.
    pub fn new(
        settings: &Settings,
        folder: Option<&Path>,
        outcomes: IntCounterVec,
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let path = key_file(settings, folder);
        let keys = KeyRing::new(Purpose::SessionToken, source(settings, path.as_deref()), now)?;
        Ok(Self { keys, folder: folder.map(PathBuf::from), outcomes })
    }

    /// What the keys are to become under new settings, or when a file has changed.
    ///
    /// # Errors
    /// As [`SessionTokens::new`]; nothing has changed then.
    pub fn prepare(&self, settings: &Settings, now: SystemTime) -> Result<NextKeys, StartError> {
        let path = key_file(settings, self.folder.as_deref());
        self.keys.prepare(source(settings, path.as_deref()), now)
    }

    /// Puts the keys of [`SessionTokens::prepare`] in force.
    pub fn install(&self, next: NextKeys) {
        self.keys.install(next);
    }

    /// Replaces own keys that are due. May write a file.
    pub fn tend(&self, now: SystemTime) {
        self.keys.tend(now);
    }

    /// How long a token opens that is issued now; zero if none is.
    pub fn life(&self) -> Duration {
        self.keys.life()
    }

    /// A token for the client of `hello`, which is `user`; `None` where there is none to be had.
    pub fn issue(&self, hello: &Hello, user: &str, users: &Users, now: SystemTime) -> Option<Bytes> {
        if self.life().is_zero() {
            return None;
        }
        // Until 2106.
        let issued = u32::try_from(key_ring::seconds(now)).ok()?;
        let fingerprint = users.fingerprint(user)?;
        let content = [&issued.to_be_bytes()[..], &fingerprint, user.as_bytes()].concat();
        let token = self.keys.seal(&context(hello), &content)?;
        self.count("issued");
        Some(token.into())
    }

    /// Who the client of `hello` is by its token.
    ///
    /// # Errors
    /// The token says nothing here; why is counted, and not told.
    pub fn open(&self, hello: &Hello, users: &Users, now: SystemTime) -> Result<Bearer, TokenRefused> {
        let opened = self.look(hello, users, now);
        self.count(match &opened {
            Ok(_) => "opened",
            Err(refused) => refused.label(),
        });
        opened
    }

    fn look(&self, hello: &Hello, users: &Users, now: SystemTime) -> Result<Bearer, TokenRefused> {
        let life = self.life();
        if life.is_zero() {
            return Err(TokenRefused::Off);
        }
        let content = self.keys.open(&context(hello), &hello.token).map_err(|sealed| match sealed {
            Sealed::Unknown => TokenRefused::Unknown,
            Sealed::Forged => TokenRefused::Forged,
        })?;
        let (issued, rest) = content.split_first_chunk::<TIME_BYTES>().ok_or(TokenRefused::Forged)?;
        let (fingerprint, user) =
            rest.split_first_chunk::<FINGERPRINT_BYTES>().ok_or(TokenRefused::Forged)?;
        let user = str::from_utf8(user).map_err(|_| TokenRefused::Forged)?;
        let issued = u32::from_be_bytes(*issued).into();
        let age = key_ring::fresh(issued, life, now).ok_or(TokenRefused::Expired)?;
        if !hello.user.is_empty() && hello.user != user {
            return Err(TokenRefused::OtherUser);
        }
        let current = users.fingerprint(user).ok_or(TokenRefused::Revoked)?;
        verify_slices_are_equal(&current, fingerprint).map_err(|_| TokenRefused::Revoked)?;
        Ok(Bearer { user: user.into(), left: life.saturating_sub(age), is_due: age > life / 2 })
    }

    fn count(&self, outcome: &str) {
        self.outcomes.with_label_values(&[outcome]).inc();
    }
}

impl TokenRefused {
    const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::OtherUser => "other_user",
            Self::Revoked => "revoked",
        }
    }
}

/// What a token is bound to beside its content. HELLO carries both, so neither needs room in the token.
fn context(hello: &Hello) -> Vec<u8> {
    let secret = digest(&SHA256, &hello.session_secret);
    [secret.as_ref(), hello.client_id.as_bytes()].concat()
}

/// Where own keys are kept: where some listener issues tokens.
fn key_file(settings: &Settings, folder: Option<&Path>) -> Option<PathBuf> {
    let asks = |authentication| authentication == Authentication::Password;
    let issues =
        !life(settings).is_zero() && settings.listeners.iter().any(|listener| asks(listener.authentication));
    folder.filter(|_| issues).map(|folder| folder.join(KEY_FILE))
}

fn source<'a>(settings: &'a Settings, kept: Option<&'a Path>) -> Source<'a> {
    Source { shared: settings.tls.ticket_keys.as_deref(), kept, life: life(settings) }
}

/// How long tokens open; zero where there are none.
fn life(settings: &Settings) -> Duration {
    match settings.auth.hook {
        None => settings.session.token_life,
        Some(_) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
