//! How many different clients there were.

use sha2::{Digest as _, Sha256};

/// A count within some 3 %, in a kilobyte (HyperLogLog; Flajolet et al., 2007).
#[derive(Clone)]
pub(super) struct Distinct {
    registers: Box<[u8; REGISTERS]>,
}

const REGISTERS: usize = 1024;
/// Of a hash, behind the bits that choose the register.
const RANK_MAX: u8 = 55;

impl Default for Distinct {
    fn default() -> Self {
        Self { registers: Box::new([0; REGISTERS]) }
    }
}

impl Distinct {
    /// By a hash that is the same in every version, since registers are kept.
    pub(super) fn add(&mut self, client_id: &str) {
        let digest = Sha256::digest(client_id);
        let hash = digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        let (place, rest) = (hash as usize % REGISTERS, hash / REGISTERS as u64);
        // The rest has 54 bits.
        let rank = (rest.leading_zeros() - 10 + 1) as u8;
        self.registers[place] = self.registers[place].max(rank);
    }

    pub(super) fn count(&self) -> u64 {
        let m = REGISTERS as f64;
        let sum: f64 = self.registers.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let estimate = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let empty = self.registers.iter().filter(|rank| **rank == 0).count();
        let few = estimate <= 2.5 * m && empty > 0;
        (if few { m * (m / empty as f64).ln() } else { estimate }).round() as u64
    }

    /// As it is kept: a character for each register, from `0` on.
    pub(super) fn to_text(&self) -> String {
        self.registers.iter().map(|rank| char::from(b'0' + rank)).collect()
    }

    /// Reads what [`Distinct::to_text`] wrote.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let ranks = text.bytes().map(|octet| octet.checked_sub(b'0').filter(|rank| *rank <= RANK_MAX));
        let ranks: Option<Vec<u8>> = ranks.collect();
        Some(Self { registers: ranks?.into_boxed_slice().try_into().ok()? })
    }
}
