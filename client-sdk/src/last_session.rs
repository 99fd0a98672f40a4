//! The id of the session that a gateway named last, beside the identity file: the next run of the app names it in an
//! early flight (PROTOCOL.md, section 17), and has its first answer one round trip sooner.
//!
//! ```text
//!  "TWL1", sealed: the id, 8 bytes in network order
//! ```
//!
//! A file that is older than the session, or lost, costs that round trip alone: counters of the identity file are above
//! all that an earlier run has used, whichever session HELLO names.

use std::sync::Arc;

use crate::{config::ClientConfig, disk::Disk, identity::Identity, seal::Seal};

const MAGIC: &[u8; 4] = b"TWL1";
const PURPOSE: &str = "towline client last session 1";
/// More than the sealed id takes.
const FILE_BYTES_MAX: usize = 64;

/// What is known of it.
#[derive(Default)]
pub(crate) struct LastSession {
    id: u64,
    file: Option<(Arc<Disk>, Seal)>,
}

impl LastSession {
    /// With what an earlier run has kept. Without an identity file, or where TLS sessions are not kept, there is no early
    /// flight that could name it.
    pub(crate) fn open(config: &ClientConfig, identity: &Identity) -> Self {
        let Some(path) = config.identity_file.as_ref().filter(|_| config.keep_tickets) else {
            return Self::default();
        };
        let Some(seal) = Seal::new(MAGIC, PURPOSE, &identity.secret, &[&identity.client_id]) else {
            return Self::default();
        };
        let disk = Arc::new(Disk::beside(path, ".session"));
        let opened = disk.read(FILE_BYTES_MAX).and_then(|bytes| seal.open("", bytes));
        let id = opened.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        Self { id: id.unwrap_or_default(), file: Some((disk, seal)) }
    }

    /// 0 where it is not known.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A gateway has named the session.
    pub(crate) fn learn(&mut self, id: u64) {
        if std::mem::replace(&mut self.id, id) == id {
            return;
        }
        if let Some((disk, seal)) = &self.file
            && let Some(sealed) = seal.seal("", id.to_be_bytes().to_vec())
        {
            disk.put(sealed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_of_the_same_identity_knows_the_session_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ClientConfig::plaintext(Vec::new());
        config.identity_file = Some(folder.path().join("identity"));
        let identity = Identity::open(&config).unwrap();
        let recalled = |config: &ClientConfig, identity: &Identity| LastSession::open(config, identity).id();
        let mut last = LastSession::open(&config, &identity);
        assert_eq!(last.id(), 0);
        [7, 8].into_iter().for_each(|id| last.learn(id));
        assert_eq!(recalled(&config, &identity), 8);

        let other = ClientConfig { identity_file: Some(folder.path().join("other")), ..config.clone() };
        assert_eq!(recalled(&config, &Identity::open(&other).unwrap()), 0, "another secret");
        let forgetful = ClientConfig { keep_tickets: false, ..config.clone() };
        assert_eq!(recalled(&forgetful, &identity), 0);
        let file = folder.path().join("identity.session");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(recalled(&config, &identity), 0, "a rotten bit");
    }
}
