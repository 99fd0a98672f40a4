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
    /// Forget what the hook said of clients and end their connections, so that it is asked again when they come back
    Forget {
        /// Only of this user, as clients or the hook name it.
        #[arg(long)]
        user: Option<String>,
        /// Let connections that are there go on.
        #[arg(long)]
        keep_connections: bool,
        #[command(flatten)]
        admin: Admin,
    },
}

pub(super) fn run(arguments: AuthArgs) -> Result<(), Failure> {
    let Command::Forget { user, keep_connections, admin } = arguments.command;
    if user.as_deref() == Some("") {
        return Err(Failure::Other(
            "--user is empty; leave it out to forget what was said of everybody".into(),
        ));
    }
    let path = if keep_connections { "/auth/forget?keep-connections" } else { "/auth/forget" };
    println!("{}", admin.ask("POST", path, user.unwrap_or_default().into())?);
    Ok(())
}
