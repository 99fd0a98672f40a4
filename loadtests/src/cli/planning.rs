//! From arguments to a plan: everything that can be wrong with a command line is said here.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use super::{
    CallArgs, Command, CommonArgs, CompareArgs, IdleArgs, Kind, MqttArgs, PaceArgs, Pattern, SpreadArgs,
};
use crate::plan::{MqttWork, Pace, Plan, Protocol, RequestWork, Target, Transport, Work};

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Name of the subcommand.
    pub mode: &'static str,
    /// What the workers do.
    pub plan: Plan,
    /// Times that each target is worked on.
    pub rounds: u32,
    /// How long each time.
    pub duration: Duration,
    /// How long before it is measured.
    pub warm_up: Duration,
    /// Worker processes, if not left to the tool.
    pub processes: Option<usize>,
    /// The server's process.
    pub pid: Option<u32>,
    /// Where the JSON report goes.
    pub json: Option<PathBuf>,
    /// No progress bar.
    pub quiet: bool,
}

/// Method that every gateway's built-in demo backend has.
const METHOD_DEFAULT: &str = "/towline.demo.v1.Echo/Unary";
/// Largest message that is generated; the gateway's own default limit is below it.
const BYTES_MAX: usize = 64 << 20;

/// Checks a command line. `Err` is a sentence for the user.
pub fn choose(command: &Command) -> Result<Choice, String> {
    match command {
        Command::Link(args) => {
            let kind = match args.transport {
                Transport::Tls => Kind::Link,
                Transport::Quic => Kind::LinkQuic,
                Transport::Plain => Kind::LinkPlain,
            };
            let target = target("link", &args.connect, kind, &args.common)?;
            let call = (&args.call, &args.pace, args.connections.connections, &args.connections.spread);
            requests("link", vec![target], call, &args.common)
        }
        Command::Http(args) => {
            one_of(args.kind, &HTTP_KINDS, "--kind")?;
            let target = target("http", &args.connect, args.kind, &args.common)?;
            let call = (&args.call, &args.pace, args.connections.connections, &args.connections.spread);
            requests("http", vec![target], call, &args.common)
        }
        Command::Compare(args) => compare(args),
        Command::Mqtt(args) => mqtt(args),
        Command::Idle(args) => idle(args),
        Command::Corpus(_) => Err("a corpus is written, not measured".into()),
        Command::Beside(_) => Err("a comparison starts its servers itself".into()),
        Command::Worker | Command::Stand(_) => {
            Err("worker processes are started by towline-load itself".into())
        }
    }
}

const HTTP_KINDS: [Kind; 4] = [Kind::H1, Kind::H1Tls, Kind::H2c, Kind::H2];
const CALL_KINDS: [Kind; 7] =
    [Kind::Link, Kind::LinkPlain, Kind::LinkQuic, Kind::H1, Kind::H1Tls, Kind::H2c, Kind::H2];

fn compare(args: &CompareArgs) -> Result<Choice, String> {
    one_of(args.direct_kind, &[Kind::H1, Kind::H2c], "--direct-kind")?;
    one_of(args.via, &CALL_KINDS, "--via")?;
    let targets = vec![
        target("direct", &args.direct, args.direct_kind, &args.common)?,
        target("gateway", &args.gateway, args.via, &args.common)?,
    ];
    let call = (&args.call, &args.pace, args.connections.connections, &args.connections.spread);
    let choice = requests("compare", targets, call, &args.common)?;
    Ok(Choice { rounds: args.rounds, ..choice })
}

/// What the subcommands that send requests have in common.
type Calling<'a> = (&'a CallArgs, &'a PaceArgs, usize, &'a SpreadArgs);

fn requests(
    mode: &'static str,
    targets: Vec<Target>,
    (call, pace, connections, spread): Calling<'_>,
    common: &CommonArgs,
) -> Result<Choice, String> {
    let work = request_work(call)?;
    let http1 = targets.iter().any(|target| target.protocol == Protocol::Http1);
    if http1 && work.grpc {
        return Err(
            "gRPC does not run over HTTP/1.1: name a plain request with --path, or take h2 or h2c".into()
        );
    }
    if http1 && pace.inflight.is_some_and(|n| n > 1) {
        return Err(
            "HTTP/1.1 has one request in flight per connection: leave --inflight out, or raise -c".into()
        );
    }
    let mut checked = self::pace(pace)?;
    if let (true, Pace::Open { in_flight, .. }) = (http1, &mut checked) {
        *in_flight = 1;
    }
    let plan = plan(targets, connections, spread, Work::Request(work), checked, pace.timeout)?;
    Ok(Choice { warm_up: pace.warm_up, ..choice(mode, plan, pace.duration, spread, common)? })
}

fn mqtt(args: &MqttArgs) -> Result<Choice, String> {
    let publishers = args.publishers.unwrap_or(if args.pattern == Pattern::FanOut { 1 } else { 100 });
    let subscribers = args.subscribers.unwrap_or(match args.pattern {
        Pattern::FanIn => 1,
        Pattern::FanOut => 100,
        Pattern::Pairs => publishers,
    });
    if args.pattern == Pattern::Pairs && publishers != subscribers {
        return Err(format!(
            "--pattern pairs has as many subscribers as publishers, not {publishers} and {subscribers}"
        ));
    }
    if publishers == 0 {
        return Err("--publishers 0 publishes nothing; give at least 1".into());
    }
    if !(8..=BYTES_MAX).contains(&args.bytes) {
        return Err(format!(
            "--bytes {}: a payload holds its send time, 8 bytes, and at most {BYTES_MAX}",
            args.bytes
        ));
    }
    let kind = if args.tls { Kind::MqttTls } else { Kind::Mqtt };
    let run = format!("load-{:x}", std::process::id());
    let pairs = args.pattern == Pattern::Pairs;
    let work = MqttWork {
        publishers,
        subscribers,
        pairs,
        qos: args.qos,
        bytes: args.bytes,
        windowed: false,
        from_sent: false,
        run,
    };
    let (targets, all) = (vec![target("mqtt", &args.connect, kind, &args.common)?], work.connections());
    let plan = plan(targets, all, &args.spread, Work::Mqtt(work), pace(&args.pace)?, args.pace.timeout)?;
    Ok(Choice {
        warm_up: args.pace.warm_up,
        ..choice("mqtt", plan, args.pace.duration, &args.spread, &args.common)?
    })
}

fn idle(args: &IdleArgs) -> Result<Choice, String> {
    let targets = vec![target("idle", &args.connect, args.kind, &args.common)?];
    let (pace, spread) = (Pace::Closed { in_flight: 1 }, &args.connections.spread);
    let plan = plan(targets, args.connections.connections, spread, Work::Hold, pace, Duration::ZERO)?;
    choice("idle", plan, args.hold, spread, &args.common)
}

fn plan(
    targets: Vec<Target>,
    connections: usize,
    spread: &SpreadArgs,
    work: Work,
    pace: Pace,
    timeout: Duration,
) -> Result<Plan, String> {
    if connections == 0 {
        return Err("-c 0 opens nothing; give at least 1".into());
    }
    let opening_max = usize::from(spread.opening);
    Ok(Plan {
        targets,
        connections,
        opening_max,
        connect_timeout: spread.connect_timeout,
        work,
        pace,
        timeout,
    })
}

fn choice(
    mode: &'static str,
    plan: Plan,
    duration: Duration,
    spread: &SpreadArgs,
    common: &CommonArgs,
) -> Result<Choice, String> {
    if duration.is_zero() {
        return Err("a duration of 0 measures nothing; give for example 10s".into());
    }
    Ok(Choice {
        mode,
        plan,
        rounds: 1,
        duration,
        warm_up: Duration::ZERO,
        processes: spread.processes.map(usize::from),
        pid: common.pid,
        json: common.json.clone(),
        quiet: common.quiet,
    })
}

fn target(name: &str, connect: &str, kind: Kind, common: &CommonArgs) -> Result<Target, String> {
    let (transport, protocol) = kind.parts();
    let (host, address) = resolve(connect)?;
    if !address.ip().is_loopback() && !common.allow_remote {
        return Err(format!(
            "{connect} is not a loopback address; load on a machine that is not yours is an attack. \
             If it is yours, add --allow-remote"
        ));
    }
    if transport != Transport::Plain && common.ca.is_none() {
        return Err(format!(
            "{connect} is reached by TLS or QUIC, so the CA must be known: add --ca FILE (`towline dev` writes \
             dev-ca.pem to its data folder)"
        ));
    }
    let host = common.server_name.clone().unwrap_or(host);
    Ok(Target { name: name.into(), address, host, transport, protocol, ca: common.ca.clone() })
}

/// Host and first address of `HOST:PORT`, IPv4 before IPv6 since `localhost` is mostly served there.
fn resolve(connect: &str) -> Result<(String, SocketAddr), String> {
    let wrong = || format!("`{connect}` is not HOST:PORT, for example 127.0.0.1:7443");
    let (host, port) = connect.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let found: Vec<_> = connect.to_socket_addrs().map_err(|error| format!("{connect}: {error}"))?.collect();
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let address = address.ok_or_else(|| format!("{connect}: the name has no address"))?;
    Ok((host.trim_matches(['[', ']']).to_owned(), *address))
}

fn pace(args: &PaceArgs) -> Result<Pace, String> {
    let in_flight = args.inflight.map(usize::from);
    match args.rate {
        None => Ok(Pace::Closed { in_flight: in_flight.unwrap_or(1) }),
        Some(rate) if rate.is_finite() && (0.001..=10e6).contains(&rate) => {
            Ok(Pace::Open { rate, in_flight: in_flight.unwrap_or(64) })
        }
        Some(rate) => Err(format!("--rate {rate}: give operations per second, 0.001 to 10000000")),
    }
}

fn request_work(args: &CallArgs) -> Result<RequestWork, String> {
    let grpc = args.path.is_none();
    let path = args.path.clone().or(args.method.clone()).unwrap_or_else(|| METHOD_DEFAULT.into());
    if !path.starts_with('/') {
        return Err(format!("`{path}` is not a path; write /package.Service/Method or /some/path"));
    }
    if args.bytes > BYTES_MAX {
        return Err(format!("--bytes {}: at most {BYTES_MAX}", args.bytes));
    }
    let body = match &args.message {
        Some(file) => {
            std::fs::read(file).map_err(|error| format!("--message {}: {error}", file.display()))?
        }
        None if grpc => bytes_field(2, &filler(args.bytes)),
        None => filler(args.bytes),
    };
    Ok(RequestWork { path, grpc, body })
}

/// A protobuf message whose only field is `number`, of type bytes.
fn bytes_field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(value.len() + 12);
    if !value.is_empty() {
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(value.len() as u64, &mut message);
        message.extend_from_slice(value);
    }
    message
}

/// The same text in every run: 6 bits of entropy in each byte, as tokens and ids have.
fn filler(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..bytes).map(|_| random.alphanumeric() as u8).collect()
}

fn one_of(kind: Kind, allowed: &[Kind], option: &str) -> Result<(), String> {
    use clap::ValueEnum;
    let name =
        |kind: Kind| kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if allowed.contains(&kind) {
        return Ok(());
    }
    let names: Vec<_> = allowed.iter().map(|kind| name(*kind)).collect();
    Err(format!("{option} {} has no place here; take one of {}", name(kind), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::Cli, *};

    fn chosen(line: &str) -> Result<Choice, String> {
        let cli = Cli::try_parse_from(["towline-load"].into_iter().chain(line.split_whitespace()));
        choose(&cli.map_err(|error| error.to_string())?.command)
    }

    fn check_mistake(line: &str, expected: &str) {
        let error = chosen(line).unwrap_err();
        assert!(error.contains(expected), "{line}\n{error}");
    }

    #[test]
    fn mistakes_say_what_to_write_instead() {
        check_mistake("link --connect 127.0.0.1:7443", "add --ca FILE");
        check_mistake("link --connect 192.0.2.1:7443 --transport plain", "add --allow-remote");
        check_mistake("link --connect 127.0.0.1 --transport plain", "is not HOST:PORT");
        check_mistake("link --connect 127.0.0.1:0 --transport plain", "is not HOST:PORT");
        check_mistake("http --connect 127.0.0.1:1 --kind h1", "name a plain request with --path");
        check_mistake("http --connect 127.0.0.1:1 --kind h1 --path / --inflight 2", "one request in flight");
        check_mistake("http --connect 127.0.0.1:1 --kind mqtt", "take one of h1, h1-tls, h2c, h2");
        check_mistake("http --connect 127.0.0.1:1 --method Echo", "is not a path");
        check_mistake("http --connect 127.0.0.1:1 --rate 0", "operations per second");
        check_mistake("http --connect 127.0.0.1:1 --rate 5 --closed", "cannot be used with");
        check_mistake("http --connect 127.0.0.1:1 --duration 10", "is not a duration");
        check_mistake("http --connect 127.0.0.1:1 --duration 0s", "measures nothing");
        check_mistake("http --connect 127.0.0.1:1 -c 0", "opens nothing");
        check_mistake("mqtt --connect 127.0.0.1:1 --qos 3", "0..=2");
        check_mistake("mqtt --connect 127.0.0.1:1 --bytes 7", "8 bytes");
        check_mistake("mqtt --connect 127.0.0.1:1 --publishers 2 --subscribers 3", "not 2 and 3");
        check_mistake("compare --direct 127.0.0.1:1 --gateway 127.0.0.1:2 --via mqtt", "take one of link");
        check_mistake("worker", "started by towline-load itself");
    }

    #[test]
    fn a_remote_target_is_allowed_on_demand() {
        let choice = chosen("http --connect 192.0.2.1:80 --allow-remote").unwrap();
        assert_eq!(choice.plan.targets[0].address, "192.0.2.1:80".parse().unwrap());
    }

    #[test]
    fn compare_calls_both_by_the_same_request() {
        let choice =
            chosen("compare --direct 127.0.0.1:1 --gateway 127.0.0.1:2 --ca ca.pem --rounds 3 --bytes 10")
                .unwrap();
        let names: Vec<_> = choice.plan.targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!((names, choice.rounds), (vec!["direct", "gateway"], 3));
        let Work::Request(work) = choice.plan.work else { panic!("requests") };
        assert_eq!((work.path.as_str(), work.grpc), (METHOD_DEFAULT, true));
        assert_eq!(work.body[..2], [0x12, 10], "field 2, ten bytes");
        assert_eq!(work.body.len(), 12);
    }

    #[test]
    fn mqtt_patterns_have_fitting_defaults() {
        let counts = |pattern: &str| {
            let choice = chosen(&format!("mqtt --connect 127.0.0.1:1883 --pattern {pattern}")).unwrap();
            let Work::Mqtt(work) = choice.plan.work else { panic!("mqtt") };
            (work.publishers, work.subscribers, work.pairs)
        };
        assert_eq!(counts("fan-in"), (100, 1, false));
        assert_eq!(counts("fan-out"), (1, 100, false));
        assert_eq!(counts("pairs"), (100, 100, true));
    }
}
