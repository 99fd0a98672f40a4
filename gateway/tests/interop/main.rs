//! Other people's TLS stacks as judges: OpenSSL 4 and Tongsuo 8.5 against the gateway and the SDK.
//!
//! `.ci/run` builds them once, from the sources in two crates (`.ci/peers`). Without them these tests
//! print that they are skipped, and pass.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod bed;
mod clients;
mod peer;
mod quic;
mod servers;
mod shangmi;
mod shangmi_gateway;
mod sm2;
