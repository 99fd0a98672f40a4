//! Many topic filters: what each costs in memory, and what a match costs among so many.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use clap::Args;
use towline_protocols::mqtt::{
    Connect, ConnectProperties, Limits, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode,
    Subscribe, SubscribeProperties, Subscription, SubscriptionOptions, Text, Version, decode, encode,
};

use super::{
    CommonArgs, cores,
    ground::Ground,
    servers::{Listener, Server, Towline, mosquitto},
    table::{Report, TOWLINE, Table},
};

/// `filters`.
#[derive(Debug, Args)]
pub struct FiltersArgs {
    /// Filters of all clients at the end; there are looks at a thousandth, a quarter and a half of them too
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100_000..=10_000_000))]
    pub filters: u32,
    /// Clients that share them
    #[arg(short = 'c', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clients: u32,
    /// Messages at each look, each of which one filter matches
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..))]
    pub messages: u32,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Parts of the filters at which is looked.
const LOOKS: [f64; 4] = [0.001, 0.25, 0.5, 1.0];
/// Filters in one SUBSCRIBE.
const BATCH: usize = 200;
/// Messages that are on their way at one time: fewer than any broker drops.
const FLIGHT: u32 = 500;
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_micros(200);
const VERSION: Version = Version::V311;
/// One in so many filters ends with `+`.
const WILD: u32 = 10;

type Start = fn(&Ground, &FiltersArgs) -> Result<Server, String>;
const SERVERS: [(&str, Start); 2] = [(TOWLINE, towline), ("mosquitto", |ground, _| mosquitto(ground, None))];

/// Measures every server.
pub(super) fn run(args: &FiltersArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let columns = ["CPU us/message", "RssAnon B/filter", "CPU us/SUBSCRIBE'd filter"];
    let mut table = Table::new("Topic filters: a match, and memory, by their number", &columns);
    for (name, start) in SERVERS.iter().filter(|(name, _)| args.common.wants(name)) {
        args.common.say(&format!("filters: {name}"));
        let looks = cores::on(ground.cores.load, || measure(args, ground, *start));
        for (at, share) in LOOKS.iter().enumerate() {
            let figures =
                looks.as_ref().map(|looks| (looks[at].clone(), String::new())).map_err(String::clone);
            table.row(&format!("{:>8} filters", part(args, *share)), name, figures);
        }
    }
    table.note(format!(
        "QoS 0, one delivery a message, {} clients; one filter in {WILD} has a wildcard. A message's CPU time is all",
        args.clients
    ));
    table.note("of the server's: read, match, deliver. Memory: growth since before the first filter.");
    report.add(table);
    Ok(())
}

fn part(args: &FiltersArgs, share: f64) -> u32 {
    (f64::from(args.filters) * share) as u32
}

fn measure(args: &FiltersArgs, ground: &Ground, start: Start) -> Result<Vec<Vec<f64>>, String> {
    let server = start(ground, args)?;
    let heard = Arc::new(AtomicU64::new(0));
    let clients: Result<Vec<_>, _> =
        (0..args.clients).map(|at| Client::connect(server.address, &format!("meter-{at}"))).collect();
    let mut clients = clients?;
    let mut publisher = Client::connect(server.address, "publisher")?;
    for client in &mut clients {
        client.count_into(Arc::clone(&heard))?;
    }
    let before = server.sample()?;
    let (mut subscribed, mut spent) = (0, 0);
    let mut looks = Vec::new();
    for share in LOOKS {
        let (target, cpu) = (part(args, share), server.cpu_ns()?);
        while subscribed < target {
            let upto = target.min(subscribed + BATCH as u32);
            let at = subscribed as usize / BATCH % clients.len();
            clients[at].subscribe(subscribed..upto)?;
            subscribed = upto;
        }
        spent += server.cpu_ns()? - cpu;
        let grown = server.sample()?.anonymous_kib.saturating_sub(before.anonymous_kib) * 1024;
        let cpu = server.cpu_ns()?;
        publisher.publish_each(args.messages, subscribed, &heard)?;
        let messages = (server.cpu_ns()? - cpu) as f64 / f64::from(args.messages) / 1e3;
        let count = f64::from(subscribed);
        looks.push(vec![messages, grown as f64 / count, spent as f64 / count / 1e3]);
    }
    Ok(looks)
}

fn towline(ground: &Ground, args: &FiltersArgs) -> Result<Server, String> {
    let mut towline = Towline::default();
    let each = args.filters.div_ceil(args.clients) as usize + BATCH;
    towline.append(&format!("[mqtt]\nsubscriptions_max = {each}\n"));
    towline.listen(Listener { name: "plain", files: None, quic: false, extra: "" })?;
    towline.start(ground)
}

/// The filter of that number, or the topic that it alone matches.
fn name(number: u32, is_filter: bool) -> String {
    let (plant, line, meter) = (number / 10_000, number / 100 % 100, number % 100);
    let what = if is_filter && number.is_multiple_of(WILD) { "+" } else { "state" };
    format!("plant/{plant}/line/{line}/meter/{meter}/{what}")
}

/// A connection whose answers are waited for.
struct Client {
    stream: TcpStream,
    input: BytesMut,
    acknowledged: Arc<AtomicU64>,
    subscribes: u64,
}

impl Client {
    fn connect(address: SocketAddr, id: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(TIMEOUT))).map_err(failed)?;
        let acknowledged = Arc::default();
        let mut client = Self { stream, input: BytesMut::new(), acknowledged, subscribes: 0 };
        client.send(&Packet::Connect(Box::new(Connect {
            version: VERSION,
            is_bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: text(id)?,
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        })))?;
        match next(&mut client.stream, &mut client.input)? {
            Packet::Connack(ack) if ack.reason == ReasonCode::Success => Ok(client),
            other => Err(format!("in place of CONNACK came {other:?}")),
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), String> {
        let mut output = BytesMut::new();
        encode(packet, VERSION, &mut output).map_err(|error| error.to_string())?;
        self.stream.write_all(&output).map_err(failed)
    }

    /// From here on a thread reads, and counts messages and SUBACKs.
    fn count_into(&mut self, heard: Arc<AtomicU64>) -> Result<(), String> {
        let mut stream = self.stream.try_clone().map_err(failed)?;
        let acknowledged = Arc::clone(&self.acknowledged);
        let mut input = std::mem::take(&mut self.input);
        std::thread::spawn(move || {
            // The end of the measurement is the end of the connection.
            while let Ok(packet) = next(&mut stream, &mut input) {
                match packet {
                    Packet::Publish(_) => _ = heard.fetch_add(1, Ordering::Relaxed),
                    Packet::Suback(ack) if ack.reasons.iter().all(|reason| !reason.is_error()) => {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => return,
                }
            }
        });
        Ok(())
    }

    fn subscribe(&mut self, numbers: std::ops::Range<u32>) -> Result<(), String> {
        let options = SubscriptionOptions::default();
        let subscription =
            |number| Ok::<_, String>(Subscription { filter: text(&name(number, true))?, options });
        let subscriptions = numbers.map(subscription).collect::<Result<_, _>>()?;
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            properties: SubscribeProperties::default(),
            subscriptions,
        }))?;
        self.subscribes += 1;
        wait(&self.acknowledged, self.subscribes, "SUBACK without errors")
    }

    fn publish_each(&mut self, messages: u32, filters: u32, heard: &AtomicU64) -> Result<(), String> {
        let already = heard.load(Ordering::Relaxed);
        let mut output = BytesMut::new();
        let mut random = fastrand::Rng::with_seed(u64::from(filters));
        for message in 1..=messages {
            let topic = text(&name(random.u32(..filters), false))?;
            let packet = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic,
                packet_id: None,
                properties: PublishProperties::default(),
                payload: Bytes::from_static(&[b'.'; 64]),
            };
            encode(&Packet::Publish(Box::new(packet)), VERSION, &mut output)
                .map_err(|error| error.to_string())?;
            if message % FLIGHT == 0 || message == messages {
                self.stream.write_all(&output).map_err(failed)?;
                output.clear();
                wait(heard, already + u64::from(message), "messages")?;
            }
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The thread that reads ends by it.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn wait(count: &AtomicU64, wanted: u64, what: &str) -> Result<(), String> {
    let deadline = Instant::now() + TIMEOUT;
    while count.load(Ordering::Relaxed) < wanted {
        if Instant::now() > deadline {
            let came = count.load(Ordering::Relaxed);
            return Err(format!("{came} of {wanted} {what} came in {TIMEOUT:?}"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn next(stream: &mut TcpStream, input: &mut BytesMut) -> Result<Packet, String> {
    let mut chunk = [0; 8192];
    loop {
        if let Some(packet) = decode(input, VERSION, &Limits::default()).map_err(|error| error.to_string())? {
            return Ok(packet);
        }
        match stream.read(&mut chunk).map_err(failed)? {
            0 => return Err("the server closed the connection".into()),
            read => input.extend_from_slice(&chunk[..read]),
        }
    }
}

fn text(value: &str) -> Result<Text, String> {
    Text::try_from(value).map_err(|error| format!("{error:?}"))
}

fn failed(error: std::io::Error) -> String {
    error.to_string()
}
