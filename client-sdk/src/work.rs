//! Work for the runtime in one shape, whatever it does.
//!
//! tokio makes its code for a task anew for each type of future, some two KiB with the tables for unwinding. An app carries
//! that code, and a task is begun seldom enough that its box costs nothing.

use std::{future::Future, pin::Pin};

/// A future of which no more is known than what it comes to.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is done on a thread that may block.
pub(crate) type Blocking<T> = Box<dyn FnOnce() -> T + Send>;

/// Takes the type of a future away, before it is spawned.
pub(crate) fn boxed<T>(work: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
    Box::pin(work)
}

/// The same for what blocks.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    Box::new(work)
}
