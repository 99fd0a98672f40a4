//! Calls that outlive the app: taken in, and their outcomes in this run or a later one.

use std::sync::Arc;

use towline_client::{CallResponse, DurableError, DurableOutcomes, FailedCall};

use crate::{
    client::Client,
    engine::Engine,
    error::TowlineError,
    request::{Request, Response},
    source::{Feed, Listens, Source},
};

/// How a call ended that `Client.submit` took in.
#[derive(uniffi::Object)]
pub struct DurableOutcome {
    key: String,
    tag: Vec<u8>,
    result: Result<CallResponse, FailedCall>,
}

/// A record of a durable call that cannot be read: the call may have run, and its outcome is lost. An app that knows the
/// call's key may acknowledge that; otherwise `discard_damaged` takes it away.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct DamagedRecord {
    /// The file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Hands out the outcomes of durable calls, of earlier runs of the app too, each to one listener. One that is not
/// acknowledged is handed out again: to another listener when this one is released, and in the next run of the app.
#[derive(uniffi::Object)]
pub struct OutcomeListener {
    source: Source<OutcomeFeed>,
}

#[uniffi::export]
impl Client {
    /// Takes a call in that outlives the app: when this is done the call is on disk, beside `identity_file`, which is
    /// needed. It runs once, in this run of the app or a later one, and `outcomes` hands its outcome out. `key` names it,
    /// 1 to 256 bytes, and is free again once the outcome is acknowledged; `tag` is what the app wants to find beside the
    /// outcome, up to 4096 bytes. Cancelling the wait does not take the call back.
    ///
    /// # Errors
    /// It was not taken in. It may run all the same where the error says that it may have run.
    #[uniffi::method(default(tag = None))]
    pub async fn submit(
        &self,
        request: Request,
        key: String,
        tag: Option<Vec<u8>>,
    ) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        let call = request.into_call()?.durable(key, tag.unwrap_or_default());
        Engine::get()?.run(async move { Ok(client.submit(call).await?) }).await
    }

    /// Listens for outcomes of calls that were submitted.
    ///
    /// # Errors
    /// The client is closed.
    pub fn outcomes(&self) -> Result<Arc<OutcomeListener>, TowlineError> {
        let source = Source::new(OutcomeFeed(self.open()?.durable_outcomes()));
        Ok(Arc::new(OutcomeListener { source }))
    }

    /// Records that could not be read when the client was made. They stay until `discard_damaged`.
    pub fn damaged_records(&self) -> Vec<DamagedRecord> {
        let records = self.inner().damaged_records().into_iter();
        records.map(|record| DamagedRecord { name: record.name, reason: record.reason }).collect()
    }

    /// Gives a record up that cannot be read: its file is removed.
    ///
    /// # Errors
    /// There is none of that name; or the disk refused, and it stays.
    pub async fn discard_damaged(&self, name: String) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        Engine::get()?.run(async move { client.discard_damaged(&name).await.map_err(discarding) }).await
    }

    /// The app is done with the outcome of that key: it is not handed out again, and the key is free.
    ///
    /// # Errors
    /// There is no such outcome, or not yet; or the disk refused, and the outcome stays.
    pub async fn acknowledge(&self, key: String) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        Engine::get()?.run(async move { Ok(client.acknowledge(key).await?) }).await
    }
}

#[uniffi::export]
impl DurableOutcome {
    /// Names the call.
    pub fn key(&self) -> String {
        self.key.clone()
    }

    /// What the app put beside it.
    pub fn tag(&self) -> Vec<u8> {
        self.tag.clone()
    }

    /// The answer. A gRPC status other than OK is no error here: see `message`.
    ///
    /// # Errors
    /// Why there is none, and whether the backend ran the request.
    pub fn response(&self) -> Result<Response, TowlineError> {
        Ok(self.result.clone()?.into())
    }

    /// The one message of a unary gRPC method.
    ///
    /// # Errors
    /// As of `response`; and the backend's status where it is not OK.
    pub fn message(&self) -> Result<Vec<u8>, TowlineError> {
        Ok(self.result.clone()?.into_grpc()?.into())
    }
}

#[uniffi::export]
impl OutcomeListener {
    /// Waits for the next outcome; `None` once the client is closed.
    pub async fn next(&self) -> Result<Option<Arc<DurableOutcome>>, TowlineError> {
        self.source.next().await
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

/// Here it is a name that is not known, and no key.
fn discarding(error: DurableError) -> TowlineError {
    match error {
        DurableError::Unknown => TowlineError::argument("name", "no damaged record has this name"),
        other => other.into(),
    }
}

impl Listens for OutcomeListener {
    type Feed = OutcomeFeed;

    fn source(&self) -> &Source<OutcomeFeed> {
        &self.source
    }
}

pub(crate) struct OutcomeFeed(DurableOutcomes);

impl Feed for OutcomeFeed {
    type Item = Arc<DurableOutcome>;

    async fn next(&mut self) -> Option<Arc<DurableOutcome>> {
        let towline_client::DurableOutcome { key, tag, result } = self.0.next().await?;
        Some(Arc::new(DurableOutcome { key, tag: tag.into(), result }))
    }
}

impl From<DurableError> for TowlineError {
    fn from(error: DurableError) -> Self {
        match error {
            DurableError::Unknown | DurableError::Waiting => Self::argument("key", error.to_string()),
            DurableError::Storage(_) => Self::Start { reason: error.to_string() },
            DurableError::NoIdentityFile => Self::option("identity_file", error.to_string()),
        }
    }
}
