//! `towline endpoints`: where clients are to knock, signed away from every gateway.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use towline_crypto::signing::{PublicKey, SigningKey};
use towline_protocols::endpoints::{
    EndpointList, EndpointListError, LIFE_MAX, ListSignature, ListedEndpoint, SignedEndpoints,
};
use zeroize::Zeroizing;

use super::{Failure, admin::other, certificates::write};
use crate::endpoints::{read, shown_id, since_1970, verify};

const DAY: u64 = 86_400;
/// Of a list's text: the first line, serial, issued and expires.
const LINES_BEFORE: usize = 4;

/// Signs the list of endpoints that gateways offer to clients, and reads it.
#[derive(Debug, Args)]
pub struct EndpointsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: the private one into a file to keep away from gateways, the public one printed, for apps and for
    /// endpoint_list.keys of the configuration
    Keygen {
        /// The file to write; it is never overwritten.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Sign a list
    Sign(SignArgs),
    /// Print a list, and what is to be said of its signatures and its time
    Show(ReadArgs),
    /// Say what would keep clients from using a list
    Check(ReadArgs),
}

#[derive(Debug, Args)]
struct SignArgs {
    /// The endpoints: TOML, a table [[endpoints]] each, with host, port, and, if need be, transports, priority, weight,
    /// name and region.
    file: PathBuf,
    /// The private key; several where apps with an old and with a new one are about.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Above that of the list before; by default the seconds since 1970.
    #[arg(long)]
    serial: Option<u64>,
    /// For how many days clients use it.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=LIFE_MAX.as_secs() / DAY))]
    days: u64,
}

#[derive(Debug, Args)]
struct ReadArgs {
    /// A file that `towline endpoints sign` wrote.
    file: PathBuf,
    /// A public key that clients go by; repeatable.
    #[arg(long, value_name = "KEY")]
    key: Vec<PublicKey>,
}

/// What an operator writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    endpoints: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    port: u16,
    #[serde(default = "both")]
    transports: Vec<Transport>,
    #[serde(default)]
    priority: u16,
    #[serde(default = "one")]
    weight: u16,
    name: Option<String>,
    region: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Quic,
    Tcp,
}

fn both() -> Vec<Transport> {
    vec![Transport::Quic, Transport::Tcp]
}

fn one() -> u16 {
    1
}

/// Runs the command and prints what it found.
pub(super) fn run(arguments: EndpointsArgs) -> Result<(), Failure> {
    let now = SystemTime::now();
    let text = match arguments.command {
        Command::Keygen { output } => keygen(&output)?,
        Command::Sign(arguments) => sign(&arguments, now)?,
        Command::Show(arguments) => show(&arguments, now)?,
        Command::Check(arguments) => check(&arguments, now)?,
    };
    println!("{text}");
    Ok(())
}

fn keygen(output: &Path) -> Result<String, Failure> {
    if output.exists() {
        return Err(Failure::Other(format!(
            "{}: is there already; choose another --output",
            output.display()
        )));
    }
    let key = SigningKey::generate().map_err(|error| other(&output.display(), &error))?;
    let pem = key.to_pem().map_err(|error| other(&output.display(), &error))?;
    write(output, &pem, 0o600).map_err(|error| other(&output.display(), &error))?;
    Ok(key.public().to_string())
}

fn sign(arguments: &SignArgs, now: SystemTime) -> Result<String, Failure> {
    let SignArgs { file, key, output, serial, days } = arguments;
    let wrong = |problem: &dyn std::fmt::Display| other(&file.display(), problem);
    let text = fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let document: Document = toml::from_str(&text).map_err(|error| wrong(&error.to_string().trim_end()))?;
    let entries = document.endpoints.into_iter().map(listed).collect::<Result<Vec<_>, _>>();
    let entries = entries.map_err(|problem| wrong(&problem))?;
    let issued_s = since_1970(now).as_secs();
    let serial = serial.unwrap_or(issued_s);
    let list = EndpointList { serial, issued_s, expires_s: issued_s + days * DAY, entries };
    let text = list.text();
    let mut signed = text.clone();
    for path in key {
        let key = fs::read(path).map(Zeroizing::new).map_err(|error| other(&path.display(), &error))?;
        let key = SigningKey::from_pem(&key).map_err(|error| other(&path.display(), &error))?;
        let signature = ListSignature { key: key.public().id(), bytes: key.sign(text.as_bytes()) };
        signed.push_str(&signature.line());
    }
    SignedEndpoints::parse(signed.as_bytes()).map_err(|error| wrong(&explain(&error, &list)))?;
    write(output, &signed, 0o644).map_err(|error| other(&output.display(), &error))?;
    Ok(format!(
        "{}: serial {serial}, {} endpoints, expires in {days} days",
        output.display(),
        list.entries.len()
    ))
}

fn listed(entry: Entry) -> Result<ListedEndpoint, String> {
    let Entry { host, port, transports, priority, weight, name, region } = entry;
    let takes = |transport| transports.contains(&transport);
    let (quic, tcp) = (takes(Transport::Quic), takes(Transport::Tcp));
    if !quic && !tcp {
        return Err(format!("{host}:{port}: `transports` names none"));
    }
    Ok(ListedEndpoint { host, port, quic, tcp, priority, weight, name, region })
}

/// The operator has written endpoints, and not lines.
fn explain(error: &EndpointListError, list: &EndpointList) -> String {
    let place = match error {
        EndpointListError::Line { line, .. } | EndpointListError::Repeated(line) => {
            line.checked_sub(LINES_BEFORE + 1).and_then(|place| list.entries.get(place))
        }
        _ => None,
    };
    match (place, error) {
        (Some(entry), EndpointListError::Repeated(_)) => format!("{} is there twice", entry.address()),
        (Some(entry), _) => {
            let rule =
                "has a host, name or region with characters that do not belong there, port 0 or weight 0";
            format!("{} {rule}", entry.address())
        }
        (None, _) => error.to_string(),
    }
}

fn show(arguments: &ReadArgs, now: SystemTime) -> Result<String, Failure> {
    let bytes = read(&arguments.file).map_err(|error| other(&arguments.file.display(), &error))?;
    let signed = SignedEndpoints::parse(&bytes).map_err(|error| other(&arguments.file.display(), &error))?;
    let list = signed.unverified();
    let keys: Vec<_> = signed.signatures().iter().map(|signature| shown_id(&signature.key)).collect();
    let verdict = match verify(&bytes, &arguments.key) {
        _ if arguments.key.is_empty() => "not verified: name the public key with --key".to_owned(),
        Ok(_) => "verified".to_owned(),
        Err(problem) => problem,
    };
    let now = since_1970(now);
    let mut text = format!(
        "serial      {}\nissued      {}\nexpires     {}\nsigned by   {} ({verdict})",
        list.serial,
        distance(list.issued_s, now),
        distance(list.expires_s, now),
        keys.join(", "),
    );
    if let Err(problem) = list.check_time(now) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\nproblem     {problem}");
    }
    for entry in &list.entries {
        let transports: Vec<_> =
            [("quic", entry.quic), ("tcp", entry.tcp)].into_iter().filter(|it| it.1).map(|it| it.0).collect();
        let (priority, weight) = (entry.priority, entry.weight);
        let _ = write!(
            text,
            "\nendpoint    {} ({}), priority {priority}, weight {weight}, certificate of {}",
            entry.address(),
            transports.join(" and "),
            entry.server_name()
        );
        if let Some(region) = &entry.region {
            let _ = write!(text, ", for region {region}");
        }
    }
    Ok(text)
}

fn check(arguments: &ReadArgs, now: SystemTime) -> Result<String, Failure> {
    let wrong = |problem: &dyn std::fmt::Display| other(&arguments.file.display(), problem);
    if arguments.key.is_empty() {
        return Err(Failure::Other("name the public key that clients go by with --key".to_owned()));
    }
    let bytes = read(&arguments.file).map_err(|error| wrong(&error))?;
    let list = verify(&bytes, &arguments.key).map_err(|problem| wrong(&problem))?;
    let now = since_1970(now);
    list.check_time(now).map_err(|problem| wrong(&problem))?;
    let left = (list.expires_s - now.as_secs()) / DAY;
    let (serial, count) = (list.serial, list.entries.len());
    Ok(format!("{}: serial {serial}, {count} endpoints, good for {left} more days", arguments.file.display()))
}

/// A time, and how far away it is.
fn distance(at_s: u64, now: Duration) -> String {
    let now = now.as_secs();
    match at_s.checked_sub(now) {
        Some(left) => format!("{at_s} (in {} days)", left / DAY),
        None => format!("{at_s} ({} days ago)", (now - at_s) / DAY),
    }
}

#[cfg(test)]
mod tests;
