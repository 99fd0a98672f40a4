//! How many octets and CPU time a system call of the server moves, over QUIC beside TLS.

use std::time::Duration;

use clap::Args;

use super::{
    CommonArgs, cores,
    ground::Ground,
    servers::{Listener, Own, Server, Towline, own},
    strace::{RECEIVES, SENDS, Strace, calls},
    table::{Report, TOWLINE, Table},
};
use crate::{
    cli::Kind,
    conductor::Crew,
    plan::{Pace, Plan, RequestWork, Target, Work},
    tally::Round,
};

/// `quic`.
#[derive(Debug, Args)]
pub struct QuicArgs {
    /// Connections that ask for answers, one at a time each
    #[arg(short = 'c', long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,
    /// How long each case is measured, once for CPU time and once for system calls
    #[arg(long, default_value = "3s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

const TIMEOUT: Duration = Duration::from_secs(20);

/// Measures large and small answers over both transports.
pub(super) fn run(args: &QuicArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let backend = own(ground, Own::Backend, ground.cores.load)?;
    let mut towline = Towline::default();
    let files = Some(&ground.certificates.ecdsa);
    towline.listen(Listener { name: "edge", files, quic: true, extra: "" })?;
    towline.forward(backend.address);
    let server = towline.start(ground);
    let columns =
        ["CPU us/answer", "answers/s", "KB sent/send call", "send calls/answer", "receive calls/answer"];
    let mut table = Table::new("Link answers by transport", &columns);
    for (case, path) in [("1 MB", "/bytes/1000000"), ("1 KB", "/bytes/1000")] {
        for (name, kind) in [(TOWLINE, Kind::LinkQuic), ("towline, TLS", Kind::Link)] {
            args.common.say(&format!("quic: {case}, {name}"));
            let server = server.as_ref().map_err(String::clone);
            table.row(case, name, server.and_then(|server| measure(args, ground, server, kind, path)));
        }
    }
    table.note("towline is the link over QUIC, beside the link over TLS. System calls as strace counts them, those towards");
    table.note(
        "the backend included. A datagram is 1200 to 1452 bytes: KB per send call tell how many go at once.",
    );
    report.add(table);
    Ok(())
}

fn measure(
    args: &QuicArgs,
    ground: &Ground,
    server: &Server,
    kind: Kind,
    path: &str,
) -> Result<(Vec<f64>, String), String> {
    let plan = plan(args, ground, server, kind, path);
    let shares = ground.limits.spread(plan.connections, Some(1), 1, server.address)?;
    let (mut crew, _) = cores::on(ground.cores.load, || Crew::open(&plan, shares, args.common.quiet))?;
    crew.round(0, args.duration.min(Duration::from_secs(1)), "warm-up")?;
    let cpu = server.cpu_ns()?;
    let timed = crew.round(0, args.duration, "CPU time")?;
    let cpu_ns = server.cpu_ns()? - cpu;
    if timed.operations == 0 {
        return Err(timed.faults.iter().next().map_or("no answer".into(), |(_, f)| f.example.clone()));
    }
    let answers = timed.operations as f64;
    let mut figures = vec![cpu_ns as f64 / 1e3 / answers, answers * 1e9 / timed.nanos.max(1) as f64];
    match count_calls(args, ground, server, &mut crew) {
        Ok(counted) => figures.extend(counted),
        Err(why) => return Ok((figures, why)),
    }
    Ok((figures, String::new()))
}

/// A round under strace: octets per send, sends and receives per answer.
fn count_calls(
    args: &QuicArgs,
    ground: &Ground,
    server: &Server,
    crew: &mut Crew,
) -> Result<[f64; 3], String> {
    let file = ground.folder().join("strace.txt");
    let strace = Strace::attach(server.pid(), &file)?;
    let round: Round = crew.round(0, args.duration, "system calls")?;
    strace.detach()?;
    let text = std::fs::read_to_string(&file).map_err(|error| format!("strace: {error}"))?;
    let sum = |names: &[&str]| names.iter().filter_map(|name| calls(&text, name)).sum::<u64>() as f64;
    let (sends, receives, answers) = (sum(&SENDS), sum(&RECEIVES), round.operations.max(1) as f64);
    Ok([round.bytes.received as f64 / 1e3 / sends.max(1.0), sends / answers, receives / answers])
}

fn plan(args: &QuicArgs, ground: &Ground, server: &Server, kind: Kind, path: &str) -> Plan {
    let (transport, protocol) = kind.parts();
    let ca = Some(ground.certificates.ca.clone());
    let (address, host) = (server.address, "localhost".to_owned());
    Plan {
        targets: vec![Target { name: "quic".into(), address, host, transport, protocol, ca }],
        connections: usize::from(args.connections),
        opening_max: 1,
        connect_timeout: TIMEOUT,
        work: Work::Request(RequestWork { path: path.into(), grpc: false, body: Vec::new() }),
        pace: Pace::Closed { in_flight: 1 },
        timeout: TIMEOUT,
    }
}
