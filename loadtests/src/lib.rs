//! `towline-load`: opens many connections to a gateway, a backend or a broker, works on them, and
//! measures.
//!
//! ```text
//!  command line -- cli --> Plan -- conductor --> worker processes (worker/, one thread each)
//!                                     ^             | wire/: thin clients
//!                                     |             | pacer + schedule: when an operation is due
//!  report <-- run <-- tally::Round ---+-------------+ tally: what is counted
//! ```
//!
//! The parent samples the server's process ([`procfs`]) between the orders that it gives.

pub mod beside;
pub mod cli;
pub mod clock;
pub mod conductor;
pub mod corpus;
mod ending;
pub mod fault;
pub mod lab;
pub mod latencies;
pub mod machine;
pub mod pacer;
pub mod plan;
pub mod procfs;
pub mod report;
pub mod run;
pub mod schedule;
pub mod tally;
pub mod wire;
pub mod worker;
