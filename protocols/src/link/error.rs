//! What an unsuccessful request says of itself, on the wire and in every API above it.

use std::{fmt, time::Duration};

/// Whether the backend executed the request. A retry is safe after [`Execution::NotRun`] only, or
/// when the request is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Execution {
    /// Certainly not: no byte of it reached a backend.
    NotRun = 0,
    /// It was forwarded and the outcome is unknown.
    MayHaveRun = 1,
    /// The backend answered; the answer is lost.
    Ran = 2,
    /// The REQUEST that this answers was not begun, and whether an earlier one of its number was, the server does not
    /// know. A client that has sent no other takes it for [`Execution::NotRun`], any other for
    /// [`Execution::MayHaveRun`]; callers never see it.
    NotNow = 3,
}

/// Urgency of a request or push; a lower number is sent first (RFC 9218, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// For what a person is waiting on with money at stake.
    pub const CRITICAL: Self = Self(0);
    /// RFC 9218's default.
    pub const NORMAL: Self = Self(3);
    /// Prefetches, telemetry, images below the fold.
    pub const BACKGROUND: Self = Self(7);

    /// Clamps to the range 0 to 7.
    pub const fn new(urgency: u8) -> Self {
        Self(if urgency > 7 { 7 } else { urgency })
    }

    /// 0 (first) to 7 (last).
    pub const fn urgency(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

/// Why a request has no answer. The numbers are RESET's error codes in PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RpcErrorKind {
    /// The receiver of the answer lost interest.
    Cancelled = 1,
    /// The deadline passed.
    DeadlineExceeded = 2,
    /// No route matches the request.
    NoRoute = 3,
    /// The backend refused the connection or could not be reached.
    BackendUnavailable = 4,
    /// The backend's connection broke, or its answer was malformed, after the request was sent.
    BackendFailed = 5,
    /// A configured limit was met: the message names it.
    LimitExceeded = 6,
    /// The gateway is draining.
    Draining = 7,
    /// The caller is not allowed to do this.
    PermissionDenied = 8,
    /// The route demands an encrypted transport.
    EncryptionRequired = 9,
    /// The request broke a rule of the protocol: the message names it.
    Malformed = 10,
    /// The recorded outcome is gone: its bound in bytes, count or time was met.
    OutcomeExpired = 11,
    /// The session was lost or taken over.
    SessionLost = 12,
    /// A message names a dictionary that the receiver does not hold; send it again without.
    UnknownDictionary = 13,
    /// A fault of the gateway's own.
    Internal = 14,
    /// Too many connections of the client ask for this answer, or it is too large to be kept for more than one: another
    /// one takes it. A client that has no other asks again; callers see [`RpcErrorKind::OutcomeExpired`].
    TakenElsewhere = 15,
}

impl RpcErrorKind {
    /// The kind with this number; numbers unknown to this version are a fault of the peer's.
    pub fn from_wire(kind: u8) -> Self {
        use RpcErrorKind::*;
        const ALL: [RpcErrorKind; 15] = [
            Cancelled,
            DeadlineExceeded,
            NoRoute,
            BackendUnavailable,
            BackendFailed,
            LimitExceeded,
            Draining,
            PermissionDenied,
            EncryptionRequired,
            Malformed,
            OutcomeExpired,
            SessionLost,
            UnknownDictionary,
            Internal,
            TakenElsewhere,
        ];
        ALL.get(usize::from(kind).wrapping_sub(1)).copied().unwrap_or(Internal)
    }
}

/// An unsuccessful request: whose fault, whether a retry helps, whether the work may have been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// Why.
    pub kind: RpcErrorKind,
    /// Whether the backend executed the request.
    pub execution: Execution,
    /// When the server asks for a pause before the next attempt.
    pub retry_after: Option<Duration>,
    /// What was wrong, where, and what to do. Never holds a secret.
    pub message: String,
}

impl RpcError {
    /// An error without a `retry_after`.
    pub fn new(kind: RpcErrorKind, execution: Execution, message: impl Into<String>) -> Self {
        Self { kind, execution, retry_after: None, message: message.into() }
    }

    /// Whether the same request may succeed later and is safe to send again without knowing more.
    pub fn is_retryable(&self) -> bool {
        use RpcErrorKind::*;
        self.execution == Execution::NotRun
            && matches!(self.kind, BackendUnavailable | LimitExceeded | Draining | UnknownDictionary)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ran = match self.execution {
            Execution::NotRun => "not run",
            Execution::MayHaveRun => "may have run",
            Execution::Ran => "ran",
            Execution::NotNow => "not run now, perhaps before",
        };
        write!(f, "{:?} ({ran}): {}", self.kind, self.message)
    }
}

impl std::error::Error for RpcError {}
