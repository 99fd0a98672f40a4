//! Users and what is kept of their passwords.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    decoy::DecoyKey,
    scram,
    verifier::{CREDENTIAL_BYTES_MAX, Verifier},
};

/// It need only differ by chance from that of another line of the same user.
pub(crate) const FINGERPRINT_BYTES: usize = 8;
/// How long a client waits for its turn when many passwords are being checked.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The users of a password file. Empty admits nobody.
#[derive(Clone, Default)]
pub struct Users {
    entries: HashMap<String, Verifier>,
    /// Checked in place of an unknown user, so that both take the same time.
    decoy: Verifier,
    /// Iterations and salt length of every line that SCRAM can use, in the order of the file.
    scram_shapes: Vec<(std::num::NonZeroU32, usize)>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is the user's password.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Too many others were being checked for too long.
    NoTurn,
}

impl Users {
    /// Parses lines `user:HASH`; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// The first malformed line and its fault; never its secret.
    pub fn parse(text: &str) -> Result<Self, PasswordFileError> {
        let mut users = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |fault| PasswordFileError { line: index + 1, fault };
            let (user, verifier) = parse_line(line).map_err(fault)?;
            users.decoy = verifier.decoy();
            if let Verifier::Scram(verifier) = &verifier {
                users.scram_shapes.push((verifier.iterations, verifier.salt.len()));
            }
            if users.entries.insert(user.to_owned(), verifier).is_some() {
                return Err(fault("names a user that an earlier line names already"));
            }
        }
        Ok(users)
    }

    /// Whether `password` is the password of `user`; on the caller's thread.
    pub fn check(&self, user: &str, password: &[u8]) -> bool {
        if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
            return false;
        }
        match self.entries.get(user) {
            Some(verifier) => verifier.check(password),
            None => {
                self.decoy.check(password);
                false
            }
        }
    }

    /// [`Users::check`], away from the reactor when the check is long, in one of `places`. `wait` is told that there
    /// was none at once.
    pub async fn verify(
        &self,
        user: &str,
        password: &[u8],
        places: &Arc<Semaphore>,
        wait: impl FnOnce(),
    ) -> Checked {
        let checked = |is_right| if is_right { Checked::Right } else { Checked::Wrong };
        let verifier = self.entries.get(user).unwrap_or(&self.decoy);
        if !verifier.is_costly() {
            return checked(self.check(user, password));
        }
        if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
            return Checked::Wrong;
        }
        let place = match Arc::clone(places).try_acquire_owned() {
            Ok(place) => place,
            Err(_full) => {
                wait();
                let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(places).acquire_owned());
                let Ok(Ok(place)) = turn.await else { return Checked::NoTurn };
                place
            }
        };
        let known = self.entries.contains_key(user);
        let (verifier, password) = (verifier.clone(), password.to_vec());
        // The place is taken until the check is over, whether or not somebody still waits for it.
        let check = tokio::task::spawn_blocking(move || {
            let matches = verifier.check(&password);
            drop(place);
            matches
        });
        checked(check.await.unwrap_or(false) && known)
    }

    /// Whether some user can log in by SCRAM.
    pub fn has_scram(&self) -> bool {
        !self.scram_shapes.is_empty()
    }

    /// What an exchange with `user` goes by, and whether there is such a user. For one who is not there it looks like
    /// that of another, the same each time.
    pub fn scram(&self, user: &str, decoys: &DecoyKey) -> Option<(scram::Verifier, bool)> {
        // Made for those who are there too, so that both take the same time.
        let chance = decoys.derive(user);
        let shape = u64::from_be_bytes(*chance.last_chunk()?) % self.scram_shapes.len().max(1) as u64;
        let &(iterations, salt_bytes) = self.scram_shapes.get(shape as usize)?;
        let salt = chance.iter().cycle().take(salt_bytes).copied().collect();
        let decoy = scram::Verifier { salt, iterations, stored_key: chance, server_key: chance };
        match self.entries.get(user) {
            Some(Verifier::Scram(verifier)) => Some((verifier.clone(), true)),
            _ => Some((decoy, false)),
        }
    }

    /// Whose lines are others in `later`, or are gone there.
    pub fn changed_in(&self, later: &Self) -> HashSet<&str> {
        let users = self.entries.keys().map(String::as_str);
        users.filter(|user| self.fingerprint(user) != later.fingerprint(user)).collect()
    }

    /// Names the line of `user`, so that what was issued under it can be told from what a changed password
    /// admits; `None` for who is not there.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<[u8; FINGERPRINT_BYTES]> {
        self.entries.get(user)?.fingerprint(user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is admitted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.entries.len())
    }
}

/// A malformed line of a password file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: the line {fault}")]
pub struct PasswordFileError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub fault: &'static str,
}

fn parse_line(line: &str) -> Result<(&str, Verifier), &'static str> {
    let (user, rest) = line.split_once(':').ok_or("has no ':'; write user:HASH as `towline passwd` does")?;
    if user.is_empty() {
        return Err("has no user name before ':'");
    }
    Ok((user, Verifier::parse(rest)?))
}

#[cfg(test)]
mod tests;
