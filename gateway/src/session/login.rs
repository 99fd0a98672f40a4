//! The memory of a password that was found right.

use std::{
    fmt,
    hint::black_box,
    sync::{Arc, Weak},
};

use aws_lc_rs::digest::{Context, SHA256};
use towline_protocols::link::Hello;

use crate::snapshot::Snapshot;

/// User and password of a HELLO, and the users who were asked. A password is checked at a cost that early
/// data must not cause; the same one by the same client needs no check until the users change.
pub struct Login {
    /// SHA-256 over the session's secret, user and password: useless to whoever has not got the secret.
    digest: [u8; 32],
    /// Whose users admitted it.
    snapshot: Weak<Snapshot>,
}

impl Login {
    /// What HELLO claims, for the users of `snapshot`.
    pub fn of(hello: &Hello, snapshot: &Arc<Snapshot>) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [&hello.session_secret[..], hello.user.as_bytes(), hello.password.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { digest, snapshot: Arc::downgrade(snapshot) }
    }

    /// Takes the same time wherever the digests differ.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let pairs = self.digest.iter().zip(other.digest);
        let difference = pairs.fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
        difference == 0 && self.snapshot.ptr_eq(&other.snapshot)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(<redacted>)")
    }
}
