//! Early data (0-RTT; RFC 8446, section 2.3), and why it cannot be replayed to this gateway.
//!
//! A ClientHello with early data can be sent again by whoever saw it. Two things keep the second one out:
//!
//! - Early data is accepted at the *process* that made its ticket, and once per ticket (RFC 8446, section 8.1).
//!   Every ticket carries the random id of its process; a register of those used keeps each for longer than it
//!   stays fresh. Another node, or this one after a restart, resumes the session in one round trip instead.
//! - rustls checks the ticket's age (section 8.3), so the register may forget.
//!
//! rustls accepts early data with stateful tickets alone, which it tells by `ticketer.enabled()`. So the ticketer
//! here answers that with `false` at the one time when rustls decides, if the ticket's first use was found in
//! the call before. Whoever shows rustls a ClientHello says by [`decide`] whether early data is welcome.
//! Everywhere else early data is refused, and nothing else changes.
//!
//! The extension that offers early data in a NewSessionTicket is also one that rustls ties to stateful tickets;
//! [`offer_early_data`] adds it.

use std::{
    cell::Cell,
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{ServerConfig, server::ProducesTickets};
use towline_protocols::tls::ClientHello;

use super::secrets::Capture;

/// Tickets used within [`REMEMBERED`]: two thousand connections with early data per second. 3 MB at most.
const USED_MAX: usize = 1 << 18;
/// rustls takes a ticket's age as fresh for 60 s either way; the rest is for clocks that are set.
const REMEMBERED: Duration = Duration::from_secs(150);
/// Octets of a process' random id.
const PROCESS_BYTES: usize = 16;

/// What became of a client's wish to send early data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyOutcome {
    /// It had none, or none is welcome.
    NotAsked,
    /// Its ticket was used for the first time. rustls still checks its age, its suite and its ALPN.
    FirstUse,
    /// The ticket was used before: maybe a replay.
    Repeated,
    /// The ticket does not open, or another process made it.
    Foreign,
    /// The register of used tickets is full.
    Full,
}

impl EarlyOutcome {
    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::FirstUse => "first_use",
            Self::Repeated => "repeated",
            Self::Foreign => "foreign",
            Self::Full => "full",
        }
    }
}

/// What the ticketer of this thread may answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deciding {
    /// No early data.
    No,
    /// The first ticket that is opened may bring some.
    Asked,
    /// The first ticket was opened, and this came of it.
    Opened(EarlyOutcome),
    /// rustls asked, and was told that tickets are stateful.
    Granted,
}

thread_local! {
    static DECIDING: Cell<Deciding> = const { Cell::new(Deciding::No) };
}

/// Runs `process`, in which rustls is shown a ClientHello; `welcome` if it offers early data that may be
/// accepted.
pub fn decide<T>(welcome: bool, process: impl FnOnce() -> T) -> (T, EarlyOutcome) {
    DECIDING.set(if welcome { Deciding::Asked } else { Deciding::No });
    let result = process();
    let outcome = match DECIDING.replace(Deciding::No) {
        Deciding::No | Deciding::Asked => EarlyOutcome::NotAsked,
        Deciding::Opened(outcome) => outcome,
        Deciding::Granted => EarlyOutcome::FirstUse,
    };
    (result, outcome)
}

/// Prepares a configuration for TLS over TCP: secrets reach the record layer, and up to
/// `early_data_bytes_max` of early data are accepted on a connection; 0 is none.
pub fn prepare(config: &mut ServerConfig, early_data_bytes_max: u32) {
    config.key_log = Arc::new(Capture);
    config.max_early_data_size = early_data_bytes_max;
}

/// A ticketer that knows which tickets may bring early data. Every configuration that takes the same tickets
/// needs it, also one without early data.
pub fn ticketer(inner: Arc<dyn ProducesTickets>) -> Arc<dyn ProducesTickets> {
    Arc::new(EarlyTicketer { inner, process: &PROCESS })
}

/// As [`ticketer`], in a process that made none of the tickets so far.
#[cfg(test)]
pub(super) fn ticketer_of_another_process(inner: Arc<dyn ProducesTickets>) -> Arc<dyn ProducesTickets> {
    Arc::new(EarlyTicketer { inner, process: Box::leak(Box::new(Process::new())) })
}

/// One handshake's wish.
#[derive(Debug)]
pub(super) struct EarlyData {
    welcome: bool,
    may_be_skipped: bool,
    ticket_bytes: u32,
    outcome: EarlyOutcome,
}

impl EarlyData {
    pub(super) fn offered(hello: &ClientHello<'_>, bytes_max: u32) -> Self {
        let offered = hello.offers_early_data();
        Self {
            welcome: offered && bytes_max > 0,
            may_be_skipped: offered,
            ticket_bytes: bytes_max,
            outcome: EarlyOutcome::NotAsked,
        }
    }

    /// Runs `process`, in which rustls may decide.
    pub(super) fn decide<T>(&mut self, process: impl FnOnce() -> T) -> T {
        let (result, outcome) = decide(self.welcome && self.outcome == EarlyOutcome::NotAsked, process);
        if outcome != EarlyOutcome::NotAsked {
            self.outcome = outcome;
        }
        result
    }

    pub(super) fn outcome(&self) -> EarlyOutcome {
        self.outcome
    }

    /// How much early data the tickets of this connection offer.
    pub(super) fn ticket_bytes(&self) -> u32 {
        self.ticket_bytes
    }

    /// Whether rustls may be skipping early data.
    pub(super) fn may_be_skipped(&self) -> bool {
        self.may_be_skipped
    }

    /// A record of the client's handshake came; early data does not follow.
    pub(super) fn is_over(&mut self) {
        self.may_be_skipped = false;
    }
}

/// What this process knows of its own tickets.
struct Process {
    /// `None` if the system has no random numbers: no ticket is this process' own then.
    id: Option<[u8; PROCESS_BYTES]>,
    used: Mutex<UsedTickets>,
}

static PROCESS: LazyLock<Process> = LazyLock::new(Process::new);

impl Process {
    fn new() -> Self {
        let mut id = [0; PROCESS_BYTES];
        let id = aws_lc_rs::rand::fill(&mut id).is_ok().then_some(id);
        Self { id, used: Mutex::new(UsedTickets::new(Instant::now(), USED_MAX)) }
    }

    fn judge(&self, made_by: &[u8], ticket: &[u8]) -> EarlyOutcome {
        match self.id {
            Some(id) if id == made_by => self.used.lock().first_use(ticket, Instant::now()),
            _ => EarlyOutcome::Foreign,
        }
    }
}

struct EarlyTicketer {
    inner: Arc<dyn ProducesTickets>,
    process: &'static Process,
}

impl std::fmt::Debug for EarlyTicketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EarlyTicketer").field(&self.inner).finish()
    }
}

impl ProducesTickets for EarlyTicketer {
    fn enabled(&self) -> bool {
        if DECIDING.get() == Deciding::Opened(EarlyOutcome::FirstUse) {
            DECIDING.set(Deciding::Granted);
            return false;
        }
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let id = self.process.id.unwrap_or_default();
        self.inner.encrypt(&[&id, plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = self.inner.decrypt(ticket);
        let parts = opened.as_deref().and_then(|opened| opened.split_at_checked(PROCESS_BYTES));
        if DECIDING.get() == Deciding::Asked {
            // "selected the first key offered" (RFC 8446, section 4.2.10): later tickets bring none.
            let outcome = parts.map_or(EarlyOutcome::Foreign, |(id, _)| self.process.judge(id, ticket));
            DECIDING.set(Deciding::Opened(outcome));
        }
        parts.map(|(_, session)| session.to_vec())
    }
}

/// Two halves, each for [`REMEMBERED`]; so a ticket is known for at least that long and at most twice.
struct UsedTickets {
    recent: HashSet<u64>,
    older: HashSet<u64>,
    recent_since: Instant,
    max: usize,
    /// Keyed at random, so that nobody can make two tickets that are taken for one. Two that are would cost
    /// the second its early data, no more.
    hasher: RandomState,
}

impl UsedTickets {
    fn new(now: Instant, max: usize) -> Self {
        let (recent, older) = (HashSet::new(), HashSet::new());
        Self { recent, older, recent_since: now, max, hasher: RandomState::new() }
    }

    fn first_use(&mut self, ticket: &[u8], now: Instant) -> EarlyOutcome {
        self.forget(now);
        let ticket = self.hasher.hash_one(ticket);
        if self.recent.contains(&ticket) || self.older.contains(&ticket) {
            EarlyOutcome::Repeated
        } else if self.recent.len() >= self.max {
            EarlyOutcome::Full
        } else {
            self.recent.insert(ticket);
            EarlyOutcome::FirstUse
        }
    }

    fn forget(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.recent_since);
        if age < REMEMBERED {
            return;
        }
        self.older = std::mem::take(&mut self.recent);
        if age >= 2 * REMEMBERED {
            self.older = HashSet::new();
        }
        self.recent_since = now;
    }
}

/// Adds the early_data extension (RFC 8446, section 4.2.10) to every NewSessionTicket among the whole handshake
/// messages `messages`. `None` if there is nothing to add. On QUIC, `bytes_max` must be `u32::MAX` (RFC 9001,
/// section 4.6.1).
///
/// ```text
/// 04 | length, 3 | lifetime, 4 | age_add, 4 | nonce, 1+ | ticket, 2+ | extensions, 2+
/// ```
pub fn offer_early_data(messages: &[u8], bytes_max: u32) -> Option<Vec<u8>> {
    const NEW_SESSION_TICKET: u8 = 4;
    if bytes_max == 0 || messages.first() != Some(&NEW_SESSION_TICKET) {
        return None;
    }
    let mut offering = Vec::with_capacity(messages.len() + 16);
    let mut rest = messages;
    while let Some(&[kind, a, b, c]) = rest.first_chunk() {
        let end = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        let (message, after) = rest.split_at_checked(end)?;
        match kind {
            NEW_SESSION_TICKET => append_ticket(&mut offering, &message[4..], bytes_max)?,
            _ => offering.extend_from_slice(message),
        }
        rest = after;
    }
    rest.is_empty().then_some(offering)
}

fn append_ticket(offering: &mut Vec<u8>, body: &[u8], bytes_max: u32) -> Option<()> {
    const EXTENSION: [u8; 4] = [0, 42, 0, 4];
    let nonce_end = 8 + 1 + usize::from(*body.get(8)?);
    let ticket_bytes = u16::from_be_bytes(*body.get(nonce_end..)?.first_chunk()?);
    let (front, extensions) = body.split_at_checked(nonce_end + 2 + usize::from(ticket_bytes))?;
    let (_, extensions) = extensions.split_first_chunk::<2>()?;
    let added = EXTENSION.len() + size_of::<u32>();
    let length = u32::try_from(body.len() + added).ok()?.to_be_bytes();
    offering.extend_from_slice(&[4, length[1], length[2], length[3]]);
    offering.extend_from_slice(front);
    offering.extend_from_slice(&u16::try_from(extensions.len() + added).ok()?.to_be_bytes());
    offering.extend_from_slice(extensions);
    offering.extend_from_slice(&EXTENSION);
    offering.extend_from_slice(&bytes_max.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_once_for_as_long_as_it_may_be_fresh() {
        let start = Instant::now();
        let mut used = UsedTickets::new(start, 3);
        let mut now = start + REMEMBERED - Duration::from_secs(1);
        assert_eq!(used.first_use(b"a", now), EarlyOutcome::FirstUse);
        for seconds in [0, 1, 60, 149] {
            assert_eq!(used.first_use(b"a", now + Duration::from_secs(seconds)), EarlyOutcome::Repeated);
        }
        now += REMEMBERED;
        assert_eq!(used.first_use(b"b", now), EarlyOutcome::FirstUse);
        assert_eq!(used.first_use(b"c", now), EarlyOutcome::FirstUse);
        assert_eq!(used.first_use(b"d", now), EarlyOutcome::FirstUse);
        assert_eq!(used.first_use(b"e", now), EarlyOutcome::Full);
        assert_eq!(used.first_use(b"b", now), EarlyOutcome::Repeated);
        now += 2 * REMEMBERED;
        assert_eq!(used.first_use(b"e", now), EarlyOutcome::FirstUse);
        assert_eq!((used.recent.len(), used.older.len()), (1, 0));
    }

    #[derive(Debug)]
    struct Plain;

    impl ProducesTickets for Plain {
        fn enabled(&self) -> bool {
            true
        }
        fn lifetime(&self) -> u32 {
            1
        }
        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            Some(plain.to_vec())
        }
        fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
            (ticket != b"unknown").then(|| ticket.to_vec())
        }
    }

    fn process() -> &'static Process {
        Box::leak(Box::new(Process::new()))
    }

    /// What rustls does with a ClientHello that has `tickets`: opens them in turn, then asks.
    fn hello(ticketer: &EarlyTicketer, welcome: bool, tickets: &[&[u8]]) -> (bool, EarlyOutcome) {
        decide(welcome, || {
            for ticket in tickets {
                assert!(ticketer.enabled(), "tickets are opened by the ticketer");
                if ticketer.decrypt(ticket).is_some() {
                    break;
                }
            }
            !ticketer.enabled()
        })
    }

    #[test]
    fn early_data_is_granted_once_for_a_ticket_of_this_process() {
        let ours = EarlyTicketer { inner: Arc::new(Plain), process: process() };
        let theirs = EarlyTicketer { inner: Arc::new(Plain), process: process() };
        let ticket = ours.encrypt(b"session").unwrap();
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(hello(&ours, false, &[&ticket]), (false, EarlyOutcome::NotAsked));
        assert_eq!(hello(&ours, true, &[&ticket]), (true, EarlyOutcome::FirstUse));
        assert_eq!(hello(&ours, true, &[&ticket]), (false, EarlyOutcome::Repeated));
        assert_eq!(hello(&theirs, true, &[&ticket]), (false, EarlyOutcome::Foreign));
        assert_eq!(theirs.decrypt(&ticket).as_deref(), Some(&b"session"[..]), "it resumes all the same");
        let second = ours.encrypt(b"other").unwrap();
        assert_eq!(hello(&ours, true, &[b"unknown", &second]), (false, EarlyOutcome::Foreign));
        assert_eq!(hello(&ours, true, &[]), (false, EarlyOutcome::NotAsked));
        assert!(ours.enabled(), "nothing is left behind");
    }

    #[test]
    fn tickets_offer_early_data_and_other_messages_stay() {
        let ticket = |extensions: &[u8]| {
            let body = [&[0, 0, 1, 0, 9, 9, 9, 9, 2, 5, 5, 0, 3, 7, 7, 7][..], extensions].concat();
            [&[4, 0, 0, body.len() as u8][..], &body].concat()
        };
        let bare = ticket(&[0, 0]);
        let offering = ticket(&[0, 8, 0, 42, 0, 4, 0, 0, 0x40, 0]);
        assert_eq!(offer_early_data(&bare, 0x4000).unwrap(), offering);
        assert_eq!(offer_early_data(&[&bare[..], &bare].concat(), 0x4000).unwrap(), offering.repeat(2));
        assert_eq!(offer_early_data(&bare, 0), None);
        assert_eq!(offer_early_data(&[24, 0, 0, 1, 0], 0x4000), None);
        for length in 0..bare.len() {
            assert_eq!(offer_early_data(&bare[..length], 1), None, "{length}");
        }
    }
}
