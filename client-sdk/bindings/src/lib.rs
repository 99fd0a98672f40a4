//! The Towline client for Kotlin, Swift and Python (by uniffi) and for C (`include/towline.h`).
//!
//! Everything stands on `towline_client`; here are its shapes in other languages. `engine` runs it: one tokio runtime
//! for the process. `client` and `stream` are the handles, `request` and `options` what goes in, `listen`, `durable`,
//! `names` and `logs` what an app waits for, `binder` what it is asked to do, `error` what went wrong; `c` is the C ABI over the same handles, and the
//! only place with `unsafe`.
//!
//! Whoever listens asks for one thing after the other (`next()`), which Kotlin's `Flow`, Swift's `AsyncSequence` and
//! Python's asynchronous iterators wrap in a few lines: an app that is slow holds pushes back and acknowledges each by
//! asking for the next, and nothing of the app runs on the engine's thread. A socket that waits to be bound cannot be handed
//! out so: the app is called, by a thread that may block.

uniffi::setup_scaffolding!();

mod binder;
mod c;
mod cancel;
mod client;
mod durable;
mod engine;
mod error;
mod listen;
mod logs;
mod names;
mod options;
#[cfg(feature = "panic-probe")]
mod probe;
mod request;
mod signals;
mod source;
mod stream;

pub use binder::{BinderError, SocketBinder};
pub use cancel::Cancellation;
pub use client::{Client, EndpointList, TicketCounts};
pub use durable::{DamagedRecord, DurableOutcome, OutcomeListener};
pub use engine::end_engine;
pub use error::{ErrorKind, Execution, TowlineError};
pub use listen::{LineState, Push, PushListener, Quality, QualityListener, StateListener, Transport};
pub use logs::{LogLevel, LogListener, LogRecord, logs};
pub use names::{NameListener, NameQuestion};
pub use options::{ClientOptions, DictionaryFetch, ShortCalls, Transports};
#[cfg(feature = "panic-probe")]
pub use probe::{panic_probe, panic_probe_later};
pub use request::{GrpcStatus, Header, MessageBytes, Request, Response, Timeline};
pub use signals::{Network, NetworkKind};
pub use stream::{MessageStream, StreamEnd, StreamHead};
