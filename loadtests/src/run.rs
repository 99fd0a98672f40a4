//! One run from the first connection to the report.

use std::{io::Write, path::Path};

use crate::{
    cli::Choice,
    conductor::Crew,
    machine::Limits,
    plan::{Transport, Work},
    procfs::{self, Sample},
    report::{Added, Idle, Load, Report, TargetReport, limits_met},
    tally::{Opened, Round},
};

/// Carries a choice out, prints the report, and says whether anything succeeded.
pub fn run(choice: &Choice) -> Result<bool, String> {
    let limits = Limits::of_this_machine();
    let before = choice.pid.map(Sample::of).transpose()?;
    let shares = limits.spread(
        choice.plan.connections,
        choice.processes,
        choice.plan.targets.len(),
        choice.plan.targets[0].address,
    )?;
    let processes = shares.len();
    let (mut crew, opened) = Crew::open(&choice.plan, shares, choice.quiet)?;
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: choice.mode.into(),
        command: std::env::args().collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        processes,
        connections: choice.plan.connections,
        pace: None,
        targets: Vec::new(),
        added: None,
        idle: None,
        limits_met: Vec::new(),
    };
    match choice.plan.work {
        Work::Hold => hold(choice, &mut crew, &opened, before, &mut report)?,
        Work::Request(_) | Work::Mqtt(_) => load(choice, &mut crew, &opened, &mut report)?,
    }
    let server_files = choice.pid.and_then(procfs::open_files_max).filter(|_| counts_files(choice));
    report.limits_met = limits_met(&report.targets, limits.open_files, server_files);
    publish(&report, choice.json.as_deref())?;
    Ok(!report.is_failure())
}

/// A QUIC server needs no file per connection.
fn counts_files(choice: &Choice) -> bool {
    choice.plan.targets.iter().all(|target| target.transport != Transport::Quic)
}

fn hold(
    choice: &Choice,
    crew: &mut Crew,
    opened: &[Opened],
    before: Option<Sample>,
    report: &mut Report,
) -> Result<(), String> {
    let round = crew.round(0, choice.duration, "open, idle for")?;
    let after = choice.pid.map(Sample::of).transpose()?;
    report.idle = Some(Idle::new(choice.duration.as_secs_f64(), round.operations, before, after));
    report.targets = vec![TargetReport::new(&choice.plan.targets[0], &opened[0], None)];
    Ok(())
}

/// Warms every target up, then takes them in turn, so that a change of the machine's mood hits them alike.
fn load(choice: &Choice, crew: &mut Crew, opened: &[Opened], report: &mut Report) -> Result<(), String> {
    let targets = &choice.plan.targets;
    if !choice.warm_up.is_zero() {
        for target in 0..targets.len() {
            crew.round(target, choice.warm_up, "warm-up")?;
        }
    }
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); targets.len()];
    let mut cpu_ns = vec![choice.pid.map(|_| 0); targets.len()];
    for _ in 0..choice.rounds {
        for target in 0..targets.len() {
            let before = choice.pid.map(procfs::cpu_ns).transpose()?;
            rounds[target].push(crew.round(target, choice.duration, &targets[target].name)?);
            let after = choice.pid.map(procfs::cpu_ns).transpose()?;
            cpu_ns[target] = add_growth(cpu_ns[target], before, after);
        }
    }
    report.pace = Some(choice.plan.pace);
    for (index, target) in targets.iter().enumerate() {
        let mut all = Round::default();
        rounds[index].iter().for_each(|round| all.append(round));
        // The process that --pid names is the gateway; in direct rounds its CPU time means nothing.
        let cpu_ns = cpu_ns[index].filter(|_| index + 1 == targets.len());
        let load = Load::new(&choice.plan, choice.rounds, &all, cpu_ns);
        report.targets.push(TargetReport::new(target, &opened[index], Some(load)));
    }
    if let [direct, gateway] = rounds.as_slice() {
        let pairs: Vec<_> = direct.iter().cloned().zip(gateway.iter().cloned()).collect();
        report.added = Added::new(&pairs);
    }
    Ok(())
}

fn add_growth(sum: Option<u64>, before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(sum? + after?.saturating_sub(before?))
}

/// The text goes to standard output, unless the JSON does.
fn publish(report: &Report, json: Option<&Path>) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let pretty = || serde_json::to_string_pretty(report).map_err(|error| error.to_string());
    let written = match json {
        Some(path) if path == Path::new("-") => writeln!(out, "{}", pretty()?),
        Some(path) => {
            std::fs::write(path, pretty()? + "\n")
                .map_err(|error| format!("--json {}: {error}", path.display()))?;
            write!(out, "{report}")
        }
        None => write!(out, "{report}"),
    };
    written.map_err(|error| format!("cannot write the report: {error}"))
}
