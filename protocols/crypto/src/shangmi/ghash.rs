//! GHASH (NIST SP 800-38D, section 6.4).

use ghash::{GHash, universal_hash::UniversalHash as _};

use super::sm4::Block;

/// The hash key `H`, ready to multiply by. It erases itself.
#[derive(Clone)]
pub(super) struct Key(GHash);

impl Key {
    pub(super) fn new(h: &Block) -> Self {
        Self(GHash::new(h.into()))
    }

    /// The hash of additional data, ciphertext and their lengths (SP 800-38D, section 7.1, steps 4 and 5).
    pub(super) fn hash(&self, aad: &[u8], ciphertext: &[u8]) -> Block {
        let mut hash = self.0.clone();
        hash.update_padded(aad);
        hash.update_padded(ciphertext);
        hash.update(&[lengths(aad, ciphertext).into()]);
        hash.finalize().into()
    }
}

/// Both lengths in bits.
fn lengths(aad: &[u8], ciphertext: &[u8]) -> Block {
    let bits = |bytes: &[u8]| bytes.len() as u128 * 8;
    (bits(aad) << 64 | bits(ciphertext)).to_be_bytes()
}
