//! The block cipher SM4 (GB/T 32907-2016), by the best means that the machine has.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use zeroize::{Zeroize, ZeroizeOnDrop};

pub(super) type Block = [u8; 16];

/// Bytes of counter mode that every engine makes whole groups of.
pub(super) const CHUNK: usize = 256;

/// What carries the S-box. All compute the same, and all take a time that depends on the number of blocks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Bitsliced, for any machine.
    Portable,
    /// AES-NI with SSSE3.
    #[cfg(target_arch = "x86_64")]
    AesNi(Found),
    /// GFNI with AVX2.
    #[cfg(target_arch = "x86_64")]
    Gfni256(Found),
    /// GFNI with AVX-512, and VPCLMULQDQ for GCM.
    #[cfg(target_arch = "x86_64")]
    Gfni512(Found),
}

/// Stands for features that this machine was asked for and has: only [`Engine::available`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(target_arch = "x86_64")]
pub(super) struct Found(());

impl Engine {
    /// The best one here.
    pub(super) fn detect() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }

    /// Every one that works here, from the slowest to the fastest.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn available() -> impl Iterator<Item = Self> {
        [Self::Portable].into_iter()
    }

    /// Every one that works here, from the slowest to the fastest.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn available() -> impl Iterator<Item = Self> {
        use std::arch::is_x86_feature_detected as has;
        let found = |found: bool| found.then_some(Found(()));
        let aesni = found(has!("aes") && has!("ssse3"));
        let gfni256 = found(has!("gfni") && has!("avx2"));
        let gfni512 = found(
            has!("gfni")
                && has!("avx512f")
                && has!("avx512bw")
                && has!("vpclmulqdq")
                && has!("pclmulqdq")
                && has!("sse4.1"),
        );
        let engines = [aesni.map(Self::AesNi), gfni256.map(Self::Gfni256), gfni512.map(Self::Gfni512)];
        [Self::Portable].into_iter().chain(engines.into_iter().flatten())
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::AesNi(_) => "AES-NI",
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256(_) => "GFNI, AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512(_) => "GFNI, AVX-512",
        }
    }

    /// `tau`: the S-box on each byte of a word (GB/T 32907, section 6.2).
    #[allow(unsafe_code, reason = "calls of code for features of the machine that an engine stands for")]
    fn substitute(self, word: u32) -> u32 {
        match self {
            Self::Portable => portable::substitute(word),
            // SAFETY: `Found` is made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Self::AesNi(_) => unsafe { x86::aesni::substitute(word) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256(_) => unsafe { x86::gfni256::substitute(word) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512(_) => unsafe { x86::gfni512::substitute(word) },
        }
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
        Self { round_keys: expand(key, engine), engine }
    }

    /// Encrypts each block. Many at once are much faster than one after the other.
    #[allow(unsafe_code, reason = "calls of code for features of the machine that an engine stands for")]
    pub(super) fn encrypt(&self, blocks: &mut [Block]) {
        match self.engine {
            Engine::Portable => portable::encrypt(&self.round_keys, blocks),
            // SAFETY: `Found` is made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Engine::AesNi(_) => unsafe { x86::aesni::encrypt(&self.round_keys, blocks) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni256(_) => unsafe { x86::gfni256::encrypt(&self.round_keys, blocks) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni512(_) => unsafe { x86::gfni512::encrypt(&self.round_keys, blocks) },
        }
    }

    /// Adds the keystream of counter mode to `data`, whole [`CHUNK`]s: its first block is `counter`, of which the last
    /// 32 bits count.
    #[allow(unsafe_code, reason = "calls of code for features of the machine that an engine stands for")]
    pub(super) fn count(&self, counter: u128, data: &mut [u8]) {
        debug_assert_eq!(data.len() % CHUNK, 0);
        match self.engine {
            Engine::Portable => self.count_blocks(counter, data),
            // SAFETY: `Found` is made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Engine::AesNi(_) => unsafe { x86::aesni::count(&self.round_keys, counter, data) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni256(_) => unsafe { x86::gfni256::count(&self.round_keys, counter, data) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni512(_) => unsafe { x86::gfni512::count(&self.round_keys, counter, data) },
        }
    }

    fn count_blocks(&self, mut counter: u128, data: &mut [u8]) {
        let mut stream = [[0; 16]; 4 * CHUNK / 16];
        for data in data.chunks_mut(4 * CHUNK) {
            let stream = &mut stream[..data.len() / 16];
            for block in stream.iter_mut() {
                *block = counter.to_be_bytes();
                counter += 1;
            }
            self.encrypt(stream);
            data.iter_mut().zip(stream.as_flattened()).for_each(|(byte, key)| *byte ^= key);
        }
        stream.as_flattened_mut().zeroize();
    }

    /// Encrypts one block, in less time than a group takes.
    #[allow(unsafe_code, reason = "calls of code for features of the machine that an engine stands for")]
    pub(super) fn encrypt_block(&self, block: &Block) -> Block {
        match self.engine {
            Engine::Portable => {
                let mut blocks = [*block];
                portable::encrypt(&self.round_keys, &mut blocks);
                blocks[0]
            }
            // SAFETY: `Found` is made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Engine::AesNi(_) => unsafe { x86::aesni::encrypt_one(&self.round_keys, block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni256(_) => unsafe { x86::gfni256::encrypt_one(&self.round_keys, block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni512(_) => unsafe { x86::gfni512::encrypt_one(&self.round_keys, block) },
        }
    }
}

impl Drop for Sm4 {
    fn drop(&mut self) {
        self.round_keys.zeroize();
    }
}

impl ZeroizeOnDrop for Sm4 {}

/// The key schedule (GB/T 32907, section 6.4).
fn expand(key: &[u8; 16], engine: Engine) -> [u32; 32] {
    /// The family key, FK.
    const FAMILY: [u32; 4] = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];
    let mut x = [0; 4];
    for (word, bytes) in key.as_chunks().0.iter().enumerate() {
        x[word] = u32::from_be_bytes(*bytes) ^ FAMILY[word];
    }
    let mut round_keys = [0; 32];
    for (round, round_key) in round_keys.iter_mut().enumerate() {
        let t = engine.substitute(x[1] ^ x[2] ^ x[3] ^ constant(round as u8));
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
        // A bitsliced block alone takes microseconds, so this is left to the fastest engine.
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
                    assert_eq!(tested.encrypt_block(block), reference.encrypt_block(block), "{engine:?}");
                    *block = reference.encrypt_block(block);
                }
                assert_eq!(left, right, "{engine:?}, {count} blocks");
            }
        }
    }
}
