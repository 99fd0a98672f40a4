//! The link from end to end, as in `link`, with connections that park as soon as they have nothing to do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

#[path = "../link/backend.rs"]
mod backend;
#[path = "../link/bed.rs"]
mod bed;
#[path = "../link/beside.rs"]
mod beside;
#[path = "../link/chaos.rs"]
mod chaos;
#[path = "../link/dictionaries.rs"]
mod dictionaries;
#[path = "../link/drain.rs"]
mod drain;
#[path = "../link/durable.rs"]
mod durable;
#[path = "../link/faults.rs"]
mod faults;
#[path = "../link/limits.rs"]
mod limits;
#[path = "../link/policies.rs"]
mod policies;
#[path = "../link/pushes.rs"]
mod pushes;
#[path = "../link/raw_quic.rs"]
mod raw_quic;
#[path = "../link/requests.rs"]
mod requests;
#[path = "../link/slow_readers.rs"]
mod slow_readers;

/// The tests wait for nothing as long as this.
const PARK_AFTER: std::time::Duration = std::time::Duration::from_millis(1);
