//! What went wrong, as every language sees it.

use std::time::Duration;

use towline_client::{CallError, ConfigError, FailedCall, RpcError, StartError};

use crate::request::Timeline;

/// Why something was not done. Each kind says whose fault it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum TowlineError {
    /// The app's: an option cannot work. Nothing was started.
    #[error("{option}: {reason}")]
    Config {
        /// The option's name.
        option: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The app's: an argument cannot be used. Nothing was sent.
    #[error("{argument}: {reason}")]
    Argument {
        /// The argument's name, with its place where it is one of several.
        argument: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The app's: this client was shut down, or the gateway refused it for good. Nothing was sent.
    #[error("the client is closed: make another one")]
    Closed,
    /// The device's: files or threads could not be had.
    #[error("{reason}")]
    Start {
        /// What happened.
        reason: String,
    },
    /// No answer: the network's fault, the gateway's or the backend's, as `kind` says.
    #[error("{kind:?} ({execution:?}): {reason}")]
    Rpc {
        /// Why.
        kind: ErrorKind,
        /// Whether the backend ran the request.
        execution: Execution,
        /// Whether the same request may succeed later, and is safe to send again without knowing more.
        is_retryable: bool,
        /// When the gateway asks for a pause before the next attempt.
        retry_after: Option<Duration>,
        /// What was wrong, where, and what to do.
        reason: String,
        /// How the call went until then; `None` where it was not a call.
        timeline: Option<Box<Timeline>>,
    },
    /// The backend's: it answered with this gRPC status.
    #[error("grpc-status {code}: {reason}")]
    Grpc {
        /// The number.
        code: u32,
        /// The text.
        reason: String,
    },
    /// A fault of this library's own: please report it.
    #[error("fault in the Towline client: {reason}")]
    Internal {
        /// What is known of it.
        reason: String,
    },
}

/// Why a request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
#[repr(u8)]
pub enum ErrorKind {
    /// The app lost interest.
    Cancelled = 1,
    /// The deadline passed.
    DeadlineExceeded = 2,
    /// No route of the gateway matches the request.
    NoRoute = 3,
    /// The backend refused the connection or could not be reached.
    BackendUnavailable = 4,
    /// The backend's connection broke, or its answer was malformed, after the request was sent.
    BackendFailed = 5,
    /// A limit was met: the reason names it.
    LimitExceeded = 6,
    /// The gateway is draining.
    Draining = 7,
    /// This client is not allowed to do this.
    PermissionDenied = 8,
    /// The request asks for an encrypted transport, and there is none.
    EncryptionRequired = 9,
    /// The request broke a rule of the protocol: the reason names it.
    Malformed = 10,
    /// The recorded outcome is gone: its bound in bytes, count or time was met.
    OutcomeExpired = 11,
    /// The session was lost or taken over.
    SessionLost = 12,
    /// A message names a dictionary that the receiver does not hold.
    UnknownDictionary = 13,
    /// A fault of the gateway's own.
    Internal = 14,
}

/// Whether the backend ran a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
#[repr(u8)]
pub enum Execution {
    /// Certainly not.
    NotRun = 0,
    /// Nobody knows.
    MayHaveRun = 1,
    /// It did.
    Ran = 2,
}

impl TowlineError {
    pub(crate) fn argument(argument: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Argument { argument: argument.into(), reason: reason.into() }
    }

    pub(crate) fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { option: option.into(), reason: reason.into() }
    }

    /// The request may be on its way.
    pub(crate) fn cancelled(reason: &str) -> Self {
        let kind = towline_client::RpcErrorKind::Cancelled;
        RpcError::new(kind, towline_client::Execution::MayHaveRun, reason).into()
    }
}

impl From<RpcError> for TowlineError {
    fn from(error: RpcError) -> Self {
        Self::Rpc {
            kind: error.kind.into(),
            execution: error.execution.into(),
            is_retryable: error.is_retryable(),
            retry_after: error.retry_after,
            reason: error.message,
            timeline: None,
        }
    }
}

impl From<FailedCall> for TowlineError {
    fn from(failed: FailedCall) -> Self {
        let mut error = Self::from(failed.error);
        if let Self::Rpc { timeline, .. } = &mut error {
            *timeline = Some(Box::new((*failed.timeline).into()));
        }
        error
    }
}

impl From<CallError> for TowlineError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rpc(error) => error.into(),
            CallError::Grpc(status) => Self::Grpc { code: status.code, reason: status.message },
        }
    }
}

impl From<ConfigError> for TowlineError {
    fn from(error: ConfigError) -> Self {
        Self::option(option_of(error.field()), error.reason())
    }
}

/// What the client core has in groups is flat here.
fn option_of(field: &str) -> String {
    match field.split_once('.') {
        Some(("app", rest)) => format!("app_{rest}"),
        Some(("endpoint_lists", rest)) => format!("endpoint_list_{rest}"),
        Some(("limits", "deadline_default")) => "deadline".to_owned(),
        Some(("limits", rest)) => rest.to_owned(),
        _ => field.to_owned(),
    }
}

impl From<StartError> for TowlineError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Roots(reason) => Self::option("roots_pem", reason),
            other => Self::Start { reason: other.to_string() },
        }
    }
}

impl From<towline_client::RpcErrorKind> for ErrorKind {
    fn from(kind: towline_client::RpcErrorKind) -> Self {
        use towline_client::RpcErrorKind as Kind;
        match kind {
            Kind::Cancelled => Self::Cancelled,
            Kind::DeadlineExceeded => Self::DeadlineExceeded,
            Kind::NoRoute => Self::NoRoute,
            Kind::BackendUnavailable => Self::BackendUnavailable,
            Kind::BackendFailed => Self::BackendFailed,
            Kind::LimitExceeded => Self::LimitExceeded,
            Kind::Draining => Self::Draining,
            Kind::PermissionDenied => Self::PermissionDenied,
            Kind::EncryptionRequired => Self::EncryptionRequired,
            Kind::Malformed => Self::Malformed,
            Kind::OutcomeExpired | Kind::TakenElsewhere => Self::OutcomeExpired,
            Kind::SessionLost => Self::SessionLost,
            Kind::UnknownDictionary => Self::UnknownDictionary,
            Kind::Internal => Self::Internal,
        }
    }
}

impl From<towline_client::Execution> for Execution {
    fn from(execution: towline_client::Execution) -> Self {
        use towline_client::Execution as Ran;
        match execution {
            Ran::NotRun => Self::NotRun,
            Ran::MayHaveRun | Ran::NotNow => Self::MayHaveRun,
            Ran::Ran => Self::Ran,
        }
    }
}
