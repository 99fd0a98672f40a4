//! What MQTT asks of a server, by normative statement: a test is named by the statement that it checks, and
//! STATEMENTS.md says for each statement which tests do. Clients are raw ones, and say what no library would.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

#[path = "../mqtt_support/mod.rs"]
mod mqtt_support;

mod bed;
mod connack;
mod connect;
mod delivery;
mod errors;
mod format;
mod publish;
mod retained;
mod sessions;
mod shared;
mod statements;
mod subscribe;
mod topics;
mod version_3;
mod wills;
