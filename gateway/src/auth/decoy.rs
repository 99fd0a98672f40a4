//! What SCRAM shows of users that there are not, so that nobody can tell them from others.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

const KEY_FILE: &str = "scram-decoy-key";
const KEY_BYTES: usize = 32;

/// Turns a user's name into what looks like chance, and is the same each time: also after a restart, since a salt that
/// changes is that of nobody. Made when first needed.
pub struct DecoyKey {
    key: OnceLock<hmac::Key>,
    folder: Option<PathBuf>,
}

impl DecoyKey {
    /// Kept in `folder`, or in memory.
    pub fn new(folder: Option<&Path>) -> Self {
        Self { key: OnceLock::new(), folder: folder.map(PathBuf::from) }
    }

    /// 32 bytes for a user.
    pub(super) fn derive(&self, user: &str) -> [u8; KEY_BYTES] {
        let key = self.key.get_or_init(|| self.obtain());
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(hmac::sign(key, user.as_bytes()).as_ref());
        bytes
    }

    fn obtain(&self) -> hmac::Key {
        let kept = self.folder.as_ref().map(|folder| kept(&folder.join(KEY_FILE)));
        let key = match kept {
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                tracing::warn!(file = KEY_FILE, %error, "salts of unknown users will differ after a restart");
                None
            }
            None => None,
        };
        // Without random numbers no exchange begins either.
        let key = key.or_else(|| random().ok()).unwrap_or_default();
        hmac::Key::new(hmac::HMAC_SHA256, &key)
    }
}

fn random() -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
    Ok(key)
}

fn kept(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            io::Error::other(format!("is not {KEY_BYTES} bytes long; remove it, and another is made"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = random()?;
            let beside = path.with_extension("new");
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&key)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}
