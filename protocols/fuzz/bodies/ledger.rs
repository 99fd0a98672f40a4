//! A server's memory of requests, under any order of requests, ends, acknowledgements, HELLOs and restarts: no number
//! that may have run is new again, what is kept stays within its bounds, and nothing is said to be acknowledged that
//! was not.

use std::{
    collections::BTreeSet,
    sync::LazyLock,
    time::{Duration, Instant},
};

use towline_protocols::link::{
    Ack,
    server::{Admission, Ledger, LedgerLimits},
};

const LIMITS: LedgerLimits =
    LedgerLimits { outcomes_max: 5, outcome_bytes_max: 4000, outcome_age_max: Duration::from_secs(60) };
/// Few, so that a short history comes back to each.
const SEQS: u64 = 40;

#[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn run(data: &[u8]) {
    let mut history = History {
        ledger: Ledger::new(LIMITS, 0),
        now: *ORIGIN,
        may_have_run: BTreeSet::new(),
        let_go: BTreeSet::new(),
    };
    for step in data.chunks_exact(3) {
        history.step(step[0], step[1], step[2]);
        history.check();
    }
}

struct History {
    ledger: Ledger<u64>,
    now: Instant,
    /// Begun, and not known to have stopped before it ran.
    may_have_run: BTreeSet<u64>,
    /// Named by an acknowledgement, or not named by a HELLO.
    let_go: BTreeSet<u64>,
}

impl History {
    fn step(&mut self, kind: u8, first: u8, second: u8) {
        let seq = 1 + u64::from(first) % SEQS;
        let other = 1 + u64::from(second) % SEQS;
        match kind % 10 {
            0 | 1 => self.request(seq),
            2 => _ = self.ledger.record(seq, usize::from(second) * 16),
            3 => self.ledger.finish(seq, self.now),
            4 => self.stop(seq),
            5 => self.acknowledge(seq, vec![]),
            6 => self.acknowledge(0, vec![seq, other]),
            7 => self.hello(seq / 4, other, kind),
            8 => {
                self.now += Duration::from_secs(u64::from(first));
                self.ledger.expire(self.now);
            }
            _ => self.restart(seq),
        }
    }

    fn request(&mut self, seq: u64) {
        match self.ledger.admit(seq) {
            Admission::New => {
                assert!(self.may_have_run.insert(seq), "{seq} runs a second time");
                self.ledger.begin(seq, seq);
            }
            Admission::Attach(value) | Admission::Replay(value) => assert_eq!(*value, seq),
            Admission::Acknowledged | Admission::Expired | Admission::Presumed => {}
        }
    }

    /// The body never arrived whole.
    fn stop(&mut self, seq: u64) {
        if matches!(self.ledger.admit(seq), Admission::Attach(_)) {
            assert_eq!(self.ledger.forget(seq), Some(seq));
            self.may_have_run.remove(&seq);
        }
    }

    fn acknowledge(&mut self, floor: u64, seqs: Vec<u64>) {
        self.let_go.extend((1..=floor).chain(seqs.iter().copied()));
        self.ledger.acknowledge(&Ack { floor, seqs });
    }

    /// A client comes back that waits for some of what there is, and for what there is not.
    fn hello(&mut self, floor: u64, from: u64, every: u8) {
        let waiting: Vec<u64> = (from..=SEQS).step_by(1 + usize::from(every / 10)).collect();
        self.let_go.extend((1..=SEQS).filter(|seq| !waiting.contains(seq) || *seq <= floor));
        for unknown in self.ledger.reconcile(floor, waiting.iter().copied()) {
            assert!(waiting.contains(&unknown));
            assert!(!self.may_have_run.contains(&unknown), "{unknown} may have run, and is asked for again");
        }
    }

    /// The process dies. The mark was above every number, and of the outcomes those up to `kept` were stored.
    fn restart(&mut self, kept: u64) {
        let stored: Vec<u64> = (1..=kept)
            .filter(|seq| matches!(self.ledger.admit(*seq), Admission::Replay(_)))
            .collect();
        self.ledger = Ledger::new(LIMITS, 0);
        self.ledger.presume_run(SEQS);
        for seq in stored {
            self.ledger.restore(seq, seq, 10, self.now);
        }
        self.may_have_run.extend(1..=SEQS);
    }

    fn check(&self) {
        assert!(self.ledger.outcomes() <= LIMITS.outcomes_max);
        assert!(self.ledger.bytes() <= LIMITS.outcome_bytes_max);
        assert_eq!(self.ledger.iter().count(), self.ledger.running() + self.ledger.outcomes());
        for &seq in &self.may_have_run {
            assert_ne!(self.ledger.admit(seq), Admission::New, "{seq} would run a second time");
        }
        for seq in (1..=SEQS).filter(|seq| !self.let_go.contains(seq)) {
            assert_ne!(self.ledger.admit(seq), Admission::Acknowledged, "{seq}");
        }
    }
}
