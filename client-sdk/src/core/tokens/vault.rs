//! Tokens beside the identity file, for the next run of the app. They are sealed: whoever copies the file without the
//! identity has nothing, and another password does not open it, so that the gateway is asked about that.
//!
//! ```text
//!  "TWT1", sealed: lines "host:port seconds-since-1970 token-in-hex"
//! ```

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    config::{Credentials, Endpoint},
    disk::Disk,
    identity::Identity,
    seal::Seal,
};

const MAGIC: &[u8; 4] = b"TWT1";
const PURPOSE: &str = "towline client tokens 1";
/// Far more than the tokens of as many gateways as are remembered.
const FILE_BYTES_MAX: usize = 64 << 10;

/// The file.
pub(super) struct Vault {
    disk: Arc<Disk>,
    seal: Seal,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) gateway: Endpoint,
    pub(super) token: Vec<u8>,
    pub(super) until: SystemTime,
}

impl Vault {
    /// `None` where the system has no such cryptography: the tokens live in memory then.
    pub(super) fn beside(path: &Path, identity: &Identity, credentials: &Credentials) -> Option<Self> {
        let known = [&*identity.client_id, &*credentials.user, &*credentials.password];
        let seal = Seal::new(MAGIC, PURPOSE, &identity.secret, &known)?;
        Some(Self { disk: Arc::new(Disk::beside(path, ".tokens")), seal })
    }

    /// What an earlier run of the app kept; nothing where it cannot be read or opened.
    pub(super) fn read(&self) -> Vec<Kept> {
        let opened = self.disk.read(FILE_BYTES_MAX).and_then(|bytes| self.seal.open("", bytes));
        opened.and_then(|bytes| parse(std::str::from_utf8(&bytes).ok()?)).unwrap_or_default()
    }

    pub(super) fn write(&self, kept: &[Kept]) {
        if let Some(sealed) = self.seal.seal("", text(kept).into_bytes()) {
            self.disk.put(sealed);
        }
    }
}

fn text(kept: &[Kept]) -> String {
    let mut text = String::new();
    for Kept { gateway, token, until } in kept {
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Writing to a string cannot fail.
        let _ = write!(text, "{gateway} {until} ");
        token.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Option<Vec<Kept>> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let gateway = words.next()?.parse().ok()?;
        let until = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
        Some(Kept { gateway, until, token: unhex(words.next()?)? })
    };
    text.lines().map(line).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
