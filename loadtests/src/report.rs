//! What a run found, for people and for programs.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::{
    fault::{FaultKind, Faults},
    latencies::Summary,
    plan::{Pace, Plan, Protocol, Target, Transport, Work},
    procfs::Sample,
    tally::{Bytes, Opened, Round},
};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this tool.
    pub version: String,
    /// Subcommand.
    pub mode: String,
    /// The command line that repeats it.
    pub command: Vec<String>,
    /// Cores of the machine, which clients and server share on loopback.
    pub cores: usize,
    /// Worker processes.
    pub processes: usize,
    /// Connections asked for, per target.
    pub connections: usize,
    /// Open or closed loop.
    pub pace: Option<Pace>,
    /// One entry, or two for `compare`.
    pub targets: Vec<TargetReport>,
    /// `compare`: what the gateway adds.
    pub added: Option<Added>,
    /// `idle`: what a connection costs.
    pub idle: Option<Idle>,
    /// Limits of the machine that were met, and what to do about each.
    pub limits_met: Vec<String>,
}

/// One target's numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetReport {
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// Transport.
    pub transport: Transport,
    /// Protocol.
    pub protocol: Protocol,
    /// Connections that stood at the beginning.
    pub connections: u64,
    /// Those that could not be opened, and why.
    pub connect_errors: Faults,
    /// Time to open one, all handshakes included.
    pub connect: Option<Summary>,
    /// Bytes of the handshakes of all.
    pub connect_bytes: Bytes,
    /// Measured rounds; `None` for `idle`.
    pub load: Option<Load>,
}

/// What was done on a target's connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Rounds.
    pub rounds: u32,
    /// Their time in sum.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Per second.
    pub operations_per_second: f64,
    /// Operations that failed, and why.
    pub errors: Faults,
    /// From due to answered or acknowledged.
    pub latency: Option<Summary>,
    /// How late the generator itself was in an open loop; contained in `latency`.
    pub generator_lag: Option<Summary>,
    /// MQTT deliveries.
    pub delivery: Option<Delivery>,
    /// Bytes at the clients' sockets.
    pub bytes: Bytes,
    /// Per operation.
    pub bytes_sent_per_operation: f64,
    /// Per operation.
    pub bytes_received_per_operation: f64,
    /// CPU time of the server's process per operation, microseconds (`--pid`).
    pub server_cpu_us_per_operation: Option<f64>,
}

/// MQTT deliveries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// Messages that reached subscribers.
    pub messages: u64,
    /// Per second.
    pub messages_per_second: f64,
    /// Messages that did not, of those whose publish succeeded.
    pub missing: u64,
    /// From due to delivered.
    pub latency: Option<Summary>,
    /// CPU time of the server's process per delivered message, microseconds (`--pid`).
    pub server_cpu_us_per_message: Option<f64>,
}

/// What going through the gateway adds to calling the backend directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// p50 through the gateway less p50 directly, all rounds together, microseconds.
    pub p50_us: f64,
    /// The same for p99.
    pub p99_us: f64,
    /// p50 through the gateway over p50 directly.
    pub p50_ratio: f64,
    /// The same for p99.
    pub p99_ratio: f64,
    /// Median over the rounds of each round's own difference of p50: steadier against noise.
    pub p50_us_median_round: f64,
    /// The same for p99.
    pub p99_us_median_round: f64,
}

/// What an idle connection costs the server.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Seconds between opening and the second look.
    pub held_seconds: f64,
    /// Connections that still stood then.
    pub connections_at_end: u64,
    /// The server before; `None` without `--pid`.
    pub before: Option<Sample>,
    /// The server after.
    pub after: Option<Sample>,
    /// Growth of `RssAnon` per connection, bytes.
    pub anonymous_bytes_per_connection: Option<f64>,
    /// Growth of `VmRSS` per connection, bytes.
    pub resident_bytes_per_connection: Option<f64>,
}

impl TargetReport {
    /// The numbers of one target; `rounds` is how many `round` sums up.
    pub fn new(target: &Target, opened: &Opened, load: Option<Load>) -> Self {
        Self {
            name: target.name.clone(),
            address: target.address.to_string(),
            transport: target.transport,
            protocol: target.protocol,
            connections: opened.connections,
            connect_errors: opened.faults.clone(),
            connect: opened.latency.summary(),
            connect_bytes: opened.bytes,
            load,
        }
    }
}

impl Load {
    /// The numbers of `rounds` rounds, summed up in `round`, in which the server used `cpu_ns`.
    pub fn new(plan: &Plan, rounds: u32, round: &Round, cpu_ns: Option<u64>) -> Self {
        let seconds = round.nanos as f64 / 1e9;
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let cpu_us = |count: u64| cpu_ns.map(|ns| ns as f64 / 1000.0 / count.max(1) as f64);
        let per_operation = |bytes: u64| bytes as f64 / round.operations.max(1) as f64;
        let delivery = match &plan.work {
            Work::Mqtt(work) => Some(Delivery {
                messages: round.delivered,
                messages_per_second: per_second(round.delivered),
                missing: (round.operations * work.copies()).saturating_sub(round.delivered),
                latency: round.delivery.summary(),
                server_cpu_us_per_message: cpu_us(round.delivered),
            }),
            Work::Hold | Work::Request(_) => None,
        };
        Self {
            rounds,
            seconds,
            operations: round.operations,
            operations_per_second: per_second(round.operations),
            errors: round.faults.clone(),
            latency: round.latency.summary(),
            generator_lag: round.lag.summary(),
            delivery,
            bytes: round.bytes,
            bytes_sent_per_operation: per_operation(round.bytes.sent),
            bytes_received_per_operation: per_operation(round.bytes.received),
            server_cpu_us_per_operation: cpu_us(round.operations),
        }
    }
}

impl Added {
    /// `rounds` are (direct, gateway) in the order they ran; `None` unless both answered in each.
    pub fn new(rounds: &[(Round, Round)]) -> Option<Self> {
        if rounds.is_empty() || rounds.iter().any(|(a, b)| a.latency.count() == 0 || b.latency.count() == 0) {
            return None;
        }
        let (mut direct, mut gateway) = (Round::default(), Round::default());
        for (a, b) in rounds {
            direct.append(a);
            gateway.append(b);
        }
        let micros = |round: &Round, q: f64| round.latency.quantile(q) as f64 / 1000.0;
        let median_round = |q: f64| median(rounds.iter().map(|(a, b)| micros(b, q) - micros(a, q)).collect());
        Some(Self {
            p50_us: micros(&gateway, 0.5) - micros(&direct, 0.5),
            p99_us: micros(&gateway, 0.99) - micros(&direct, 0.99),
            p50_ratio: micros(&gateway, 0.5) / micros(&direct, 0.5),
            p99_ratio: micros(&gateway, 0.99) / micros(&direct, 0.99),
            p50_us_median_round: median_round(0.5),
            p99_us_median_round: median_round(0.99),
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Idle {
    /// Two looks at the server with `connections` between them.
    pub fn new(held_seconds: f64, connections: u64, before: Option<Sample>, after: Option<Sample>) -> Self {
        let growth = |of: fn(&Sample) -> u64| {
            let (before, after) = (of(before.as_ref()?), of(after.as_ref()?));
            (connections > 0).then(|| (after as f64 - before as f64) * 1024.0 / connections as f64)
        };
        Self {
            held_seconds,
            connections_at_end: connections,
            before,
            after,
            anonymous_bytes_per_connection: growth(|sample| sample.anonymous_kib),
            resident_bytes_per_connection: growth(|sample| sample.resident_kib),
        }
    }
}

/// Limits of this machine that showed as failures, and what to do.
pub fn limits_met(targets: &[TargetReport], open_files: u64, server_files: Option<u64>) -> Vec<String> {
    let count = |kind| {
        let load = |t: &TargetReport| t.load.as_ref().map_or(0, |load| load.errors.count(kind));
        targets.iter().map(|t| t.connect_errors.count(kind) + load(t)).sum::<u64>()
    };
    let mut met = Vec::new();
    let (files, ports) = (count(FaultKind::OpenFiles), count(FaultKind::Ports));
    if files > 0 {
        met.push(format!(
            "{files} connections met the limit of {open_files} open files per process: use more --processes or \
             raise ulimit -n"
        ));
    }
    if ports > 0 {
        met.push(format!(
            "{ports} connections found no local port: lower -c, wait for TIME_WAIT to pass, or widen \
             net.ipv4.ip_local_port_range"
        ));
    }
    let wanted: u64 = targets.iter().map(|t| t.connections + t.connect_errors.total()).sum();
    if let Some(limit) = server_files.filter(|limit| *limit < wanted + 64) {
        met.push(format!(
            "the server may hold {limit} open files, too few for {wanted} connections: raise its ulimit -n"
        ));
    }
    met
}

impl Report {
    /// Whether everything failed.
    pub fn is_failure(&self) -> bool {
        self.targets.iter().any(|target| {
            target.connections == 0 || target.load.as_ref().is_some_and(|load| load.operations == 0)
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loop_kind = match self.pace {
            None => String::new(),
            Some(Pace::Open { rate, .. }) => format!(", open loop at {rate}/s"),
            Some(Pace::Closed { in_flight }) => format!(", closed loop, {in_flight} in flight each"),
        };
        writeln!(
            f,
            "{}: {} connections from {} processes, {} cores{loop_kind}",
            self.mode, self.connections, self.processes, self.cores
        )?;
        self.targets.iter().try_for_each(|target| write!(f, "{target}"))?;
        if let Some(added) = &self.added {
            write!(f, "\n{added}")?;
        }
        if let Some(idle) = &self.idle {
            write!(f, "\n{idle}")?;
        }
        self.limits_met.iter().try_for_each(|limit| writeln!(f, "\nlimit met: {limit}"))
    }
}

impl fmt::Display for TargetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, transport) = (wire_name(&self.protocol), wire_name(&self.transport));
        writeln!(f, "\n{} ({protocol} over {transport}, {})", self.name, self.address)?;
        let bytes = self.connect_bytes;
        let each = self.connections.max(1);
        writeln!(
            f,
            "  opened      {} connections, {} bytes up and {} down each",
            self.connections,
            bytes.sent / each,
            bytes.received / each
        )?;
        row(f, "connect", self.connect.as_ref())?;
        faults(f, &self.connect_errors)?;
        self.load.as_ref().map_or(Ok(()), |load| write!(f, "{load}"))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.operations_per_second;
        writeln!(f, "  operations  {} in {:.2} s = {rate:.0}/s", self.operations, self.seconds)?;
        row(f, "latency", self.latency.as_ref())?;
        row(f, "send lag", self.generator_lag.as_ref())?;
        if let Some(delivery) = &self.delivery {
            let rate = delivery.messages_per_second;
            writeln!(f, "  delivered   {} = {rate:.0}/s, {} missing", delivery.messages, delivery.missing)?;
            row(f, "delivery", delivery.latency.as_ref())?;
        }
        writeln!(
            f,
            "  wire        {:.1} bytes up and {:.1} down per operation",
            self.bytes_sent_per_operation, self.bytes_received_per_operation
        )?;
        if let Some(cpu) = self.server_cpu_us_per_operation {
            let delivery = self.delivery.as_ref().and_then(|delivery| delivery.server_cpu_us_per_message);
            let delivery =
                delivery.map_or(String::new(), |cpu| format!(", {cpu:.2} us per delivered message"));
            writeln!(f, "  server CPU  {cpu:.2} us per operation{delivery}")?;
        }
        faults(f, &self.errors)
    }
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "added by the gateway")?;
        writeln!(f, "  p50         {:+.1} us, {:.2} times", self.p50_us, self.p50_ratio)?;
        writeln!(f, "  p99         {:+.1} us, {:.2} times", self.p99_us, self.p99_ratio)?;
        writeln!(
            f,
            "  median of the rounds: p50 {:+.1} us, p99 {:+.1} us",
            self.p50_us_median_round, self.p99_us_median_round
        )
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "idle for {:.0} s, {} connections at the end",
            self.held_seconds, self.connections_at_end
        )?;
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return writeln!(f, "  give --pid of the server to see its memory");
        };
        let per = |bytes: Option<f64>| {
            bytes.map_or(String::new(), |b| format!(" = {:.2} KB per connection", b / 1000.0))
        };
        let row = |f: &mut fmt::Formatter<'_>, name: &str, before: u64, after: u64, per: String| {
            writeln!(f, "  {name:<11} {before} -> {after}{per}")
        };
        row(
            f,
            "RssAnon KiB",
            before.anonymous_kib,
            after.anonymous_kib,
            per(self.anonymous_bytes_per_connection),
        )?;
        row(
            f,
            "VmRSS KiB",
            before.resident_kib,
            after.resident_kib,
            per(self.resident_bytes_per_connection),
        )?;
        row(f, "files", before.files, after.files, String::new())?;
        row(f, "sockets", before.sockets, after.sockets, String::new())?;
        let cpu_ms = after.cpu_ns.saturating_sub(before.cpu_ns) / 1_000_000;
        writeln!(f, "  server CPU  {cpu_ms} ms, opening included")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, summary: Option<&Summary>) -> fmt::Result {
    let Some(s) = summary else { return Ok(()) };
    let mut line = format!("  {name:<11}");
    for (label, value) in
        [("p50", s.p50_us), ("p90", s.p90_us), ("p99", s.p99_us), ("p99.9", s.p999_us), ("max", s.max_us)]
    {
        write!(line, " {label} {}", span(value))?;
    }
    writeln!(f, "{line}")
}

/// Microseconds for people.
fn span(micros: f64) -> String {
    match micros {
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1000.0),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn faults(f: &mut fmt::Formatter<'_>, faults: &Faults) -> fmt::Result {
    faults.iter().try_for_each(|(kind, counted)| {
        writeln!(f, "  failed      {} x {}, first: {}", counted.count, wire_name(&kind), counted.example)
    })
}

/// The name that the JSON report has for a value of an enum without fields.
fn wire_name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
