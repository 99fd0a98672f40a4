//! Bridges to upstream brokers: mosquitto, and other gateways.

#![allow(unreachable_pub, reason = "a test binary has no users")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod bed;
mod bridges;
mod buffers;
mod crash;
#[path = "../mqtt_support/mod.rs"]
mod mqtt_support;
mod refusals;
