//! Panics on purpose, so that C's test sees what becomes of one.
#![allow(clippy::panic, reason = "it is what this is for")]

use std::mem::MaybeUninit;

use super::{TowlineError, TowlineStatus, guard};

/// Panics.
#[unsafe(no_mangle)]
pub extern "C" fn towline_panic_probe(error: Option<&mut MaybeUninit<*mut TowlineError>>) -> TowlineStatus {
    guard(error, || panic!("panic probe"))
}
