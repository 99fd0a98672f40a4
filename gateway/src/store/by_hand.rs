//! A store without a thread: whoever holds its writer says when what waits becomes durable, so that a test can
//! end a gateway between any two writes.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use redb::{Database, backends::InMemoryBackend};

use super::{Inner, Queue, Store, StoreError, open_error, queue::Batch, read_error, writer};

/// What a disk would hold: it outlives the stores that are opened on it.
#[derive(Clone)]
pub struct Memory(Arc<Database>);

/// Writes when it is told to. What waits when it is dropped is lost.
pub struct Writer {
    database: Arc<Database>,
    path: Arc<std::path::Path>,
    queue: Arc<Queue>,
}

impl Memory {
    /// An empty one.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> Result<Self, StoreError> {
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let database = database.map_err(|error| open_error(&path(), error))?;
        writer::create_tables(&database).map_err(|error| read_error(&path(), &error))?;
        Ok(Self(Arc::new(database)))
    }
}

impl Store {
    /// A store on `memory`, and who makes durable what is written to it.
    pub fn by_hand(memory: &Memory) -> (Self, Writer) {
        let (database, path): (_, Arc<std::path::Path>) = (Arc::clone(&memory.0), path().into());
        let queue = Arc::new(Queue::default());
        let writer = Writer { database: database.clone(), path: path.clone(), queue: queue.clone() };
        let inner = Inner { database, path, queue, writer: Mutex::new(None) };
        (Self { inner: Arc::new(inner) }, writer)
    }
}

impl Writer {
    /// Makes durable what waits, and tells those who wait for it.
    pub fn write(&self) {
        writer::write_batch(&self.database, self.queue.take_now(), &self.path);
    }

    /// Resolves when something waits. One task may ask.
    pub fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_waiting(cx)
    }

    /// Makes the first `most` changes of what waits durable, and dies before anybody hears of it.
    pub fn write_and_die(self, most: usize) {
        let Batch { mut writes, barriers: _ } = self.queue.take_now();
        writes.truncate(most);
        writer::write_batch(&self.database, Batch { writes, barriers: Vec::new() }, &self.path);
    }

    /// The disk takes nothing of what waits, and those who wait for it hear so.
    pub fn fail(&self) {
        let problem = io::Error::from(io::ErrorKind::StorageFull).to_string();
        let error = StoreError::File { path: self.path.to_path_buf(), problem };
        for barrier in self.queue.take_now().barriers {
            // Whoever stopped waiting does not want to know.
            _ = barrier.send(Err(error.clone()));
        }
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
    async fn what_the_disk_refused_is_gone_and_what_follows_is_not() {
        let memory = Memory::new().unwrap();
        let (store, writer) = Store::by_hand(&memory);
        store.write(put(b"a")).unwrap();
        let refused = store.begin_barrier();
        std::future::poll_fn(|cx| writer.poll_waiting(cx)).await;
        writer.fail();
        assert!(matches!(refused.await, Err(StoreError::File { .. })));
        store.write(put(b"b")).unwrap();
        writer.write();
        assert_eq!(keys(&memory), [b"b"]);
    }
}
