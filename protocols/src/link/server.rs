//! What the server remembers of a session's requests, so that each is run once.

mod seq_set;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

use super::{Ack, Execution, RpcError, RpcErrorKind};
use seq_set::SeqSet;

/// Bounds of one session's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Finished requests whose outcome is kept, count.
    pub outcomes_max: usize,
    /// Recorded bytes of all requests, running and finished.
    pub outcome_bytes_max: usize,
    /// How long an outcome is kept once finished.
    pub outcome_age_max: Duration,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self { outcomes_max: 1024, outcome_bytes_max: 1024 * 1024, outcome_age_max: Duration::from_secs(600) }
    }
}

/// The requests of one session, by sequence number. `T` is the server's handle to a request: how to
/// attach to it while it runs, and its recorded outcome afterwards. Dropping an entry drops the handle.
///
/// ```text
///            begin            finish
///  unknown --------> running --------> finished
///     ^                 |                 |  acknowledge       bound met
///     +-----------------+                 +--------------> acknowledged
///         forget (not run)                +--------------> expired
/// ```
#[derive(Debug)]
pub struct Ledger<T> {
    limits: LedgerLimits,
    entries: BTreeMap<u64, Entry<T>>,
    /// Finished entries in the order they finished; entries already gone are skipped.
    finished: VecDeque<(Instant, u64)>,
    finished_count: usize,
    bytes: usize,
    acknowledged: SeqSet,
    expired: SeqSet,
    /// Of the numbers up to this one a server that was started again knows no more than that they may have run.
    presumed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
    finished: bool,
    /// The client has said that it does not want the outcome: gone as soon as it is finished.
    unwanted: bool,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a, T> {
    /// Never seen: run it, and say so by [`Ledger::begin`].
    New,
    /// It runs: attach the new connection to it.
    Attach(&'a T),
    /// It is finished: send the recorded outcome.
    Replay(&'a T),
    /// The client has taken its outcome before.
    Acknowledged,
    /// It was run, or may have been, and its outcome was dropped because a bound was met, or lost.
    Expired,
    /// It may have been run before the server was started again: it is not run now.
    Presumed,
}

impl<T> Admission<'_, T> {
    /// What RESET says where there is nothing to run, attach to or send.
    pub fn error(&self) -> Option<RpcError> {
        let (execution, text) = match self {
            Self::Acknowledged => (Execution::Ran, "the outcome of this request was acknowledged before"),
            Self::Expired => (
                Execution::MayHaveRun,
                "the outcome is no longer kept: its bound in bytes, count or time was met",
            ),
            Self::Presumed => (
                Execution::NotNow,
                "whether this request ran before the server was restarted is not known: it is not run now",
            ),
            _ => return None,
        };
        Some(RpcError::new(RpcErrorKind::OutcomeExpired, execution, text))
    }
}

impl<T> Ledger<T> {
    /// An empty ledger; `floor` is HELLO's when the session is new here: what the client has taken from
    /// an earlier session is not run again.
    pub fn new(limits: LedgerLimits, floor: u64) -> Self {
        let mut acknowledged = SeqSet::default();
        acknowledged.raise_floor(floor);
        Self {
            limits,
            entries: BTreeMap::new(),
            finished: VecDeque::new(),
            finished_count: 0,
            bytes: 0,
            acknowledged,
            expired: SeqSet::default(),
            presumed: 0,
        }
    }

    /// Of all numbers up to `seq` it is known only that they may have run before the server was started again, apart
    /// from those that are there, acknowledged or expired.
    pub fn presume_run(&mut self, seq: u64) {
        self.presumed = self.presumed.max(seq);
    }

    /// Of `seq`, which is not there, it is known only that it may have run.
    pub fn doubt(&mut self, seq: u64) {
        if let Some(below) = self.expired.insert(seq) {
            self.expired.raise_floor(below);
        }
    }

    /// Brings back an outcome of `bytes` that was complete at `finished`. To be called in the order of these.
    pub fn restore(&mut self, seq: u64, value: T, bytes: usize, finished: Instant) {
        self.begin(seq, value);
        if self.record(seq, bytes) {
            self.finish(seq, finished);
        }
    }

    /// What to do with request `seq`.
    pub fn admit(&self, seq: u64) -> Admission<'_, T> {
        match self.entries.get(&seq) {
            Some(entry) if entry.finished => Admission::Replay(&entry.value),
            Some(entry) => Admission::Attach(&entry.value),
            None if self.acknowledged.contains(seq) => Admission::Acknowledged,
            None if self.expired.contains(seq) => Admission::Expired,
            None if seq <= self.presumed => Admission::Presumed,
            None => Admission::New,
        }
    }

    /// Records that request `seq`, which was [`Admission::New`], runs from now on.
    pub fn begin(&mut self, seq: u64, value: T) {
        self.entries.insert(seq, Entry { value, bytes: 0, finished: false, unwanted: false });
    }

    /// The handle of a running or finished request.
    pub fn get(&self, seq: u64) -> Option<&T> {
        self.entries.get(&seq).map(|entry| &entry.value)
    }

    /// The handle of a running or finished request.
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        self.entries.get_mut(&seq).map(|entry| &mut entry.value)
    }

    /// Counts `bytes` more of recorded outcome for `seq`; older outcomes make room. False when the record
    /// alone exceeds the bound, or is gone: it is not kept then, and the caller stops recording.
    pub fn record(&mut self, seq: u64, bytes: usize) -> bool {
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        entry.bytes += bytes;
        self.bytes += bytes;
        if entry.bytes > self.limits.outcome_bytes_max {
            self.expire_entry(seq);
            return false;
        }
        self.enforce_bounds(seq);
        self.entries.contains_key(&seq)
    }

    /// The request's outcome is complete; it is kept until acknowledged, within the bounds.
    pub fn finish(&mut self, seq: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if entry.finished {
            return;
        }
        entry.finished = true;
        if entry.unwanted {
            self.remove(seq);
            self.note_acknowledged(seq);
            return;
        }
        self.finished.push_back((now, seq));
        self.finished_count += 1;
        self.enforce_bounds(seq);
    }

    /// The request certainly did not run (its body never arrived whole, or it was refused): it is as if
    /// it had never been seen, and may be sent again under the same number.
    pub fn forget(&mut self, seq: u64) -> Option<T> {
        self.remove(seq)
    }

    /// The client has taken these outcomes. Running requests among them go on, and their outcome is not
    /// kept.
    pub fn acknowledge(&mut self, ack: &Ack) {
        // What lies up to the floor needs no note of its own.
        let mut behind = Bound::Unbounded;
        while let Some((&seq, entry)) = self.entries.range_mut((behind, Bound::Included(ack.floor))).next() {
            behind = Bound::Excluded(seq);
            if entry.finished {
                self.remove(seq);
            } else {
                entry.unwanted = true;
            }
        }
        for seq in ack.seqs.iter().copied().filter(|seq| *seq > ack.floor) {
            match self.entries.get_mut(&seq) {
                Some(entry) if !entry.finished => entry.unwanted = true,
                Some(_) => {
                    self.remove(seq);
                    self.note_acknowledged(seq);
                }
                None => self.note_acknowledged(seq),
            }
        }
        self.acknowledged.raise_floor(ack.floor);
        self.expired.drop_up_to(ack.floor);
    }

    /// Takes HELLO's word on what the client still wants. What is finished and not waited for has been
    /// taken; what runs and is not waited for is unwanted. Returns the numbers waited for that this
    /// session has never seen: WELCOME.unknown.
    pub fn reconcile(&mut self, floor: u64, waiting: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let waiting: BTreeSet<u64> = waiting.into_iter().collect();
        let seqs = self.entries.keys().copied().filter(|seq| !waiting.contains(seq)).collect();
        self.acknowledge(&Ack { floor, seqs });
        waiting.into_iter().filter(|&seq| matches!(self.admit(seq), Admission::New)).collect()
    }

    /// Drops outcomes that have been kept long enough.
    pub fn expire(&mut self, now: Instant) {
        while let Some(&(at, seq)) = self.finished.front() {
            let kept = self.entries.get(&seq).is_some_and(|entry| entry.finished);
            if kept && at + self.limits.outcome_age_max > now {
                break;
            }
            self.finished.pop_front();
            if kept {
                self.expire_entry(seq);
            }
        }
    }

    /// Drops the outcome of `seq` for a bound that the server has beside the ledger's own.
    pub fn expire_outcome(&mut self, seq: u64) {
        self.expire_entry(seq);
    }

    /// When [`Ledger::expire`] has something to do, at the earliest.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.finished.front().map(|(at, _)| *at + self.limits.outcome_age_max)
    }

    /// Requests that run or are kept, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.entries.iter().map(|(&seq, entry)| (seq, &entry.value))
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.entries.len() - self.finished_count
    }

    /// Outcomes kept.
    pub fn outcomes(&self) -> usize {
        self.finished_count
    }

    /// Bytes recorded.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Finished outcomes make room, the oldest first; `newest` goes last.
    fn enforce_bounds(&mut self, newest: u64) {
        let over = |ledger: &Self| {
            ledger.finished_count > ledger.limits.outcomes_max
                || ledger.bytes > ledger.limits.outcome_bytes_max
        };
        while over(self) {
            match self.finished.pop_front() {
                Some((_, seq)) if self.entries.get(&seq).is_some_and(|entry| entry.finished) => {
                    self.expire_entry(seq);
                }
                Some(_) => {}
                // Only running requests are left: the one that grew gives way.
                None => return self.expire_entry(newest),
            }
        }
    }

    fn expire_entry(&mut self, seq: u64) {
        if self.remove(seq).is_some() {
            self.doubt(seq);
        }
    }

    fn note_acknowledged(&mut self, seq: u64) {
        // Whoever leaves more holes than are remembered loses the certainty of what lies below.
        if let Some(below) = self.acknowledged.insert(seq) {
            self.expired.raise_floor(below);
        }
    }

    fn remove(&mut self, seq: u64) -> Option<T> {
        let entry = self.entries.remove(&seq)?;
        self.bytes -= entry.bytes;
        if entry.finished && !entry.unwanted {
            self.finished_count -= 1;
        }
        // Most are acknowledged in the order they finished; what is left of them here is skipped later,
        // unless it becomes the most of the list.
        if self.finished.len() > 2 * self.finished_count + 16 {
            let entries = &self.entries;
            self.finished.retain(|(_, seq)| entries.get(seq).is_some_and(|entry| entry.finished));
        }
        Some(entry.value)
    }
}
