//! What a delivered MQTT message costs a broker, and how long it takes, beside mosquitto and rumqttd.
//!
//! ```text
//!  publishers --\                              /--> subscribers      one client process, on the core of the load
//!                \--> broker (its own core) --/
//! ```
//!
//! CPU time is that of a closed loop in which a publisher goes on when its messages have arrived, so that no broker
//! is flooded and all of them do the same work; latency is that of an open loop at a fixed rate, from the moment a message
//! was sent, so that it is the broker's; how late the load was with that stands beside it.

use std::time::Duration;

use clap::Args;

use super::{
    CommonArgs, cores,
    ground::Ground,
    servers::{Listener, Server, Towline, mosquitto, rumqttd},
    table::{Report, TOWLINE, Table},
};
use crate::{
    conductor::Crew,
    latencies::Latencies,
    plan::{MqttWork, Pace, Plan, Protocol, Target, Transport, Work},
    tally::Round,
};

/// `brokers`.
#[derive(Debug, Args)]
pub struct BrokersArgs {
    /// Publishes of one publisher under way at one time, where CPU time is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub inflight: u16,
    /// Payload bytes: one table for each
    #[arg(long, value_delimiter = ',', default_values_t = [64], value_parser = clap::value_parser!(u32).range(12..=16_384))]
    pub bytes: Vec<u32>,
    /// Qualities of service
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2], value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: Vec<u8>,
    /// Deliveries per second, where latency is measured
    #[arg(long, default_value_t = 5000.0)]
    pub rate: f64,
    /// Measure latency at half of what each broker has just done in the closed loop instead
    #[arg(long, conflicts_with = "rate")]
    pub half_load: bool,
    /// Times that each broker is asked, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each time, once for CPU time and once for latency
    #[arg(long, default_value = "2s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

const WARM_UP: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Connections opened at a time.
const OPENING: usize = 32;
/// Of a paced publisher, so that a slow broker is told by its latency.
const PACED_IN_FLIGHT: usize = 100;

/// Who publishes to whom.
struct Case {
    name: &'static str,
    publishers: usize,
    subscribers: usize,
    pairs: bool,
}

const CASES: [Case; 4] = [
    Case { name: "fan-in 100->1", publishers: 100, subscribers: 1, pairs: false },
    Case { name: "fan-in 100->10", publishers: 100, subscribers: 10, pairs: false },
    Case { name: "fan-out 1->1000", publishers: 1, subscribers: 1000, pairs: false },
    Case { name: "pairs 100", publishers: 100, subscribers: 100, pairs: true },
];

/// What one broker did over all rounds.
#[derive(Default)]
struct Sum {
    closed: Round,
    cpu_ns: u64,
    paced: Round,
    missing: u64,
}

/// Measures every broker in every case.
pub(super) fn run(args: &BrokersArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    for bytes in &args.bytes {
        report.add(measure(args, *bytes, ground)?);
    }
    Ok(())
}

fn measure(args: &BrokersArgs, bytes: u32, ground: &Ground) -> Result<Table, String> {
    let columns = [
        "CPU us/message",
        "messages/s",
        "server busy %",
        "paced/s",
        "p50 ms",
        "p99 ms",
        "late p99 ms",
        "missing",
    ];
    let pace = if args.half_load { "half load".into() } else { format!("{} deliveries/s", args.rate) };
    let title = format!(
        "MQTT 3.1.1, {bytes} bytes: {} publishes of each publisher under way; latency at {pace}",
        args.inflight
    );
    let mut table = Table::new(title, &columns);
    let mut turn = 0;
    for case in &CASES {
        for &qos in &args.qos {
            let name = format!("{} q{qos}", case.name);
            if !args.common.wants(&name) {
                continue;
            }
            let brokers = [
                (TOWLINE, towline(ground)),
                ("mosquitto", mosquitto(ground, None)),
                ("rumqttd", rumqttd(ground)),
            ];
            let mut sums: Vec<_> = brokers.iter().map(|_| Ok(Sum::default())).collect();
            for round in 1..=args.rounds {
                args.common.say(&format!("brokers: {name}, round {round} of {}", args.rounds));
                for ((_, broker), sum) in brokers.iter().zip(&mut sums) {
                    turn += 1;
                    let work = work(bytes, case, qos, turn);
                    let measured = sum.as_mut().map_err(|why: &mut String| why.clone()).and_then(|sum| {
                        let broker = broker.as_ref().map_err(String::clone)?;
                        cores::on(ground.cores.load, || sum.round(args, ground, broker, &work))
                    });
                    if let Err(why) = measured {
                        *sum = Err(why);
                    }
                }
            }
            for ((broker, _), sum) in brokers.iter().zip(sums) {
                table.row(&name, broker, sum.map(|sum| (sum.figures(), String::new())));
            }
        }
    }
    table.note("CPU: of the broker, by message that reached a subscriber, in the closed loop.");
    table.note("late: how long after its time the load sent a message. Where that is more than p99, the load is what is slow.");
    table.note("missing: what was published and did not arrive, in either loop.");
    Ok(table)
}

impl Sum {
    fn round(
        &mut self,
        args: &BrokersArgs,
        ground: &Ground,
        broker: &Server,
        work: &MqttWork,
    ) -> Result<(), String> {
        let closed = Pace::Closed { in_flight: args.inflight.into() };
        let mut crew = crew(args, ground, broker, work, closed)?;
        crew.round(0, WARM_UP, "warm-up")?;
        let before = broker.cpu_ns()?;
        let round = crew.round(0, args.duration, "closed")?;
        self.cpu_ns += broker.cpu_ns()? - before;
        self.missing += missing(&round, work)?;
        self.closed.append(&round);
        drop(crew);
        let rate = if args.half_load { per_second(&round) / 2.0 } else { args.rate };
        let paced = Pace::Open { rate: rate / work.copies() as f64, in_flight: PACED_IN_FLIGHT };
        let again =
            MqttWork { run: format!("{}-paced", work.run), windowed: false, from_sent: true, ..work.clone() };
        let mut crew = self::crew(args, ground, broker, &again, paced)?;
        crew.round(0, WARM_UP, "warm-up")?;
        let round = crew.round(0, args.duration, "paced")?;
        self.missing += missing(&round, work)?;
        self.paced.append(&round);
        Ok(())
    }

    fn figures(&self) -> Vec<f64> {
        let (delivered, nanos) = (self.closed.delivered.max(1) as f64, self.closed.nanos.max(1) as f64);
        let millis = |of: &Latencies, quantile| of.quantile(quantile) as f64 / 1e6;
        vec![
            self.cpu_ns as f64 / 1e3 / delivered,
            per_second(&self.closed),
            self.cpu_ns as f64 * 100.0 / nanos,
            per_second(&self.paced),
            millis(&self.paced.delivery, 0.5),
            millis(&self.paced.delivery, 0.99),
            millis(&self.paced.lag, 0.99),
            self.missing as f64,
        ]
    }
}

fn per_second(round: &Round) -> f64 {
    round.delivered as f64 * 1e9 / round.nanos.max(1) as f64
}

/// What did not arrive. An error where nothing did.
fn missing(round: &Round, work: &MqttWork) -> Result<u64, String> {
    if round.delivered == 0 {
        let fault = round.faults.iter().next().map(|(_, fault)| fault.example.clone());
        return Err(fault.unwrap_or_else(|| "nothing was delivered".into()));
    }
    Ok((round.operations * work.copies()).saturating_sub(round.delivered))
}

fn work(bytes: u32, case: &Case, qos: u8, turn: u32) -> MqttWork {
    let &Case { publishers, subscribers, pairs, .. } = case;
    let run = format!("brokers-{:x}-{bytes}-{turn}", std::process::id());
    let bytes = bytes as usize;
    MqttWork { publishers, subscribers, pairs, qos, bytes, windowed: true, from_sent: false, run }
}

fn crew(
    args: &BrokersArgs,
    ground: &Ground,
    broker: &Server,
    work: &MqttWork,
    pace: Pace,
) -> Result<Crew, String> {
    let connections = work.connections();
    let target = Target {
        name: "broker".into(),
        address: broker.address,
        host: "localhost".into(),
        transport: Transport::Plain,
        protocol: Protocol::Mqtt,
        ca: None,
    };
    let plan = Plan {
        targets: vec![target],
        connections,
        opening_max: OPENING,
        connect_timeout: TIMEOUT,
        work: Work::Mqtt(work.clone()),
        pace,
        timeout: TIMEOUT,
    };
    let shares = ground.limits.spread(connections, Some(1), 1, broker.address)?;
    let (crew, opened) = Crew::open(&plan, shares, args.common.quiet)?;
    match opened.iter().flat_map(|opened| opened.faults.iter()).next() {
        None => Ok(crew),
        Some((_, fault)) => Err(format!("not all clients could connect: {}", fault.example)),
    }
}

fn towline(ground: &Ground) -> Result<Server, String> {
    let mut towline = Towline::default();
    towline.listen(Listener { name: "plain", files: None, quic: false, extra: "" })?;
    towline.start(ground)
}
