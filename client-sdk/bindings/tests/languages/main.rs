//! Every language against a gateway: its own program, built and run as an app's would be.
//!
//! A test is skipped, and says so, where the machine lacks what the language needs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bed;
mod c;
mod generated;
mod header;
mod kotlin;
mod python;
mod swift;
