//! `towline passwd`.

use std::io::{self, BufRead, IsTerminal};

use super::Failure;
use crate::auth::{self, Scheme};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The user's name
    user: String,
    /// For SCRAM-SHA-256 (MQTT 5), which proves the password without showing it; plain logins work as well
    #[arg(long)]
    scram: bool,
    /// In mosquitto's format (PBKDF2), which is cheap to check, instead of Argon2id
    #[arg(long, conflicts_with = "scram")]
    pbkdf2: bool,
}

/// The password never stands on the command line, where every process of the machine could read it.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        eprint!("Password of {} (it shows): ", arguments.user);
    }
    let mut password = String::new();
    io::stdin()
        .lock()
        .read_line(&mut password)
        .map_err(|error| Failure::Other(format!("standard input: {error}")))?;
    let password = password.trim_end_matches(['\r', '\n']);
    let scheme = match (arguments.scram, arguments.pbkdf2) {
        (true, _) => Scheme::Scram,
        (_, true) => Scheme::Pbkdf2,
        _ => Scheme::Argon2id,
    };
    let line = auth::password_line_by(scheme, &arguments.user, password.as_bytes());
    println!("{}", line.map_err(|problem| Failure::Other(problem.to_owned()))?);
    Ok(())
}
