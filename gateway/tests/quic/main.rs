//! QUIC below its protocols: addresses that change, addresses that must be proved, ClientHellos of every shape.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod bed;
mod early;
mod flood;
mod migration;
mod mqtt;
mod namespaces;
mod nat;
