//! A store without a thread: whoever holds its writer says when what waits becomes durable, so that a test can
//! end a gateway between any two writes.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::{Mutex, RwLock};
use redb::{Database, StorageBackend};

use super::{
    Inner, Queue, Store, StoreError, open_error,
    queue::Batch,
    read_error,
    writer::{self, Disk},
};

/// What a disk would hold: it outlives the stores that are opened on it.
#[derive(Clone)]
pub struct Memory {
    database: Arc<Database>,
    bytes: Arc<RwLock<Vec<u8>>>,
}

/// Writes when it is told to. What waits when it is dropped is lost.
pub struct Writer {
    disk: Arc<Disk>,
    queue: Arc<Queue>,
}

/// Whether a disk takes what is written to it.
#[derive(Clone, Debug, Default)]
pub struct Fault(Arc<AtomicBool>);

impl Fault {
    /// From now on every write fails.
    pub fn strike(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The disk works again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// Memory that fails as a disk does.
#[derive(Debug)]
struct Faulty {
    bytes: Arc<RwLock<Vec<u8>>>,
    fault: Fault,
}

impl Faulty {
    /// Where `length` bytes from `offset` on lie.
    fn place(offset: u64, length: usize) -> std::ops::Range<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        offset..offset.saturating_add(length)
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.read();
        let place = bytes.get(Self::place(offset, out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(place);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fault.check()?;
        self.bytes.write().resize(Self::place(len, 0).start, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fault.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fault.check()?;
        let mut bytes = self.bytes.write();
        let place = bytes.get_mut(Self::place(offset, data.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        Ok(())
    }
}

impl Memory {
    /// An empty one.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> Result<Self, StoreError> {
        Self::with(&Fault::default())
    }

    /// An empty one whose writing fails when `fault` strikes.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn with(fault: &Fault) -> Result<Self, StoreError> {
        Self::open(Arc::default(), fault)
    }

    /// What a machine finds on the disk that loses its power now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn after_power_loss(&self, fault: &Fault) -> Result<Self, StoreError> {
        Self::open(Arc::new(RwLock::new(self.bytes.read().clone())), fault)
    }

    fn open(bytes: Arc<RwLock<Vec<u8>>>, fault: &Fault) -> Result<Self, StoreError> {
        let backend = Faulty { bytes: bytes.clone(), fault: fault.clone() };
        let database = Database::builder().create_with_backend(backend);
        let database = database.map_err(|error| open_error(&path(), error))?;
        writer::create_tables(&database).map_err(|error| read_error(&path(), &error))?;
        Ok(Self { database: Arc::new(database), bytes })
    }
}

impl Store {
    /// A store on `memory`, and who makes durable what is written to it.
    pub fn by_hand(memory: &Memory) -> (Self, Writer) {
        let disk = Arc::new(Disk::new(Arc::clone(&memory.database), path().into()));
        let queue = Arc::new(Queue::default());
        let writer = Writer { disk: disk.clone(), queue: queue.clone() };
        let inner = Inner { disk, queue, writer: Mutex::new(None), is_lasting: true };
        (Self { inner: Arc::new(inner) }, writer)
    }
}

impl Writer {
    /// Makes durable what waits, and tells those who wait for it.
    pub fn write(&self) {
        self.disk.write(self.queue.take_now());
    }

    /// Resolves when something waits. One task may ask.
    pub fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_waiting(cx)
    }

    /// Makes the first `most` changes of what waits durable, and dies before anybody hears of it.
    pub fn write_and_die(self, most: usize) {
        let Batch { mut writes, barriers: _ } = self.queue.take_now();
        writes.truncate(most);
        self.disk.write(Batch { writes, barriers: Vec::new() });
    }

    /// The disk fails: it takes nothing of what waits, nor of what follows.
    pub fn fail(&self) {
        let problem = io::Error::from(io::ErrorKind::StorageFull).to_string();
        self.disk.fail(StoreError::File { path: self.disk.path.to_path_buf(), problem });
        self.write();
    }
}

impl Drop for Writer {
    /// Nobody waits for a disk that is gone.
    fn drop(&mut self) {
        drop(self.queue.take_now());
    }
}

fn path() -> PathBuf {
    PathBuf::from("(in memory)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Table, Write};

    fn put(key: &[u8]) -> Write {
        Write::Put { table: Table::Pushes, key: key.to_vec(), value: Vec::new() }
    }

    fn keys(memory: &Memory) -> Vec<Vec<u8>> {
        let (store, _) = Store::by_hand(memory);
        store.scan(Table::Pushes).unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[tokio::test]
    async fn what_was_not_written_is_lost_with_the_writer() {
        let memory = Memory::new().unwrap();
        let (store, writer) = Store::by_hand(&memory);
        store.write(put(b"a")).unwrap();
        let durable = store.begin_barrier();
        writer.write();
        durable.await.unwrap();
        store.write(put(b"b")).unwrap();
        let never = store.begin_barrier();
        drop((store, writer));
        assert!(never.await.is_err());
        assert_eq!(keys(&memory), [b"a"]);
    }

    #[tokio::test]
    async fn what_was_written_may_be_unknown_to_who_asked_for_it() {
        let memory = Memory::new().unwrap();
        let (store, writer) = Store::by_hand(&memory);
        store.write(put(b"a")).unwrap();
        store.write(put(b"b")).unwrap();
        let never = store.begin_barrier();
        writer.write_and_die(1);
        assert!(never.await.is_err());
        assert_eq!(keys(&memory), [b"a"]);
    }

    #[tokio::test]
    async fn what_waits_for_a_disk_that_fails_is_gone_and_so_is_what_follows() {
        let memory = Memory::new().unwrap();
        let (store, writer) = Store::by_hand(&memory);
        store.write(put(b"a")).unwrap();
        let refused = store.begin_barrier();
        std::future::poll_fn(|cx| writer.poll_waiting(cx)).await;
        writer.fail();
        assert!(matches!(refused.await, Err(StoreError::File { .. })));
        store.write(put(b"b")).unwrap();
        let refused = store.begin_barrier();
        writer.write();
        assert!(refused.await.is_err());
        assert!(keys(&memory).is_empty());
        let (store, writer) = Store::by_hand(&memory);
        store.write(put(b"c")).unwrap();
        writer.write();
        assert_eq!(keys(&memory), [b"c"], "a restart helps");
    }
}
