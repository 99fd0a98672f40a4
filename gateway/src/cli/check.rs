//! `towline check`.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::SystemTime};

use towline_crypto::Providers;

use super::Failure;
use crate::{control::config, dictionaries::Shelves, metrics::Metrics, snapshot::Snapshot};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments, providers: &Providers) -> Result<(), Failure> {
    let settings = config::load(&arguments.config, providers).inspect_err(|mistakes| {
        let s = if mistakes.count() == 1 { "" } else { "s" };
        eprintln!("{} mistake{s}:", mistakes.count());
    })?;
    let (listeners, routes) = (settings.listeners.len(), settings.routes.len());
    // What only the parts themselves can judge, such as whether a key belongs to its certificate.
    let snapshot = Snapshot::build(settings, &Metrics::new(), Shelves::default(), None)?;
    let problems = problems(&snapshot);
    if !problems.is_empty() {
        return Err(Failure::Problems(problems.join("\n")));
    }
    println!("{}: no mistakes ({listeners} listeners, {routes} routes)", arguments.config.display());
    Ok(())
}

/// What a gateway would serve with, and its clients complain of.
fn problems(snapshot: &Snapshot) -> Vec<String> {
    let certificates = snapshot.listeners().filter_map(|listener| listener.tls.as_ref());
    let certificates = certificates.flat_map(|tls| tls.certificates());
    let mut problems: Vec<_> = certificates.flat_map(|each| each.problems(SystemTime::now())).collect();
    if let Some(path) = &snapshot.settings.tls.ticket_keys
        && std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
    {
        let text = "others than its owner may read it, and with it past and coming traffic; chmod 600";
        problems.push(format!("{}: {text}", path.display()));
    }
    problems.sort();
    problems.dedup();
    problems
}
