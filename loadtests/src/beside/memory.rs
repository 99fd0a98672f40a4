//! What an idle connection costs in user space, server by server.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{
    CommonArgs,
    certificates::Files,
    ground::Ground,
    servers::{Answer, Listener, Own, Server, Towline, haproxy, mosquitto, nginx, own},
    table::{Report, TOWLINE, Table},
};
use crate::{
    cli::{Kind, duration},
    conductor::Crew,
    plan::{Pace, Plan, Target, Transport, Work},
    procfs::Sample,
    report::Idle,
};

/// `memory`.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Connections to each server; over QUIC a fifth of it
    #[arg(short = 'c', long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=19_000))]
    pub connections: u32,
    /// How long they stay idle before the second look
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub hold: Duration,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Connections that each client process opens at a time.
const OPENING: usize = 32;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// One kind of connection and the servers that have it.
struct Case {
    name: &'static str,
    kind: Kind,
    servers: &'static [(&'static str, Start)],
}

type Start = fn(&Ground) -> Result<Server, String>;

const CASES: [Case; 7] = [
    Case {
        name: "mqtt-plain",
        kind: Kind::Mqtt,
        servers: &[(TOWLINE, towline_plain), ("mosquitto", |ground| mosquitto(ground, None))],
    },
    Case { name: "link-plain", kind: Kind::LinkPlain, servers: &[(TOWLINE, towline_plain)] },
    Case { name: "h2-plain", kind: Kind::H2c, servers: &[(TOWLINE, towline_plain)] },
    Case {
        name: "mqtt-tls",
        kind: Kind::MqttTls,
        servers: &[(TOWLINE, towline_tls), ("mosquitto", |ground| mosquitto(ground, Some(ecdsa(ground))))],
    },
    Case {
        name: "link-tls",
        kind: Kind::Link,
        servers: &[
            (TOWLINE, towline_tls),
            ("tokio-rustls alone", |ground| {
                own(ground, Own::TokioRustls(ecdsa(ground)), ground.cores.server)
            }),
        ],
    },
    Case {
        name: "h2-tls",
        kind: Kind::H2,
        servers: &[
            (TOWLINE, towline_tls),
            ("nginx", |ground| nginx(ground, ecdsa(ground), Answer::Empty, "")),
            ("haproxy", |ground| haproxy(ground, ecdsa(ground), Answer::Empty, "", "")),
        ],
    },
    Case {
        name: "link-quic",
        kind: Kind::LinkQuic,
        servers: &[
            (TOWLINE, towline_tls),
            ("quinn alone", |ground| own(ground, Own::Quinn(ecdsa(ground)), ground.cores.server)),
        ],
    },
];

/// Measures every case.
pub(super) fn run(args: &MemoryArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let columns = ["RssAnon B/conn", "VmRSS B/conn", "connections", "CPU us/conn"];
    let mut table = Table::new("Memory of an idle connection in user space", &columns);
    for case in CASES.iter().filter(|case| args.common.wants(case.name)) {
        for (name, start) in case.servers {
            args.common.say(&format!("memory: {}, {name}", case.name));
            table.row(case.name, name, measure(args, ground, case, *start, *name == TOWLINE));
        }
    }
    table.note(
        "Growth of the server's memory from before the first connection to after the pause, by connection;",
    );
    table.note(
        "the kernel's memory of sockets is not in it. CPU: opening, handshakes included, and the pause.",
    );
    report.add(table);
    Ok(())
}

fn measure(
    args: &MemoryArgs,
    ground: &Ground,
    case: &Case,
    start: Start,
    speaks_link: bool,
) -> Result<(Vec<f64>, String), String> {
    let server = start(ground)?;
    let quic = case.kind == Kind::LinkQuic;
    let connections = args.connections as usize / if quic { 5 } else { 1 };
    // A library alone has no WELCOME to give.
    let kind = match case.kind {
        Kind::Link if !speaks_link => Kind::Tls,
        Kind::LinkQuic if !speaks_link => Kind::Quic,
        kind => kind,
    };
    let plan = plan(target(ground, kind, server.address), connections);
    let before = server.sample()?;
    let shares = ground.limits.spread(connections, None, 1, server.address)?;
    let (mut crew, opened) = Crew::open(&plan, shares, args.common.quiet)?;
    let held = crew.round(0, args.hold, "idle")?.operations;
    let after = server.sample()?;
    if held == 0 {
        let why = opened[0].faults.iter().next().map_or("all were closed".into(), |(_, f)| f.example.clone());
        return Err(format!("no connection stands: {why}"));
    }
    Ok((figures(args, held, before, after), String::new()))
}

fn figures(args: &MemoryArgs, held: u64, before: Sample, after: Sample) -> Vec<f64> {
    let idle = Idle::new(args.hold.as_secs_f64(), held, Some(before), Some(after));
    let cpu_us = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1000.0 / held as f64;
    vec![
        idle.anonymous_bytes_per_connection.unwrap_or(0.0),
        idle.resident_bytes_per_connection.unwrap_or(0.0),
        held as f64,
        cpu_us,
    ]
}

fn plan(target: Target, connections: usize) -> Plan {
    Plan {
        targets: vec![target],
        connections,
        opening_max: OPENING,
        connect_timeout: CONNECT_TIMEOUT,
        work: Work::Hold,
        pace: Pace::Closed { in_flight: 1 },
        timeout: Duration::ZERO,
    }
}

fn target(ground: &Ground, kind: Kind, address: SocketAddr) -> Target {
    let (transport, protocol) = kind.parts();
    let ca = (transport != Transport::Plain).then(|| ground.certificates.ca.clone());
    Target { name: "memory".into(), address, host: "localhost".into(), transport, protocol, ca }
}

fn ecdsa(ground: &Ground) -> &Files {
    &ground.certificates.ecdsa
}

fn towline_plain(ground: &Ground) -> Result<Server, String> {
    let mut towline = Towline::default();
    towline.listen(Listener { name: "plain", files: None, quic: false, extra: "" })?;
    towline.start(ground)
}

fn towline_tls(ground: &Ground) -> Result<Server, String> {
    let mut towline = Towline::default();
    towline.listen(Listener { name: "edge", files: Some(ecdsa(ground)), quic: true, extra: "" })?;
    towline.start(ground)
}
