//! The load generator's command line; see the README beside this crate.

use std::process::ExitCode;

use clap::Parser;
use towline_loadtests::{
    beside,
    cli::{Cli, Command, choose},
    corpus, run, worker,
};

/// Nothing succeeded.
const FAILURE: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Worker => finish(worker::main().map(|()| true)),
        Command::Stand(args) => finish(beside::stand::run(&args).map(|()| true)),
        Command::Corpus(args) => finish(corpus::run(&args).map(|()| true)),
        Command::Beside(benchmark) => finish(beside::run(benchmark)),
        command => match choose(&command) {
            Ok(choice) => finish(run::run(&choice)),
            Err(text) => {
                eprintln!("error: {text}");
                ExitCode::from(USAGE)
            }
        },
    }
}

fn finish(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILURE),
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::from(FAILURE)
        }
    }
}
