//! Keys that seal what clients carry for the gateway: TLS session tickets, session tokens.
//!
//! ```text
//!  +-----------------------------------+-----------+-------------------+---------+
//!  | key id (16; of tokens its first 4)| nonce, 12 | plaintext, sealed | tag, 16 |
//!  +-----------------------------------+-----------+-------------------+---------+
//! ```
//!
//! AES-256-GCM-SIV (RFC 8452), because nodes that share a key draw nonces without knowing of each other. What is
//! sealed for one purpose does not open for another: each has keys of its own, derived from the same secret.
//!
//! A key file has one key a line, base64 of its id and its secret, 48 octets; the first seals, all of them open.
//! Empty lines and those that begin with `#` are skipped. Without one the gateway has keys of its own: each seals
//! for the life of what it seals, opens for as long again, and is forgotten then.

mod own;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk},
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::gateway::StartError;

/// Keys of a file: each lengthens the search, and old ones are to go.
const KEYS_MAX: usize = 16;
/// A key's id and its secret.
const KEY_LINE_BYTES: usize = ID_BYTES + SECRET_BYTES;
pub(crate) const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// A node whose clock is behind may see what was sealed in the future.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Own keys are not replaced more often, whatever the life of what they seal.
const ROTATION_MIN: Duration = Duration::from_secs(60);

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// TLS session tickets.
    TlsTicket,
    /// Session tokens of the link (PROTOCOL.md, "Session tokens").
    SessionToken,
}

/// Where keys come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file that nodes share; without it the gateway makes keys of its own.
    pub shared: Option<&'a Path>,
    /// Where own keys outlive the process; `None` keeps them in memory.
    pub kept: Option<&'a Path>,
    /// How long what is sealed opens.
    pub life: Duration,
}

/// The keys of one purpose. One ring for the life of a gateway, so that a reload does not cost clients what they
/// carry.
pub struct KeyRing {
    purpose: Purpose,
    ring: ArcSwap<Ring>,
    /// Held while the ring is replaced.
    replacing: Mutex<()>,
    random: SystemRandom,
}

/// The keys of this moment. Immutable; rotation makes another.
struct Ring {
    /// The first seals, all of them open. Never empty.
    keys: Vec<Arc<Key>>,
    life: Duration,
    /// `None` if the keys come from a file that nodes share.
    own: Option<Own>,
}

/// Of keys that the gateway made itself.
struct Own {
    /// Since when the first key seals.
    since: SystemTime,
    kept: Option<PathBuf>,
}

/// Keys that are read but not in force.
pub struct NextKeys(Ring);

struct Key {
    id: [u8; ID_BYTES],
    aead: LessSafeKey,
    /// Of own keys, to be written to a file.
    line: Zeroizing<[u8; KEY_LINE_BYTES]>,
}

/// Why something does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// Under no key of the ring.
    Unknown,
    /// Forged, cut, or sealed for another context.
    Forged,
}

impl KeyRing {
    /// The keys that `source` names.
    ///
    /// # Errors
    /// What is wrong with a file; the system has no random numbers.
    pub fn new(purpose: Purpose, source: Source<'_>, now: SystemTime) -> Result<Self, StartError> {
        let random = SystemRandom::new();
        let ring = ArcSwap::from_pointee(Ring::new(purpose, source, None, &random, now)?);
        Ok(Self { purpose, ring, replacing: Mutex::new(()), random })
    }

    /// What the keys are to become under new settings, or when the file has changed.
    ///
    /// # Errors
    /// As [`KeyRing::new`]; nothing has changed then.
    pub fn prepare(&self, source: Source<'_>, now: SystemTime) -> Result<NextKeys, StartError> {
        Ring::new(self.purpose, source, Some(&self.ring.load()), &self.random, now).map(NextKeys)
    }

    /// Puts the keys of [`KeyRing::prepare`] in force.
    pub fn install(&self, next: NextKeys) {
        let _replacing = self.replacing.lock();
        self.ring.store(Arc::new(next.0));
    }

    /// Forgets own keys that are due, and makes a new one in their place; where they are kept, in the file too.
    pub fn tend(&self, now: SystemTime) {
        if !self.ring.load().is_due(now) {
            return;
        }
        let Some(_replacing) = self.replacing.try_lock() else { return };
        let Some(next) = self.ring.load().rotated(self.purpose, &self.random, now) else { return };
        if let Err(error) = next.keep() {
            tracing::error!("a new key is in force, and lost with this process: {error}");
        }
        self.ring.store(Arc::new(next));
    }

    /// Seals `plain` so that it opens with the same `context` only; `None` if the system has no random numbers.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).ok()?;
        let ring = self.ring.load();
        let key = ring.keys.first()?;
        let id = &key.id[..self.purpose.id_bytes()];
        let mut sealed = Vec::with_capacity(id.len() + NONCE_BYTES + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(&nonce);
        let begin = sealed.len();
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(context), &mut sealed[begin..]);
        sealed.extend_from_slice(tag.ok()?.as_ref());
        Some(sealed)
    }

    /// Opens what was sealed with `context`.
    ///
    /// # Errors
    /// It does not open. Which it was is for the metrics; the peer need not learn it.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Sealed> {
        let ring = self.ring.load();
        let id_bytes = self.purpose.id_bytes();
        let (id, rest) = sealed.split_at_checked(id_bytes).ok_or(Sealed::Unknown)?;
        let mut named = ring.keys.iter().filter(|key| key.id[..id_bytes] == *id).peekable();
        named.peek().ok_or(Sealed::Unknown)?;
        // Short ids may be those of two keys.
        named.find_map(|key| key.open(context, rest)).ok_or(Sealed::Forged)
    }

    /// How long what is sealed now opens.
    pub fn life(&self) -> Duration {
        self.ring.load().life
    }

    /// How many keys open.
    pub fn len(&self) -> usize {
        self.ring.load().keys.len()
    }

    /// Whether there is no key; there always is one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether a key file can be used.
///
/// # Errors
/// What is wrong with it; never its secrets.
pub fn check(path: &Path) -> Result<(), StartError> {
    read_keys(Purpose::TlsTicket, path).map(drop)
}

/// A fresh line for a key file.
///
/// # Errors
/// The system has no random numbers.
pub fn key_line() -> Result<Zeroizing<String>, StartError> {
    let line = random_line(&SystemRandom::new()).ok_or_else(no_random)?;
    Ok(Zeroizing::new(BASE64.encode(line.as_ref())))
}

/// The time since something was sealed at `issued` (seconds of 1970), unless that is longer than `life`, or lies
/// further in the future than clocks differ.
pub(crate) fn fresh(issued: u64, life: Duration, now: SystemTime) -> Option<Duration> {
    let age = seconds(now + CLOCK_SKEW).checked_sub(issued)?;
    (age <= (life + CLOCK_SKEW).as_secs()).then(|| Duration::from_secs(age).saturating_sub(CLOCK_SKEW))
}

/// Seconds of 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Purpose {
    const fn id_bytes(self) -> usize {
        match self {
            Self::TlsTicket => ID_BYTES,
            // Sent with every HELLO; the tag tells two keys of the same beginning apart.
            Self::SessionToken => 4,
        }
    }

    fn key(self, secret: &[u8]) -> Option<LessSafeKey> {
        let unbound = match self {
            Self::TlsTicket => UnboundKey::new(&AES_256_GCM_SIV, secret).ok()?,
            Self::SessionToken => {
                // RFC 5869, section 2.3. The secret is uniformly random, so there is nothing to extract.
                let prk = Prk::new_less_safe(HKDF_SHA256, secret);
                let mut key = Zeroizing::new([0; SECRET_BYTES]);
                prk.expand(&[b"towline session token 1"], SecretLength).ok()?.fill(key.as_mut()).ok()?;
                UnboundKey::new(&AES_256_GCM_SIV, key.as_ref()).ok()?
            }
        };
        Some(LessSafeKey::new(unbound))
    }
}

struct SecretLength;

impl KeyType for SecretLength {
    fn len(&self) -> usize {
        SECRET_BYTES
    }
}

impl Ring {
    /// Own keys go on where they were own keys before.
    fn new(
        purpose: Purpose,
        source: Source<'_>,
        before: Option<&Self>,
        random: &SystemRandom,
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let Source { shared, kept, life } = source;
        if let Some(path) = shared {
            return Ok(Self { keys: read_keys(purpose, path)?, life, own: None });
        }
        let before = before.and_then(|ring| Some((ring.keys.clone(), ring.own.as_ref()?)));
        let found = match (before, kept) {
            (Some((keys, own)), _) => Some((keys, own.since, own.kept.as_deref() == kept)),
            (None, Some(path)) => own::read(purpose, path)?.map(|(keys, since)| (keys, since, true)),
            (None, None) => None,
        };
        let (keys, since, is_kept) = match found {
            Some(found) => found,
            None => {
                let key = Key::random(purpose, random).ok_or_else(no_random)?;
                (vec![Arc::new(key)], now, false)
            }
        };
        let own = Own { since: since.min(now), kept: kept.map(PathBuf::from) };
        let ring = Self { keys, life, own: Some(own) };
        let rotated = if ring.is_due(now) { ring.rotated(purpose, random, now) } else { None };
        let (ring, is_kept) = rotated.map_or((ring, is_kept), |rotated| (rotated, false));
        if !is_kept {
            ring.keep()?;
        }
        Ok(ring)
    }

    fn due(&self) -> Option<SystemTime> {
        self.own.as_ref().map(|own| own.since + self.life.max(ROTATION_MIN))
    }

    fn is_due(&self, now: SystemTime) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// With a new key in front, if that is due.
    fn rotated(&self, purpose: Purpose, random: &SystemRandom, now: SystemTime) -> Option<Self> {
        let due = self.due().filter(|due| *due <= now)?;
        let mut keys = vec![Arc::new(Key::random(purpose, random)?)];
        // What the old key sealed last is as old as its rotation; after a sleep longer than that, none opens.
        if due + self.life.max(ROTATION_MIN) > now {
            keys.extend(self.keys.first().cloned());
        }
        let kept = self.own.as_ref()?.kept.clone();
        Some(Self { keys, life: self.life, own: Some(Own { since: now, kept }) })
    }

    fn keep(&self) -> Result<(), StartError> {
        match &self.own {
            Some(Own { since, kept: Some(path) }) => own::write(path, &self.keys, *since),
            _ => Ok(()),
        }
    }
}

impl Key {
    fn random(purpose: Purpose, random: &SystemRandom) -> Option<Self> {
        Self::from_line(purpose, random_line(random)?)
    }

    fn from_line(purpose: Purpose, line: Zeroizing<[u8; KEY_LINE_BYTES]>) -> Option<Self> {
        let (id, secret) = line.split_at(ID_BYTES);
        let (id, aead) = (id.try_into().ok()?, purpose.key(secret)?);
        Some(Self { id, aead, line })
    }

    /// Opens what follows the key's id.
    fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.aead.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?.len();
        sealed.truncate(opened);
        Some(sealed)
    }
}

fn random_line(random: &SystemRandom) -> Option<Zeroizing<[u8; KEY_LINE_BYTES]>> {
    let mut line = Zeroizing::new([0; KEY_LINE_BYTES]);
    random.fill(line.as_mut()).ok()?;
    Some(line)
}

fn read_keys(purpose: Purpose, path: &Path) -> Result<Vec<Arc<Key>>, StartError> {
    let text = fs::read_to_string(path).map_err(|source| StartError::File { path: path.into(), source })?;
    parse_keys(purpose, path, &Zeroizing::new(text), 1)
}

/// The keys of `text`, which begins with line `first_line` of the file.
fn parse_keys(
    purpose: Purpose,
    path: &Path,
    text: &str,
    first_line: usize,
) -> Result<Vec<Arc<Key>>, StartError> {
    let wrong = |problem: String| StartError::Certificate { path: path.into(), problem };
    let mut keys: Vec<Arc<Key>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + first_line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_key(purpose, line).ok_or_else(|| {
            wrong(format!(
                "line {number} is not base64 of {KEY_LINE_BYTES} bytes; make it with `towline cert ticket-key`",
            ))
        })?;
        if keys.iter().any(|known| known.id == key.id) {
            return Err(wrong(format!("line {number} has the id of an earlier key")));
        }
        keys.push(Arc::new(key));
    }
    match keys.len() {
        0 => Err(wrong("holds no key; make one with `towline cert ticket-key`".to_owned())),
        1..=KEYS_MAX => Ok(keys),
        count => Err(wrong(format!("holds {count} keys; remove the oldest, at most {KEYS_MAX} are used"))),
    }
}

fn parse_key(purpose: Purpose, line: &str) -> Option<Key> {
    let bytes = Zeroizing::new(BASE64.decode(line).ok()?);
    let line = Zeroizing::new(<[u8; KEY_LINE_BYTES]>::try_from(bytes.as_slice()).ok()?);
    Key::from_line(purpose, line)
}

fn no_random() -> StartError {
    StartError::Settings("no key for tickets and tokens: the system has no random numbers".to_owned())
}

#[cfg(test)]
mod tests;
