//! What stands beside the path: configuration, reload, the admin listener, logging. The path never
//! imports it; it publishes snapshots, which the path reads.

pub mod admin;
pub mod certificates;
pub mod config;
pub mod experiments;
pub mod policy;
pub mod reload;
pub mod telemetry;
