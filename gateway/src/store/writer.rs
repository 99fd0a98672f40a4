//! The thread that writes, and what it writes to.

use std::{io, path::Path, sync::Arc, thread};

use parking_lot::Mutex;
use prometheus::IntCounter;
use redb::{Database, WriteTransaction};

use super::{
    StoreError, Table, Write,
    queue::{Batch, Queue},
    read_error,
};

/// The database, and how writing to it has gone.
pub(super) struct Disk {
    pub(super) database: Arc<Database>,
    pub(super) path: Arc<Path>,
    pub(super) counts: Counts,
    /// Why a batch could not be written. None is written after it: what it held is missing, and whoever waits at
    /// a later barrier must not hear that all before it is there.
    failure: Mutex<Option<StoreError>>,
}

/// What was written since the start.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Transactions, each with one fsync.
    pub commits: IntCounter,
    /// Changes in them.
    pub writes: IntCounter,
}

/// Makes every table, so that readers find them.
pub(super) fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    Ok(transaction.commit()?)
}

/// Starts the thread; it ends when the queue is closed and empty.
pub(super) fn spawn(disk: Arc<Disk>, queue: Arc<Queue>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("towline-store".to_owned()).spawn(move || {
        while let Some(batch) = queue.take() {
            disk.write(batch);
        }
    })
}

impl Disk {
    pub(super) fn new(database: Arc<Database>, path: Arc<Path>) -> Self {
        Self { database, path, counts: Counts::default(), failure: Mutex::new(None) }
    }

    pub(super) fn write(&self, batch: Batch) {
        let result = self.write_all(batch.writes);
        for barrier in batch.barriers {
            barrier(result.clone());
        }
    }

    /// Takes nothing from now on.
    pub(super) fn fail(&self, error: StoreError) {
        self.failure.lock().get_or_insert(error);
    }

    pub(super) fn write_all(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut failure = self.failure.lock();
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        let count = writes.len();
        match commit(&self.database, writes) {
            Ok(()) => {
                self.counts.commits.inc_by((count > 0).into());
                self.counts.writes.inc_by(count as u64);
                Ok(())
            }
            Err(error) => {
                tracing::error!(
                    path = %self.path.display(), %error,
                    "the store could not be written and takes nothing more: clear the fault and restart"
                );
                Err(failure.insert(write_error(&self.path, &error)).clone())
            }
        }
    }
}

impl Default for Counts {
    #[allow(clippy::expect_used, reason = "the names are constants")]
    fn default() -> Self {
        let counter = |name, help| IntCounter::new(name, help).expect("a counter's name is valid");
        Self {
            commits: counter("towline_store_commits_total", "Transactions of the store, each with one fsync"),
            writes: counter("towline_store_writes_total", "Changes written to the store"),
        }
    }
}

fn commit(database: &Database, writes: Vec<Write>) -> Result<(), redb::Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    apply(&transaction, writes)?;
    Ok(transaction.commit()?)
}

/// Each table is opened once: that costs more than a change.
fn apply(transaction: &WriteTransaction, writes: Vec<Write>) -> Result<(), redb::Error> {
    let mut open = Table::ALL.map(|_| None);
    for write in writes {
        let table = write.table();
        let slot = &mut open[table as usize];
        let table = match slot {
            Some(table) => table,
            None => slot.insert(transaction.open_table(table.definition())?),
        };
        match write {
            Write::Put { key, value, .. } => {
                table.insert(key.as_slice(), value.as_slice())?;
            }
            Write::Delete { key, .. } => {
                table.remove(key.as_slice())?;
            }
            Write::DeleteRange { first, last, .. } => {
                table.retain_in(first.as_slice()..=last.as_slice(), |_, _| false)?;
            }
        }
    }
    Ok(())
}

/// A full disk is not damage.
fn write_error(path: &Path, error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) => read_error(path, error),
        error => StoreError::File { path: path.to_owned(), problem: error.to_string() },
    }
}
