//! The error handle.

use std::ffi::{CString, c_char};

use super::{guarded, raw::c_text};
use crate::Timeline;

/// Whose fault a failure was.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TowlineStatus {
    /// It was done, or is under way.
    Ok = 0,
    /// The app's: an option cannot work. Nothing was started.
    Config = 1,
    /// The app's: an argument cannot be used. Nothing was sent.
    Argument = 2,
    /// The app's: the client was shut down, or the gateway refused it for good. Nothing was sent.
    Closed = 3,
    /// The device's: files or threads could not be had.
    Start = 4,
    /// No answer: the network's fault, the gateway's or the backend's, see towline_error_kind.
    Rpc = 5,
    /// The backend's: it answered with a gRPC status, see towline_error_grpc_code.
    Grpc = 6,
    /// A fault of this library's own.
    Internal = 7,
}

/// Why something was not done. One that a function returned is freed with towline_error_free; one that a callback got
/// belongs to the library.
pub struct TowlineError {
    error: crate::TowlineError,
    text: CString,
    subject: CString,
}

impl TowlineError {
    pub(super) fn new(error: crate::TowlineError) -> Self {
        use crate::TowlineError::{Argument, Config};
        let subject = match &error {
            Config { option: subject, .. } | Argument { argument: subject, .. } => subject.as_str(),
            _ => "",
        };
        Self { text: c_text(&error.to_string()), subject: c_text(subject), error }
    }

    pub(super) fn timeline(&self) -> Option<&Timeline> {
        match &self.error {
            crate::TowlineError::Rpc { timeline, .. } => timeline.as_deref(),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> TowlineStatus {
        use crate::TowlineError as Error;
        match self.error {
            Error::Config { .. } => TowlineStatus::Config,
            Error::Argument { .. } => TowlineStatus::Argument,
            Error::Closed => TowlineStatus::Closed,
            Error::Start { .. } => TowlineStatus::Start,
            Error::Rpc { .. } => TowlineStatus::Rpc,
            Error::Grpc { .. } => TowlineStatus::Grpc,
            Error::Internal { .. } => TowlineStatus::Internal,
        }
    }
}

/// Whose fault it was; of NULL, TOWLINE_STATUS_OK.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_status(error: Option<&TowlineError>) -> TowlineStatus {
    guarded(TowlineStatus::Internal, || error.map_or(TowlineStatus::Ok, TowlineError::status))
}

/// What was wrong, where, and what to do. It lives as long as the error.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_text(error: Option<&TowlineError>) -> *const c_char {
    guarded(c"".as_ptr(), || error.map_or(c"", |error| &error.text).as_ptr())
}

/// The name of the option or argument that cannot be used, else empty. It lives as long as the error.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_subject(error: Option<&TowlineError>) -> *const c_char {
    guarded(c"".as_ptr(), || error.map_or(c"", |error| &error.subject).as_ptr())
}

/// Why a request was not answered, one of TOWLINE_KIND_*; 0 if that is not what went wrong.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_kind(error: Option<&TowlineError>) -> u32 {
    guarded(0, || match error.map(|error| &error.error) {
        Some(crate::TowlineError::Rpc { kind, .. }) => *kind as u32,
        _ => 0,
    })
}

/// Whether the backend ran the request, one of TOWLINE_EXECUTION_*.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_execution(error: Option<&TowlineError>) -> u32 {
    guarded(TOWLINE_EXECUTION_MAY_HAVE_RUN, || match error.map(|error| &error.error) {
        Some(crate::TowlineError::Rpc { execution, .. }) => *execution as u32,
        Some(crate::TowlineError::Grpc { .. }) => TOWLINE_EXECUTION_RAN,
        Some(crate::TowlineError::Internal { .. }) => TOWLINE_EXECUTION_MAY_HAVE_RUN,
        _ => TOWLINE_EXECUTION_NOT_RUN,
    })
}

/// Whether the same request may succeed later, and is safe to send again without knowing more.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_is_retryable(error: Option<&TowlineError>) -> bool {
    guarded(false, || {
        let error = error.map(|error| &error.error);
        matches!(error, Some(crate::TowlineError::Rpc { is_retryable: true, .. }))
    })
}

/// The pause that the gateway asks for before the next attempt, milliseconds; 0 is none.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_retry_after_ms(error: Option<&TowlineError>) -> u64 {
    guarded(0, || match error.map(|error| &error.error) {
        Some(crate::TowlineError::Rpc { retry_after: Some(pause), .. }) => {
            pause.as_millis().try_into().unwrap_or(u64::MAX)
        }
        _ => 0,
    })
}

/// The backend's gRPC status, where the error's status is TOWLINE_STATUS_GRPC; else 0.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_grpc_code(error: Option<&TowlineError>) -> u32 {
    guarded(0, || match error.map(|error| &error.error) {
        Some(crate::TowlineError::Grpc { code, .. }) => *code,
        _ => 0,
    })
}

/// Frees an error that a function returned; NULL is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_free(error: Option<Box<TowlineError>>) {
    guarded((), || drop(error));
}

/// The backend certainly did not run the request.
pub const TOWLINE_EXECUTION_NOT_RUN: u32 = 0;
/// Nobody knows whether the backend ran it.
pub const TOWLINE_EXECUTION_MAY_HAVE_RUN: u32 = 1;
/// The backend ran it.
pub const TOWLINE_EXECUTION_RAN: u32 = 2;

/// The app lost interest.
pub const TOWLINE_KIND_CANCELLED: u32 = 1;
/// The deadline passed.
pub const TOWLINE_KIND_DEADLINE_EXCEEDED: u32 = 2;
/// No route of the gateway matches the request.
pub const TOWLINE_KIND_NO_ROUTE: u32 = 3;
/// The backend refused the connection or could not be reached.
pub const TOWLINE_KIND_BACKEND_UNAVAILABLE: u32 = 4;
/// The backend's connection broke, or its answer was malformed, after the request was sent.
pub const TOWLINE_KIND_BACKEND_FAILED: u32 = 5;
/// A limit was met: the text names it.
pub const TOWLINE_KIND_LIMIT_EXCEEDED: u32 = 6;
/// The gateway is draining.
pub const TOWLINE_KIND_DRAINING: u32 = 7;
/// This client is not allowed to do this.
pub const TOWLINE_KIND_PERMISSION_DENIED: u32 = 8;
/// The request asks for an encrypted transport, and there is none.
pub const TOWLINE_KIND_ENCRYPTION_REQUIRED: u32 = 9;
/// The request broke a rule of the protocol: the text names it.
pub const TOWLINE_KIND_MALFORMED: u32 = 10;
/// The recorded outcome is gone.
pub const TOWLINE_KIND_OUTCOME_EXPIRED: u32 = 11;
/// The session was lost or taken over.
pub const TOWLINE_KIND_SESSION_LOST: u32 = 12;
/// A message names a dictionary that the receiver does not hold.
pub const TOWLINE_KIND_UNKNOWN_DICTIONARY: u32 = 13;
/// A fault of the gateway's own.
pub const TOWLINE_KIND_INTERNAL: u32 = 14;
