//! Towline beside its peers in one run: every server is started here, on loopback, with a configuration
//! written into a temporary folder, and ended by its process id.
//!
//! ```text
//!  Ground (folder, certificates, cores) -- servers/ --> Server (a process)
//!                                                          | CPU time, memory (procfs)
//!  memory, ... : a question -- crew or threads of clients --+--> Table, with Towline's share of each peer
//! ```

mod brokers;
mod certificates;
mod cores;
mod drain;
mod early;
mod filters;
mod flood;
mod frames;
mod ground;
mod handshakes;
mod memory;
mod quic;
mod records;
mod requests;
mod servers;
mod shangmi;
mod sizes;
pub mod stand;
mod strace;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub use self::{
    brokers::BrokersArgs, drain::DrainArgs, early::EarlyArgs, filters::FiltersArgs, flood::FloodArgs,
    handshakes::HandshakesArgs, memory::MemoryArgs, quic::QuicArgs, records::RecordsArgs,
    requests::RequestsArgs, shangmi::ShangMiArgs, sizes::BytesArgs,
};
use self::{ground::Ground, table::Report};
use crate::ending::{end_children, has_been_signalled, work_until_signalled};

/// What can be compared.
#[derive(Debug, Subcommand)]
pub enum Benchmark {
    /// User-space memory of an idle connection, beside nginx, HAProxy, mosquitto and quinn
    Memory(MemoryArgs),
    /// Server CPU time of TLS 1.3 handshakes, full and resumed, beside nginx and HAProxy
    Handshakes(HandshakesArgs),
    /// Latency of established traffic during a flood of handshakes, beside nginx and HAProxy
    Flood(FloodArgs),
    /// Round trips to the first answer: full handshake, resumption, early data
    Early(EarlyArgs),
    /// Time to the first usable byte on slow links, and bulk throughput, by size of TLS records
    Records(RecordsArgs),
    /// Server CPU time, rate and added latency of requests, beside nginx, HAProxy and nghttpx
    Requests(RequestsArgs),
    /// Server CPU time and latency of MQTT messages, beside mosquitto and rumqttd
    Brokers(BrokersArgs),
    /// CPU time and system calls of the link over QUIC, beside the link over TLS
    Quic(QuicArgs),
    /// SM4-GCM, SM3 and SM2 beside RustCrypto, OpenSSL and Tongsuo
    Shangmi(ShangMiArgs),
    /// Bytes per exchange of the corpus, beside HTTP/1.1, HTTP/2 and gRPC
    Bytes(BytesArgs),
    /// A drain under load: calls lost or doubled, and how reconnects spread
    Drain(DrainArgs),
    /// Topic filters by the million: memory of each and CPU time of a match, beside mosquitto
    Filters(FiltersArgs),
}

/// Options of every side-by-side run.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// The gateway's binary [default: towline beside this program]
    #[arg(long, value_name = "FILE")]
    pub towline: Option<PathBuf>,
    /// Run only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Write the tables as JSON to a file, or to standard output with -
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

impl CommonArgs {
    fn wants(&self, case: &str) -> bool {
        self.only.as_deref().is_none_or(|part| case.contains(part))
    }

    fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }
}

/// Runs a comparison, prints its tables, and says whether Towline has a figure in each. A signal ends its servers too.
///
/// # Errors
/// What could not be started or measured; or that a signal has ended it.
pub fn run(benchmark: Benchmark) -> Result<bool, String> {
    let outcome = work_until_signalled(true, move || compare(&benchmark), end_children)?;
    outcome.ok_or_else(|| "a signal has ended it".to_owned())
}

fn compare(benchmark: &Benchmark) -> Result<bool, String> {
    let common = match benchmark {
        Benchmark::Memory(args) => &args.common,
        Benchmark::Handshakes(args) => &args.common,
        Benchmark::Flood(args) => &args.common,
        Benchmark::Early(args) => &args.common,
        Benchmark::Records(args) => &args.common,
        Benchmark::Requests(args) => &args.common,
        Benchmark::Brokers(args) => &args.common,
        Benchmark::Quic(args) => &args.common,
        Benchmark::Shangmi(args) => &args.common,
        Benchmark::Bytes(args) => &args.common,
        Benchmark::Drain(args) => &args.common,
        Benchmark::Filters(args) => &args.common,
    };
    let ground = Ground::new(common.towline.as_deref())?;
    let mut report = Report::begin();
    match benchmark {
        Benchmark::Memory(args) => memory::run(args, &ground, &mut report)?,
        Benchmark::Handshakes(args) => handshakes::run(args, &ground, &mut report)?,
        Benchmark::Flood(args) => flood::run(args, &ground, &mut report)?,
        Benchmark::Early(args) => early::run(args, &ground, &mut report)?,
        Benchmark::Records(args) => records::run(args, &ground, &mut report)?,
        Benchmark::Requests(args) => requests::run(args, &ground, &mut report)?,
        Benchmark::Brokers(args) => brokers::run(args, &ground, &mut report)?,
        Benchmark::Quic(args) => quic::run(args, &ground, &mut report)?,
        Benchmark::Shangmi(args) => shangmi::run(args, &ground, &mut report)?,
        Benchmark::Bytes(args) => sizes::run(args, &mut report)?,
        Benchmark::Drain(args) => drain::run(args, &ground, &mut report)?,
        Benchmark::Filters(args) => filters::run(args, &ground, &mut report)?,
    }
    if has_been_signalled() {
        return Err("a signal has ended it".to_owned());
    }
    report.publish(common.json.as_deref())?;
    Ok(report.is_complete())
}
