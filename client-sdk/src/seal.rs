//! Files that say nothing to whoever copies them without the identity.
//!
//! ```text
//!  magic, 4 bytes | nonce | AES-256-GCM-SIV of the content | tag
//!                   key: HKDF-SHA256 of the session secret, with what else must be known
//! ```

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroize as _;

const MAGIC_BYTES: usize = 4;

/// Seals and opens the files of one kind.
pub(crate) struct Seal {
    magic: &'static [u8; MAGIC_BYTES],
    key: LessSafeKey,
}

impl Seal {
    /// `purpose` separates the kinds of files, `known` are what must be known beside the secret to open one. `None` where
    /// the system has no such cryptography.
    pub(crate) fn new(
        magic: &'static [u8; MAGIC_BYTES],
        purpose: &str,
        secret: &[u8; 16],
        known: &[&str],
    ) -> Option<Self> {
        let lengths: Vec<_> = known.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
        let info: Vec<&[u8]> =
            known.iter().zip(&lengths).flat_map(|(part, length)| [&length[..], part.as_bytes()]).collect();
        let secret = Salt::new(HKDF_SHA256, purpose.as_bytes()).extract(secret);
        let key = UnboundKey::from(secret.expand(&info, &AES_256_GCM_SIV).ok()?);
        Some(Self { magic, key: LessSafeKey::new(key) })
    }

    /// The file of that content; it opens under the same `name` alone.
    pub(crate) fn seal(&self, name: &str, mut content: Vec<u8>) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::from(self.bound(name)), &mut content).ok()?;
        Some([&self.magic[..], &nonce, &content].concat())
    }

    /// The content; `None` of a file that is not whole, not this, or not of this identity.
    pub(crate) fn open(&self, name: &str, mut file: Vec<u8>) -> Option<Vec<u8>> {
        let (magic, rest) = file.split_at_mut_checked(MAGIC_BYTES)?;
        let (nonce, sealed) = rest.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(self.bound(name)), sealed).ok()?;
        let content = (magic == self.magic).then(|| opened.to_vec());
        // What is opened may be secret, and is to be where the caller has it alone.
        opened.zeroize();
        content
    }

    fn bound(&self, name: &str) -> Vec<u8> {
        [self.magic, name.as_bytes()].concat()
    }
}
