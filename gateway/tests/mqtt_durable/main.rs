//! MQTT sessions that outlive the gateway: what the store keeps of them, what is said when, and what a crash leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

#[path = "../mqtt_support/mod.rs"]
mod mqtt_support;

mod answers;
mod bed;
mod crash;
mod faults;
mod restarts;
mod shares;
mod wills;
