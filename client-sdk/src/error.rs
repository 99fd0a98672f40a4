//! What can be wrong before the first connection. Errors of calls are [`RpcError`].

use std::{fmt, io, ops::Deref, path::PathBuf};

pub use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

use crate::timeline::Timeline;

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub struct ConfigError {
    field: String,
    text: String,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { field: field.into(), text: text.into() }
    }

    /// The setting that cannot work.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it, and what would be right.
    pub fn reason(&self) -> &str {
        &self.text
    }
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The identity file could not be read, written or understood.
    #[error("identity file {path}: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The certificate authorities could not be used.
    #[error("roots: {0}")]
    Roots(String),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers for the session's secret")]
    NoRandomness,
    /// The built-in dictionaries could not be prepared.
    #[error("dictionaries: {0}")]
    Dictionaries(String),
    /// The records of durable calls cannot be read.
    #[error("durable calls beside the identity file: {0}")]
    Durable(io::Error),
    /// The caller is not inside a tokio runtime.
    #[error("Client::start must be called inside a tokio runtime")]
    NoRuntime,
}

/// A call that has no answer: why, and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// Whose fault it was, whether a retry helps, and whether the backend ran the request.
    pub error: RpcError,
    /// How it went until then.
    pub timeline: Box<Timeline>,
}

impl Deref for FailedCall {
    type Target = RpcError;

    fn deref(&self) -> &RpcError {
        &self.error
    }
}

impl fmt::Display for FailedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for FailedCall {}

/// A call that was answered with a gRPC status other than OK, or not answered at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// No answer: whose fault, and whether the backend ran the request.
    Rpc(RpcError),
    /// The backend answered with this status.
    Grpc(GrpcStatus),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rpc(error) => error.fmt(f),
            Self::Grpc(status) => status.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

impl From<RpcError> for CallError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl From<FailedCall> for CallError {
    fn from(failed: FailedCall) -> Self {
        Self::Rpc(failed.error)
    }
}

/// A gRPC status: the `grpc-status` and `grpc-message` of the trailers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcStatus {
    /// The number, 0 is OK.
    pub code: u32,
    /// The text, percent-decoded.
    pub message: String,
}

impl GrpcStatus {
    /// The code's name in gRPC's documents.
    pub fn name(&self) -> &'static str {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        NAMES.get(self.code as usize).copied().unwrap_or("UNKNOWN")
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-status {} {}: {}", self.code, self.name(), self.message)
    }
}
