//! Where records of durable calls lie: a file each, so that a write, a torn end or a rotten bit concerns one of them.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    pin::Pin,
};

use crate::{identity::replace, work};

/// The end of a write.
pub type Storing = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Keeps small files by name for the next run of the app. What is kept is sealed already.
pub trait Storage: Send + Sync + 'static {
    /// All files, each with its content or why it cannot be read; of a file above `bytes_max` an error.
    ///
    /// # Errors
    /// Nothing can be read.
    fn load(&self, bytes_max: usize) -> io::Result<Vec<StoredFile>>;

    /// Replaces a file, or makes it. Once this resolves to `Ok` the content outlives the process, and a loss of power if
    /// the device keeps its word; with an error, or without an end, the content is the one before or the new one.
    fn put(&self, name: String, content: Vec<u8>) -> Storing;

    /// Takes a file away; one that is not there is gone.
    fn remove(&self, name: String) -> Storing;
}

/// A file that an earlier run left.
#[derive(Debug)]
pub struct StoredFile {
    /// The name that it was put under.
    pub name: String,
    /// What it holds.
    pub content: io::Result<Vec<u8>>,
}

/// The folder beside the identity file. Every write and removal is synced (`fsync` of the file, then of the folder)
/// before it counts; threads for blocking work do it.
pub(super) struct Folder {
    path: PathBuf,
}

/// Files that are looked at; far more than there may be.
const FILES_MAX: usize = 20_000;
/// What `replace` writes before it renames.
const UNFINISHED: &str = "new";

impl Folder {
    pub(super) fn beside(identity: &Path) -> Self {
        let mut path = identity.as_os_str().to_owned();
        path.push(".durable");
        Self { path: path.into() }
    }
}

impl Storage for Folder {
    fn load(&self, bytes_max: usize) -> io::Result<Vec<StoredFile>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries.take(FILES_MAX) {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                // A write that came to no end: what it was to replace is there, or nobody was told of it.
                fs::remove_file(&path)?;
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                files.push(StoredFile { name: name.to_owned(), content: read(&path, bytes_max) });
            }
        }
        files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    fn put(&self, name: String, content: Vec<u8>) -> Storing {
        let folder = self.path.clone();
        blocking(move || {
            make(&folder)?;
            replace(&folder.join(name), &content)?;
            sync(&folder)
        })
    }

    fn remove(&self, name: String) -> Storing {
        let folder = self.path.clone();
        blocking(move || match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync(&folder)),
        })
    }
}

fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Storing {
    let done = tokio::task::spawn_blocking(work::blocking(work));
    Box::pin(async move { done.await.map_err(io::Error::other)? })
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() {
        length if length > bytes_max => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("has more than {bytes_max} bytes")))
        }
        _ => Ok(bytes),
    }
}

/// A name is on disk when its folder is.
#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Elsewhere folders cannot be opened; the file system orders renames itself.
#[cfg(not(unix))]
fn sync(_folder: &Path) -> io::Result<()> {
    Ok(())
}
