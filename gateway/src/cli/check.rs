//! `towline check`.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::SystemTime};

use towline_crypto::Providers;

use super::Failure;
use crate::{
    control::config, dictionaries::Shelves, endpoints::PublishedList, metrics::Metrics, snapshot::Snapshot,
};

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
    if let Some(settings) = &snapshot.settings.endpoint_list
        && let Ok(list) = PublishedList::load(settings)
        && let Some(problem) = list.problem(SystemTime::now())
    {
        problems.push(format!("{}: clients refuse it: {problem}", settings.file.display()));
    }
    problems.sort();
    problems.dedup();
    problems
}

#[cfg(test)]
mod tests {
    use towline_crypto::signing::SigningKey;
    use towline_protocols::endpoints::{EndpointList, ListSignature, ListedEndpoint};

    use super::*;
    use crate::{
        endpoints::since_1970,
        settings::{EndpointList as Listed, Settings},
    };

    #[test]
    fn an_endpoint_list_that_clients_refuse_by_their_clock_is_a_problem() {
        let (folder, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
        let today = since_1970(SystemTime::now()).as_secs();
        let check = |issued_s: u64, expected: Option<&str>| {
            let (name, region) = (None, None);
            let entry = ListedEndpoint {
                host: "edge.example".into(),
                port: 443,
                quic: true,
                tcp: true,
                priority: 0,
                weight: 1,
                name,
                region,
            };
            let list = EndpointList { serial: 1, issued_s, expires_s: issued_s + 1000, entries: vec![entry] };
            let text = list.text();
            let signature = ListSignature { key: key.public().id(), bytes: key.sign(text.as_bytes()) };
            let file = folder.path().join("list");
            std::fs::write(&file, text + &signature.line()).unwrap();
            let endpoint_list = Some(Listed { file, keys: vec![key.public()] });
            let settings = Settings { endpoint_list, ..Settings::default() };
            let snapshot = Snapshot::build(settings, &Metrics::new(), Shelves::default(), None).unwrap();
            let found = problems(&snapshot);
            match expected {
                None => assert_eq!(found, Vec::<String>::new()),
                Some(part) => assert!(found.len() == 1 && found[0].contains(part), "{found:?}"),
            }
        };
        check(today - 500, None);
        check(today - 1000, Some("clients refuse it: expired"));
        check(today + 90_000, Some("clients refuse it: was issued more than a day ahead of the clock"));
    }
}
