//! Tokens beside the identity file, for the next run of the app. They are sealed: whoever copies the file without the
//! identity has nothing, and another password does not open it, so that the gateway is asked about that.
//!
//! ```text
//!  "TWT1" | nonce | AES-256-GCM-SIV of lines "host:port seconds-since-1970 token-in-hex" | tag
//!                   key: HKDF-SHA256 of the session secret, with client id, user and password
//! ```

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::{
    config::{Credentials, Endpoint},
    disk::Disk,
    identity::Identity,
};

const MAGIC: &[u8; 4] = b"TWT1";
/// Far more than the tokens of as many gateways as are remembered.
const FILE_BYTES_MAX: usize = 64 << 10;

/// The file.
pub(super) struct Vault {
    disk: Arc<Disk>,
    key: LessSafeKey,
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
        let parts = [&identity.client_id, &credentials.user, &credentials.password];
        let lengths = parts.map(|part| (part.len() as u64).to_be_bytes());
        let info: Vec<&[u8]> =
            parts.iter().zip(&lengths).flat_map(|(part, length)| [&length[..], part.as_bytes()]).collect();
        let secret = Salt::new(HKDF_SHA256, b"towline client tokens 1").extract(&identity.secret);
        let key = UnboundKey::from(secret.expand(&info, &AES_256_GCM_SIV).ok()?);
        Some(Self { disk: Arc::new(Disk::beside(path, ".tokens")), key: LessSafeKey::new(key) })
    }

    /// What an earlier run of the app kept; nothing where it cannot be read or opened.
    pub(super) fn read(&self) -> Vec<Kept> {
        self.disk.read(FILE_BYTES_MAX).and_then(|bytes| parse(&self.open(bytes)?)).unwrap_or_default()
    }

    pub(super) fn write(&self, kept: &[Kept]) {
        if let Some(sealed) = self.seal(text(kept).into_bytes()) {
            self.disk.put(sealed);
        }
    }

    fn seal(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::from(MAGIC), &mut bytes).ok()?;
        Some([&MAGIC[..], &nonce, &bytes].concat())
    }

    fn open(&self, mut bytes: Vec<u8>) -> Option<String> {
        let (magic, rest) = bytes.split_at_mut_checked(MAGIC.len())?;
        let (nonce, sealed) = rest.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(MAGIC), sealed).ok()?;
        (magic == MAGIC).then(|| String::from_utf8(opened.to_vec()).ok())?
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
