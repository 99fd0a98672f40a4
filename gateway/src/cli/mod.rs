//! The command line.

mod admin;
mod auth;
pub mod call;
mod cert;
mod certificates;
mod check;
mod dev;
mod dict;
mod endpoints;
pub mod listen;
mod outbox;
mod passwd;
mod policy;
mod process;
mod serve;

use std::{io, path::Path};

use clap::Subcommand;
use towline_crypto::Providers;

pub use self::certificates::DevelopmentCertificates;
use crate::{
    control::{config::Mistakes, reload::ReloadError},
    gateway::StartError,
};

/// What `towline` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start with embedded defaults: certificates, a demo backend and listeners on loopback
    Dev(dev::Arguments),
    /// Start from a configuration file
    Serve(serve::Arguments),
    /// Send one request over the link and print its answer
    Call(call::CallArgs),
    /// Wait for pushes and print them
    Listen(listen::ListenArgs),
    /// Report every mistake in a configuration file
    Check(check::Arguments),
    /// Train and inspect compression dictionaries
    Dict(dict::DictArgs),
    /// Make certificates, pins and keys of session tickets
    Cert(cert::Arguments),
    /// Look at messages that wait in a running gateway's store, and send dead letters again
    Outbox(outbox::OutboxArgs),
    /// Forget what the hook said of who clients are
    Auth(auth::AuthArgs),
    /// Check, push and watch the policy of clients
    Policy(policy::PolicyArgs),
    /// Sign the list of endpoints that clients are offered, and read it
    Endpoints(endpoints::EndpointsArgs),
    /// Make a line for the password file; the password is read from standard input
    Passwd(passwd::Arguments),
}

/// Runs a command to its end.
///
/// # Errors
/// What to tell the user.
pub fn run(command: Command) -> Result<(), Failure> {
    run_with(command, &Providers::default())
}

/// As [`run`], in a program that brings providers of its own: listeners may name each in `crypto`.
///
/// # Errors
/// What to tell the user.
pub fn run_with(command: Command, providers: &Providers) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => runtime()?.block_on(dev::run(arguments)),
        Command::Serve(arguments) => runtime()?.block_on(serve::run(arguments, providers)),
        Command::Call(arguments) => runtime()?.block_on(call::run(arguments)).map_err(Failure::Other),
        Command::Listen(arguments) => runtime()?.block_on(listen::run(arguments)).map_err(Failure::Other),
        Command::Check(arguments) => check::run(&arguments, providers),
        Command::Dict(arguments) => dict::run(arguments),
        Command::Cert(arguments) => cert::run(arguments),
        Command::Outbox(arguments) => outbox::run(arguments),
        Command::Auth(arguments) => auth::run(arguments),
        Command::Policy(arguments) => policy::run(arguments),
        Command::Endpoints(arguments) => endpoints::run(arguments),
        Command::Passwd(arguments) => passwd::run(&arguments),
    }
}

/// Why a command did not succeed, in the words that the user gets to read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration file has mistakes.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// The gateway did not start.
    #[error("towline: {0}")]
    Start(#[from] StartError),
    /// What the configuration names works, but its clients would complain.
    #[error("{0}")]
    Problems(String),
    /// Anything else.
    #[error("towline: {0}")]
    Other(String),
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Mistakes(mistakes) => Self::Mistakes(mistakes),
            ReloadError::Unusable(error) => Self::Start(error),
        }
    }
}

/// The certificates of `towline dev` in `folder`, made if they are missing: for tests and trials.
///
/// # Errors
/// A file could not be written.
pub fn development_certificates(folder: &Path) -> Result<DevelopmentCertificates, Failure> {
    certificates::ensure(folder)
}

/// How often a worker looks into the queue that all workers share before its own: each time. Who finds no room in a worker's
/// own queue waits there, as most subscribers of a large fan-out do, and what sockets have woken since would go ahead of
/// all of them.
const SHARED_QUEUE_TURN: u32 = 1;

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime: io::Result<_> = builder.enable_all().global_queue_interval(SHARED_QUEUE_TURN).build();
    runtime.map_err(|error| Failure::Other(format!("cannot start threads: {error}")))
}
