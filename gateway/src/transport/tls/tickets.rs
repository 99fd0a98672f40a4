//! Session tickets: how sessions are sealed into them, and the keys, which several nodes may share.
//!
//! ```text
//!  0              16                       28                                                      -16
//!  +--------------+------------------------+---------------------------------------------+---------+
//!  | key id       | nonce                  | issued at (8, seconds) and session, sealed  | tag     |
//!  +--------------+------------------------+---------------------------------------------+---------+
//! ```
//!
//! AES-256-GCM-SIV (RFC 8452), because nodes that share a key draw nonces without knowing of each other.
//!
//! A key file has one key a line, base64 of its id and the key itself, 48 octets; the first seals, all of them
//! open. Empty lines and those that begin with `#` are skipped.

use std::{
    fmt, fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::{gateway::StartError, settings::Tls};

/// Keys of a file: each lengthens the search, and old ones are to go.
const KEYS_MAX: usize = 16;
/// A key's id and the key itself.
const KEY_LINE_BYTES: usize = ID_BYTES + KEY_BYTES;
const ID_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
/// A node whose clock is behind may see tickets from the future.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The keys that session tickets are sealed with. One for the life of a gateway, so that a reload of
/// certificates does not cost its clients their sessions.
pub struct TicketKeys {
    ring: ArcSwap<Ring>,
    /// Held while the ring is replaced.
    replacing: Mutex<()>,
    random: SystemRandom,
    outcomes: IntCounterVec,
}

/// The keys of this moment. Immutable; rotation makes another.
struct Ring {
    /// The first seals, all of them open. Never empty.
    keys: Vec<Arc<Key>>,
    /// How long a ticket opens.
    life: Duration,
    /// When the gateway replaces the first key by itself; `None` if the keys come from a file.
    rotates_at: Option<SystemTime>,
}

/// Keys that are read but not in force.
pub struct NextKeys(Ring);

struct Key {
    id: [u8; ID_BYTES],
    aead: LessSafeKey,
}

impl TicketKeys {
    /// The keys that `settings` name. Without a file they are own ones: each seals for `ticket_life`, opens for
    /// as long again, and is forgotten then. `outcomes` counts tickets by `outcome`.
    ///
    /// # Errors
    /// What is wrong with the file; the system has no random numbers.
    pub fn new(settings: &Tls, outcomes: IntCounterVec, now: SystemTime) -> Result<Self, StartError> {
        let random = SystemRandom::new();
        let ring = ArcSwap::from_pointee(Ring::new(settings, None, &random, now)?);
        Ok(Self { ring, replacing: Mutex::new(()), random, outcomes })
    }

    /// Whether a key file can be used.
    ///
    /// # Errors
    /// What is wrong with it; never its secret.
    pub fn check(path: &Path) -> Result<(), StartError> {
        read_keys(path).map(drop)
    }

    /// What the keys are to become under new settings, or when the file has changed.
    ///
    /// # Errors
    /// As [`TicketKeys::new`]; nothing has changed then.
    pub fn prepare(&self, settings: &Tls, now: SystemTime) -> Result<NextKeys, StartError> {
        let current = self.ring.load();
        Ring::new(settings, Some(&current), &self.random, now).map(NextKeys)
    }

    /// Puts the keys of [`TicketKeys::prepare`] in force.
    pub fn install(&self, next: NextKeys) {
        let _replacing = self.replacing.lock();
        self.ring.store(Arc::new(next.0));
    }

    /// Forgets own keys that are due, and makes a new one in their place.
    pub fn tend(&self, now: SystemTime) {
        if self.ring.load().is_due(now) {
            self.rotate(now);
        }
    }

    /// Seals a session into a ticket that opens in the same `context` only.
    fn seal(&self, context: &[u8], session: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.tend(now);
        let ring = self.ring.load();
        let key = ring.keys.first()?;
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(TIME_BYTES + session.len() + TAG_BYTES);
        sealed.extend_from_slice(&seconds(now).to_be_bytes());
        sealed.extend_from_slice(session);
        let tag = key.aead.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context),
            &mut sealed,
        );
        let ticket = [&key.id[..], &nonce, &sealed, tag.ok()?.as_ref()].concat();
        self.count("issued");
        Some(ticket)
    }

    /// Opens a ticket of `context`. A ticket under an unknown key, too old, forged or of another context is
    /// nothing but a full handshake; the peer does not learn which it was.
    fn open(&self, context: &[u8], ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let ring = self.ring.load();
        let Some(key) = ring.key(ticket) else {
            self.count("unknown");
            return None;
        };
        let session = key.open(context, ticket).and_then(|opened| ring.fresh(opened, now));
        self.count(if session.is_some() { "opened" } else { "refused" });
        session
    }

    fn rotate(&self, now: SystemTime) {
        let Some(_replacing) = self.replacing.try_lock() else { return };
        let ring = self.ring.load();
        let Some(due) = ring.rotates_at.filter(|due| *due <= now) else { return };
        let Some(key) = Key::random(&self.random) else { return };
        let mut keys = vec![Arc::new(key)];
        // The old key's last tickets are as old as its rotation; after a sleep longer than that, none opens.
        if due + ring.life > now {
            keys.extend(ring.keys.first().cloned());
        }
        let life = ring.life;
        self.ring.store(Arc::new(Ring { keys, life, rotates_at: Some(now + life) }));
    }

    fn count(&self, outcome: &str) {
        self.outcomes.with_label_values(&[outcome]).inc();
    }
}

/// Ids are public; keys stay out.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({} keys)", self.ring.load().keys.len())
    }
}

impl Ring {
    /// Own keys go on where they were own keys before.
    fn new(
        settings: &Tls,
        before: Option<&Self>,
        random: &SystemRandom,
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let life = settings.ticket_life;
        if let Some(path) = &settings.ticket_keys {
            return Ok(Self { keys: read_keys(path)?, life, rotates_at: None });
        }
        let before = before.filter(|ring| ring.rotates_at.is_some());
        let keys = match before {
            Some(ring) => ring.keys.clone(),
            None => vec![Arc::new(Key::random(random).ok_or_else(no_random)?)],
        };
        let due = before.and_then(|ring| ring.rotates_at).map_or(now + life, |due| due.min(now + life));
        Ok(Self { keys, life, rotates_at: Some(due) })
    }

    fn is_due(&self, now: SystemTime) -> bool {
        self.rotates_at.is_some_and(|due| due <= now)
    }

    fn key(&self, ticket: &[u8]) -> Option<&Key> {
        let id = ticket.get(..ID_BYTES)?;
        self.keys.iter().map(AsRef::as_ref).find(|key| key.id == id)
    }

    /// The session without its time, unless it is too old.
    fn fresh(&self, mut opened: Vec<u8>, now: SystemTime) -> Option<Vec<u8>> {
        let issued = u64::from_be_bytes(opened.get(..TIME_BYTES)?.try_into().ok()?);
        let age = seconds(now + CLOCK_SKEW).checked_sub(issued)?;
        if age > (self.life + CLOCK_SKEW).as_secs() {
            return None;
        }
        opened.drain(..TIME_BYTES);
        Some(opened)
    }
}

impl Key {
    fn random(random: &SystemRandom) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_LINE_BYTES]);
        random.fill(bytes.as_mut()).ok()?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8; KEY_LINE_BYTES]) -> Option<Self> {
        let (id, key) = bytes.split_at(ID_BYTES);
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).ok()?);
        Some(Self { id: id.try_into().ok()?, aead })
    }

    fn open(&self, context: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        let nonce = ticket.get(ID_BYTES..ID_BYTES + NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = ticket[ID_BYTES + NONCE_BYTES..].to_vec();
        let opened = self.aead.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?.len();
        sealed.truncate(opened);
        Some(sealed)
    }
}

/// [`TicketKeys`] for connections of one kind. A session that began under one policy for client
/// certificates must not go on under another, so tickets are bound to a context.
#[derive(Clone, Debug)]
pub struct Tickets {
    keys: Arc<TicketKeys>,
    context: Arc<[u8]>,
}

impl Tickets {
    /// Tickets that open in the same `context` only, on every node that has the keys.
    pub fn new(keys: &Arc<TicketKeys>, context: &[u8]) -> Self {
        Self { keys: Arc::clone(keys), context: context.into() }
    }

    /// Seals a session; `None` if the system has no random numbers.
    pub fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(&self.context, session, SystemTime::now())
    }

    /// Opens a ticket; `None` for one that is not to be resumed, for whatever reason.
    pub fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.keys.open(&self.context, ticket, SystemTime::now())
    }

    /// How long a ticket that is sealed now opens.
    pub fn life(&self) -> Duration {
        self.keys.ring.load().life
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.life().as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher)
    }
}

/// A fresh line for a key file.
///
/// # Errors
/// The system has no random numbers.
pub fn key_line() -> Result<Zeroizing<String>, StartError> {
    let mut bytes = Zeroizing::new([0; KEY_LINE_BYTES]);
    SystemRandom::new().fill(bytes.as_mut()).map_err(|_| no_random())?;
    Ok(Zeroizing::new(BASE64.encode(bytes.as_ref())))
}

fn read_keys(path: &Path) -> Result<Vec<Arc<Key>>, StartError> {
    let wrong = |problem: String| StartError::Certificate { path: path.into(), problem };
    let text = fs::read_to_string(path).map_err(|source| StartError::File { path: path.into(), source })?;
    let text = Zeroizing::new(text);
    let mut keys: Vec<Arc<Key>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_key(line).ok_or_else(|| {
            wrong(format!(
                "line {} is not base64 of {KEY_LINE_BYTES} bytes; make it with `towline cert ticket-key`",
                index + 1
            ))
        })?;
        if keys.iter().any(|known| known.id == key.id) {
            return Err(wrong(format!("line {} has the id of an earlier key", index + 1)));
        }
        keys.push(Arc::new(key));
    }
    match keys.len() {
        0 => Err(wrong("holds no key; make one with `towline cert ticket-key`".to_owned())),
        1..=KEYS_MAX => Ok(keys),
        count => Err(wrong(format!("holds {count} keys; remove the oldest, at most {KEYS_MAX} are used"))),
    }
}

fn parse_key(line: &str) -> Option<Key> {
    let bytes = Zeroizing::new(BASE64.decode(line).ok()?);
    Key::from_bytes(bytes.as_slice().try_into().ok()?)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn no_random() -> StartError {
    StartError::Settings("no key for TLS session tickets: the system has no random numbers".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const LIFE: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn settings(ticket_keys: Option<std::path::PathBuf>) -> Tls {
        Tls { ticket_keys, ticket_life: LIFE, ..Tls::default() }
    }

    fn own() -> (TicketKeys, Metrics) {
        let metrics = Metrics::new();
        (TicketKeys::new(&settings(None), metrics.tls_tickets.clone(), now()).unwrap(), metrics)
    }

    #[test]
    fn a_ticket_opens_in_its_own_context_only() {
        let (keys, metrics) = own();
        let ticket = keys.seal(b"a", b"session", now()).unwrap();
        assert_eq!(keys.open(b"a", &ticket, now()).as_deref(), Some(&b"session"[..]));
        assert_eq!(keys.open(b"b", &ticket, now()), None);
        let count = |outcome| metrics.tls_tickets.with_label_values(&[outcome]).get();
        assert_eq!((count("issued"), count("opened"), count("refused"), count("unknown")), (1, 1, 1, 0));
    }

    #[test]
    fn a_ticket_that_was_touched_or_cut_opens_nowhere() {
        let (keys, _) = own();
        let ticket = keys.seal(b"", b"session", now()).unwrap();
        for index in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[index] ^= 1;
            assert_eq!(keys.open(b"", &touched, now()), None, "byte {index}");
            assert_eq!(keys.open(b"", &ticket[..index], now()), None, "cut at {index}");
        }
    }

    #[test]
    fn own_keys_rotate_and_the_old_one_opens_for_the_life_of_its_tickets() {
        let (keys, metrics) = own();
        let ticket = keys.seal(b"", b"1", now()).unwrap();
        let late = keys.seal(b"", b"2", now() + LIFE - Duration::from_secs(1)).unwrap();
        assert_eq!(ticket[..ID_BYTES], late[..ID_BYTES]);
        keys.tend(now() + LIFE);
        let next = keys.seal(b"", b"3", now() + LIFE).unwrap();
        assert_ne!(ticket[..ID_BYTES], next[..ID_BYTES]);
        assert!(keys.open(b"", &ticket, now() + LIFE).is_some());
        assert!(keys.open(b"", &ticket, now() + LIFE + 2 * CLOCK_SKEW).is_none(), "too old");
        assert!(keys.open(b"", &late, now() + 2 * LIFE - Duration::from_secs(1)).is_some());
        keys.tend(now() + 2 * LIFE);
        assert!(keys.open(b"", &late, now() + 2 * LIFE).is_none());
        assert_eq!(metrics.tls_tickets.with_label_values(&["unknown"]).get(), 1, "its key is gone");
    }

    #[test]
    fn a_ticket_of_another_gateway_is_unknown() {
        let (ours, metrics) = own();
        let (theirs, _) = own();
        let ticket = theirs.seal(b"", b"session", now()).unwrap();
        assert_eq!(ours.open(b"", &ticket, now()), None);
        assert_eq!(metrics.tls_tickets.with_label_values(&["unknown"]).get(), 1);
    }

    #[test]
    fn nodes_with_one_file_open_each_others_tickets_and_rotate_without_losing_any() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (old, new) = (key_line().unwrap(), key_line().unwrap());
        let write = |lines: &[&str]| fs::write(&path, lines.join("\n")).unwrap();
        write(&["# old", &old]);
        let node = || {
            let outcomes = Metrics::new().tls_tickets;
            TicketKeys::new(&settings(Some(path.clone())), outcomes, now()).unwrap()
        };
        let (a, b) = (node(), node());
        let ticket = a.seal(b"", b"1", now()).unwrap();
        assert!(b.open(b"", &ticket, now()).is_some());

        write(&[&new, &old]);
        a.install(a.prepare(&settings(Some(path.clone())), now()).unwrap());
        let newer = a.seal(b"", b"2", now()).unwrap();
        assert_ne!(newer[..ID_BYTES], ticket[..ID_BYTES], "the first line seals");
        assert!(a.open(b"", &ticket, now()).is_some(), "the old key opens");
        assert!(b.open(b"", &newer, now()).is_none(), "b has not read the file yet");
        b.install(b.prepare(&settings(Some(path.clone())), now()).unwrap());
        assert!(b.open(b"", &newer, now()).is_some());

        write(&[&new]);
        b.install(b.prepare(&settings(Some(path.clone())), now()).unwrap());
        assert!(b.open(b"", &ticket, now()).is_none(), "a key that was taken out is gone");
        assert!(b.open(b"", &newer, now() + LIFE + 2 * CLOCK_SKEW).is_none(), "ticket_life holds here too");
    }

    #[test]
    fn a_key_file_with_a_mistake_is_named_with_its_line_and_without_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let line = key_line().unwrap();
        let check = |text: &str, expected: &str| {
            fs::write(&path, text).unwrap();
            let error = read_keys(&path).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(&line[..20]));
        };
        check("", "holds no key");
        check("# none\n\n", "holds no key");
        check(&format!("{}\n{}", *line, &line[4..]), "line 2 is not base64 of 48 bytes");
        check(&format!("{}\n\n{}", *line, *line), "line 3 has the id of an earlier key");
        let many: Vec<_> = (0..17).map(|_| key_line().unwrap().to_string()).collect();
        check(&many.join("\n"), "holds 17 keys");
    }
}
