//! What established connections feel of a flood of handshakes.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use clap::Args;
use rustls::crypto::aws_lc_rs::kx_group;

use super::{
    CommonArgs, cores,
    ground::Ground,
    handshakes::{Offer, Shaker, provider},
    servers::{Answer, Listener, Own, Server, Towline, haproxy, nginx, own},
    table::{Report, TOWLINE, Table},
};
use crate::{
    cli::Kind,
    clock,
    conductor::Crew,
    latencies::Summary,
    plan::{Pace, Plan, RequestWork, Target, Transport, Work},
    tally::Round,
};

/// `flood`.
#[derive(Debug, Args)]
pub struct FloodArgs {
    /// Established connections to each server
    #[arg(short = 'c', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,
    /// Requests per second on them, all together
    #[arg(long, default_value_t = 500.0)]
    pub rate: f64,
    /// How long each phase is measured
    #[arg(long, default_value = "5s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Threads of the client that floods
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Half-open connections that the client keeps before it gives the oldest up.
const HALF_OPEN_MAX: usize = 4000;
/// The flood yields to the clients whose answers are timed: they share a core.
const FLOOD_NICENESS: i32 = 19;
const TIMEOUT: Duration = Duration::from_secs(10);
const OPENING: usize = 8;

/// What happens beside the established connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    None,
    /// Full handshakes, closed when they are done.
    Full,
    /// A ClientHello and then nothing.
    HalfOpen,
}

const FLOODS: [(&str, Flood); 3] =
    [("quiet", Flood::None), ("full handshakes", Flood::Full), ("half-open handshakes", Flood::HalfOpen)];

/// One server as its clients see it.
struct Seat {
    name: &'static str,
    kind: Kind,
    server: Result<Server, String>,
}

/// Measures every server in every phase.
pub(super) fn run(args: &FloodArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let backend = own(ground, Own::Backend, ground.cores.load)?;
    let columns = ["p99 us", "p50 us", "p99/quiet", "generator p99 us", "flood/s", "server busy %"];
    let title = format!("Requests at {}/s on established connections during a flood", args.rate);
    let mut table = Table::new(title, &columns);
    for seat in seats(ground, backend.address) {
        measure(args, ground, &seat, &mut table)?;
    }
    table.note("ECDSA P-256 with X25519; the flood runs on the clients' core at the lowest priority.");
    table.note("A request fetches 1 KiB from one HTTP/1.1 backend through each server.");
    report.add(table);
    Ok(())
}

fn seats(ground: &Ground, backend: SocketAddr) -> Vec<Seat> {
    let files = &ground.certificates.ecdsa;
    let answer = Answer::Backend(backend);
    let towline = || {
        let mut towline = Towline::default();
        towline.listen(Listener { name: "edge", files: Some(files), quic: false, extra: "" })?;
        towline.forward(backend);
        towline.start(ground)
    };
    vec![
        Seat { name: "towline (link)", kind: Kind::Link, server: towline() },
        Seat { name: TOWLINE, kind: Kind::H2, server: towline() },
        Seat { name: "nginx", kind: Kind::H2, server: nginx(ground, files, answer, "") },
        Seat { name: "haproxy", kind: Kind::H2, server: haproxy(ground, files, answer, "", "") },
    ]
}

fn measure(args: &FloodArgs, ground: &Ground, seat: &Seat, table: &mut Table) -> Result<(), String> {
    let wanted = FLOODS.iter().filter(|(name, _)| args.common.wants(name));
    let server = match &seat.server {
        Ok(server) => server,
        Err(why) => {
            wanted.for_each(|(phase, _)| table.row(phase, seat.name, Err(why.clone())));
            return Ok(());
        }
    };
    let plan = plan(args, ground, seat.kind, server.address);
    let shares = ground.limits.spread(plan.connections, Some(1), 1, server.address)?;
    let (mut crew, _) = cores::on(ground.cores.load, || Crew::open(&plan, shares, args.common.quiet))?;
    crew.round(0, args.duration.min(Duration::from_secs(1)), "warm-up")?;
    let mut quiet = None;
    for (phase, flood) in wanted {
        args.common.say(&format!("flood: {}, {phase}", seat.name));
        let phase_figures = one_phase(args, ground, server, *flood, &mut crew, &mut quiet)?;
        table.row(phase, seat.name, phase_figures);
    }
    Ok(())
}

type Figures = Result<(Vec<f64>, String), String>;

fn one_phase(
    args: &FloodArgs,
    ground: &Ground,
    server: &Server,
    flood: Flood,
    crew: &mut Crew,
    quiet: &mut Option<f64>,
) -> Result<Figures, String> {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let (cpu, begun) = (server.cpu_ns()?, clock::now());
    let round = std::thread::scope(|scope| {
        scope.spawn(|| {
            cores::on(ground.cores.load, || flood_until(args, server.address, flood, &stop, &made));
        });
        let round = crew.round(0, args.duration, "measuring");
        stop.store(true, Relaxed);
        round
    })?;
    let wall = (clock::now() - begun).max(1) as f64;
    let Some(latency) = round.latency.summary() else { return Ok(Err(first_fault(&round))) };
    let base = *quiet.get_or_insert(latency.p99_us);
    let busy = (server.cpu_ns()? - cpu) as f64 * 100.0 / wall;
    let rate = made.load(Relaxed) as f64 * clock::SECOND as f64 / wall;
    let lag = round.lag.summary().map_or(0.0, |lag: Summary| lag.p99_us);
    let note = if round.faults.total() > 0 { first_fault(&round) } else { String::new() };
    Ok(Ok((vec![latency.p99_us, latency.p50_us, latency.p99_us / base, lag, rate, busy], note)))
}

fn first_fault(round: &Round) -> String {
    let first = round.faults.iter().next().map_or("no answer", |(_, fault)| fault.example.as_str());
    format!("{} requests failed: {first}", round.faults.total())
}

/// Floods from this thread and others until told to stop.
fn flood_until(args: &FloodArgs, address: SocketAddr, flood: Flood, stop: &AtomicBool, made: &AtomicU64) {
    let provider = provider(&[kx_group::X25519]);
    let offer = Offer { address, alpn: b"h2", provider, resume: false, early: false };
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            let offer = &offer;
            scope.spawn(move || {
                // On Linux a thread's own niceness; where it is refused the generator's lag shows it.
                let _ = rustix::process::nice(FLOOD_NICENESS);
                match flood {
                    Flood::None => {}
                    Flood::Full => full(offer, stop, made),
                    Flood::HalfOpen => {
                        half_open(offer, HALF_OPEN_MAX / usize::from(args.threads), stop, made)
                    }
                }
            });
        }
    });
}

fn full(offer: &Offer, stop: &AtomicBool, made: &AtomicU64) {
    const SLICE: u64 = clock::SECOND / 20;
    let Ok(shaker) = Shaker::new(offer) else { return };
    while !stop.load(Relaxed) {
        let done = shaker.run(clock::now() + SLICE);
        made.fetch_add(done.full + done.failed, Relaxed);
    }
}

fn half_open(offer: &Offer, kept_max: usize, stop: &AtomicBool, made: &AtomicU64) {
    let Ok(shaker) = Shaker::new(offer) else { return };
    let mut kept = VecDeque::new();
    while !stop.load(Relaxed) {
        let Ok((mut socket, mut session)) = shaker.begin() else { continue };
        if session.write_tls(&mut socket).is_ok() {
            made.fetch_add(1, Relaxed);
        }
        kept.push_back(socket);
        if kept.len() > kept_max.max(1) {
            kept.pop_front();
        }
    }
}

fn plan(args: &FloodArgs, ground: &Ground, kind: Kind, address: SocketAddr) -> Plan {
    let (transport, protocol) = kind.parts();
    let ca = (transport != Transport::Plain).then(|| ground.certificates.ca.clone());
    let target = Target { name: "flood".into(), address, host: "localhost".into(), transport, protocol, ca };
    Plan {
        targets: vec![target],
        connections: usize::from(args.connections),
        opening_max: OPENING,
        connect_timeout: TIMEOUT,
        work: Work::Request(RequestWork { path: "/bytes/1024".into(), grpc: false, body: Vec::new() }),
        pace: Pace::Open { rate: args.rate, in_flight: 8 },
        timeout: TIMEOUT,
    }
}
