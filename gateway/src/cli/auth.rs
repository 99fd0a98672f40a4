//! `towline auth`: what a running gateway knows of who clients are.

use clap::{Args, Subcommand};

use super::{Failure, admin::Admin};

/// What a running gateway knows of who clients are.
#[derive(Debug, Args)]
pub struct AuthArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forget what the hook said of clients, so that it is asked again; connections that are there stay
    Forget {
        /// Only of this user, as clients or the hook name it.
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        admin: Admin,
    },
}

pub(super) fn run(arguments: AuthArgs) -> Result<(), Failure> {
    let Command::Forget { user, admin } = arguments.command;
    if user.as_deref() == Some("") {
        return Err(Failure::Other(
            "--user is empty; leave it out to forget what was said of everybody".into(),
        ));
    }
    println!("{}", admin.ask("POST", "/auth/forget", user.unwrap_or_default().into())?);
    Ok(())
}
