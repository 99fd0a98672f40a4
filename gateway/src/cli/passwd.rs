//! `towline passwd`.

use std::io::{self, BufRead, IsTerminal};

use super::Failure;
use crate::auth;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The user's name
    user: String,
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
    let line = auth::password_line(&arguments.user, password.as_bytes());
    println!("{}", line.map_err(|problem| Failure::Other(problem.to_owned()))?);
    Ok(())
}
