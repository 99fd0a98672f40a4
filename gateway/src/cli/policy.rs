//! `towline policy`: how clients behave, by one document.

use std::{fmt::Write as _, fs, path::PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use towline_crypto::Providers;

use super::{
    Failure,
    admin::{Admin, other},
};
use crate::{
    control::config::{self, parse_policy},
    policy::{Bounds, Everything},
    settings::Settings,
};

/// Checks, pushes and watches the policy of clients.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake in a policy document.
    Check {
        /// The document.
        file: PathBuf,
        /// The gateway's configuration file, whose [client_policy] and session.heartbeat_max the document goes with.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show what a document would change at a running gateway.
    Diff {
        /// The document.
        file: PathBuf,
        #[command(flatten)]
        admin: Admin,
    },
    /// Put a document in force at a running gateway; connected clients are told at once.
    Push {
        /// The document.
        file: PathBuf,
        #[command(flatten)]
        admin: Admin,
    },
    /// Put an earlier document in force again.
    Rollback {
        /// Its version, as `show` has it; by default the one before the newest.
        #[arg(long)]
        to: Option<u64>,
        #[command(flatten)]
        admin: Admin,
    },
    /// Show what the arms of experiments came to, by what clients report.
    Experiments {
        /// All figures, as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Show what is in force, and how clients answered.
    Show {
        /// What it comes to for this client.
        #[arg(long, value_name = "ID", conflicts_with = "document")]
        client: Option<String>,
        /// The document's text.
        #[arg(long)]
        document: bool,
        /// Of this version.
        #[arg(long, value_name = "VERSION", requires = "document")]
        of: Option<u64>,
        #[command(flatten)]
        admin: Admin,
    },
    /// Have the document decide on nothing, at once: clients do what the gateway's configuration says.
    Kill(Admin),
    /// Take `kill` back.
    Resume(Admin),
    /// List every parameter that a document may set, with its default and range.
    Parameters,
}

/// Runs the command and prints what it found.
pub(super) fn run(args: PolicyArgs) -> Result<(), Failure> {
    let nothing = Bytes::new;
    let text = match args.command {
        Command::Check { file, config } => check(&file, config)?,
        Command::Diff { file, admin } => {
            let diff = admin.ask("POST", "/policy/diff", read(&file)?)?;
            if diff.is_empty() { "no difference".to_owned() } else { diff }
        }
        Command::Push { file, admin } => admin.ask("POST", "/policy/push", read(&file)?)?,
        Command::Rollback { to, admin } => {
            let wish = to.map(|version| format!("?version={version}")).unwrap_or_default();
            admin.ask("POST", &format!("/policy/rollback{wish}"), nothing())?
        }
        Command::Experiments { json, admin } => {
            let text = admin.ask("GET", "/policy/experiments", nothing())?;
            if json { text } else { table(&text)? }
        }
        Command::Show { client: Some(id), admin, .. } => {
            let id: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            pretty(&admin.ask("GET", &format!("/policy/client?id={id}"), nothing())?)
        }
        Command::Show { document: true, of, admin, .. } => {
            let wish = of.map(|version| format!("?version={version}")).unwrap_or_default();
            admin.ask("GET", &format!("/policy/document{wish}"), nothing())?
        }
        Command::Show { admin, .. } => pretty(&admin.ask("GET", "/policy", nothing())?),
        Command::Kill(admin) => admin.ask("POST", "/policy/kill", nothing())?,
        Command::Resume(admin) => admin.ask("POST", "/policy/resume", nothing())?,
        Command::Parameters => parameters(),
    };
    println!("{text}");
    Ok(())
}

fn read(file: &PathBuf) -> Result<Bytes, Failure> {
    fs::read(file).map(Bytes::from).map_err(|error| other(&file.display(), &error))
}

fn check(file: &PathBuf, config: Option<PathBuf>) -> Result<String, Failure> {
    let settings = match config {
        Some(path) => config::load(&path, &Providers::default())?,
        None => Settings::default(),
    };
    let bounds = Bounds { base: settings.client_policy, heartbeat_max: settings.session.heartbeat_max };
    let text = fs::read_to_string(file).map_err(|error| other(&file.display(), &error))?;
    let document = parse_policy(file, &text, &bounds)?;
    let (rules, experiments) = (document.rules.len(), document.experiments.len());
    Ok(format!("{}: no mistakes ({rules} rules, {experiments} experiments)", file.display()))
}

fn parameters() -> String {
    let mut text = String::new();
    for (section, list) in Everything::sections() {
        for parameter in list {
            let about: String = parameter.about.concat();
            let (default, min, max) = (parameter.default, parameter.min, parameter.max);
            // Writing to a string cannot fail.
            let _ = match default {
                towline_protocols::policy::Value::Switch(_) => {
                    writeln!(text, "{section}.{} = {default}\n   {about}", parameter.name)
                }
                _ => writeln!(text, "{section}.{} = {default} ({min} to {max})\n   {about}", parameter.name),
            };
        }
    }
    text.trim_end().to_owned()
}

fn pretty(json: &str) -> String {
    let value: Result<serde_json::Value, _> = serde_json::from_str(json);
    let shown = value.and_then(|value| serde_json::to_string_pretty(&value));
    shown.unwrap_or_else(|_| json.to_owned())
}

/// A line for each arm.
fn table(json: &str) -> Result<String, Failure> {
    let experiments: serde_json::Value =
        serde_json::from_str(json).map_err(|error| other(&"the gateway's answer", &error))?;
    let mut text = String::new();
    for experiment in experiments.as_array().into_iter().flatten() {
        let of = |key: &str| experiment[key].as_str().unwrap_or_default();
        let _ = writeln!(text, "{} ({})", of("name"), of("clients"));
        let heads =
            ["arm", "clients", "calls", "success", "p50 ms", "p90 ms", "p99 ms", "bytes/call", "beats/h"];
        let mut lines = vec![heads.map(str::to_owned)];
        let mut notes = Vec::new();
        for arm in experiment["arms"].as_array().into_iter().flatten() {
            lines.push(line(arm));
            if let Some(note) = arm["note"].as_str() {
                notes.push(format!("  {}: {note}", arm["arm"].as_str().unwrap_or_default()));
            }
        }
        for cells in &lines {
            let padded: Vec<_> = cells
                .iter()
                .enumerate()
                .map(|(column, cell)| {
                    let width =
                        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
                    format!("{cell:width$}")
                })
                .collect();
            let _ = writeln!(text, "  {}", padded.join("  ").trim_end());
        }
        notes.iter().for_each(|note| _ = writeln!(text, "{note}"));
    }
    Ok(if text.is_empty() { "no experiments".to_owned() } else { text.trim_end().to_owned() })
}

fn line(arm: &serde_json::Value) -> [String; 9] {
    let number = |key: &str| match &arm[key] {
        serde_json::Value::Number(number) => number.to_string(),
        _ => "-".to_owned(),
    };
    let percent = |value: &serde_json::Value| value.as_f64().map(|share| format!("{:.2}", share * 100.0));
    let success = percent(&arm["success_ratio"]).map_or("-".to_owned(), |ratio| {
        let ends = [0, 1].map(|end| percent(&arm["success_interval"][end]).unwrap_or_default());
        format!("{ratio}% ({}..{})", ends[0], ends[1])
    });
    let percentile = |key: &str| match arm[key].as_object() {
        Some(it) => format!("{} ({}..{})", it["value"], it["from"], it["to"]),
        None => "-".to_owned(),
    };
    [
        arm["arm"].as_str().unwrap_or_default().to_owned(),
        number("clients"),
        number("calls"),
        success,
        percentile("p50_ms"),
        percentile("p90_ms"),
        percentile("p99_ms"),
        number("bytes_per_call"),
        number("beats_per_hour"),
    ]
}
