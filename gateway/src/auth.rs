//! Users and their passwords, in the format that `mosquitto_passwd` writes.

use std::{collections::HashMap, fmt, num::NonZeroU32};

use aws_lc_rs::{
    digest, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Iterations of a line made by [`password_line`]: about 0.1 ms of one core, which a handshake can bear.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// More than this would let one login hold a core for seconds.
const ITERATIONS_MAX: u32 = 1_000_000;
/// From this many iterations on a check leaves the reactor: it would hold it for about a millisecond.
const ITERATIONS_INLINE_MAX: u32 = 5_000;
/// Longest user name and password looked at; MQTT could carry 65535 bytes.
const CREDENTIAL_BYTES_MAX: usize = 1024;
/// Longest salt accepted.
const SALT_BYTES_MAX: usize = 256;
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;
/// It need only differ by chance from that of another line of the same user.
pub(crate) const FINGERPRINT_BYTES: usize = 8;
static ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;

/// The users of a password file. Empty admits nobody.
#[derive(Clone, Default)]
pub struct Users {
    entries: HashMap<String, Verifier>,
    /// Checked in place of an unknown user, so that both take the same time.
    decoy: Verifier,
}

impl Users {
    /// Parses lines `user:$7$iterations$salt$hash`; empty lines and lines that start with `#` are skipped.
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
            users.decoy.iterations = verifier.iterations;
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

    /// [`Users::check`], away from the reactor when the check is long.
    pub async fn verify(&self, user: &str, password: &[u8]) -> bool {
        let verifier = self.entries.get(user).unwrap_or(&self.decoy);
        if verifier.iterations.get() <= ITERATIONS_INLINE_MAX {
            return self.check(user, password);
        }
        if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
            return false;
        }
        let known = self.entries.contains_key(user);
        let (verifier, password) = (verifier.clone(), password.to_vec());
        let matches = tokio::task::spawn_blocking(move || verifier.check(&password)).await;
        known && matches.unwrap_or(false)
    }

    /// Names the line of `user`, so that what was issued under it can be told from what a changed password
    /// admits; `None` for who is not there.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<[u8; FINGERPRINT_BYTES]> {
        let Verifier { iterations, salt, hash } = self.entries.get(user)?;
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [user.as_bytes(), &iterations.get().to_be_bytes(), salt, hash] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().first_chunk().copied()
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

/// A line for the password file.
///
/// # Errors
/// Says what is wrong with the name or the password, or that the system has no random numbers.
pub fn password_line(user: &str, password: &[u8]) -> Result<String, &'static str> {
    if user.is_empty() || user.contains([':', '\n', '\r']) || user.starts_with('#') {
        return Err("a user name is not empty, holds no ':' and no line break, and does not start with '#'");
    }
    if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
        return Err("user names and passwords are at most 1024 bytes");
    }
    if password.is_empty() {
        return Err("the password is empty");
    }
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| "the operating system gave no random bytes")?;
    let mut hash = [0; HASH_BYTES];
    pbkdf2::derive(ALGORITHM, ITERATIONS, &salt, password, &mut hash);
    Ok(format!("{user}:$7${ITERATIONS}${}${}", BASE64.encode(salt), BASE64.encode(hash)))
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

#[derive(Clone)]
struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: [u8; HASH_BYTES],
}

impl Verifier {
    /// Constant time in the hash: ring compares without an early exit.
    fn check(&self, password: &[u8]) -> bool {
        pbkdf2::verify(ALGORITHM, self.iterations, &self.salt, password, &self.hash).is_ok()
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self { iterations: ITERATIONS, salt: vec![0; SALT_BYTES], hash: [0; HASH_BYTES] }
    }
}

fn parse_line(line: &str) -> Result<(&str, Verifier), &'static str> {
    let (user, rest) = line.split_once(':').ok_or("has no ':'; write user:$7$iterations$salt$hash")?;
    if user.is_empty() {
        return Err("has no user name before ':'");
    }
    let fields = rest
        .strip_prefix("$7$")
        .ok_or("does not hold a $7$ hash; make the line with `towline passwd` or mosquitto_passwd")?;
    let mut fields = fields.split('$');
    let (Some(iterations), Some(salt), Some(hash), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("does not have the three fields $7$iterations$salt$hash");
    };
    let iterations = iterations
        .parse()
        .ok()
        .filter(|n: &NonZeroU32| n.get() <= ITERATIONS_MAX)
        .ok_or("has an iteration count outside of 1 to 1000000")?;
    let salt = BASE64
        .decode(salt)
        .ok()
        .filter(|salt| !salt.is_empty() && salt.len() <= SALT_BYTES_MAX)
        .ok_or("has a salt that is not base64 of 1 to 256 bytes")?;
    let hash = BASE64.decode(hash).ok().and_then(|hash| hash.try_into().ok());
    let hash = hash.ok_or("has a hash that is not base64 of 64 bytes")?;
    Ok((user, Verifier { iterations, salt, hash }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_made_here_admits_its_password_only() {
        let line = password_line("ada", b"correct horse").unwrap();
        let users = Users::parse(&format!("# staff\n\n{line}\n")).unwrap();
        assert!(users.check("ada", b"correct horse"));
        assert!(!users.check("ada", b"correct horsE"));
        assert!(!users.check("ada", b""));
        assert!(!users.check("bob", b"correct horse"));
        assert!(!format!("{users:?}").contains('$'), "Debug shows no hash");
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        for name in ["", "a:b", "a\nb", "#a"] {
            assert!(password_line(name, b"x").is_err(), "{name:?}");
        }
        assert!(password_line("a", b"").is_err());
    }

    #[test]
    fn a_malformed_line_is_named_without_its_secret() {
        let hash = BASE64.encode([1; HASH_BYTES]);
        let check = |line: &str, fault: &str| {
            let error = Users::parse(&format!("# first\n{line}")).unwrap_err();
            assert_eq!(error.line, 2);
            assert!(error.fault.contains(fault), "{line} -> {error}");
        };
        check("no colon", "no ':'");
        check(":$7$1$AAAA$AAAA", "no user name");
        check("a:$6$AAAA$AAAA", "$7$ hash");
        check("a:$7$1$AAAA", "three fields");
        check(&format!("a:$7$0$AAAA${hash}"), "iteration count");
        check(&format!("a:$7$1000001$AAAA${hash}"), "iteration count");
        check(&format!("a:$7$1$${hash}"), "salt");
        check("a:$7$1$AAAA$AAAA", "hash");
        let line = format!("a:$7$1$AAAA${hash}");
        assert_eq!(Users::parse(&format!("{line}\n{line}")).unwrap_err().line, 2, "a double name");
    }

    #[tokio::test]
    async fn a_long_check_gives_the_same_answer_off_the_reactor() {
        let mut hash = [0; HASH_BYTES];
        let iterations = NonZeroU32::new(ITERATIONS_INLINE_MAX + 1).unwrap();
        pbkdf2::derive(ALGORITHM, iterations, b"salt", b"pw", &mut hash);
        let line = format!("a:$7${iterations}${}${}", BASE64.encode(b"salt"), BASE64.encode(hash));
        let users = Users::parse(&line).unwrap();
        assert!(users.verify("a", b"pw").await);
        assert!(!users.verify("a", b"pW").await);
        assert!(!users.verify("b", b"pw").await);
    }
}
