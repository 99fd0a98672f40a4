//! The end of an exchange that writes the answer.

use std::sync::Arc;

use bytes::Bytes;
use towline_protocols::{hpack::HeaderField, link::RpcError};

use super::{End, Exchange};
use crate::session::{
    LinkSession,
    link_session::{Committed, not_reserved},
};

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

    /// To be called before the request is given to a backend, from when on it may have run. Waits where a crash
    /// of the gateway could make it run a second time. With `durable` its answer is held back until it is on disk.
    ///
    /// # Errors
    /// The exchange has ended, or (inner) the store cannot follow. Nothing may be forwarded then.
    pub async fn forward(&self, durable: bool) -> Result<Result<(), RpcError>, Ended> {
        match self.session.reserve(&self.exchange, durable)? {
            Err(error) => return Ok(Err(error)),
            Ok(None) => {}
            Ok(Some(mut reservation)) => match (&mut reservation.committed).await {
                Ok(()) => self.session.reserved(&reservation),
                Err(error) => return Ok(Err(not_reserved(&error))),
            },
        }
        self.exchange.forward(durable)?;
        step(self.seq(), "forwarded");
        Ok(Ok(()))
    }

    /// [`Producer::forward`] where nothing has to be waited for.
    #[cfg(test)]
    pub(crate) fn forwarded(&self) {
        _ = self.exchange.forward(false);
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

    /// Records a message, and waits while every consumer is a window behind.
    ///
    /// # Errors
    /// The exchange has ended.
    pub async fn message(&self, message: Bytes) -> Result<(), Ended> {
        let added = message.len();
        self.exchange.push(message)?;
        self.record(added)?;
        self.room().await
    }

    /// Waits until a consumer is less than a window behind; returns at once while there is none. Safe to cancel.
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

    /// Ends the answer. `Some`: the client gets it once that has settled.
    pub fn end(self) -> Option<Settling> {
        self.finish(End::Plain)
    }

    /// Ends the answer with trailers.
    pub fn trailers(self, fields: Vec<HeaderField>) -> Option<Settling> {
        self.finish(End::Trailers(fields.into()))
    }

    /// Ends the answer with an error.
    pub fn error(self, error: RpcError) -> Option<Settling> {
        self.finish(End::Error(error))
    }

    fn finish(mut self, end: End) -> Option<Settling> {
        self.finished = true;
        let added = self.exchange.finish(end)?;
        step(self.seq(), "answered");
        if self.exchange.is_recorded() {
            self.session.record(&self.exchange, added);
        }
        let settling = self.session.write_outcome(&self.exchange).map(|committed| Settling {
            exchange: self.exchange.clone(),
            session: self.session.clone(),
            committed,
        });
        if settling.is_none() {
            self.exchange.show();
            self.session.finished(&self.exchange);
        }
        settling
    }

    /// Counts `added` bytes in the session's ledger, which may have no room for them.
    fn record(&self, added: usize) -> Result<(), Ended> {
        if !self.exchange.is_recorded() || self.session.record(&self.exchange, added) {
            return Ok(());
        }
        let stopped = self.exchange.stop_recording();
        if stopped.is_err() {
            self.session.finished(&self.exchange);
        }
        stopped
    }
}

/// An outcome on its way to the disk. Dropping it hands the answer out.
pub struct Settling {
    exchange: Arc<Exchange>,
    session: Arc<LinkSession>,
    committed: Committed,
}

impl Settling {
    /// Waits until the outcome is durable. If it cannot be made so, the client gets it all the same: a crash
    /// leaves that it may have run.
    pub async fn settled(mut self) {
        match (&mut self.committed).await {
            Ok(()) => step(self.exchange.seq, "recorded"),
            Err(error) => self.session.outcome_not_stored(&error),
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.exchange.show();
        self.session.finished(&self.exchange);
    }
}

/// How far a request has come, for those who follow it in the log.
fn step(seq: u64, step: &'static str) {
    tracing::trace!(target: "towline::outcome", seq, step);
}

impl Drop for Producer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(execution) = self.exchange.cancel("the gateway gave the request up") {
            self.session.cancelled(&self.exchange, execution);
        }
    }
}
