//! The end of an exchange that writes the answer.

use std::sync::Arc;

use bytes::Bytes;
use towline_protocols::{hpack::HeaderField, link::RpcError};

use super::{End, Exchange};
use crate::session::LinkSession;

/// The end of the exchange that writes the answer. Dropping it before the end tells the client that the
/// outcome is unknown.
pub struct Producer {
    exchange: Arc<Exchange>,
    session: Arc<LinkSession>,
    finished: bool,
}

/// Nobody wants the answer any more: the request was cancelled, its session ended, or the record met
/// its bound while the client was away. The producer should drop what it holds of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the exchange has ended")]
pub struct Ended;

impl Producer {
    pub(in crate::session) fn new(exchange: Arc<Exchange>, session: Arc<LinkSession>) -> Self {
        Self { exchange, session, finished: false }
    }

    /// The request's number in its session.
    pub fn seq(&self) -> u64 {
        self.exchange.seq
    }

    /// Notes that the request has reached a backend: from now on it may have run.
    pub fn forwarded(&self) {
        self.exchange.state.lock().request.forwarded = true;
    }

    /// Records the head.
    ///
    /// # Errors
    /// The exchange has ended.
    pub fn head(&self, fields: Vec<HeaderField>) -> Result<(), Ended> {
        let added = fields.iter().map(HeaderField::size).sum();
        let mut state = self.exchange.running()?;
        state.head = Some(fields.into());
        self.exchange.grown(&mut state, added);
        drop(state);
        self.record(added)
    }

    /// Records a message, and waits while the attached consumer is a window behind.
    ///
    /// # Errors
    /// The exchange has ended.
    pub async fn message(&self, message: Bytes) -> Result<(), Ended> {
        let added = message.len();
        self.exchange.push(message)?;
        self.record(added)?;
        self.room().await
    }

    /// Waits until the attached consumer is less than a window behind; returns at once while no consumer is
    /// attached. Safe to cancel.
    ///
    /// # Errors
    /// The exchange has ended.
    pub async fn room(&self) -> Result<(), Ended> {
        loop {
            let notified = self.exchange.room.notified();
            if !self.exchange.running()?.is_behind(self.exchange.window) {
                return Ok(());
            }
            notified.await;
        }
    }

    /// Resolves when nobody wants the answer any more. Safe to cancel.
    pub async fn ended(&self) -> Ended {
        loop {
            let notified = self.exchange.room.notified();
            if self.exchange.is_finished() {
                return Ended;
            }
            notified.await;
        }
    }

    /// Ends the answer.
    pub fn end(self) {
        self.finish(End::Plain);
    }

    /// Ends the answer with trailers.
    pub fn trailers(self, fields: Vec<HeaderField>) {
        self.finish(End::Trailers(fields.into()));
    }

    /// Ends the answer with an error.
    pub fn error(self, error: RpcError) {
        self.finish(End::Error(error));
    }

    fn finish(mut self, end: End) {
        self.finished = true;
        let Some(added) = self.exchange.finish(end) else { return };
        if self.exchange.is_recorded() {
            self.session.record(&self.exchange, added);
        }
        self.session.finished(self.exchange.seq);
    }

    /// Counts `added` bytes in the session's ledger, which may have no room for them.
    fn record(&self, added: usize) -> Result<(), Ended> {
        if !self.exchange.is_recorded() || self.session.record(&self.exchange, added) {
            return Ok(());
        }
        let stopped = self.exchange.stop_recording();
        if stopped.is_err() {
            self.session.finished(self.exchange.seq);
        }
        stopped
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(execution) = self.exchange.cancel("the gateway gave the request up") {
            self.session.cancelled(self.exchange.seq, execution);
        }
    }
}
