//! What the server is told of the outcomes that were taken, and when.

use super::Session;
use crate::link::Ack;

impl Session {
    /// Outcomes that were taken and not told, and the message bytes of their answers, which the server keeps.
    pub fn ack_due(&self) -> (usize, usize) {
        (self.ack_due.len(), self.ack_bytes)
    }

    /// Whether REQUEST `seq`, which goes out now, can tell what was taken in place of an ACK: nothing before it
    /// is still wanted.
    pub fn acknowledge_with(&mut self, seq: u64) -> bool {
        let floor = self.floor();
        if floor + 1 != seq || floor == self.floor_told {
            return false;
        }
        self.floor_told = floor;
        self.ack_due.retain(|&due| due > floor);
        if self.ack_due.is_empty() {
            self.ack_bytes = 0;
        }
        true
    }

    /// Outcomes taken since the last time, to be sent as ACK.
    pub fn take_ack(&mut self) -> Option<Ack> {
        let floor = self.floor();
        let mut seqs = std::mem::take(&mut self.ack_due);
        seqs.retain(|&seq| seq > floor);
        if floor == self.floor_told && seqs.is_empty() {
            return None;
        }
        self.floor_told = floor;
        self.ack_bytes = 0;
        // A frame holds 1024; what is left goes with the next.
        self.ack_due = seqs.split_off(seqs.len().min(ACK_SINGLES_MAX));
        Some(Ack { floor, seqs })
    }

    /// All numbers up to it are taken.
    pub(super) fn floor(&self) -> u64 {
        self.calls.keys().next().map_or(self.seq_next, |&seq| seq) - 1
    }
}

/// What one ACK frame may hold.
const ACK_SINGLES_MAX: usize = 1024;
