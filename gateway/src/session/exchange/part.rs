//! What an answer is made of, and why it is not there.

use std::sync::Arc;

use bytes::Bytes;
use towline_protocols::{
    hpack::HeaderField,
    link::{Execution, RpcError, RpcErrorKind},
};

/// A piece of an answer, in the order head, messages, then one of trailers, end and error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangePart {
    /// `:status` and the header fields.
    Head(Arc<[HeaderField]>),
    /// One message, not compressed: whole, or the first for a connection the rest of what its client has begun.
    Message(Bytes),
    /// The answer ends with these fields.
    Trailers(Arc<[HeaderField]>),
    /// The answer ends.
    End,
    /// The answer ends, or there is none, for this reason.
    Error(RpcError),
}

/// How an answer ends.
#[derive(Clone)]
pub(super) enum End {
    Plain,
    Trailers(Arc<[HeaderField]>),
    Error(RpcError),
}

impl ExchangePart {
    /// What it counts in the record.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Head(fields) | Self::Trailers(fields) => fields_bytes(fields),
            Self::Message(message) => message.len(),
            Self::End => 0,
            Self::Error(error) => error.message.len(),
        }
    }
}

impl From<End> for ExchangePart {
    fn from(end: End) -> Self {
        match end {
            End::Plain => Self::End,
            End::Trailers(fields) => Self::Trailers(fields),
            End::Error(error) => Self::Error(error),
        }
    }
}

impl End {
    /// What it counts in the record.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Trailers(fields) => fields_bytes(fields),
            Self::Error(error) => error.message.len(),
            Self::Plain => 0,
        }
    }
}

fn fields_bytes(fields: &[HeaderField]) -> usize {
    fields.iter().map(HeaderField::size).sum()
}

/// The error of an outcome that was not kept because of a bound.
pub(super) fn outcome_expired(execution: Execution) -> RpcError {
    let text = "the outcome was not kept: session.outcome_bytes_max was met";
    RpcError::new(RpcErrorKind::OutcomeExpired, execution, text)
}

/// The error of a connection that had to give way to another one of its client.
pub(super) fn taken_elsewhere() -> RpcError {
    let text = "the answer is too large to be kept, or taken over too many connections: another one takes it";
    RpcError::new(RpcErrorKind::TakenElsewhere, Execution::MayHaveRun, text)
}
