//! The AEADs alone, for a record layer of one's own.

use std::ptr;

use rustls::{Error, SupportedCipherSuite, Tls13CipherSuite};

use super::{
    aead::{Aead, KEY, Mode, NONCE, TAG},
    sm4::Engine,
    tls,
};

/// Protects records of one direction of a connection whose suite is [`SM4_GCM_SM3`](super::SM4_GCM_SM3) or
/// [`SM4_CCM_SM3`](super::SM4_CCM_SM3), in place. It erases itself.
pub struct RecordKey(Aead);

impl RecordKey {
    /// Octets of the key that `HKDF-Expand-Label(secret, "key", "", ..)` gives (RFC 8446, section 7.3).
    pub const KEY_BYTES: usize = KEY;
    /// Octets of a nonce and of a tag.
    pub const NONCE_BYTES: usize = NONCE;
    /// Octets of a tag.
    pub const TAG_BYTES: usize = TAG;

    /// Whether a suite is one of the two. They are known by address: another provider's suites of the same numbers
    /// may keep their keys in a module.
    pub fn serves(suite: &'static Tls13CipherSuite) -> bool {
        mode(suite).is_some()
    }

    /// Expands a key; `None` for another suite.
    pub fn new(suite: &'static Tls13CipherSuite, key: &[u8; KEY]) -> Option<Self> {
        Some(Self(Aead::new(mode(suite)?, key)))
    }

    /// With one of [`engines`], to measure it. [`RecordKey::new`] takes the fastest.
    pub fn with_engine(suite: &'static Tls13CipherSuite, key: &[u8; KEY], engine: &str) -> Option<Self> {
        let engine = Engine::available().find(|known| known.name() == engine)?;
        Some(Self(Aead::with_engine(mode(suite)?, key, engine)))
    }

    /// Encrypts `data`, the content with its type and padding, and returns the tag that follows it.
    ///
    /// # Errors
    /// `data` is longer than the mode allows: 16 MiB in CCM, 64 GiB in GCM.
    pub fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG], Error> {
        self.0.seal(nonce, aad, data).map_err(|_| Error::EncryptError)
    }

    /// Decrypts `data`, whose tag stood behind it.
    ///
    /// # Errors
    /// It is not what was sealed; what is left in `data` is not to be used.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Error> {
        self.0.open(nonce, aad, data, tag).map_err(|_| Error::DecryptError)
    }
}

/// What can carry SM4 on this machine, the fastest last.
pub fn engines() -> impl Iterator<Item = &'static str> {
    Engine::available().map(Engine::name)
}

fn mode(suite: &'static Tls13CipherSuite) -> Option<Mode> {
    let is_it = |known: &SupportedCipherSuite| known.tls13().is_some_and(|known| ptr::eq(known, suite));
    [(&tls::GCM, Mode::Gcm), (&tls::CCM, Mode::Ccm)]
        .into_iter()
        .find(|(known, _)| is_it(known))
        .map(|(_, mode)| mode)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

    use super::*;

    #[test]
    fn the_two_suites_and_no_other() {
        for suite in [&tls::GCM, &tls::CCM] {
            let key = RecordKey::new(suite.tls13().unwrap(), &[1; KEY]).unwrap();
            let mut data = *b"content\x17";
            let tag = key.seal(&[2; NONCE], b"header", &mut data).unwrap();
            assert_ne!(&data, b"content\x17");
            key.open(&[2; NONCE], b"header", &mut data, &tag).unwrap();
            assert_eq!(&data, b"content\x17");
            assert!(key.open(&[2; NONCE], b"headed", &mut data, &tag).is_err());
        }
        assert!(!RecordKey::serves(TLS13_AES_128_GCM_SHA256.tls13().unwrap()));
    }
}
