//! GHASH (NIST SP 800-38D, section 6.4).

#[cfg(target_arch = "x86_64")]
mod x86;

use ghash::{GHash, universal_hash::UniversalHash as _};

use super::sm4::{Block, Engine};

/// The hash key `H`, ready to multiply by. It erases itself.
#[derive(Clone)]
pub(super) struct Key(Means);

#[derive(Clone)]
enum Means {
    /// The crate's: PCLMULQDQ or PMULL where there is one, else constant-time multiplication of integers.
    Crate(GHash),
    #[cfg(target_arch = "x86_64")]
    Wide(x86::Powers),
}

impl Key {
    #[allow(unsafe_code, reason = "calls of code for features of the machine that the engine stands for")]
    pub(super) fn new(h: &Block, engine: Engine) -> Self {
        match engine {
            // SAFETY: this engine is made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Engine::Gfni512(_) => Self(Means::Wide(unsafe { x86::Powers::new(h) })),
            _ => Self(Means::Crate(GHash::new(h.into()))),
        }
    }

    /// The hash of additional data, ciphertext and their lengths (SP 800-38D, section 7.1, steps 4 and 5).
    #[allow(unsafe_code, reason = "as above")]
    pub(super) fn hash(&self, aad: &[u8], ciphertext: &[u8]) -> Block {
        let lengths = lengths(aad, ciphertext);
        match &self.0 {
            // SAFETY: these powers are made where these features were found.
            #[cfg(target_arch = "x86_64")]
            Means::Wide(powers) => unsafe { powers.hash(aad, ciphertext, lengths) },
            Means::Crate(hash) => {
                let mut hash = hash.clone();
                hash.update_padded(aad);
                hash.update_padded(ciphertext);
                hash.update(&[lengths.into()]);
                hash.finalize().into()
            }
        }
    }
}

/// Both lengths in bits.
fn lengths(aad: &[u8], ciphertext: &[u8]) -> Block {
    let bits = |bytes: &[u8]| bytes.len() as u128 * 8;
    (bits(aad) << 64 | bits(ciphertext)).to_be_bytes()
}
