//! `shell`: a command on the phone, with gateway and peers at the other end of the link.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    ground::{Ground, Programs, Servers, Wire},
    model::{NAMES, Order},
    profiles::chosen,
};

/// `shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// The network
    pub profile: String,
    /// What to run; a shell if nothing is said
    #[arg(last = true)]
    pub command: Vec<String>,
    /// Seed of every decision
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The gateway's binary, if it is not beside this program
    #[arg(long, value_name = "FILE")]
    pub towline: Option<PathBuf>,
}

/// Runs it and returns how it ended.
pub(super) fn run(args: &ShellArgs) -> Result<ExitCode, String> {
    let profile = chosen(std::slice::from_ref(&args.profile))?.remove(0);
    let ground = Ground::new(Programs::find(args.towline.as_deref())?)?;
    let wire = Wire::make(0, &profile.link, args.seed)?;
    let folder = ground.folder("shell")?;
    let _servers = Servers::start(&ground, &wire, &folder, profile.link.hostile.portal)?;
    wire.order(Order::Begin);
    let ca = &ground.certificates.ca;
    let names = NAMES.map(|(name, address)| format!("{name} ({address})")).join(", ");
    eprintln!("{}: {}\nhosts: {names}; CA in $TOWLINE_LAB_CA", profile.name, profile.about);
    eprintln!(
        "example: curl --cacert $TOWLINE_LAB_CA -d hello https://edge.lab.test/call/a/2048 -o /dev/null -v"
    );
    let shell = || vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let command = if args.command.is_empty() { shell() } else { args.command.clone() };
    let mut phone = wire.phone.command(command[0].as_ref());
    phone.args(&command[1..]).env("TOWLINE_LAB_CA", ca);
    let status = phone.status().map_err(|error| format!("{}: {error}", command[0]))?;
    let counts = wire.counts();
    eprintln!(
        "carried: up {} of {} packets, {} bytes; down {} of {}, {} bytes",
        counts.up.delivered,
        counts.up.offered,
        counts.up.offered_bytes,
        counts.down.delivered,
        counts.down.offered,
        counts.down.offered_bytes
    );
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
