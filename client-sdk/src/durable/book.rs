//! Which durable calls there are: bounds, keys, outcomes until they are acknowledged, and the way to the disk.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    sync::Arc,
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use towline_protocols::{
    link::{Execution, RpcError, RpcErrorKind},
    policy::{DurablePolicy, Strategies},
};

use super::{
    DamagedRecord, DurableError, DurableOutcome, Outcome,
    record::{Body, Record},
    storage::{Folder, Storage, StoredFile},
};
use crate::{
    config::{ClientConfig, Limits},
    core::Key,
    error::StartError,
    identity::Identity,
    seal::Seal,
};

const MAGIC: &[u8; 4] = b"TWD1";
const PURPOSE: &str = "towline client durable calls 1";
const NAMES_PURPOSE: &[u8] = b"towline client durable names 1";
/// Of a file's name, which is a keyed hash of the app's key in hex.
const NAME_BYTES: usize = 16;
/// The longest key, bytes.
const KEY_BYTES_MAX: usize = 256;
/// The longest tag, bytes.
const TAG_BYTES_MAX: usize = 4 << 10;
/// What a record takes beside its key, tag, fields and message.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// See the file's head.
pub(crate) struct Book {
    inner: Mutex<Inner>,
    /// Wakes whoever takes outcomes.
    pub(super) ready: Notify,
    storage: Arc<dyn Storage>,
    seal: Seal,
    names: hmac::Key,
    strategies: watch::Receiver<Strategies>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// Calls that were taken in, in this run.
    numbers: u64,
    /// Outcomes that nobody was handed, in their order.
    arrived: VecDeque<Named>,
    /// Files that do not open, and why.
    damaged: BTreeMap<String, String>,
    bytes: usize,
    generation: u64,
}

/// One call of a key, which names another one once its outcome is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) key: String,
    number: u64,
}

struct Entry {
    number: u64,
    bytes: usize,
    state: State,
}

enum State {
    /// Its outcome is to come; the caller that waits for it, if one does.
    Waiting(Option<oneshot::Sender<Outcome>>),
    Over(Box<Over>),
}

struct Over {
    tag: Bytes,
    outcome: Outcome,
    handed: bool,
    /// The disk did not take it: the gateway keeps it until it is acknowledged.
    unstored: Option<Key>,
    /// It is being taken off the disk.
    leaving: bool,
}

impl Book {
    /// With what earlier runs left; `None` where nothing says where that would be. Also the calls that wait, in the order
    /// in which they were written.
    pub(crate) fn open(
        config: &ClientConfig,
        identity: &Identity,
    ) -> Result<Option<(Self, Vec<Record>)>, StartError> {
        let storage: Arc<dyn Storage> = match (&config.durable_storage, &config.identity_file) {
            (_, None) => return Ok(None),
            (Some(storage), _) => Arc::clone(storage),
            (None, Some(path)) => Arc::new(Folder::beside(path)),
        };
        let seal = Seal::new(MAGIC, PURPOSE, &identity.secret, &[&identity.client_id]);
        let Some(seal) = seal else { return Err(StartError::NoRandomness) };
        let named = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &identity.secret), NAMES_PURPOSE);
        let names = hmac::Key::new(hmac::HMAC_SHA256, named.as_ref());
        let (_, strategies) = watch::channel(config.strategies.clone());
        let book = Self { inner: Mutex::default(), ready: Notify::new(), storage, seal, names, strategies };
        let files = book.storage.load(file_bytes_max(&config.limits)).map_err(StartError::Durable)?;
        let waiting = book.read(files);
        Ok(Some((book, waiting)))
    }

    /// With bounds that change as the client is told.
    pub(crate) fn obeying(self, strategies: watch::Receiver<Strategies>) -> Self {
        Self { strategies, ..self }
    }

    fn read(&self, files: Vec<StoredFile>) -> Vec<Record> {
        let mut inner = self.inner.lock();
        let mut records = Vec::new();
        for StoredFile { name, content } in files {
            match content.map_err(|error| error.to_string()).and_then(|bytes| self.open_record(&name, bytes))
            {
                Ok(record) => records.push(record),
                Err(reason) => {
                    tracing::warn!(name, reason, "the record of a durable call is damaged");
                    inner.damaged.insert(name, reason);
                }
            }
        }
        records.sort_unstable_by_key(|(record, _)| record.generation);
        inner.generation = records.last().map_or(0, |(record, _)| record.generation);
        let mut waiting = Vec::new();
        for (record, bytes) in records {
            let (key, tag) = (record.key.clone(), record.tag.clone());
            let state = match &record.body {
                Body::Waiting(_) => State::Waiting(None),
                Body::Over(outcome) => {
                    let outcome = (**outcome).clone();
                    State::Over(Box::new(Over {
                        tag,
                        outcome,
                        handed: false,
                        unstored: None,
                        leaving: false,
                    }))
                }
            };
            let named = inner.insert(key, bytes, state);
            match record.body {
                Body::Waiting(_) => waiting.push(record),
                Body::Over(_) => inner.arrived.push_back(named),
            }
        }
        waiting
    }

    fn open_record(&self, name: &str, file: Vec<u8>) -> Result<(Record, usize), String> {
        let bytes = file.len();
        let content = self.seal.open(name, file);
        let content = content.ok_or("it is not whole, or not of this identity")?;
        let record = Record::decode(content).ok_or("it is of another version")?;
        Ok((record, bytes))
    }

    /// Makes place for a call of that key; `caller` waits for its outcome.
    pub(super) fn admit(
        &self,
        key: &str,
        tag: &[u8],
        request_bytes: usize,
        caller: Option<oneshot::Sender<Outcome>>,
    ) -> Result<Named, RpcError> {
        let refuse = |kind, text: String| Err(RpcError::new(kind, Execution::NotRun, text));
        let DurablePolicy { enabled, count_max, bytes_max, .. } = self.strategies.borrow().durable;
        if !enabled {
            return refuse(RpcErrorKind::LimitExceeded, "durable.enabled: durable calls are off".to_owned());
        }
        if key.is_empty() || key.len() > KEY_BYTES_MAX || tag.len() > TAG_BYTES_MAX {
            let text = format!("a key has 1 to {KEY_BYTES_MAX} bytes, a tag up to {TAG_BYTES_MAX}");
            return refuse(RpcErrorKind::Malformed, text);
        }
        let bytes = request_bytes + key.len() + tag.len() + RECORD_OVERHEAD_BYTES;
        let mut inner = self.inner.lock();
        if inner.damaged.contains_key(&self.name(key)) {
            let text =
                "an earlier call of this key has a damaged record: it may have run; acknowledge the key";
            return Err(RpcError::new(RpcErrorKind::OutcomeExpired, Execution::MayHaveRun, text));
        }
        if inner.entries.contains_key(key) {
            let text = "a call of this key waits, or its outcome is not acknowledged";
            return refuse(RpcErrorKind::Malformed, text.to_owned());
        }
        let count = inner.entries.len() + inner.damaged.len();
        if count >= count_max {
            let text =
                format!("durable.count_max: {count} calls and outcomes are on disk; acknowledge outcomes");
            return refuse(RpcErrorKind::LimitExceeded, text);
        }
        if inner.bytes + bytes > bytes_max {
            let text = format!("durable.bytes_max: {} bytes are on disk; acknowledge outcomes", inner.bytes);
            return refuse(RpcErrorKind::LimitExceeded, text);
        }
        Ok(inner.insert(key.to_owned(), bytes, State::Waiting(caller)))
    }

    /// Writes a record down. Once this is `Ok`, it outlives the process.
    pub(super) async fn write(&self, record: &mut Record) -> io::Result<()> {
        record.generation = {
            let mut inner = self.inner.lock();
            inner.generation += 1;
            inner.generation
        };
        let name = self.name(&record.key);
        let sealed = self.seal.seal(&name, record.encode());
        let sealed = sealed.ok_or_else(|| io::Error::other("the system gave no random numbers"))?;
        let bytes = sealed.len();
        self.storage.put(name, sealed).await?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(entry) = inner.entries.get_mut(&record.key) {
            inner.bytes = inner.bytes + bytes - entry.bytes;
            entry.bytes = bytes;
        }
        Ok(())
    }

    /// Takes away what may be on disk of a call that was not taken in.
    pub(super) async fn drop_record(&self, key: &str) -> io::Result<()> {
        let removed = self.storage.remove(self.name(key)).await;
        self.inner.lock().remove(key);
        removed
    }

    /// A call was not taken in, and nothing of it is on disk.
    pub(super) fn forget(&self, key: &str) {
        self.inner.lock().remove(key);
    }

    /// A call is over: its outcome goes to the caller that waits for it, or to a listener. `unstored`: the disk did not
    /// take it.
    pub(super) fn finish(&self, key: &str, tag: Bytes, outcome: Outcome, unstored: Option<Key>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(entry) = inner.entries.get_mut(key) else { return };
        let State::Waiting(caller) = &mut entry.state else { return };
        let caller = caller.take();
        let handed = caller.is_some_and(|caller| caller.send(outcome.clone()).is_ok());
        entry.state = State::Over(Box::new(Over { tag, outcome, handed, unstored, leaving: false }));
        if !handed {
            inner.arrived.push_back(Named { key: key.to_owned(), number: entry.number });
            self.ready.notify_one();
        }
    }

    /// The client is closed: who waits for the outcome of that call waits for the next run.
    pub(super) fn abandon(&self, key: &str) {
        if let Some(Entry { state: State::Waiting(caller), .. }) = self.inner.lock().entries.get_mut(key) {
            *caller = None;
        }
    }

    /// The next outcome that nobody was handed, of which call it is, and whether there are more.
    pub(super) fn take(&self) -> Option<(DurableOutcome, Named, bool)> {
        let mut inner = self.inner.lock();
        while let Some(named) = inner.arrived.pop_front() {
            let more = !inner.arrived.is_empty();
            let Some(over) = inner.over(&named) else { continue };
            if !over.handed && !over.leaving {
                over.handed = true;
                let (key, tag, result) = (named.key.clone(), over.tag.clone(), over.outcome.clone());
                return Some((DurableOutcome { key, tag, result }, named, more));
            }
        }
        None
    }

    /// Whoever was handed that outcome is gone and has not acknowledged it.
    pub(super) fn hand_back(&self, named: &Named) {
        let mut inner = self.inner.lock();
        let Some(over) = inner.over(named) else { return };
        if std::mem::take(&mut over.handed) && !over.leaving {
            inner.arrived.push_back(named.clone());
            self.ready.notify_one();
        }
    }

    pub(super) fn is_handed(&self, named: &Named) -> bool {
        self.inner.lock().over(named).is_some_and(|over| over.handed)
    }

    /// The app is done with an outcome. Says which call the gateway keeps the outcome of.
    pub(super) async fn acknowledge(&self, key: &str) -> Result<Option<Key>, DurableError> {
        let name = self.name(key);
        let is_damaged = self.begin_acknowledge(key, &name)?;
        let removed = self.storage.remove(name.clone()).await;
        let mut inner = self.inner.lock();
        if let Err(error) = removed {
            inner.stays(key);
            self.ready.notify_one();
            return Err(DurableError::Storage(error));
        }
        if is_damaged {
            inner.damaged.remove(&name);
            return Ok(None);
        }
        match inner.remove(key).map(|entry| entry.state) {
            Some(State::Over(over)) => Ok(over.unstored),
            _ => Ok(None),
        }
    }

    fn begin_acknowledge(&self, key: &str, name: &str) -> Result<bool, DurableError> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        match inner.entries.get_mut(key).map(|entry| &mut entry.state) {
            Some(State::Waiting(_)) => Err(DurableError::Waiting),
            Some(State::Over(over)) if !over.leaving => {
                over.leaving = true;
                Ok(false)
            }
            None if inner.damaged.contains_key(name) => Ok(true),
            Some(State::Over(_)) | None => Err(DurableError::Unknown),
        }
    }

    pub(crate) fn damaged(&self) -> Vec<DamagedRecord> {
        let inner = self.inner.lock();
        let damaged = inner.damaged.iter();
        damaged.map(|(name, reason)| DamagedRecord { name: name.clone(), reason: reason.clone() }).collect()
    }

    /// Takes a damaged record off the disk.
    pub(crate) async fn discard(&self, name: &str) -> Result<(), DurableError> {
        if !self.inner.lock().damaged.contains_key(name) {
            return Err(DurableError::Unknown);
        }
        self.storage.remove(name.to_owned()).await.map_err(DurableError::Storage)?;
        self.inner.lock().damaged.remove(name);
        Ok(())
    }

    pub(super) fn age_max(&self) -> std::time::Duration {
        self.strategies.borrow().durable.age_max
    }

    /// File names tell nothing of keys, and damaged ones whose they are to who knows the key.
    pub(super) fn name(&self, key: &str) -> String {
        let tag = hmac::sign(&self.names, key.as_bytes());
        tag.as_ref().iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Inner {
    fn insert(&mut self, key: String, bytes: usize, state: State) -> Named {
        self.numbers += 1;
        self.bytes += bytes;
        let number = self.numbers;
        self.entries.insert(key.clone(), Entry { number, bytes, state });
        Named { key, number }
    }

    /// The outcome of that very call.
    fn over(&mut self, named: &Named) -> Option<&mut Over> {
        let entry = self.entries.get_mut(&named.key).filter(|entry| entry.number == named.number)?;
        match &mut entry.state {
            State::Over(over) => Some(over),
            State::Waiting(_) => None,
        }
    }

    /// An outcome could not be taken off the disk.
    fn stays(&mut self, key: &str) {
        let Some(Entry { number, state: State::Over(over), .. }) = self.entries.get_mut(key) else { return };
        over.leaving = false;
        if !over.handed {
            self.arrived.push_back(Named { key: key.to_owned(), number: *number });
        }
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

/// The largest record: a call that fills the queue alone, or the largest answer.
fn file_bytes_max(limits: &Limits) -> usize {
    const MARGIN: usize = 64 << 10;
    limits.queued_bytes_max.max(limits.message_bytes_max) + 2 * limits.header_list_bytes_max + MARGIN
}
