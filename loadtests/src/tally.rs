//! What is counted while a worker runs.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    clock,
    fault::{Fault, Faults},
    latencies::Latencies,
    wire::Windows,
};

/// Bytes at the sockets of one target: below TLS, above TCP; for QUIC the UDP payloads.
#[derive(Debug, Default)]
pub struct WireBytes {
    /// Written.
    pub sent: AtomicU64,
    /// Read.
    pub received: AtomicU64,
}

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From the clients.
    pub sent: u64,
    /// To the clients.
    pub received: u64,
}

impl WireBytes {
    /// The counts now.
    pub fn read(&self) -> Bytes {
        Bytes { sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) }
    }
}

impl Bytes {
    /// What came on top of `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// The counts of one worker's connections to one target while they were opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Opened {
    /// Connections that stand.
    pub connections: u64,
    /// Those that could not be opened.
    pub faults: Faults,
    /// From the start of the TCP connect to the end of the protocol's handshake.
    pub latency: Latencies,
    /// Bytes of the handshakes.
    pub bytes: Bytes,
}

impl Opened {
    /// Adds another process's.
    pub fn merge(&mut self, other: Self) {
        self.connections += other.connections;
        self.faults.merge(other.faults);
        self.latency.merge(&other.latency);
        self.bytes.merge(other.bytes);
    }
}

/// The counts of one round at one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Operations that succeeded: answers, or publishes sent (QoS 0) or acknowledged (QoS 1).
    pub operations: u64,
    /// Those that did not.
    pub faults: Faults,
    /// Time to the answer or acknowledgement, from the moment the operation was due.
    pub latency: Latencies,
    /// MQTT: messages that reached subscribers.
    pub delivered: u64,
    /// MQTT: time from the moment a publish was due to its arrival at a subscriber.
    pub delivery: Latencies,
    /// Open loop: how late the generator itself sent; a part of `latency`.
    pub lag: Latencies,
    /// Bytes of the round.
    pub bytes: Bytes,
    /// From the first operation to the end of the last, nanoseconds.
    pub nanos: u64,
}

impl Round {
    /// Adds another process's part of the same round.
    pub fn merge(&mut self, other: &Self) {
        let nanos = self.nanos.max(other.nanos);
        self.append(other);
        self.nanos = nanos;
    }

    /// Adds another round, which ran after this one.
    pub fn append(&mut self, other: &Self) {
        self.operations += other.operations;
        self.faults.merge(other.faults.clone());
        self.latency.merge(&other.latency);
        self.delivered += other.delivered;
        self.delivery.merge(&other.delivery);
        self.lag.merge(&other.lag);
        self.bytes.merge(other.bytes);
        self.nanos += other.nanos;
    }
}

/// Where the tasks of a worker count. A worker is one thread, so cells suffice.
#[derive(Debug, Default)]
pub struct Recorder {
    round: RefCell<Round>,
    last: Cell<u64>,
    /// Bytes at the sockets of the round's target.
    pub wire: Arc<WireBytes>,
    /// MQTT: what publishers have on its way.
    pub windows: Windows,
}

impl Recorder {
    /// An operation that was due at `due` and sent at `sent` has just ended.
    pub fn operation(&self, due: u64, sent: u64, result: Result<(), Fault>) {
        let now = clock::now();
        let mut round = self.round.borrow_mut();
        self.last.set(now);
        match result {
            Ok(()) => {
                round.operations += 1;
                round.latency.record(now.saturating_sub(due));
                if sent > due {
                    round.lag.record(sent - due);
                }
            }
            Err(fault) => round.faults.add(fault),
        }
    }

    /// A publish without acknowledgement that was due at `due` goes to the socket.
    pub fn sent(&self, due: u64) {
        let now = clock::now();
        let mut round = self.round.borrow_mut();
        self.last.set(now);
        round.operations += 1;
        if now > due {
            round.lag.record(now - due);
        }
    }

    /// A message that was due at `due` has just reached a subscriber.
    pub fn delivered(&self, due: u64) {
        let now = clock::now();
        let mut round = self.round.borrow_mut();
        self.last.set(now);
        round.delivered += 1;
        round.delivery.record(now.saturating_sub(due));
    }

    /// Something failed.
    pub fn fault(&self, fault: Fault) {
        self.round.borrow_mut().faults.add(fault);
    }

    /// Operations and deliveries so far.
    pub fn progress(&self) -> (u64, u64) {
        let round = self.round.borrow();
        (round.operations, round.delivered)
    }

    /// Ends the round that began at `start` and had `before` on the wire; the next one begins at zero.
    pub fn finish(&self, start: u64, before: Bytes) -> Round {
        let mut round = self.round.take();
        round.nanos = self.last.replace(0).saturating_sub(start);
        round.bytes = self.wire.read().since(before);
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_one_round_share_its_time_and_rounds_add_theirs() {
        let part = Round { operations: 10, nanos: 5, ..Round::default() };
        let mut round = part.clone();
        round.merge(&Round { nanos: 7, ..part.clone() });
        assert_eq!((round.operations, round.nanos), (20, 7));
        round.append(&part);
        assert_eq!((round.operations, round.nanos), (30, 12));
    }

    #[test]
    fn latency_counts_from_the_moment_an_operation_was_due() {
        let recorder = Recorder::default();
        let now = clock::now();
        recorder.operation(now - 3 * clock::SECOND, now - clock::SECOND, Ok(()));
        let round = recorder.finish(now - 3 * clock::SECOND, Bytes::default());
        assert!(round.latency.quantile(0.5) >= 2_990_000_000);
        assert!((1_990_000_000..2_990_000_000).contains(&round.lag.quantile(0.5)));
    }
}
