//! Clients of HTTP/3 reach backends through the gateway; peers that break the rules reach nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]

mod bad_input;
mod bed;
mod requests;
