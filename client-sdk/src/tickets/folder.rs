//! Sessions on disk: a file each, in a folder beside the identity file, sealed.
//!
//! ```text
//!  name: place, 16 hex digits - when it came, 10 hex digits - random, 16 hex digits
//!  file: "TWS1", sealed for the name: a record
//! ```
//!
//! A *place* is a server's name, a transport and the whole of what the app trusts and shows, hashed under the identity's
//! secret: so another configuration finds nothing, and names of files tell nothing. A file is taken away before what it
//! holds is used, which one system call does. Nothing is synced: a loss of power may cost a session, or bring one back,
//! which the server then takes for what it is, a ticket that was used.

use std::{
    fmt, fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use parking_lot::Mutex;

use super::{TicketCounts, message::LIFE_MAX, record::Record};
use crate::{identity::Identity, seal::Seal, wall, work};

const MAGIC: &[u8; 4] = b"TWS1";
const PURPOSE: &str = "towline client tickets 1";
/// Sessions of one place: enough for a few runs that end before they are given new ones.
const PLACE_MAX: usize = 4;
/// Sessions of all places, those of other configurations too; beyond, the oldest goes.
const FILES_MAX: usize = 64;
/// Files that are looked at; far more than there may be.
const ENTRIES_MAX: usize = 1000;
/// A record with the largest message, QUIC's parameters and the seal.
const FILE_BYTES_MAX: usize = 32 << 10;
/// Of a write that came to no end.
const UNFINISHED: &str = ".new";

/// The folder of one client.
pub(super) struct Folder {
    path: PathBuf,
    seal: Seal,
    naming: hmac::Key,
    /// Of what the app trusts and shows.
    trust: String,
    /// Those that are there or about to be written, the newest last.
    names: Mutex<Vec<Name>>,
    counts: Counts,
}

/// Hash of what a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

/// Of a file; in the order of age within a place and among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    place: Place,
    received: u64,
    random: u64,
}

#[derive(Default)]
struct Counts {
    kept: AtomicU64,
    restored: AtomicU64,
    damaged: AtomicU64,
    dropped: AtomicU64,
}

impl Folder {
    /// What earlier runs of the app left; what is too old is taken away. `None` where the system has no such
    /// cryptography.
    pub(super) fn beside(identity_file: &Path, identity: &Identity, trust: &str) -> Option<Self> {
        let mut path = identity_file.as_os_str().to_owned();
        path.push(".tickets");
        let folder = Self {
            path: path.into(),
            seal: Seal::new(MAGIC, PURPOSE, &identity.secret, &[&identity.client_id, trust])?,
            naming: hmac::Key::new(hmac::HMAC_SHA256, &identity.secret),
            trust: trust.to_owned(),
            names: Mutex::default(),
            counts: Counts::default(),
        };
        let names = folder.list(wall::since_1970());
        *folder.names.lock() = names;
        Some(folder)
    }

    /// Where sessions of `name` by that transport are.
    pub(super) fn place(&self, transport: &str, name: &str) -> Place {
        let mut hash = hmac::Context::with_key(&self.naming);
        for part in [PURPOSE, &self.trust, transport, name] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let tag = hash.sign();
        let first = tag.as_ref().first_chunk().copied().unwrap_or_default();
        Place(u64::from_be_bytes(first))
    }

    /// Keeps a session; the disk may be slow, and nobody waits for it. Its name, under which it can be taken away.
    pub(super) fn keep(self: &Arc<Self>, place: Place, record: &Record) -> Option<Name> {
        let name = Name { place, received: record.received.as_secs(), random: fastrand::u64(..) };
        let bytes = self.seal.seal(&name.to_string(), record.bytes()?.to_vec())?;
        let given_up = self.enter(name);
        let folder = Arc::clone(self);
        let write = move || {
            given_up.iter().for_each(|name| _ = folder.unlink(*name));
            folder.write(name, &bytes);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work::blocking(write))),
            Err(_) => write(),
        }
        self.counts.kept.fetch_add(1, Ordering::Relaxed);
        Some(name)
    }

    /// Takes the newest session of a place away that is wanted, so that it is used once; `None` where it cannot be taken
    /// away.
    pub(super) fn take(
        &self,
        place: Place,
        now: Duration,
        is_wanted: impl Fn(&Record) -> bool,
    ) -> Option<Record> {
        let mut left = Vec::new();
        loop {
            let is_next = |name: &&Name| name.place == place && !left.contains(*name);
            let name = *self.names.lock().iter().rfind(is_next)?;
            let opened = self.read(name).and_then(|bytes| self.seal.open(&name.to_string(), bytes));
            let record = opened.and_then(|bytes| Record::parse(&zeroize::Zeroizing::new(bytes)));
            if record.as_ref().is_some_and(|record| record.lasts(now) && !is_wanted(record)) {
                left.push(name);
                continue;
            }
            let taken = self.names.lock().extract_if(.., |known| *known == name).count();
            if taken == 0 {
                // Another handshake was faster.
                continue;
            }
            self.unlink(name).ok()?;
            match record {
                None => {
                    self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("{}: a ticket is damaged", self.path.display());
                }
                Some(record) if record.lasts(now) => {
                    self.counts.restored.fetch_add(1, Ordering::Relaxed);
                    return Some(record);
                }
                Some(_) => {}
            }
        }
    }

    /// Takes a session away that is used from memory. Whether that was done.
    pub(super) fn remove(&self, name: Name) -> bool {
        self.names.lock().retain(|known| *known != name);
        self.unlink(name).is_ok()
    }

    pub(super) fn counts(&self) -> TicketCounts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TicketCounts {
            kept: count(&self.counts.kept),
            restored: count(&self.counts.restored),
            damaged: count(&self.counts.damaged),
            dropped: count(&self.counts.dropped),
        }
    }

    /// Takes a name in, and out those that are too many.
    fn enter(&self, name: Name) -> Vec<Name> {
        let (mut names, mut given_up) = (self.names.lock(), Vec::new());
        names.push(name);
        while names.iter().filter(|known| known.place == name.place).count() > PLACE_MAX
            && let Some(oldest) = names.iter().position(|known| known.place == name.place)
        {
            given_up.push(names.remove(oldest));
        }
        while names.len() > FILES_MAX {
            given_up.push(names.remove(0));
        }
        self.counts.dropped.fetch_add(given_up.len() as u64, Ordering::Relaxed);
        given_up
    }

    /// Unless it was taken meanwhile. The lock is held so that it cannot be taken while it is written.
    fn write(&self, name: Name, bytes: &[u8]) {
        let names = self.names.lock();
        if !names.contains(&name) {
            return;
        }
        if let Err(error) = self.replace(name, bytes) {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }

    fn replace(&self, name: Name, bytes: &[u8]) -> io::Result<()> {
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        folders.create(&self.path)?;
        let path = self.path.join(name.to_string());
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        options.open(&unfinished)?.write_all(bytes)?;
        fs::rename(unfinished, path)
    }

    fn read(&self, name: Name) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.path.join(name.to_string())).ok()?;
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= FILE_BYTES_MAX).then_some(bytes)
    }

    fn unlink(&self, name: Name) -> io::Result<()> {
        match fs::remove_file(self.path.join(name.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn list(&self, now: Duration) -> Vec<Name> {
        let oldest = now.saturating_sub(LIFE_MAX).as_secs();
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().take(ENTRIES_MAX).flatten() {
            let text = entry.file_name();
            match text.to_str().and_then(Name::parse) {
                Some(name) if name.received >= oldest => names.push(name),
                // Too old, unfinished, or not from here.
                _ => _ = fs::remove_file(entry.path()),
            }
        }
        names.sort_unstable_by_key(|name| (name.received, name.random));
        while names.len() > FILES_MAX {
            let _ = self.unlink(names.remove(0));
        }
        names
    }
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let name = Self { place: Place(parts.next()??), received: parts.next()??, random: parts.next()?? };
        // Only what is written exactly so is a name.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:010x}-{:016x}", self.place.0, self.received, self.random)
    }
}

/// Secrets stay out.
impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}
