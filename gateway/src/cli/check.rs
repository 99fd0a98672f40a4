//! `towline check`.

use std::path::PathBuf;

use super::Failure;
use crate::{control::config, metrics::Metrics, snapshot::Snapshot};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = config::load(&arguments.config).inspect_err(|mistakes| {
        let s = if mistakes.count() == 1 { "" } else { "s" };
        eprintln!("{} mistake{s}:", mistakes.count());
    })?;
    let (listeners, routes) = (settings.listeners.len(), settings.routes.len());
    // What only the parts themselves can judge, such as whether a key belongs to its certificate.
    Snapshot::build(settings, &Metrics::new())?;
    println!("{}: no mistakes ({listeners} listeners, {routes} routes)", arguments.config.display());
    Ok(())
}
