//! Log output.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::settings::Log;

/// Sends log lines to standard error from now on. The first call of a process wins.
///
/// # Errors
/// The filter is malformed.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&log.filter)?)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    // An error says that a subscriber is there already: of an earlier call.
    let _ = if log.json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}

/// Reads a filter as [`EnvFilter`] does.
///
/// # Errors
/// What is wrong with it.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}
