//! A gateway that drains under load: what becomes of the calls, and when its clients come to the next one.
//!
//! ```text
//!  clients (SDK) ---> gateway that drains --+--> backend, which counts how often each call runs
//!        |                | GOAWAY          |
//!        +-----------> next gateway --------+
//! ```

mod backend;
mod crowd;

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use self::{
    backend::Backend,
    crowd::{Crowd, Told},
};
use super::{
    CommonArgs,
    ground::Ground,
    servers::{Listener, Server, Towline},
    table::{Report, TOWLINE, Table},
};

/// `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Clients of the SDK, each with a connection of its own
    #[arg(short = 'c', long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub clients: u32,
    /// Over how long the draining gateway asks them to spread their reconnects
    #[arg(long, default_value = "20s", value_parser = crate::cli::duration)]
    pub spread: Duration,
    /// Calls per second, all clients together; none is idempotent
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// How long the backend works on a call
    #[arg(long, default_value = "300ms", value_parser = crate::cli::duration)]
    pub work: Duration,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Calls before the drain and after it.
const CALM: Duration = Duration::from_secs(3);
/// Behind the spread: for what still runs then.
const GRACE: Duration = Duration::from_secs(20);
/// Columns of the histogram.
const SLICES: u32 = 10;
const EXIT_POLL: Duration = Duration::from_millis(50);

/// Drains one of two gateways and counts.
pub(super) fn run(args: &DrainArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(Box::pin(measure(args, ground, report)))
}

async fn measure(args: &DrainArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let backend = Backend::start(args.work).await?;
    let next = gateway(args, ground, backend.address(), None)?;
    let mut leaving = gateway(args, ground, backend.address(), Some(next.address))?;
    let roots = std::fs::read(&ground.certificates.ca).map_err(|error| error.to_string())?;
    args.common.say(&format!("drain: {} clients connect", args.clients));
    let crowd = Crowd::gather(args.clients, leaving.address, &roots).await?;
    crowd.work(args.rate);
    sleep(CALM).await;
    args.common.say("drain: SIGTERM");
    let begun = crowd.drain_begins();
    terminate(&leaving)?;
    let gone = exit_of(&mut leaving, begun + args.spread + GRACE + CALM).await?;
    sleep(CALM).await;
    let told = crowd.end().await;
    let counts = backend.counts();
    report.add(outcome(args, &told, &counts, gone - begun));
    report.add(reconnects(args, &told));
    Ok(())
}

fn gateway(
    args: &DrainArgs,
    ground: &Ground,
    backend: SocketAddr,
    elsewhere: Option<SocketAddr>,
) -> Result<Server, String> {
    let mut towline = Towline::default();
    let (spread, timeout) = (args.spread.as_millis(), (args.spread + GRACE).as_millis());
    towline.set(&format!("drain_spread = \"{spread}ms\"\ndrain_timeout = \"{timeout}ms\""));
    if let Some(address) = elsewhere {
        towline.set(&format!("drain_endpoints = [\"{address}\"]"));
    }
    let files = Some(&ground.certificates.ecdsa);
    towline.listen(Listener { name: "edge", files, quic: false, extra: "" })?;
    towline.forward_once(backend);
    towline.start(ground)
}

fn terminate(server: &Server) -> Result<(), String> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).ok_or("no process")?;
    kill_process(pid, Signal::TERM).map_err(|error| format!("cannot end the gateway: {error}"))
}

/// When the server has ended by itself.
async fn exit_of(server: &mut Server, deadline: Instant) -> Result<Instant, String> {
    while !server.has_exited() {
        if Instant::now() > deadline {
            return Err("the gateway did not end within drain_timeout".into());
        }
        sleep(EXIT_POLL).await;
    }
    Ok(Instant::now())
}

fn outcome(args: &DrainArgs, told: &Told, counts: &backend::Counts, took: Duration) -> Table {
    let columns =
        ["calls", "answered", "failed", "run twice", "answered, not run", "not run, but told so", "drain s"];
    let mut table = Table::new("Calls around a drain", &columns);
    let run = |id: &str| counts.get(id).copied().unwrap_or(0);
    let unrun = told.answered.iter().filter(|id| run(id) == 0).count();
    let false_claims = told.not_run.iter().filter(|id| run(id) > 0).count();
    let twice = counts.values().filter(|&&times| times > 1).count();
    let (answered, failed) = (told.answered.len(), told.failed);
    let figures =
        [answered + failed, answered, failed, twice, unrun, false_claims].map(|count| count as f64).to_vec();
    let figures = [figures, vec![took.as_secs_f64()]].concat();
    let case = format!("{} clients", args.clients);
    table.row(&case, TOWLINE, Ok((figures, String::new())));
    for (why, count) in &told.failures {
        table.note(format!("{count} failed: {why}"));
    }
    table.note(
        "No call is idempotent. The last count is of calls that failed as certainly not run, and had run.",
    );
    table
        .note(format!("drain s is from SIGTERM to the end of the process; the spread is {:?}.", args.spread));
    table
}

fn reconnects(args: &DrainArgs, told: &Told) -> Table {
    let mut table = Table::new("Reconnects to the next gateway", &["clients", "of an even spread"]);
    let slice = args.spread / SLICES;
    let even = f64::from(args.clients) / f64::from(SLICES);
    // What comes behind the spread waited for answers.
    for at in 0..=SLICES {
        let (from, to) = (slice * at, slice * (at + 1));
        let is_last = at == SLICES;
        let inside = |moved: &&Duration| **moved >= from && (is_last || **moved < to);
        let count = told.moved.iter().filter(inside).count() as f64;
        let upto = if is_last { "later".to_owned() } else { format!("{:.1} s", to.as_secs_f64()) };
        let case = format!("{:>5.1} - {upto}", from.as_secs_f64());
        table.row(&case, TOWLINE, Ok((vec![count, count / even], String::new())));
    }
    table.note(format!("{} of {} clients came.", told.moved.len(), args.clients));
    table
}
