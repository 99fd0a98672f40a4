//! The block cipher SM4 (GB/T 32907-2016), by the best means that the machine has.

mod portable;

use zeroize::{Zeroize, ZeroizeOnDrop};

pub(super) type Block = [u8; 16];

/// What carries the S-box. All compute the same and all take a time that depends on the number of blocks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Bitsliced, for any machine.
    Portable,
}

impl Engine {
    /// The best one here.
    pub(super) fn detect() -> Self {
        Self::Portable
    }

    /// Every one that works here, for tests to compare.
    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        vec![Self::Portable]
    }
}

/// A key, expanded. It erases itself.
#[derive(Clone)]
pub(super) struct Sm4 {
    round_keys: [u32; 32],
    engine: Engine,
}

impl Sm4 {
    pub(super) fn new(key: &[u8; 16], engine: Engine) -> Self {
        Self { round_keys: expand(key), engine }
    }

    /// Encrypts each block. Many at once are much faster than one after the other.
    pub(super) fn encrypt(&self, blocks: &mut [Block]) {
        match self.engine {
            Engine::Portable => portable::encrypt(&self.round_keys, blocks),
        }
    }

    pub(super) fn encrypt_block(&self, block: &Block) -> Block {
        let mut blocks = [*block];
        self.encrypt(&mut blocks);
        blocks[0]
    }
}

impl Drop for Sm4 {
    fn drop(&mut self) {
        self.round_keys.zeroize();
    }
}

impl ZeroizeOnDrop for Sm4 {}

/// The key schedule (GB/T 32907, section 6.4).
fn expand(key: &[u8; 16]) -> [u32; 32] {
    /// The family key, FK.
    const FAMILY: [u32; 4] = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];
    let mut x = [0; 4];
    for (word, bytes) in key.as_chunks().0.iter().enumerate() {
        x[word] = u32::from_be_bytes(*bytes) ^ FAMILY[word];
    }
    let mut round_keys = [0; 32];
    for (round, round_key) in round_keys.iter_mut().enumerate() {
        let t = portable::substitute(x[1] ^ x[2] ^ x[3] ^ constant(round as u8));
        // L'(b) = b ^ (b <<< 13) ^ (b <<< 23)
        *round_key = x[0] ^ t ^ t.rotate_left(13) ^ t.rotate_left(23);
        x = [x[1], x[2], x[3], *round_key];
    }
    x.zeroize();
    round_keys
}

/// The constant key, CK: byte `j` of word `i` is `(4 i + j) * 7` mod 256.
fn constant(round: u8) -> u32 {
    u32::from_be_bytes([0, 1, 2, 3].map(|byte| (4 * round + byte).wrapping_mul(7)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    const KEY: [u8; 16] =
        [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10];

    /// GB/T 32907-2016, appendix A.1.
    #[test]
    fn the_standards_first_example() {
        for engine in Engine::available() {
            let block = Sm4::new(&KEY, engine).encrypt_block(&KEY);
            assert_eq!(block.as_slice(), hex("681edf34d206965e86b3e94f536e4246"), "{engine:?}");
        }
    }

    /// GB/T 32907-2016, appendix A.2: encrypted a million times.
    #[test]
    fn the_standards_second_example() {
        // A bitsliced block alone takes microseconds, so unoptimised builds leave this to the fastest engine.
        let cipher = Sm4::new(&KEY, Engine::detect());
        let block = (0..1_000_000).fold(KEY, |block, _| cipher.encrypt_block(&block));
        assert_eq!(block.as_slice(), hex("595298c7c6fd271f0402f804c33d3f66"));
    }

    #[test]
    fn engines_agree_on_any_number_of_blocks() {
        for engine in Engine::available() {
            let (tested, reference) = (Sm4::new(&KEY, engine), Sm4::new(&KEY, Engine::Portable));
            for count in 0..150 {
                let blocks: Vec<Block> =
                    (0..count).map(|_| std::array::from_fn(|_| fastrand::u8(..))).collect();
                let (mut left, mut right) = (blocks.clone(), blocks);
                tested.encrypt(&mut left);
                for block in &mut right {
                    *block = reference.encrypt_block(block);
                }
                assert_eq!(left, right, "{engine:?}, {count} blocks");
            }
        }
    }
}
