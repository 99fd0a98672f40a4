//! The command line, and how it becomes a [`Plan`](crate::plan::Plan).

mod planning;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    beside::{Benchmark, stand::StandArgs},
    corpus::CorpusArgs,
    plan::{Protocol, Transport},
};

pub use planning::{Choice, choose};

/// Opens many connections to a gateway, a backend or a broker, works on them, and measures.
///
/// Loopback targets only, unless --allow-remote is given.
#[derive(Debug, Parser)]
#[command(name = "towline-load", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Calls over the link protocol
    Link(LinkArgs),
    /// Publishes and deliveries over MQTT 3.1.1
    Mqtt(MqttArgs),
    /// Calls over HTTP, to a gateway or straight to a backend
    Http(HttpArgs),
    /// Holds idle connections and looks at the server's memory
    Idle(IdleArgs),
    /// Calls a backend directly and through a gateway in turn, and tells the difference
    Compare(CompareArgs),
    /// Writes the corpus, an app's traffic by seed, as files to train dictionaries on
    Corpus(CorpusArgs),
    /// Towline and its peers in one run
    #[command(flatten)]
    Beside(Benchmark),
    /// A worker process of another towline-load
    #[command(hide = true)]
    Worker,
    /// A server that comparisons need
    #[command(hide = true)]
    Stand(StandArgs),
}

/// A protocol on a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// TCP alone
    Tcp,
    /// TLS alone
    Tls,
    /// HTTP/1.1
    H1,
    /// HTTP/1.1 over TLS
    H1Tls,
    /// HTTP/2 in plaintext, with prior knowledge
    H2c,
    /// HTTP/2 over TLS
    H2,
    /// MQTT
    Mqtt,
    /// MQTT over TLS
    MqttTls,
    /// The link protocol over TLS
    Link,
    /// The link protocol over TCP in plaintext
    LinkPlain,
    /// The link protocol over QUIC
    LinkQuic,
    /// QUIC alone
    Quic,
}

impl Kind {
    /// What carries it and what is spoken.
    pub fn parts(self) -> (Transport, Protocol) {
        match self {
            Self::Tcp => (Transport::Plain, Protocol::None),
            Self::Tls => (Transport::Tls, Protocol::None),
            Self::H1 => (Transport::Plain, Protocol::Http1),
            Self::H1Tls => (Transport::Tls, Protocol::Http1),
            Self::H2c => (Transport::Plain, Protocol::Http2),
            Self::H2 => (Transport::Tls, Protocol::Http2),
            Self::Mqtt => (Transport::Plain, Protocol::Mqtt),
            Self::MqttTls => (Transport::Tls, Protocol::Mqtt),
            Self::Link => (Transport::Tls, Protocol::Link),
            Self::LinkPlain => (Transport::Plain, Protocol::Link),
            Self::LinkQuic => (Transport::Quic, Protocol::Link),
            Self::Quic => (Transport::Quic, Protocol::None),
        }
    }
}

/// `link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// HOST:PORT of the gateway
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: String,
    /// What carries the link
    #[arg(long, value_enum, default_value = "tls")]
    pub transport: Transport,
    /// What is called.
    #[command(flatten)]
    pub call: CallArgs,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Pace.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Options of every subcommand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `http`.
#[derive(Debug, Args)]
pub struct HttpArgs {
    /// HOST:PORT of the gateway or the backend
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: String,
    /// h1, h1-tls, h2c or h2
    #[arg(long, value_enum, default_value = "h2c")]
    pub kind: Kind,
    /// What is called.
    #[command(flatten)]
    pub call: CallArgs,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Pace.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Options of every subcommand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// HOST:PORT of the backend
    #[arg(long, value_name = "HOST:PORT")]
    pub direct: String,
    /// How the backend is called: h1 or h2c
    #[arg(long, value_enum, default_value = "h2c")]
    pub direct_kind: Kind,
    /// HOST:PORT of the gateway
    #[arg(long, value_name = "HOST:PORT")]
    pub gateway: String,
    /// How the gateway is called: link, link-plain, link-quic, h1, h1-tls, h2c or h2
    #[arg(long, value_enum, default_value = "link")]
    pub via: Kind,
    /// Times that each of the two is called for --duration
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// What is called.
    #[command(flatten)]
    pub call: CallArgs,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Pace.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Options of every subcommand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `mqtt`.
#[derive(Debug, Args)]
pub struct MqttArgs {
    /// HOST:PORT of the gateway or broker
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: String,
    /// Speak TLS
    #[arg(long)]
    pub tls: bool,
    /// Who publishes to whom
    #[arg(long, value_enum, default_value = "pairs")]
    pub pattern: Pattern,
    /// Connections that publish [default: 100, or 1 for fan-out]
    #[arg(long)]
    pub publishers: Option<usize>,
    /// Connections that subscribe [default: 100 for fan-out, as many as publishers for pairs, or 1]
    #[arg(long)]
    pub subscribers: Option<usize>,
    /// Quality of service of publishes and subscriptions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes, at least 8
    #[arg(long, default_value_t = 64)]
    pub bytes: usize,
    /// Pace.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Processes.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// Options of every subcommand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Who publishes to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Many publishers, few subscribers, each of whom gets everything
    FanIn,
    /// Few publishers, many subscribers, each of whom gets everything
    FanOut,
    /// As many subscribers as publishers, each of whom hears one
    Pairs,
}

/// `idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// HOST:PORT of the server
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: String,
    /// What is opened; HELLO and WELCOME, CONNECT and CONNACK are exchanged
    #[arg(long, value_enum, default_value = "link")]
    pub kind: Kind,
    /// How long the connections stay idle before the second look
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub hold: Duration,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Options of every subcommand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What is called.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// Path of a unary gRPC method [default: /towline.demo.v1.Echo/Unary]
    #[arg(long, value_name = "PATH", conflicts_with = "path")]
    pub method: Option<String>,
    /// Path of a plain HTTP request instead: POST, or GET with --bytes 0
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Size of the request's payload; for gRPC it stands in field 2 of the message
    #[arg(long, default_value_t = 256)]
    pub bytes: usize,
    /// File with the whole request message or body instead
    #[arg(long, value_name = "FILE", conflicts_with = "bytes")]
    pub message: Option<PathBuf>,
}

/// How many connections, and by whom.
#[derive(Debug, Args)]
pub struct ConnectionArgs {
    /// Connections
    #[arg(short = 'c', long, default_value_t = 10)]
    pub connections: usize,
    /// Processes.
    #[command(flatten)]
    pub spread: SpreadArgs,
}

/// Who holds the connections.
#[derive(Debug, Args)]
pub struct SpreadArgs {
    /// Worker processes, one thread each [default: one per 5000 connections]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub processes: Option<u16>,
    /// Connections that each worker opens at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub opening: u16,
    /// Bound on opening one connection
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub connect_timeout: Duration,
}

/// How fast.
#[derive(Debug, Args)]
pub struct PaceArgs {
    /// Open loop: so many operations per second in all, late answers or not; latency counts from the
    /// moment an operation was due
    #[arg(long, conflicts_with = "closed")]
    pub rate: Option<f64>,
    /// Closed loop: the next operation when one is answered (this is the default)
    #[arg(long)]
    pub closed: bool,
    /// Operations in flight per connection [default: 1 in a closed loop, 64 in an open loop]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub inflight: Option<u16>,
    /// How long to measure (compare: each round)
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// How long to work before that without measuring
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warm_up: Duration,
    /// Bound on one operation
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// CA certificates (PEM) that the server's certificate must chain to
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name to check in the certificate [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Process id of the server on this machine: its CPU time and memory are reported
    #[arg(long)]
    pub pid: Option<u32>,
    /// Write the report as JSON to a file, or to standard output with -
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// Allow a target that is not on this machine; be sure that it is yours
    #[arg(long)]
    pub allow_remote: bool,
}

/// `10s`, `500ms`, `2m`, `1.5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 10s, 500ms or 2m");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    } * number.parse::<f64>().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|d| d.as_secs() <= 86_400).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["10", "s", "-1s", "1d", "1e30s", "nans", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
