//! Panics on purpose, so that every language's tests see what becomes of one.
#![allow(clippy::panic, reason = "it is what this is for")]

use crate::{engine::Engine, error::TowlineError};

/// Panics on the caller's thread.
#[uniffi::export]
pub fn panic_probe() {
    panic!("panic probe");
}

/// Panics on the engine's thread.
///
/// # Errors
/// The panic.
#[uniffi::export]
pub async fn panic_probe_later() -> Result<(), TowlineError> {
    Engine::get()?.run(async { panic!("panic probe") }).await
}
