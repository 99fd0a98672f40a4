//! The C ABI, as `include/towline.h` declares it: opaque handles, callbacks, one typed error.
//!
//! Every entry goes through [`guard`], so that no panic leaves it. Callbacks are made by one thread of their own
//! (`callbacks`), which holds no lock meanwhile: they may call any function of the header, and may block without
//! holding up the client. One that binds a socket cannot wait behind others: threads that may block make it (`binder`).
#![allow(unsafe_code, reason = "names are exported here; what C hands over is read in `raw` alone")]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "it is public for C, by name and by the header, and private for Rust"
)]

mod binder;
mod call;
mod callbacks;
mod client;
mod durable;
mod error;
mod listen;
mod names;
mod options;
#[cfg(feature = "panic-probe")]
mod probe;
mod raw;
mod stream;

use std::{
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use self::error::{TowlineError, TowlineStatus};

/// Where a function puts a handle that it makes; C may pass NULL where it does not want it.
type Out<'a, T> = Option<&'a mut MaybeUninit<*mut T>>;

/// Runs an entry: its failure, a panic too, goes to `error`, which is NULL after success.
fn guard(
    error: Out<'_, TowlineError>,
    work: impl FnOnce() -> Result<(), crate::TowlineError>,
) -> TowlineStatus {
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(_) => Some(crate::TowlineError::Internal { reason: "an entry of the C ABI panicked".to_owned() }),
    };
    let failure = failure.map(TowlineError::new);
    let status = failure.as_ref().map_or(TowlineStatus::Ok, TowlineError::status);
    put(error, failure);
    status
}

/// Runs an entry that cannot fail, and answers `otherwise` if it panics all the same.
fn guarded<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

/// Hands a value over to C; what C does not want is dropped.
fn put<T>(out: Out<'_, T>, value: Option<T>) {
    if let Some(out) = out {
        out.write(value.map_or(ptr::null_mut(), |value| Box::into_raw(Box::new(value))));
    }
}

/// What C reads where a function fails.
fn emptied<T>(mut out: Out<'_, T>) -> Out<'_, T> {
    if let Some(out) = &mut out {
        out.write(ptr::null_mut());
    }
    out
}

/// What must not be NULL: a handle, a callback, a place for what is made.
fn given<T>(pointer: Option<T>, argument: &str) -> Result<T, crate::TowlineError> {
    pointer.ok_or_else(|| crate::TowlineError::argument(argument, "is NULL"))
}
