//! What the size of TLS records does: time to the first usable byte on a slow link, and bulk throughput.

mod link;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::Duration,
};

use clap::Args;
use rustls::{ClientConnection, crypto::aws_lc_rs::kx_group};

use self::link::{Link, PACKET, Packet};
use super::{
    CommonArgs, cores,
    ground::Ground,
    handshakes::{Offer, Shaker, provider},
    servers::{Answer, Listener, Own, Server, Towline, haproxy, nginx, own},
    table::{Report, TOWLINE, Table},
};
use crate::clock;

/// `records`.
#[derive(Debug, Args)]
pub struct RecordsArgs {
    /// Size of the answer on the slow links
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub bytes: u32,
    /// Size of one bulk answer, MB; a server sends it again and again for --duration
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub bulk: u32,
    /// How long each server sends in bulk, each time
    #[arg(long, default_value = "2s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Times that each server sends in bulk, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Slow mobile links: GPRS, EDGE, a throttled tariff.
const LINKS: [(&str, Link); 3] = [
    ("64 kbit/s, 600 ms", Link { bits_per_second: 64_000, round_trip: Duration::from_millis(600) }),
    ("128 kbit/s, 400 ms", Link { bits_per_second: 128_000, round_trip: Duration::from_millis(400) }),
    ("240 kbit/s, 300 ms", Link { bits_per_second: 240_000, round_trip: Duration::from_millis(300) }),
];

/// Keys of a listener.
const FIXED_SMALL: &str = r#"record_size = { first = 1300, first_bytes = "3GiB", idle = "1s" }"#;
const FIXED_LARGE: &str = r#"record_size = { first = 16384, first_bytes = "3GiB", idle = "1s" }"#;

/// One server with one size of records.
struct Seat {
    name: &'static str,
    server: Result<Server, String>,
    bulk: Bulk,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bulk {
    bytes: u64,
    cpu_ns: u64,
    wall_ns: u64,
}

/// Measures every server.
pub(super) fn run(args: &RecordsArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let backend = own(ground, Own::Backend, ground.cores.load)?;
    let mut seats = seats(ground, backend.address);
    slow_links(args, &seats, report);
    for round in 1..=args.rounds {
        args.common.say(&format!("records: bulk, round {round} of {}", args.rounds));
        seats.iter_mut().try_for_each(|seat| seat.bulk_round(args, ground))?;
    }
    let mut table =
        Table::new("Bulk through each server on one core", &["CPU us/MB", "MB/s", "server busy %"]);
    for seat in seats {
        let name = seat.name;
        table.row("bulk", name, seat.bulk_figures());
    }
    table.note(
        "From one HTTP/1.1 backend on the load's core to a TLS client, AES-256-GCM or what they agree on.",
    );
    report.add(table);
    Ok(())
}

fn seats(ground: &Ground, backend: SocketAddr) -> Vec<Seat> {
    let files = &ground.certificates.ecdsa;
    let answer = Answer::Backend(backend);
    let towline = |extra| {
        let mut towline = Towline::default();
        towline.listen(Listener { name: "edge", files: Some(files), quic: false, extra })?;
        towline.forward(backend);
        towline.start(ground)
    };
    let seat = |name, server| Seat { name, server, bulk: Bulk::default() };
    vec![
        seat(TOWLINE, towline("")),
        seat("towline, 1300 B", towline(FIXED_SMALL)),
        seat("towline, 16 KiB", towline(FIXED_LARGE)),
        seat("nginx, 16 KiB", nginx(ground, files, answer, "")),
        seat("nginx, 1300 B", nginx(ground, files, answer, "ssl_buffer_size 1300;")),
        seat("haproxy, 16 KiB", haproxy(ground, files, answer, "", "")),
        seat("haproxy, dynamic", haproxy(ground, files, answer, "tune.ssl.maxrecord 1300", "")),
    ]
}

fn slow_links(args: &RecordsArgs, seats: &[Seat], report: &mut Report) {
    let columns = ["first byte ms", "16 KiB ms", "all ms", "held back ms", "wire bytes"];
    let title = format!("An answer of {} bytes on a slow link", args.bytes);
    let mut table = Table::new(title, &columns);
    let answers: Vec<_> = seats.iter().map(|seat| (seat.name, packets(args, seat))).collect();
    for (case, link) in LINKS.iter().filter(|(case, _)| args.common.wants(case)) {
        for (name, packets) in &answers {
            let figures = packets.as_ref().map_err(String::clone).map(|packets| {
                let usable = link.deliver(packets);
                let wire: usize = packets.iter().map(|packet| packet.length).sum();
                let times = [usable.first_ms, usable.page_ms, usable.all_ms, usable.held_ms];
                (times.into_iter().chain([wire as f64]).collect(), String::new())
            });
            table.row(case, name, figures);
        }
    }
    table.note(
        "Records as the server really sends them; the link is simulated: packets of 1500 bytes one by one.",
    );
    table.note("held back: mean time that a byte lay at the receiver before the rest of its record came.");
    report.add(table);
}

/// The packets of one answer's body, as a fresh connection sends it.
fn packets(args: &RecordsArgs, seat: &Seat) -> Result<Vec<Packet>, String> {
    let server = seat.server.as_ref().map_err(String::clone)?;
    fetch(server.address, args.bytes).map_err(|error| error.to_string())
}

fn fetch(address: SocketAddr, bytes: u32) -> io::Result<Vec<Packet>> {
    let (mut socket, mut session) = shaker(address)?.connect()?;
    ask(&mut socket, &mut session, bytes)?;
    let mut wire = Vec::new();
    socket.read_to_end(&mut wire)?;
    let mut answer = Vec::new();
    let mut packets = Vec::new();
    for piece in wire.chunks(PACKET) {
        take(&mut session, piece, &mut answer)?;
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| answer.len() - at - 4);
        packets.push(Packet { length: piece.len(), usable: body.unwrap_or(0) });
    }
    let body = packets.last().map_or(0, |packet| packet.usable);
    let whole = body >= bytes as usize;
    whole.then_some(packets).ok_or_else(|| io::Error::other(format!("{body} of {bytes} bytes came")))
}

fn shaker(address: SocketAddr) -> io::Result<Shaker> {
    let provider = provider(&[kx_group::X25519]);
    Shaker::new(&Offer { address, alpn: b"http/1.1", provider, resume: false, early: false })
        .map_err(io::Error::other)
}

/// The connection ends with the answer.
fn ask(socket: &mut impl Write, session: &mut ClientConnection, bytes: u32) -> io::Result<()> {
    let request = format!("GET /bytes/{bytes} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    session.writer().write_all(request.as_bytes())?;
    while session.wants_write() {
        session.write_tls(socket)?;
    }
    Ok(())
}

/// Gives records to the session and appends what they hold.
fn take(session: &mut ClientConnection, mut records: &[u8], content: &mut Vec<u8>) -> io::Result<()> {
    while !records.is_empty() {
        session.read_tls(&mut records)?;
        let ready = session.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read();
        let before = content.len();
        content.resize(before + ready, 0);
        session.reader().read_exact(&mut content[before..])?;
    }
    Ok(())
}

impl Seat {
    fn bulk_round(&mut self, args: &RecordsArgs, ground: &Ground) -> Result<(), String> {
        let Ok(server) = &self.server else { return Ok(()) };
        let (cpu, begun) = (server.cpu_ns()?, clock::now());
        let until = begun + args.duration.as_nanos() as u64;
        let bytes = cores::on(ground.cores.load, || download(server.address, args.bulk * 1_000_000, until));
        self.bulk.bytes += bytes.map_err(|error| format!("{}: {error}", self.name))?;
        self.bulk.cpu_ns += server.cpu_ns()? - cpu;
        self.bulk.wall_ns += clock::now() - begun;
        Ok(())
    }

    fn bulk_figures(self) -> Result<(Vec<f64>, String), String> {
        self.server?;
        let Bulk { bytes, cpu_ns, wall_ns } = self.bulk;
        let (megabytes, wall) = (bytes as f64 / 1e6, wall_ns.max(1) as f64);
        let cpu_us = cpu_ns as f64 / 1e3 / megabytes.max(1e-9);
        Ok((vec![cpu_us, megabytes * 1e9 / wall, cpu_ns as f64 * 100.0 / wall], String::new()))
    }
}

/// Fetches answers, one connection each, until `until`; the last one is read to its end.
fn download(address: SocketAddr, bytes: u32, until: u64) -> io::Result<u64> {
    let shaker = shaker(address)?;
    let (mut total, mut buffer) = (0, vec![0; 256 * 1024]);
    while clock::now() < until {
        let (mut socket, mut session) = shaker.connect()?;
        ask(&mut socket, &mut session, bytes)?;
        loop {
            let read = socket.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            // Not decrypted: the client must not be what limits the server.
            total += read as u64;
        }
    }
    Ok(total)
}
