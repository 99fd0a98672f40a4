//! Who is let in, and what they may do then: over MQTT, as devices see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(unreachable_pub, reason = "a test has no outside")]

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../mqtt_support/mod.rs"]
mod mqtt_support;

mod acl;
mod guesses;
mod hook_topics;
mod hooks;
mod http;
mod oracle;
mod scram;
mod tokens;
mod withdrawals;
