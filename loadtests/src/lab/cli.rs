//! The laboratory's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{
    check::{self, CheckArgs},
    ground,
    profiles::PROFILES,
    run::{self, ClientArgs, RunArgs},
    shell::{self, ShellArgs},
    stand::{self, BackendArgs, PortalArgs},
};
use crate::ending::{runtime, work_until_signalled};

/// What shells say of a process that an interrupt has ended.
const INTERRUPTED: u8 = 130;
/// Weak networks on one machine, and what clients make of them.
///
/// Makes network namespaces and TUN devices, which needs root, and removes them at its end.
#[derive(Debug, Parser)]
#[command(name = "towline-lab", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists the networks
    Profiles,
    /// Measures whether the link does what the profiles say
    Check(CheckArgs),
    /// Runs a command or a shell on a phone in a network, with a gateway at the other end
    Shell(ShellArgs),
    /// The SDK beside other clients in every network
    Run(RunArgs),
    /// Removes what a laboratory left that was killed
    Clean,
    /// The backend of a laboratory
    #[command(hide = true)]
    Backend(BackendArgs),
    /// A client on the phone of a laboratory
    #[command(hide = true)]
    Client(ClientArgs),
    /// The captive portal of a laboratory
    #[command(hide = true)]
    Portal(PortalArgs),
}

/// Runs a command.
///
/// # Errors
/// Says what was wrong.
pub fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command {
        Command::Profiles => {
            PROFILES.iter().for_each(|profile| println!("{:<12} {}", profile.name, profile.about));
            Ok(ExitCode::SUCCESS)
        }
        Command::Clean => {
            ground::check()?;
            clean();
            Ok(ExitCode::SUCCESS)
        }
        Command::Backend(args) => block_on(stand::backend(&args)),
        Command::Portal(args) => block_on(stand::portal(&args)),
        Command::Client(args) => block_on(run::client(&args)),
        Command::Run(args) => work(true, move || run::run(&args).map(code)),
        Command::Check(args) => work(true, move || check::run(&args).map(code)),
        // An interrupt is for what runs on the phone.
        Command::Shell(args) => work(false, move || shell::run(&args)),
    }
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn clean() {
    for name in ground::remove_leftovers() {
        eprintln!("removed {name}, which a killed laboratory had left");
    }
}

fn block_on(server: impl Future<Output = Result<(), String>>) -> Result<ExitCode, String> {
    runtime()?.block_on(server).map(|()| ExitCode::SUCCESS)
}

/// Does what needs namespaces, and removes them also when a signal ends it.
fn work(
    ends_on_interrupt: bool,
    work: impl FnOnce() -> Result<ExitCode, String> + Send + 'static,
) -> Result<ExitCode, String> {
    ground::check()?;
    clean();
    let outcome = work_until_signalled(ends_on_interrupt, work, || {
        run::begin_nothing_more();
        ground::end_own();
    })?;
    if outcome.is_none() {
        // What did not end in time is removed all the same.
        ground::remove_own();
    }
    Ok(outcome.unwrap_or(ExitCode::from(INTERRUPTED)))
}
