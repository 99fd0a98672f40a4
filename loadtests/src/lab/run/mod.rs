//! `run`: the SDK beside other clients, in every network.

mod figures;
mod goals;
mod orders;
mod page;
mod subject;
mod table;
mod trial;
mod worker;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use towline_protocols::policy::{Strategies, Value};

pub(super) use self::worker::client;
use self::{
    figures::Figures,
    trial::{Effort, Task, Trial},
};
pub use self::{orders::Who, worker::ClientArgs};
use super::{
    ground::{Ground, Programs},
    profiles::{Profile, chosen},
};

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Networks; all without a name
    pub profiles: Vec<String>,
    /// Clients, the SDK and those that it is compared with
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["sdk", "h1", "h2", "h3"])]
    pub clients: Vec<Who>,
    /// Seed of every decision; the same for all clients
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Starts of an app, for the first time and again
    #[arg(long, default_value_t = 10)]
    pub starts: u32,
    /// Seconds that each of the two may take
    #[arg(long, default_value_t = 60)]
    pub starts_time: u64,
    /// Seconds of calls on a connection that is there
    #[arg(long, default_value_t = 90)]
    pub calls_time: u64,
    /// Seconds of silence, in which heartbeats are counted
    #[arg(long, default_value_t = 120)]
    pub idle_time: u64,
    /// Hand-overs, and deaths of all flows, in networks that are calm otherwise
    #[arg(long, default_value_t = 3)]
    pub breaks: u32,
    /// Bytes of a request
    #[arg(long, default_value_t = 300)]
    pub request_bytes: usize,
    /// Bytes of an answer
    #[arg(long, default_value_t = 2048)]
    pub answer_bytes: usize,
    /// Clients at work at one time, each on a link and with servers of its own
    #[arg(long, default_value_t = 8)]
    pub parallel: usize,
    /// Strategies of the SDK that are switched off, by name
    #[arg(long, value_delimiter = ',', value_name = "STRATEGY")]
    pub without: Vec<String>,
    /// Parameters of the SDK's strategies that are other than by default, as `liveness.grace=500ms`
    #[arg(long = "set", value_delimiter = ',', value_name = "NAME=VALUE", value_parser = assigned)]
    pub set: Vec<(String, Value)>,
    /// The SDK is told what kind of network it is on, as apps pass it on from the operating system
    #[arg(long)]
    pub tell_kind: bool,
    /// The SDK as it is, and again with each strategy switched off in turn
    #[arg(long, conflicts_with_all = ["without", "clients"])]
    pub ablate: bool,
    /// Prints so many of each client's slowest calls on a connection that is there, and where their time went
    #[arg(long, default_value_t = 0)]
    pub slowest: usize,
    /// Writes all figures and calls to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws the figures as a page in FILE, which needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The gateway's binary, if it is not beside this program
    #[arg(long, value_name = "FILE")]
    pub towline: Option<PathBuf>,
}

/// What a run found.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    effort: Effort,
    /// What served HTTP/1.1 and HTTP/2.
    peer: &'static str,
    results: Vec<Outcome>,
}

/// One client in one network.
#[derive(Debug, Serialize)]
struct Outcome {
    about: &'static str,
    figures: Figures,
    #[serde(flatten)]
    trial: Trial,
}

/// A signal ended the laboratory: no other client begins.
static ENDS: AtomicBool = AtomicBool::new(false);

/// What runs goes on, and nothing is begun behind it.
pub(super) fn begin_nothing_more() {
    ENDS.store(true, Ordering::Relaxed);
}

/// Runs all; whether nothing ran twice and everything could be tried.
pub(super) fn run(args: &RunArgs) -> Result<bool, String> {
    let profiles = chosen(&args.profiles)?;
    check_strategies(&args.without)?;
    if !args.without.is_empty() && !args.clients.contains(&Who::Sdk) {
        return Err("--without is of the SDK, which is not among --clients".to_owned());
    }
    let ground = Ground::new(Programs::find(args.towline.as_deref())?)?;
    let effort = effort(args);
    let results = work(&tasks(args, &profiles), &ground, &effort, args.parallel);
    let report = Report { seed: args.seed, effort, peer: ground.programs.peer(), results };
    table::print(&report, args.slowest);
    if let Some(file) = &args.json {
        let json = serde_json::to_string(&report).map_err(|error| error.to_string())?;
        write(file, &json)?;
    }
    if let Some(file) = &args.html {
        write(file, &page::page(&report))?;
    }
    Ok(report.results.iter().all(|it| it.trial.failure.is_none() && it.figures.twice == 0))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn effort(args: &RunArgs) -> Effort {
    let [starts_time, calls_time, idle_time] =
        [args.starts_time, args.calls_time, args.idle_time].map(Duration::from_secs);
    Effort {
        starts: args.starts,
        starts_time,
        calls_time,
        idle_time,
        breaks: args.breaks,
        request_bytes: args.request_bytes,
        answer_bytes: args.answer_bytes,
    }
}

/// A parameter's name and what it is to be.
fn assigned(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("wanted is NAME=VALUE")?;
    let mut strategies = Strategies::default();
    let wanted = |kind: &str| format!("{name} is {value}; wanted is {kind}");
    let value = match strategies.get(name) {
        None => Value::Switch(true),
        Some(Value::Switch(_)) => Value::Switch(value.parse().map_err(|_| wanted("true or false"))?),
        Some(Value::Count(_)) => Value::Count(value.parse().map_err(|_| wanted("a count"))?),
        Some(Value::Number(_)) => Value::Number(value.parse().map_err(|_| wanted("a number"))?),
        Some(Value::Time(_)) => {
            let millis = value.strip_suffix("ms").and_then(|millis| millis.parse().ok());
            Value::Time(Duration::from_millis(millis.ok_or_else(|| wanted("a time, as 500ms"))?))
        }
    };
    strategies.set(name, value).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value))
}

/// The strategies that can be switched off.
fn strategies() -> Vec<&'static str> {
    let sections = Strategies::sections().into_iter();
    sections.filter(|(_, list)| list.iter().any(|it| it.name == "enabled")).map(|(name, _)| name).collect()
}

fn check_strategies(names: &[String]) -> Result<(), String> {
    let known = strategies();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("there is no strategy `{name}`; known are {}", known.join(", "))),
        None => Ok(()),
    }
}

/// Everything there is to try; the clients of one network follow one another, so that they meet the same machine.
fn tasks(args: &RunArgs, profiles: &[Profile]) -> Vec<Task> {
    let mut kinds: Vec<(Who, Vec<String>)> = Vec::new();
    if args.ablate {
        kinds.push((Who::Sdk, Vec::new()));
        kinds.extend(strategies().into_iter().map(|name| (Who::Sdk, vec![name.to_owned()])));
    } else {
        let without = |who| if who == Who::Sdk { args.without.clone() } else { Vec::new() };
        kinds.extend(args.clients.iter().map(|who| (*who, without(*who))));
    }
    let pairs = profiles.iter().flat_map(|profile| kinds.iter().map(move |kind| (profile, kind)));
    pairs
        .enumerate()
        .map(|(number, (profile, (who, without)))| Task {
            number,
            profile: *profile,
            who: *who,
            without: without.clone(),
            set: args.set.clone(),
            tell_kind: args.tell_kind,
            seed: args.seed,
        })
        .collect()
}

fn work(tasks: &[Task], ground: &Ground, effort: &Effort, parallel: usize) -> Vec<Outcome> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let lock = || results.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..parallel.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if ENDS.load(Ordering::Relaxed) {
                        break;
                    }
                    let trial = task.run(ground, effort);
                    let mut results = lock();
                    results.push((
                        task.number,
                        Outcome { about: task.profile.about, figures: Figures::of(&trial), trial },
                    ));
                    eprintln!(
                        "{} of {}: {}, {}",
                        results.len(),
                        tasks.len(),
                        task.profile.name,
                        task.label()
                    );
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
