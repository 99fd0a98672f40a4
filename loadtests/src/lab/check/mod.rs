//! `check`: whether the link does what its profile says, measured with packets through both devices.

mod probe;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use self::probe::{Edge, HEADERS, PROBE_BYTES, Phone, Plan};
use super::{
    ground::Wire,
    model::Way,
    profiles::{Profile, chosen},
};

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Profiles; all without a name
    pub profiles: Vec<String>,
    /// How long probes are sent, seconds
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    /// Seed of every decision
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Writes the figures to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Between probes at least.
const INTERVAL: Duration = Duration::from_millis(10);
/// Jitter above this many times its mean is rare: probes so far apart do not wait for one another.
const JITTER_APART: u32 = 6;
/// What scheduling on a machine that does other things may add.
const SLACK_MS: f64 = 3.0;
/// How many standard deviations are chance.
const DEVIATIONS: f64 = 3.0;
const RATE_TOLERANCE: f64 = 0.1;

/// What one direction was measured to do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Measured {
    sent: u64,
    received: u64,
    /// Mean, milliseconds.
    delay_ms: f64,
    /// Bits of IP packets per second that arrived under a flood.
    rate_bps: f64,
}

impl Measured {
    fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

/// One profile's measurements.
#[derive(Clone, Debug, Serialize)]
struct Row {
    profile: &'static str,
    up: Measured,
    down: Measured,
    /// What differs from the configuration by more than chance.
    differs: Vec<String>,
}

/// Measures all profiles at one time; whether all are as configured.
pub(super) fn run(args: &CheckArgs) -> Result<bool, String> {
    let (seed, time) = (args.seed, Duration::from_secs(args.seconds.max(1)));
    let measuring = chosen(&args.profiles)?.into_iter().enumerate();
    let measuring: Vec<_> = measuring
        .map(|(number, profile)| thread::spawn(move || measure(number, &profile, seed, time)))
        .collect();
    let rows = measuring.into_iter().map(|run| run.join().map_err(|_| ended())?);
    let rows: Vec<Row> = rows.collect::<Result<_, String>>()?;
    print(&rows)?;
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        std::fs::write(file, json).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(rows.iter().all(|row| row.differs.is_empty()))
}

fn ended() -> String {
    "a measuring thread ended".to_owned()
}

fn measure(number: usize, profile: &Profile, seed: u64, time: Duration) -> Result<Row, String> {
    let wire = Wire::make(number, &profile.link, seed)?;
    let (began, ends) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let (link, until) = (profile.link, Arc::clone(&ends));
    let edge = wire.edge.inside(move || Edge::run(began, link.down, &until))?;
    let slowest = [link.up, link.down].map(|way| way.transmission(PROBE_BYTES + HEADERS)).into_iter().max();
    let apart = JITTER_APART * link.up.jitter.max(link.down.jitter);
    let interval = INTERVAL.max(3 * slowest.unwrap_or_default()).max(apart);
    let plan = Plan { began, time, interval, up: link.up, down: link.down };
    let phone = wire.phone.inside(move || Phone::run(&plan))?;
    let phone = phone.join().map_err(|_| ended())??;
    ends.store(true, Ordering::Relaxed);
    let edge = edge.join().map_err(|_| ended())??;
    let up = Measured {
        sent: phone.sent,
        received: edge.probes,
        delay_ms: phone.up_ms,
        rate_bps: edge.flood.rate_bps(),
    };
    let down = Measured {
        sent: edge.probes,
        received: phone.answers,
        delay_ms: phone.down_ms,
        rate_bps: phone.flood.rate_bps(),
    };
    let mut row = Row { profile: profile.name, up, down, differs: Vec::new() };
    // What an outage does depends on when it comes: shown, not judged.
    if profile.link.outages.is_none() {
        row.differs = [differences("up", &link.up, &up), differences("down", &link.down, &down)].concat();
    }
    Ok(row)
}

/// What differs by more than chance and a busy machine explain.
fn differences(name: &str, way: &Way, measured: &Measured) -> Vec<String> {
    let count = measured.received.max(1) as f64;
    let mut differs = Vec::new();
    let (delay, jitter) = (expected_delay_ms(way), way.jitter.as_secs_f64() * 1000.0);
    if (measured.delay_ms - delay).abs() > SLACK_MS + DEVIATIONS * jitter / count.sqrt() {
        differs.push(format!("{name}: {:.1} ms instead of {delay:.1}", measured.delay_ms));
    }
    let mean = way.loss.mean();
    // Packets of a burst share one chance.
    let alike = if way.loss.enter > 0.0 { 2.0 / way.loss.leave } else { 1.0 };
    let deviation = (mean * (1.0 - mean) * alike / measured.sent.max(1) as f64).sqrt();
    if (measured.loss() - mean).abs() > DEVIATIONS * deviation + 0.002 {
        differs.push(format!(
            "{name}: {:.2} % lost instead of {:.2} %",
            100.0 * measured.loss(),
            100.0 * mean
        ));
    }
    let rate = way.rate_bps as f64 * (1.0 - mean);
    if (measured.rate_bps - rate).abs() > RATE_TOLERANCE * rate {
        differs.push(format!("{name}: {:.0} kbit/s instead of {:.0}", measured.rate_bps / 1e3, rate / 1e3));
    }
    differs
}

fn expected_delay_ms(way: &Way) -> f64 {
    (way.delay + way.jitter + way.transmission(PROBE_BYTES + HEADERS)).as_secs_f64() * 1000.0
}

fn print(rows: &[Row]) -> Result<(), String> {
    println!("measured (configured)");
    println!("{:<12} {:>5} {:>20} {:>20} {:>24}", "profile", "", "delay ms", "loss %", "rate kbit/s");
    for row in rows {
        let profile = chosen(&[row.profile.to_owned()])?.remove(0);
        for (name, measured, way) in
            [("up", &row.up, profile.link.up), ("down", &row.down, profile.link.down)]
        {
            let label = if name == "up" { row.profile } else { "" };
            let delay = format!("{:.1} ({:.1})", measured.delay_ms, expected_delay_ms(&way));
            let loss = format!("{:.2} ({:.2})", 100.0 * measured.loss(), 100.0 * way.loss.mean());
            let rate = format!("{:.0} ({})", measured.rate_bps / 1e3, way.rate_bps / 1000);
            println!("{label:<12} {name:>5} {delay:>20} {loss:>20} {rate:>24}");
        }
        row.differs.iter().for_each(|differs| println!("             DIFFERS {differs}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::model::Loss;

    #[test]
    fn chance_is_no_difference_and_a_difference_is_none() {
        let way = Way { loss: Loss::random(0.02), ..Way::new(1_000_000, Duration::from_millis(100)) };
        let good = Measured { sent: 1000, received: 978, delay_ms: 101.0, rate_bps: 970e3 };
        let check = |measured: Measured, expected: &str| {
            let differs = differences("up", &way, &measured).join(", ");
            assert_eq!(differs, expected);
        };
        check(good, "");
        check(Measured { received: 900, ..good }, "up: 10.00 % lost instead of 2.00 %");
        check(Measured { delay_ms: 120.0, ..good }, "up: 120.0 ms instead of 100.5");
        check(Measured { rate_bps: 500e3, ..good }, "up: 500 kbit/s instead of 980");
    }
}
