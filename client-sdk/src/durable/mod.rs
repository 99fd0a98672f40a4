//! Calls that outlive the app's process. A call with [`crate::CallRequest::durable`] is on disk before its first byte
//! leaves; the next run of the app takes it up under the same number, so that the gateway runs it once; and its
//! outcome waits, on disk too, until the app acknowledges it by its key.
//!
//! Everything lies beside the identity file, sealed with the session's secret, a file for each call (`record`), behind
//! [`Storage`]. `book` knows which calls there are, a `keeper` leads each through its life.

mod book;
mod keeper;
mod record;
mod storage;
#[cfg(test)]
mod tests;

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use towline_protocols::link::{Execution, RequestHead, RpcError, RpcErrorKind};

pub use self::storage::{Storage, StoredFile, Storing};
pub(crate) use self::{book::Book, record::Record};
use self::{book::Named, keeper::Keeper, record::Waiting};
use crate::{
    call::CallResponse,
    core::{Outgoing, Shared, now},
    error::FailedCall,
    state::ConnectionState,
    work,
};

/// How a call ended.
pub(crate) type Outcome = Result<CallResponse, FailedCall>;

/// Names a call that outlives the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Names it for the app, 1 to 256 bytes; free again once its outcome is acknowledged.
    pub key: String,
    /// What the app wants to find beside the outcome, up to 4096 bytes.
    pub tag: Bytes,
}

/// How a durable call ended.
#[derive(Clone)]
pub struct DurableOutcome {
    /// Names the call.
    pub key: String,
    /// What the app put beside it.
    pub tag: Bytes,
    /// Its answer, or whose fault it was and whether the backend ran it. Of a call of another run the timeline says by
    /// what, how often and how long alone.
    pub result: Result<CallResponse, FailedCall>,
}

impl fmt::Debug for DurableOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = self.result.as_ref().map(|answer| answer.status);
        f.debug_struct("DurableOutcome")
            .field("key", &self.key)
            .field("result", &result)
            .finish_non_exhaustive()
    }
}

/// Why an outcome was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// No outcome is there under that key, or no damaged record of that name.
    #[error("no outcome is there under this key: it was acknowledged, or never taken in")]
    Unknown,
    /// The call has no outcome yet.
    #[error("the call of this key has no outcome yet")]
    Waiting,
    /// The disk refused; the outcome stays, and another attempt may help.
    #[error("the outcome stays, since its record cannot be removed: {0}")]
    Storage(io::Error),
    /// Without [`crate::ClientConfig::identity_file`] nothing is durable.
    #[error("durable calls need ClientConfig::identity_file")]
    NoIdentityFile,
}

/// A record that cannot be read. The call may have run; who knows its key may acknowledge that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Hands out the outcomes of durable calls for which no caller waits, in the order in which they came, each to one
/// listener. An outcome stays on disk until [`crate::Client::acknowledge`]: the next run of the app is handed it again,
/// and so is the next listener of this one when the listener that had it is dropped.
pub struct DurableOutcomes {
    shared: Arc<Shared>,
    handed: Vec<Named>,
}

impl DurableOutcomes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handed: Vec::new() }
    }

    /// The next outcome; `None` once the client is closed, and where it has no identity file. Safe to cancel.
    pub async fn next(&mut self) -> Option<DurableOutcome> {
        let book = Arc::clone(self.shared.book.as_ref()?);
        let mut states = self.shared.states.subscribe();
        loop {
            if let Some((outcome, named, more)) = book.take() {
                if more {
                    // Another listener may wait for it: a notification wakes only one.
                    book.ready.notify_one();
                }
                self.handed.retain(|named| book.is_handed(named));
                self.handed.push(named);
                return Some(outcome);
            }
            let closed = states.wait_for(|state| matches!(state, ConnectionState::Closed { .. }));
            tokio::select! {
                () = book.ready.notified() => {}
                _ = closed => return None,
            }
        }
    }
}

impl Drop for DurableOutcomes {
    fn drop(&mut self) {
        let Some(book) = &self.shared.book else { return };
        self.handed.iter().for_each(|named| book.hand_back(named));
    }
}

/// A durable call as the app asks for it.
pub(crate) struct Asked {
    pub(crate) durable: Durable,
    pub(crate) deadline: Option<Duration>,
    pub(crate) head: RequestHead,
    pub(crate) message: Bytes,
    pub(crate) bodiless: bool,
    pub(crate) needs_encryption: bool,
}

/// Waits for the outcome of a call. Dropped before, it leaves the outcome to a listener.
pub(crate) struct Caller {
    book: Arc<Book>,
    named: Named,
    outcome: oneshot::Receiver<Outcome>,
    has_it: bool,
}

impl Caller {
    pub(crate) async fn outcome(mut self) -> Outcome {
        let outcome = (&mut self.outcome).await;
        self.has_it = outcome.is_ok();
        outcome.unwrap_or_else(|_| {
            let text =
                "the client is closed; the call is on disk, and the next run of the app goes on with it";
            let error = RpcError::new(RpcErrorKind::SessionLost, Execution::MayHaveRun, text);
            Err(FailedCall { error, timeline: Box::default() })
        })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.has_it {
            // From here on the book finds nobody who waits.
            self.outcome.close();
            self.book.hand_back(&self.named);
        }
    }
}

/// Writes a call down and begins it. `waits`: a caller wants its outcome.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    runtime: &tokio::runtime::Handle,
    asked: Asked,
    waits: bool,
) -> Result<Option<Caller>, RpcError> {
    let Some(book) = &shared.book else {
        let text = DurableError::NoIdentityFile.to_string();
        return Err(RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, text));
    };
    let Asked { durable: Durable { key, tag }, deadline, head, message, bodiless, needs_encryption } = asked;
    let (sender, outcome) = oneshot::channel();
    let fields: usize = head.fields.iter().map(towline_protocols::hpack::HeaderField::size).sum();
    let named = book.admit(&key, &tag, message.len() + fields, waits.then_some(sender))?;
    let wait = deadline.unwrap_or(book.age_max()).min(book.age_max());
    let waiting =
        Waiting { seq: 0, session: None, doubtful: false, bodiless, needs_encryption, head, message };
    let outgoing = Outgoing {
        head: waiting.head.clone(),
        deadline: now() + wait,
        message: Some(waiting.message.clone()),
        bodiless,
    };
    let record = Record::new(key.clone(), tag, wait, waiting);
    let keeper = Keeper::begin(Arc::clone(shared), Arc::clone(book), record, outgoing);
    let keeper = keeper.inspect_err(|_| book.forget(&key))?;
    let (told, stored) = oneshot::channel();
    let caller = waits.then(|| Caller { book: Arc::clone(book), named, outcome, has_it: false });
    // A task of its own: who gives the waiting up does not take the call back.
    runtime.spawn(work::boxed(keeper.run_new(told)));
    stored.await.unwrap_or_else(|_| Err(crate::client::closed()))?;
    Ok(caller)
}

/// Takes the calls of earlier runs up, before there is a connection.
pub(crate) fn take_up(
    shared: &Arc<Shared>,
    runtime: &tokio::runtime::Handle,
    records: Vec<Record>,
    is_encrypted: bool,
) {
    let Some(book) = &shared.book else { return };
    for record in records {
        let keeper = Keeper::restored(Arc::clone(shared), Arc::clone(book), record, is_encrypted);
        keeper.into_iter().for_each(|keeper| drop(runtime.spawn(work::boxed(keeper.run()))));
    }
}

/// A call must not travel in the clear, and would.
pub(crate) fn in_the_clear(execution: Execution) -> RpcError {
    let text = "the call must not travel in the clear, and this client's connections are not encrypted \
                (ClientConfig::security)";
    RpcError::new(RpcErrorKind::EncryptionRequired, execution, text)
}

/// The app is done with the outcome of that key.
pub(crate) async fn acknowledge(
    shared: &Arc<Shared>,
    runtime: &tokio::runtime::Handle,
    key: String,
) -> Result<(), DurableError> {
    let Some(book) = &shared.book else { return Err(DurableError::NoIdentityFile) };
    let (book, shared) = (Arc::clone(book), Arc::clone(shared));
    // A task of its own: what has begun to go goes.
    let gone = async move {
        let unstored = book.acknowledge(&key).await?;
        unstored.into_iter().for_each(|call| drop(shared.with(|core| core.release(call))));
        Ok(())
    };
    runtime.spawn(work::boxed(gone)).await.unwrap_or(Err(DurableError::Unknown))
}

/// The session that the newest record was written in: the one that HELLO names, so that the gateway goes on with it.
pub(crate) fn newest_session(records: &[Record]) -> Option<u64> {
    records.iter().rev().find_map(|record| match &record.body {
        record::Body::Waiting(waiting) => waiting.session,
        record::Body::Over(_) => None,
    })
}
