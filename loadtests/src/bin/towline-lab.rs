//! The laboratory's command line; see the README beside this crate.

use std::process::ExitCode;

use clap::Parser;
use towline_loadtests::lab::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}
