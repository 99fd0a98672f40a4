//! What a password file keeps of a password, in one of three formats:
//!
//! ```text
//!  $7$iterations$salt$hash                              PBKDF2-HMAC-SHA512, of mosquitto_passwd
//!  $argon2id$v=19$m=KIB,t=PASSES,p=LANES$salt$hash      Argon2id (RFC 9106), as PHC strings
//!  SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey    RFC 5803, as PostgreSQL writes it
//! ```

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD as BASE64_NO_PAD},
};

use super::{FINGERPRINT_BYTES, scram};

/// Longest user name and password looked at; MQTT could carry 65535 bytes.
pub(super) const CREDENTIAL_BYTES_MAX: usize = 1024;
/// Iterations of a PBKDF2 line made here: about 0.1 ms of one core, which a handshake can bear.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// More than this would let one login hold a core for seconds.
const ITERATIONS_MAX: u32 = 1_000_000;
/// From this many iterations on a check leaves the reactor: it would hold it for about a millisecond.
pub(super) const ITERATIONS_INLINE_MAX: u32 = 5_000;
/// Longest salt accepted.
const SALT_BYTES_MAX: usize = 256;
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;
/// Argon2id of a line made here: what OWASP's cheat sheet asks for at the least, about 15 ms of one core.
const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2_PASSES: u32 = 2;
const ARGON2_LANES: u32 = 1;
const ARGON2_HASH_BYTES: usize = 32;
/// One check of Argon2id takes no more memory, passes and lanes than these.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;
const ARGON2_PASSES_MAX: u32 = 16;
const ARGON2_LANES_MAX: u32 = 16;
static ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;

/// How a line of the password file keeps its password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Argon2id: what is found in a stolen file costs most to guess.
    #[default]
    Argon2id,
    /// PBKDF2 in mosquitto's format: cheap to check.
    Pbkdf2,
    /// SCRAM-SHA-256: its user may prove the password without showing it.
    Scram,
}

#[derive(Clone)]
pub(super) enum Verifier {
    Pbkdf2 { iterations: NonZeroU32, salt: Vec<u8>, hash: [u8; HASH_BYTES] },
    Argon2id { params: Params, salt: Vec<u8>, hash: Vec<u8> },
    Scram(scram::Verifier),
}

/// A line for the password file in mosquitto's format, which is cheap to check.
///
/// # Errors
/// As [`password_line_by`].
pub fn password_line(user: &str, password: &[u8]) -> Result<String, &'static str> {
    password_line_by(Scheme::Pbkdf2, user, password)
}

/// A line for the password file.
///
/// # Errors
/// Says what is wrong with the name or the password, or that the system has no random numbers.
pub fn password_line_by(scheme: Scheme, user: &str, password: &[u8]) -> Result<String, &'static str> {
    if user.is_empty() || user.contains([':', '\n', '\r']) || user.starts_with('#') {
        return Err("a user name is not empty, holds no ':' and no line break, and does not start with '#'");
    }
    if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
        return Err("user names and passwords are at most 1024 bytes");
    }
    if password.is_empty() {
        return Err("the password is empty");
    }
    let verifier = match scheme {
        Scheme::Pbkdf2 => {
            let (salt, mut hash) = (random::<SALT_BYTES>()?, [0; HASH_BYTES]);
            pbkdf2::derive(ALGORITHM, ITERATIONS, &salt, password, &mut hash);
            format!("$7${ITERATIONS}${}${}", BASE64.encode(salt), BASE64.encode(hash))
        }
        Scheme::Argon2id => {
            let salt = random::<{ scram::SALT_BYTES }>()?;
            let params = default_params();
            let hash = argon2id(&params, &salt, password, ARGON2_HASH_BYTES).ok_or("Argon2 failed")?;
            let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
            let (salt, hash) = (BASE64_NO_PAD.encode(salt), BASE64_NO_PAD.encode(hash));
            format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${hash}")
        }
        Scheme::Scram => {
            if !password.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                // Clients normalise others (SASLprep, RFC 4013), and what they prove then is another password.
                return Err("for SCRAM a password is of printable ASCII characters");
            }
            let salt = random::<{ scram::SALT_BYTES }>()?;
            let made = scram::Verifier::new(password, salt.to_vec(), scram::ITERATIONS);
            let (stored, server) = (BASE64.encode(made.stored_key), BASE64.encode(made.server_key));
            format!("SCRAM-SHA-256${}:{}${stored}:{server}", made.iterations, BASE64.encode(salt))
        }
    };
    Ok(format!("{user}:{verifier}"))
}

impl Verifier {
    /// Reads what follows the user's name.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(fields) = text.strip_prefix("$7$") {
            return parse_pbkdf2(fields);
        }
        if let Some(fields) = text.strip_prefix("$argon2id$") {
            return parse_argon2id(fields);
        }
        if let Some(fields) = text.strip_prefix("SCRAM-SHA-256$") {
            return parse_scram(fields).map(Self::Scram);
        }
        Err(
            "holds neither a $7$ nor an $argon2id$ hash nor SCRAM-SHA-256$; make the line with `towline passwd`",
        )
    }

    /// Takes the same time wherever the hashes differ.
    pub(super) fn check(&self, password: &[u8]) -> bool {
        match self {
            Self::Pbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(ALGORITHM, *iterations, salt, password, hash).is_ok()
            }
            Self::Argon2id { params, salt, hash } => argon2id(params, salt, password, hash.len())
                .is_some_and(|found| verify_slices_are_equal(&found, hash).is_ok()),
            Self::Scram(verifier) => verifier.check(password),
        }
    }

    /// Whether a check would hold the reactor for too long.
    pub(super) fn is_costly(&self) -> bool {
        let iterations = match self {
            Self::Pbkdf2 { iterations, .. } => iterations,
            Self::Scram(verifier) => &verifier.iterations,
            Self::Argon2id { .. } => return true,
        };
        iterations.get() > ITERATIONS_INLINE_MAX
    }

    /// One that costs the same and admits nobody.
    pub(super) fn decoy(&self) -> Self {
        let mut decoy = self.clone();
        match &mut decoy {
            Self::Pbkdf2 { hash, .. } => hash.fill(0),
            Self::Argon2id { hash, .. } => hash.fill(0),
            Self::Scram(verifier) => verifier.stored_key.fill(0),
        }
        decoy
    }

    pub(super) fn fingerprint(&self, user: &str) -> Option<[u8; FINGERPRINT_BYTES]> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut update = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        update(user.as_bytes());
        match self {
            Self::Pbkdf2 { iterations, salt, hash } => {
                [&iterations.get().to_be_bytes()[..], salt, hash].into_iter().for_each(update);
            }
            Self::Argon2id { salt, hash, .. } => {
                [b"argon2id", &salt[..], hash].into_iter().for_each(update);
            }
            Self::Scram(verifier) => {
                [b"scram", &verifier.salt[..], &verifier.stored_key].into_iter().for_each(update);
            }
        }
        context.finish().as_ref().first_chunk().copied()
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::Pbkdf2 { iterations: ITERATIONS, salt: vec![0; SALT_BYTES], hash: [0; HASH_BYTES] }
    }
}

fn parse_pbkdf2(fields: &str) -> Result<Verifier, &'static str> {
    let mut fields = fields.split('$');
    let (Some(iterations), Some(salt), Some(hash), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("does not have the three fields $7$iterations$salt$hash");
    };
    let iterations =
        parse_iterations(iterations, 1).ok_or("has an iteration count outside of 1 to 1000000")?;
    let salt = parse_salt(salt).ok_or("has a salt that is not base64 of 1 to 256 bytes")?;
    let hash = BASE64.decode(hash).ok().and_then(|hash| hash.try_into().ok());
    let hash = hash.ok_or("has a hash that is not base64 of 64 bytes")?;
    Ok(Verifier::Pbkdf2 { iterations, salt, hash })
}

fn parse_argon2id(fields: &str) -> Result<Verifier, &'static str> {
    let fields: Vec<_> = fields.split('$').collect();
    let ["v=19", params, salt, hash] = fields[..] else {
        return Err("does not have the fields $argon2id$v=19$m=…,t=…,p=…$salt$hash");
    };
    let params = parse_params(params).ok_or(
        "has Argon2 parameters outside of m=8…262144 (KiB), t=1…16, p=1…16, or less than 8 KiB a lane",
    )?;
    let decode = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        BASE64_NO_PAD.decode(text).ok().filter(|bytes| lengths.contains(&bytes.len()))
    };
    let salt = decode(salt, 8..=64).ok_or("has a salt that is not base64 (unpadded) of 8 to 64 bytes")?;
    let hash = decode(hash, 16..=64).ok_or("has a hash that is not base64 (unpadded) of 16 to 64 bytes")?;
    Ok(Verifier::Argon2id { params, salt, hash })
}

fn parse_params(text: &str) -> Option<Params> {
    let mut fields = text.split(',');
    let mut field = |name: &str, max: u32| -> Option<u32> {
        fields.next()?.strip_prefix(name)?.parse().ok().filter(|value| (1..=max).contains(value))
    };
    let (m, t) = (field("m=", ARGON2_MEMORY_KIB_MAX)?, field("t=", ARGON2_PASSES_MAX)?);
    let p = field("p=", ARGON2_LANES_MAX)?;
    Params::new(m, t, p, None).ok().filter(|_| fields.next().is_none())
}

fn parse_scram(fields: &str) -> Result<scram::Verifier, &'static str> {
    let shape = "does not have the fields SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
    let (first, keys) = fields.split_once('$').ok_or(shape)?;
    let (iterations, salt) = first.split_once(':').ok_or(shape)?;
    let (stored_key, server_key) = keys.split_once(':').ok_or(shape)?;
    let iterations = parse_iterations(iterations, scram::ITERATIONS.get())
        .ok_or("has an iteration count outside of 4096 to 1000000 (RFC 7677)")?;
    let salt = parse_salt(salt).ok_or("has a salt that is not base64 of 1 to 256 bytes")?;
    let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
    let (Some(stored_key), Some(server_key)) = (key(stored_key), key(server_key)) else {
        return Err("has a key that is not base64 of 32 bytes");
    };
    Ok(scram::Verifier { salt, iterations, stored_key, server_key })
}

fn parse_iterations(text: &str, min: u32) -> Option<NonZeroU32> {
    text.parse().ok().filter(|n: &NonZeroU32| (min..=ITERATIONS_MAX).contains(&n.get()))
}

fn parse_salt(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok().filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))
}

/// The constants are within the algorithm's bounds; a test makes a line with them.
fn default_params() -> Params {
    Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, None).unwrap_or_default()
}

fn argon2id(params: &Params, salt: &[u8], password: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut hash = vec![0; bytes];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon2.hash_password_into(password, salt, &mut hash).ok()?;
    Some(hash)
}

fn random<const N: usize>() -> Result<[u8; N], &'static str> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the operating system gave no random bytes")?;
    Ok(bytes)
}
