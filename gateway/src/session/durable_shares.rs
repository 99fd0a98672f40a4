//! What the store holds of outcomes: bytes of all, and the share of each user. Whose share is full loses the oldest of
//! its own outcomes, in whichever of the user's sessions that is, and nobody else's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Context, LinkSession};
use crate::settings;

/// See the file's head.
#[derive(Default)]
pub(super) struct DurableShares {
    bytes: AtomicUsize,
    shares: Mutex<Shares>,
}

#[derive(Default)]
struct Shares {
    /// Outcomes that were written, those of earlier processes too: names one, and tells which is older.
    written: u64,
    /// Users of whom there is any.
    users: HashMap<Arc<str>, Share>,
}

#[derive(Default)]
struct Share {
    bytes: usize,
    outcomes: BTreeMap<u64, Stored>,
}

struct Stored {
    session: Weak<LinkSession>,
    seq: u64,
    bytes: usize,
}

/// An outcome in the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Names it in its user's share.
    order: u64,
    pub(super) bytes: usize,
}

impl DurableShares {
    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// An outcome of the session's request `seq` goes to the store. To be called in the order of their ends.
    pub(super) fn add(&self, session: &Arc<LinkSession>, seq: u64, bytes: usize) -> Record {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut shares = self.shares.lock();
        shares.written += 1;
        let order = shares.written;
        // Nothing tells whose sessions without a user are: they have the bound of all alone.
        if let Some(user) = session.user() {
            let share = shares.users.entry(Arc::clone(user)).or_default();
            share.bytes += bytes;
            share.outcomes.insert(order, Stored { session: Arc::downgrade(session), seq, bytes });
        }
        Record { order, bytes }
    }

    /// The store need not hold it any more.
    pub(super) fn remove(&self, user: Option<&Arc<str>>, record: Record) {
        self.bytes.fetch_sub(record.bytes, Ordering::Relaxed);
        let Some(user) = user else { return };
        let mut shares = self.shares.lock();
        let Some(share) = shares.users.get_mut(user) else { return };
        share.remove(record.order);
        if share.outcomes.is_empty() {
            shares.users.remove(user);
        }
    }

    /// Takes the oldest outcome out of a share that is over a bound, and names that. Its newest stays.
    fn displace(&self, user: &str, settings: &settings::Session) -> Option<(&'static str, Stored)> {
        let mut shares = self.shares.lock();
        let share = shares.users.get_mut(user)?;
        let bound = share.full(settings)?;
        let (&oldest, _) = share.outcomes.first_key_value().filter(|_| share.outcomes.len() > 1)?;
        Some((bound, share.remove(oldest)?))
    }
}

impl Share {
    fn full(&self, settings: &settings::Session) -> Option<&'static str> {
        if self.bytes > settings.user_durable_bytes_max {
            return Some("session.user_durable_bytes_max");
        }
        (self.outcomes.len() > settings.user_durable_outcomes_max)
            .then_some("session.user_durable_outcomes_max")
    }

    fn remove(&mut self, order: u64) -> Option<Stored> {
        let stored = self.outcomes.remove(&order)?;
        self.bytes -= stored.bytes;
        Some(stored)
    }
}

impl Context {
    /// Has a user's oldest outcomes expire until its share is within its bounds. The session that wrote the newest one is
    /// not to be locked: the oldest may be that session's, or another's.
    pub(super) fn keep_share(&self, user: Option<&Arc<str>>) {
        let Some(user) = user else { return };
        let settings = self.settings.load();
        while let Some((bound, stored)) = self.durable.displace(user, &settings) {
            self.limit_hit(bound);
            // One that has ended took its outcomes along.
            if let Some(session) = stored.session.upgrade() {
                session.expire_outcome(stored.seq);
            }
        }
    }
}
