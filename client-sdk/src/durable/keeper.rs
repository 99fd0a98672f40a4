//! The life of one durable call in this run of the app.
//!
//! ```text
//!  written ------> goes to the gateway <----+         closed, killed: the next run finds what was written last
//!     |              |   to another session: written first
//!  refused           v
//!  (the disk)      its end arrives ---> written ---> acknowledged to the gateway, handed to the app
//!                                          |                                        |
//!                                       not written: the gateway keeps it          acknowledged: removed
//! ```

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{sleep, sleep_until},
};
use towline_protocols::link::{Execution, RpcError, RpcErrorKind, client::Earlier};

use super::{
    Outcome,
    book::Book,
    record::{Body, Record, Waiting},
};
use crate::{
    core::{DurableStep, Given, Key, Outgoing, Shared, SharedWakers, now},
    wall::{millis, since_1970},
};

/// Before a write that failed is tried again: a full disk may have room then.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    book: Arc<Book>,
    record: Record,
    key: Key,
    wakers: SharedWakers,
    noted: Option<Given>,
}

impl Keeper {
    /// For a new call, which is not on disk yet.
    pub(super) fn begin(
        shared: Arc<Shared>,
        book: Arc<Book>,
        record: Record,
        outgoing: Outgoing,
    ) -> Result<Self, RpcError> {
        let opened = shared.with(|core| {
            let (key, seq, given) = core.open_durable(outgoing, now())?;
            Ok((key, seq, given, core.call(key).map(|call| Arc::clone(&call.wakers)).unwrap_or_default()))
        });
        let (key, seq, noted, wakers) = opened?;
        let mut keeper = Self { shared, book, record, key, wakers, noted };
        if let Body::Waiting(waiting) = &mut keeper.record.body {
            (waiting.seq, waiting.session) = (seq, noted.map(|given| given.session));
        }
        Ok(keeper)
    }

    /// For a call of an earlier run.
    pub(super) fn restored(
        shared: Arc<Shared>,
        book: Arc<Book>,
        record: Record,
        is_encrypted: bool,
    ) -> Option<Self> {
        let Body::Waiting(waiting) = &record.body else { return None };
        let (seq, session) = (waiting.seq, waiting.session);
        let earlier = Earlier { given_to: session, doubtful: waiting.doubtful };
        let (outgoing, started) = record.outgoing(waiting);
        let is_barred = waiting.needs_encryption && !is_encrypted;
        let (key, wakers) = shared.with(|core| {
            let key = core.restore(seq, outgoing, earlier, started);
            let Some(call) = core.call(key) else { return (key, SharedWakers::default()) };
            if is_barred {
                let execution = if session.is_some() { Execution::MayHaveRun } else { Execution::NotRun };
                call.fail(super::in_the_clear(execution));
            }
            (key, Arc::clone(&call.wakers))
        });
        let noted = session.map(|session| Given { seq, session });
        Some(Self { shared, book, record, key, wakers, noted })
    }

    /// From the first write on. Says whether that went well.
    pub(super) async fn run_new(mut self, stored: oneshot::Sender<Result<(), RpcError>>) {
        let written = self.book.write(&mut self.record).await;
        match written {
            Ok(()) => {
                self.shared.with(|core| core.stored(self.key, self.noted));
                _ = stored.send(Ok(()));
                self.run().await;
            }
            Err(error) => {
                // What a failed write left is not to be taken up by the next run.
                let removed = self.book.drop_record(&self.record.key).await;
                self.shared.with(|core| core.release(self.key));
                _ = stored.send(Err(refused(&error, removed.as_ref().err())));
            }
        }
    }

    /// Until the call is over and its outcome on disk, or the client closed.
    pub(super) async fn run(mut self) {
        let outcome = loop {
            match self.shared.with(|core| core.durable_step(self.key, now())) {
                DurableStep::Over(outcome) => break *outcome,
                DurableStep::Closed => {
                    self.book.abandon(&self.record.key);
                    return;
                }
                DurableStep::Note(given, doubtful) => self.note(given, doubtful).await,
                DurableStep::Wait(deadline) => tokio::select! {
                    // A notification that came before is kept.
                    () = self.wakers.readable.notified() => {}
                    () = sleep_until(deadline.into()) => {}
                },
            }
        };
        self.end(outcome).await;
    }

    /// Writes down to whom the call goes, then lets it.
    async fn note(&mut self, given: Given, doubtful: bool) {
        if let Body::Waiting(waiting) = &mut self.record.body {
            waiting.seq = given.seq;
            waiting.session = Some(given.session);
            waiting.doubtful |= doubtful;
        }
        match self.book.write(&mut self.record).await {
            Ok(()) => self.noted = Some(given),
            Err(error) => {
                tracing::warn!(%error, "a durable call cannot be written and waits");
                sleep(RETRY).await;
            }
        }
        // After a failure it asks again, as things are then.
        self.shared.with(|core| core.stored(self.key, self.noted));
    }

    async fn end(mut self, outcome: Outcome) {
        self.record.body = Body::Over(Box::new(outcome.clone()));
        let written = self.book.write(&mut self.record).await;
        let (key, tag) = (&self.record.key, self.record.tag.clone());
        match written {
            Ok(()) => {
                self.shared.with(|core| core.release(self.key));
                self.book.finish(key, tag, outcome, None);
            }
            Err(error) => {
                tracing::warn!(%error, "an outcome cannot be written: the gateway keeps it meanwhile");
                self.book.finish(key, tag, outcome, Some(self.key));
            }
        }
    }
}

impl Record {
    /// A call that begins now and may wait for that long.
    pub(super) fn new(key: String, tag: bytes::Bytes, wait: Duration, waiting: Waiting) -> Self {
        let from = since_1970();
        let body = Body::Waiting(waiting);
        Self { generation: 0, key, tag, from_ms: millis(from), until_ms: millis(from + wait), body }
    }

    /// What is to be sent of it, and when it began. A clock that was set does not make it wait longer than it might.
    pub(super) fn outgoing(&self, waiting: &Waiting) -> (Outgoing, Instant) {
        let (now, today) = (now(), millis(since_1970()));
        let span = Duration::from_millis(self.until_ms.saturating_sub(self.from_ms));
        let left = Duration::from_millis(self.until_ms.saturating_sub(today)).min(span);
        let started = now.checked_sub(span.saturating_sub(left)).unwrap_or(now);
        let outgoing = Outgoing {
            head: waiting.head.clone(),
            deadline: now + left,
            message: Some(waiting.message.clone()),
            bodiless: waiting.bodiless,
        };
        (outgoing, started)
    }
}

fn refused(error: &io::Error, left: Option<&io::Error>) -> RpcError {
    let mut text = format!("the call cannot be written to disk, and was not sent: {error}");
    if let Some(left) = left {
        text = format!("{text}; what was written may be left and be sent by the next run: {left}");
    }
    let execution = if left.is_some() { Execution::MayHaveRun } else { Execution::NotRun };
    RpcError::new(RpcErrorKind::LimitExceeded, execution, text)
}
