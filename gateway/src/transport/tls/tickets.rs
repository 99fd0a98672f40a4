//! TLS session tickets: how sessions are sealed into them.
//!
//! Sealed under a key of the [`KeyRing`] is the time of issue (8 octets, seconds) and the session.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::IntCounterVec;
use rustls::server::ProducesTickets;

use crate::{
    gateway::StartError,
    key_ring::{self, KeyRing, NextKeys, Purpose, Sealed, Source},
    settings::Tls,
};

const TIME_BYTES: usize = 8;

/// The keys that session tickets are sealed with. One for the life of a gateway, so that a reload of
/// certificates does not cost its clients their sessions.
pub struct TicketKeys {
    keys: KeyRing,
    outcomes: IntCounterVec,
}

impl TicketKeys {
    /// The keys that `settings` name. Without a file they are own ones: each seals for `ticket_life`, opens for
    /// as long again, and is forgotten then. `outcomes` counts tickets by `outcome`.
    ///
    /// # Errors
    /// What is wrong with the file; the system has no random numbers.
    pub fn new(settings: &Tls, outcomes: IntCounterVec, now: SystemTime) -> Result<Self, StartError> {
        Ok(Self { keys: KeyRing::new(Purpose::TlsTicket, source(settings), now)?, outcomes })
    }

    /// Whether a key file can be used.
    ///
    /// # Errors
    /// What is wrong with it; never its secret.
    pub fn check(path: &Path) -> Result<(), StartError> {
        key_ring::check(path)
    }

    /// What the keys are to become under new settings, or when the file has changed.
    ///
    /// # Errors
    /// As [`TicketKeys::new`]; nothing has changed then.
    pub fn prepare(&self, settings: &Tls, now: SystemTime) -> Result<NextKeys, StartError> {
        self.keys.prepare(source(settings), now)
    }

    /// Puts the keys of [`TicketKeys::prepare`] in force.
    pub fn install(&self, next: NextKeys) {
        self.keys.install(next);
    }

    /// Forgets own keys that are due, and makes a new one in their place.
    pub fn tend(&self, now: SystemTime) {
        self.keys.tend(now);
    }

    /// Seals a session into a ticket that opens in the same `context` only.
    fn seal(&self, context: &[u8], session: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.tend(now);
        let plain = [&key_ring::seconds(now).to_be_bytes()[..], session].concat();
        let ticket = self.keys.seal(context, &plain)?;
        self.count("issued");
        Some(ticket)
    }

    /// Opens a ticket of `context`. A ticket under an unknown key, too old, forged or of another context is
    /// nothing but a full handshake; the peer does not learn which it was.
    fn open(&self, context: &[u8], ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let opened = self.keys.open(context, ticket);
        let is_unknown = opened == Err(Sealed::Unknown);
        let session = opened.ok().and_then(|opened| self.fresh(opened, now));
        self.count(match session {
            Some(_) => "opened",
            None if is_unknown => "unknown",
            None => "refused",
        });
        session
    }

    /// The session without its time, unless it is too old.
    fn fresh(&self, mut opened: Vec<u8>, now: SystemTime) -> Option<Vec<u8>> {
        let issued = u64::from_be_bytes(opened.get(..TIME_BYTES)?.try_into().ok()?);
        key_ring::fresh(issued, self.keys.life(), now)?;
        opened.drain(..TIME_BYTES);
        Some(opened)
    }

    fn count(&self, outcome: &str) {
        self.outcomes.with_label_values(&[outcome]).inc();
    }
}

fn source(settings: &Tls) -> Source<'_> {
    Source { shared: settings.ticket_keys.as_deref(), kept: None, life: settings.ticket_life }
}

/// Ids are public; keys stay out.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({} keys)", self.keys.len())
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
        self.keys.keys.life()
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

#[cfg(test)]
mod tests {
    use std::{fs, time::UNIX_EPOCH};

    use super::*;
    use crate::{
        key_ring::{CLOCK_SKEW, ID_BYTES, key_line},
        metrics::Metrics,
    };

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
}
