//! What is kept of a session's secret.

use std::{fmt, hint::black_box};

use aws_lc_rs::digest;

use super::OpenError;

/// Half a SHA-256 of the secret. The secret is random, so 128 bits are as hard to hit as itself.
#[derive(Clone, Copy)]
pub(super) struct SecretHash(pub(super) [u8; 16]);

/// Bytes of HELLO.session_secret.
const SECRET_BYTES: usize = 16;

impl SecretHash {
    pub(super) fn of(secret: &[u8]) -> Result<Self, OpenError> {
        if secret.len() != SECRET_BYTES {
            return Err(OpenError::Malformed("HELLO.session_secret must be 16 bytes"));
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest::digest(&digest::SHA256, secret).as_ref()[..16]);
        Ok(Self(hash))
    }

    /// Takes the same time wherever the hashes differ.
    pub(super) fn matches(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
        difference == 0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(<redacted>)")
    }
}
