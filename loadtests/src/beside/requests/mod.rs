//! What a request costs a server, and what the server adds to its latency, beside nginx, HAProxy and nghttpx in
//! front of the same backends.
//!
//! ```text
//!  crowd (core 2) -- TLS, HTTP/2 or link --> server (core 1) -- HTTP/1.1 or h2c --> stand::light (core 2)
//!        +-------------- plaintext, straight to it, for the latency that is not the server's -----^
//! ```

mod calls;
mod client;
mod crowd;
mod http2;
mod seats;

use std::{collections::HashMap, time::Duration};

use clap::Args;

use self::{
    crowd::{Counted, Crowd, Pace},
    seats::{Seat, seats},
};
use super::{CommonArgs, cores, ground::Ground, table::Report, table::TOWLINE, table::Table};

/// `requests`.
#[derive(Debug, Args)]
pub struct RequestsArgs {
    /// Connections to each server
    #[arg(short = 'c', long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,
    /// Requests in flight on each connection, where CPU time is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=90))]
    pub inflight: u16,
    /// Requests per second, where latency is measured
    #[arg(long, default_value_t = 4000.0)]
    pub rate: f64,
    /// Times that each server is asked, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each time, once for CPU time and once for latency
    #[arg(long, default_value = "2s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Also count system calls (strace) and Towline's allocations, in a round of their own
    #[arg(long)]
    pub calls: bool,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Long enough for connections of the server to its backend.
const WARM_UP: Duration = Duration::from_millis(300);

/// What one server did over all rounds.
#[derive(Default)]
struct Sum {
    requests: u64,
    cpu_ns: u64,
    wall_ns: u64,
    paced_requests: u64,
    paced_cpu_ns: u64,
    /// p50 and p99 of each round, microseconds.
    latencies: Vec<(f64, f64)>,
    failure: Option<String>,
}

/// Measures every server in every case.
pub(super) fn run(args: &RequestsArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let stage = seats(args, ground)?;
    let mut sums: Vec<Sum> = stage.seats.iter().map(|_| Sum::default()).collect();
    for round in 1..=args.rounds {
        args.common.say(&format!("requests: round {round} of {}", args.rounds));
        for (seat, sum) in stage.seats.iter().zip(&mut sums) {
            if sum.failure.is_none()
                && let Err(why) = cores::on(ground.cores.load, || sum.round(args, seat))
            {
                sum.failure = Some(why);
            }
        }
    }
    report.add(table(args, &stage.seats, sums));
    if args.calls {
        report.add(calls::table(args, ground, &stage.seats));
    }
    Ok(())
}

fn table(args: &RequestsArgs, seats: &[Seat], sums: Vec<Sum>) -> Table {
    let columns =
        ["CPU us/request", "requests/s", "server busy %", "p50 added us", "p99 added us", "CPU us paced"];
    let title = format!(
        "Requests for 1 KB: {} connections x {} in flight; latency and paced CPU at {}/s",
        args.connections, args.inflight, args.rate
    );
    let mut table = Table::new(title, &columns);
    let direct = seats.iter().zip(&sums).filter(|(seat, _)| seat.server.is_none());
    let direct: HashMap<_, _> = direct.map(|(seat, sum)| (seat.backend, sum.latencies.clone())).collect();
    let costs: Vec<_> =
        seats.iter().zip(&sums).map(|(seat, sum)| (seat.case, seat.name, sum.cost_us())).collect();
    for (seat, sum) in seats.iter().zip(sums) {
        let Some(base) = direct.get(seat.backend) else { continue };
        if seat.server.is_none() {
            let medians = (median(base.iter().map(|each| each.0)), median(base.iter().map(|each| each.1)));
            table.note(format!(
                "{} straight: p50 {:.0} us, p99 {:.0} us.",
                seat.backend, medians.0, medians.1
            ));
            continue;
        }
        let note = if seat.name == TOWLINE { String::new() } else { shares(seat, &sum, &costs) };
        table.row(seat.case, seat.name, sum.figures(base).map(|figures| (figures, note)));
    }
    table.note(
        "added: the median over rounds of the server's percentile less the backend's own in the same round.",
    );
    table
}

/// What this costs of what each other server costs in the same case, for Towline's link.
fn shares(seat: &Seat, sum: &Sum, costs: &[(&str, &str, f64)]) -> String {
    let others = costs
        .iter()
        .filter(|(case, name, cost)| seat.is_link && *case == seat.case && *name != seat.name && *cost > 0.0);
    let shares: Vec<_> =
        others.map(|(_, name, cost)| format!("{:.2} of {name}", sum.cost_us() / cost)).collect();
    shares.join(", ")
}

impl Sum {
    fn round(&mut self, args: &RequestsArgs, seat: &Seat) -> Result<(), String> {
        let mut crowd = seat.crowd(args)?;
        let full = Pace::Closed(if seat.server.is_some() { args.inflight.into() } else { 1 });
        crowd.run(full, WARM_UP)?;
        if seat.server.is_some() {
            let (counted, cpu_ns) = timed(seat, &mut crowd, full, args.duration)?;
            self.requests += counted.requests;
            self.cpu_ns += cpu_ns;
            self.wall_ns += counted.nanos;
        }
        crowd.run(Pace::Open(args.rate), WARM_UP)?;
        let (counted, cpu_ns) = timed(seat, &mut crowd, Pace::Open(args.rate), args.duration)?;
        self.paced_requests += counted.requests;
        self.paced_cpu_ns += cpu_ns;
        let micros = |quantile| counted.latency.quantile(quantile) as f64 / 1e3;
        self.latencies.push((micros(0.5), micros(0.99)));
        Ok(())
    }

    fn cost_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.requests.max(1) as f64
    }

    fn figures(self, base: &[(f64, f64)]) -> Result<Vec<f64>, String> {
        if let Some(why) = self.failure {
            return Err(why);
        }
        let added = |of: fn(&(f64, f64)) -> f64| {
            median(self.latencies.iter().zip(base).map(|(own, straight)| of(own) - of(straight)))
        };
        let wall = self.wall_ns.max(1) as f64;
        Ok(vec![
            self.cost_us(),
            self.requests as f64 * 1e9 / wall,
            self.cpu_ns as f64 * 100.0 / wall,
            added(|each| each.0),
            added(|each| each.1),
            self.paced_cpu_ns as f64 / 1e3 / self.paced_requests.max(1) as f64,
        ])
    }
}

/// A run, and the CPU time that it cost the server.
fn timed(seat: &Seat, crowd: &mut Crowd, pace: Pace, duration: Duration) -> Result<(Counted, u64), String> {
    let cpu = |seat: &Seat| match &seat.server {
        Some(server) => server.as_ref().as_ref().map_err(String::clone)?.cpu_ns(),
        None => Ok(0),
    };
    let before = cpu(seat)?;
    let counted = crowd.run(pace, duration)?;
    Ok((counted, cpu(seat)? - before))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_adds_is_told_round_by_round() {
        let sum = Sum {
            requests: 1000,
            cpu_ns: 8_000_000,
            wall_ns: 16_000_000,
            paced_requests: 10,
            paced_cpu_ns: 200_000,
            latencies: vec![(100.0, 200.0), (300.0, 500.0), (110.0, 210.0)],
            failure: None,
        };
        // The noisy round was noisy for both.
        let figures = sum.figures(&[(50.0, 60.0), (240.0, 300.0), (50.0, 60.0)]).unwrap();
        assert_eq!(figures, [8.0, 62_500.0, 50.0, 60.0, 150.0, 20.0]);
    }
}
