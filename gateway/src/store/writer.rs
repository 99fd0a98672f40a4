//! The thread that writes.

use std::{io, path::Path, sync::Arc, thread};

use redb::{Database, WriteTransaction};

use super::{
    StoreError, Table, Write,
    queue::{Batch, Queue},
    read_error,
};

/// Makes every table, so that readers find them.
pub(super) fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    Ok(transaction.commit()?)
}

/// Starts the thread; it ends when the queue is closed and empty.
pub(super) fn spawn(
    database: Arc<Database>,
    queue: Arc<Queue>,
    path: Arc<Path>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("towline-store".to_owned()).spawn(move || {
        while let Some(batch) = queue.take() {
            write_batch(&database, batch, &path);
        }
    })
}

pub(super) fn write_batch(database: &Database, batch: Batch, path: &Path) {
    let result = match commit(database, batch.writes) {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the store could not be written");
            Err(write_error(path, &error))
        }
    };
    for barrier in batch.barriers {
        // Whoever stopped waiting does not want to know.
        _ = barrier.send(result.clone());
    }
}

fn commit(database: &Database, writes: Vec<Write>) -> Result<(), redb::Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    for write in writes {
        apply(&transaction, write)?;
    }
    Ok(transaction.commit()?)
}

fn apply(transaction: &WriteTransaction, write: Write) -> Result<(), redb::Error> {
    match write {
        Write::Put { table, key, value } => {
            transaction.open_table(table.definition())?.insert(key.as_slice(), value.as_slice())?;
        }
        Write::Delete { table, key } => {
            transaction.open_table(table.definition())?.remove(key.as_slice())?;
        }
        Write::DeleteRange { table, first, last } => {
            let mut table = transaction.open_table(table.definition())?;
            table.retain_in(first.as_slice()..=last.as_slice(), |_, _| false)?;
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
