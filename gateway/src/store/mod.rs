//! The embedded store: one file, a few tables of bytes, one thread that writes.
//!
//! ```text
//!  Store::write ---> queue (bounded) ---> writer thread: all that waits becomes one transaction,
//!  Store::barrier -> ...              ---> one fsync, then every barrier among it resolves
//! ```
//!
//! Whoever must answer "it is durable" writes first, without waiting, and awaits [`Store::barrier`] then:
//! the queue is in order, so the barrier stands for all that was written before it. A hundred barriers
//! that wait at one time cost one fsync.

mod by_hand;
mod queue;
mod queue_key;
mod writer;

use std::{
    fs, io,
    ops::RangeBounds,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, TableDefinition, backends::InMemoryBackend};
use tokio::sync::oneshot;

pub use self::by_hand::{Fault, Memory, Writer};
pub use self::queue_key::{parse_queue_key, queue_key};
pub use self::writer::Counts;
use self::{queue::Queue, writer::Disk};

/// Name of the file in the data folder.
const FILE_NAME: &str = "towline.redb";
/// Memory that redb may use for pages. The working set is what clients that are away have waiting.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The store. Cheap to clone: all clones are the same store. What was written is flushed when the last one
/// is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<Disk>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
    is_lasting: bool,
}

/// What is kept, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Link sessions.
    Sessions,
    /// Pushes that wait for their link session.
    Pushes,
    /// Receipts of pushes that wait for their backend.
    Receipts,
    /// What may have run of link sessions, and its outcomes.
    Outcomes,
    /// Header fields of link sessions, sealed.
    SessionHeaders,
    /// MQTT sessions, and wills.
    MqttSessions,
    /// Topic filters of MQTT sessions.
    MqttSubscriptions,
    /// QoS 2 publishes of MQTT sessions that were taken and not released.
    MqttReceived,
    /// Messages that wait for MQTT sessions.
    MqttMessages,
    /// How far the sessions that a message waits for have come with it.
    MqttProgress,
    /// Retained messages.
    MqttRetained,
    /// Messages that wait for an upstream broker or an operator.
    Outbox,
    /// What the gateway is called among gateways.
    Node,
    /// Messages that are to be published later.
    Delayed,
    /// Device shadows.
    Shadows,
    /// Policy documents.
    Policies,
    /// What was counted of experiments.
    Experiments,
}

/// A change. Key and value are the caller's; keys sort bytewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a key.
    Put {
        /// Where.
        table: Table,
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Where.
        table: Table,
        /// Key.
        key: Vec<u8>,
    },
    /// Removes all keys from `first` to `last`, both included.
    DeleteRange {
        /// Where.
        table: Table,
        /// Lowest key.
        first: Vec<u8>,
        /// Highest key.
        last: Vec<u8>,
    },
}

/// The queue to the writer is full: the disk is slower than what is written. Nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's queue is full: the disk is too slow for what is written")]
pub struct QueueFull;

/// Why the store cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The data folder cannot be made.
    #[error("cannot create the data folder {}: {source}; make it writable or set data_dir to another one", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Another process has it open.
    #[error("{} is in use by another process; stop it or set data_dir to another folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It holds what redb cannot read.
    #[error(
        "{} is damaged ({problem}); move it away to start with an empty store (what it kept for clients is lost) or restore a copy",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {problem}; check free space and permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// See [`QueueFull`].
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Keys and values in the order of keys.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl Store {
    /// Opens the store in `data_dir`, which is made if it is missing.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(data_dir)
            .map_err(|source| StoreError::Folder { path: data_dir.to_owned(), source: Arc::new(source) })?;
        let path = data_dir.join(FILE_NAME);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|error| open_error(&path, error))?;
        Self::start(database, path, true)
    }

    /// A store that keeps everything in memory, for tests and for gateways that need not survive.
    ///
    /// # Errors
    /// The writer thread cannot be started.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from("(in memory)");
        let database = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(|error| open_error(&path, error))?;
        Self::start(database, path, false)
    }

    /// Queues a change without waiting.
    ///
    /// # Errors
    /// The queue is full; the change was not queued.
    pub fn write(&self, write: Write) -> Result<(), QueueFull> {
        self.inner.queue.push(write)
    }

    /// Queues changes that become durable together or not at all, without waiting. `done` is called, on the
    /// writer's thread, when all that was written up to them is durable or cannot be; not at all when the store
    /// ends first.
    ///
    /// # Errors
    /// The queue is full; nothing was queued.
    pub fn write_all(
        &self,
        writes: Vec<Write>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), QueueFull> {
        self.inner.queue.push_all(writes, Box::new(done))
    }

    /// Queues a small change without waiting, also when the queue is full: for what must not be refused, such as
    /// that something is over, and for callers that bound how many of them there may be.
    pub fn must_write(&self, write: Write) {
        self.inner.queue.push_unbounded(write);
    }

    /// [`Store::write_all`] for what must not be refused, as [`Store::must_write`].
    pub fn must_write_all(
        &self,
        writes: Vec<Write>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.inner.queue.push_all_unbounded(writes, Box::new(done));
    }

    /// Writes changes at once, ahead of all that is queued, and waits for the disk. For the start.
    ///
    /// # Errors
    /// They could not be written.
    pub fn write_now(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.inner.disk.write_all(writes)
    }

    /// Whether what is written survives this process. Who can do without need not write to a store that does not.
    pub fn is_lasting(&self) -> bool {
        self.inner.is_lasting
    }

    /// What was written since the start.
    pub fn counts(&self) -> &Counts {
        &self.inner.disk.counts
    }

    /// Resolves when all that was written before is durable.
    ///
    /// # Errors
    /// Some of it could not be written, or the store is closed.
    pub async fn barrier(&self) -> Result<(), StoreError> {
        self.begin_barrier().await
    }

    /// [`Store::barrier`], in its place in the queue from this call on, however late it is awaited.
    pub fn begin_barrier(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        self.inner.queue.push_barrier(Box::new(|result| _ = sender.send(result)));
        async { receiver.await.map_err(|_| StoreError::Closed)? }
    }

    /// Writes one change and waits until it is durable.
    ///
    /// # Errors
    /// The queue is full, or it could not be written.
    pub async fn append(&self, write: Write) -> Result<(), StoreError> {
        self.begin_append(write)?.await
    }

    /// Queues a change now and waits, later, for it to be durable.
    ///
    /// # Errors
    /// The queue is full; the change was not queued.
    pub fn begin_append(
        &self,
        write: Write,
    ) -> Result<impl Future<Output = Result<(), StoreError>> + Send + use<>, QueueFull> {
        let (sender, receiver) = oneshot::channel();
        // Whoever stopped waiting does not want to know.
        self.inner.queue.push_all(vec![write], Box::new(|result| _ = sender.send(result)))?;
        Ok(async { receiver.await.map_err(|_| StoreError::Closed)? })
    }

    /// Keeps the writer from writing until the guard is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> redb::WriteTransaction {
        self.inner.disk.database.begin_write().unwrap()
    }

    /// Everything in a table, as it is on disk; what is queued is not seen. For the start.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn scan(&self, table: Table) -> Result<Entries, StoreError> {
        self.read_all(table).map_err(|error| read_error(&self.inner.disk.path, &error))
    }

    /// Up to `most` entries of a table from `first` to `last`, both included, as they are on disk; what is queued is not
    /// seen. Keys that begin with 255 are above the highest text.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn scan_some(
        &self,
        table: Table,
        first: &[u8],
        last: &[u8],
        most: usize,
    ) -> Result<Entries, StoreError> {
        self.read(table, first..=last, most).map_err(|error| read_error(&self.inner.disk.path, &error))
    }

    /// The error of a record that its owner cannot read.
    pub fn damaged(&self, problem: &str) -> StoreError {
        StoreError::Damaged { path: self.inner.disk.path.to_path_buf(), problem: problem.to_owned() }
    }

    fn start(database: Database, path: PathBuf, is_lasting: bool) -> Result<Self, StoreError> {
        writer::create_tables(&database).map_err(|error| read_error(&path, &error))?;
        let disk = Arc::new(Disk::new(database.into(), path.into()));
        let queue = Arc::new(Queue::default());
        let writer = writer::spawn(disk.clone(), queue.clone()).map_err(|error| StoreError::File {
            path: disk.path.to_path_buf(),
            problem: format!("no thread to write it: {error}"),
        })?;
        let inner = Inner { disk, queue, writer: Mutex::new(Some(writer)), is_lasting };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn read_all(&self, table: Table) -> Result<Entries, redb::Error> {
        self.read(table, .., usize::MAX)
    }

    fn read<'k>(
        &self,
        table: Table,
        keys: impl RangeBounds<&'k [u8]> + 'k,
        most: usize,
    ) -> Result<Entries, redb::Error> {
        let table = self.inner.disk.database.begin_read()?.open_table(table.definition())?;
        let mut entries = Vec::new();
        for entry in table.range::<&[u8]>(keys)?.take(most) {
            let (key, value) = entry?;
            entries.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(entries)
    }
}

impl Write {
    const fn table(&self) -> Table {
        match self {
            Self::Put { table, .. } | Self::Delete { table, .. } | Self::DeleteRange { table, .. } => *table,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.get_mut().take() {
            // A writer that has panicked has nothing more to flush.
            _ = writer.join();
        }
    }
}

impl Table {
    /// In the order of their declaration.
    const ALL: [Self; 17] = [
        Self::Sessions,
        Self::Pushes,
        Self::Receipts,
        Self::Outcomes,
        Self::SessionHeaders,
        Self::MqttSessions,
        Self::MqttSubscriptions,
        Self::MqttReceived,
        Self::MqttMessages,
        Self::MqttProgress,
        Self::MqttRetained,
        Self::Outbox,
        Self::Node,
        Self::Delayed,
        Self::Shadows,
        Self::Policies,
        Self::Experiments,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(match self {
            Self::Sessions => "link-sessions",
            Self::Pushes => "link-pushes",
            Self::Receipts => "push-receipts",
            Self::Outcomes => "link-outcomes",
            Self::SessionHeaders => "link-headers",
            Self::MqttSessions => "mqtt-sessions",
            Self::MqttSubscriptions => "mqtt-subscriptions",
            Self::MqttReceived => "mqtt-received",
            Self::MqttMessages => "mqtt-messages",
            Self::MqttProgress => "mqtt-progress",
            Self::MqttRetained => "mqtt-retained",
            Self::Outbox => "outbox",
            Self::Node => "node",
            Self::Delayed => "delayed",
            Self::Shadows => "shadows",
            Self::Policies => "policies",
            Self::Experiments => "experiments",
        })
    }
}

fn open_error(path: &Path, error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        error => read_error(path, &error.into()),
    }
}

/// A file that is not redb's, or was cut short, shows itself by its content or its length.
fn read_error(path: &Path, error: &redb::Error) -> StoreError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let (path, problem) = (path.to_owned(), error.to_string());
    match error {
        redb::Error::Io(io) if !matches!(io.kind(), InvalidData | UnexpectedEof) => {
            StoreError::File { path, problem }
        }
        _ => StoreError::Damaged { path, problem },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Write {
        Write::Put { table: Table::Pushes, key: key.to_vec(), value: value.to_vec() }
    }

    fn entries(store: &Store) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        store.scan(Table::Pushes).unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn after_the_barrier_a_change_is_read_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for key in [b"a", b"b", b"c", b"d"] {
            store.write(put(key, b"1")).unwrap();
        }
        store.write(put(b"d", b"2")).unwrap();
        store.write(Write::Delete { table: Table::Pushes, key: b"a".to_vec() }).unwrap();
        let (first, last) = (b"b".to_vec(), b"bz".to_vec());
        store.append(Write::DeleteRange { table: Table::Pushes, first, last }).await.unwrap();
        assert_eq!(entries(&store), pairs(&[("c", "1"), ("d", "2")]));
        assert!(store.scan(Table::Sessions).unwrap().is_empty());
        drop(store);
        assert_eq!(entries(&Store::open(folder.path()).unwrap()), pairs(&[("c", "1"), ("d", "2")]));
    }

    #[tokio::test]
    async fn dropping_the_store_flushes_what_is_queued() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.write(put(b"a", b"1")).unwrap();
        drop(store);
        assert_eq!(entries(&Store::open(folder.path()).unwrap()), pairs(&[("a", "1")]));
    }

    #[test]
    fn tables_are_numbered_as_they_stand_in_the_list_of_all() {
        assert!(Table::ALL.iter().enumerate().all(|(at, table)| *table as usize == at));
    }

    #[tokio::test]
    async fn behind_a_batch_that_failed_nothing_is_durable() {
        let fault = Fault::default();
        let (store, writer) = Store::by_hand(&Memory::with(&fault).unwrap());
        fault.strike();
        store.write(put(b"a", b"1")).unwrap();
        writer.write();
        fault.clear();
        let durable = store.begin_barrier();
        store.write(put(b"b", b"1")).unwrap();
        writer.write();
        assert!(matches!(durable.await, Err(StoreError::File { .. })));
        assert_eq!(store.counts().commits.get(), 0);
    }

    #[tokio::test]
    async fn what_waits_at_one_time_is_one_commit() {
        let (store, writer) = Store::by_hand(&Memory::new().unwrap());
        for key in 0..100 {
            store.write(put(&[key], b"1")).unwrap();
        }
        writer.write();
        assert_eq!((store.counts().commits.get(), store.counts().writes.get()), (1, 100));
    }

    #[test]
    fn a_second_process_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, vec![0x5a; 8192]).unwrap();
        let error = Store::open(folder.path()).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_named_with_advice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::open(file.path()).err().unwrap();
        assert!(matches!(error, StoreError::Folder { .. }), "{error:?}");
    }
}
