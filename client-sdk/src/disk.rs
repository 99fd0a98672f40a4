//! Small files beside the identity file: what the client has learnt and can learn again.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{identity::replace, work};

/// One file, which is replaced as a whole. What cannot be written is only lost for the next run.
pub(crate) struct Disk {
    path: PathBuf,
    latest: Mutex<Option<Vec<u8>>>,
    writing: Mutex<()>,
}

impl Disk {
    /// The file of that extension beside the identity file.
    pub(crate) fn beside(identity: &Path, extension: &str) -> Self {
        let mut path = identity.as_os_str().to_owned();
        path.push(extension);
        Self { path: path.into(), latest: Mutex::default(), writing: Mutex::default() }
    }

    /// What an earlier run left, unless that is more than `bytes_max`.
    pub(crate) fn read(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(&self.path).ok()?;
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= bytes_max).then_some(bytes)
    }

    /// The disk may be slow, and nobody waits for it.
    pub(crate) fn put(self: &Arc<Self>, bytes: Vec<u8>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        let disk = Arc::clone(self);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work::blocking(move || disk.write()))),
            Err(_) => disk.write(),
        }
    }

    /// Writes what is the latest when its turn comes.
    fn write(&self) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(bytes) = latest
            && let Err(error) = replace(&self.path, &bytes)
        {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}
