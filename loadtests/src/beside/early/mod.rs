//! Round trips to the first answer of a fresh connection: full handshake, resumption, early data.

mod link;
mod relay;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;
use rustls::{ClientConnection, crypto::aws_lc_rs::kx_group};

use super::{
    CommonArgs,
    ground::Ground,
    handshakes::{Offer, Shaker, provider},
    servers::{Answer, Listener, Own, Server, Towline, haproxy, nginx, own},
    table::{Report, TOWLINE, Table},
};

/// `early`.
#[derive(Debug, Args)]
pub struct EarlyArgs {
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The client writes only when the server has been silent for so long: on loopback a server that has anything
/// to say has said it by then, and what it says waits for no word of the client.
const SILENCE: Duration = Duration::from_millis(400);
/// A busy machine can only make a server look slower, so the best of a few counts.
const TRIALS: usize = 3;
const REQUEST: &[u8] = b"GET /bytes/100 HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Full,
    Resumed,
    Early,
}

const STARTS: [(&str, Start); 3] =
    [("full handshake", Start::Full), ("resumed", Start::Resumed), ("early data", Start::Early)];

/// What a connection took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Trips {
    /// TCP's handshake included.
    round_trips: u32,
    refused: bool,
}

/// Counts for every server.
pub(super) fn run(args: &EarlyArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let backend = own(ground, Own::Backend, ground.cores.load)?;
    let servers = servers(ground, backend.address);
    let mut table = Table::new("Round trips to the first answer, TCP's handshake included", &["round trips"]);
    for (case, start) in STARTS.iter().filter(|(case, _)| args.common.wants(case)) {
        for (name, server) in &servers {
            args.common.say(&format!("early: {case}, {name}"));
            table.row(case, name, count(server, *start));
        }
    }
    if args.common.wants("link") {
        args.common.say("early: link");
        link_rows(ground, &servers[0].1, &mut table);
    }
    table.note("Counted, not timed: the client sends its next flight only when the server has gone silent.");
    table.note(
        "link: the SDK through a relay that delays by 150 ms each way; time to the answer in round trips.",
    );
    report.add(table);
    Ok(())
}

fn servers(ground: &Ground, backend: SocketAddr) -> [(&'static str, Result<Server, String>); 3] {
    let (files, answer) = (&ground.certificates.ecdsa, Answer::Backend(backend));
    let towline = || {
        let mut towline = Towline::default();
        towline.listen(Listener { name: "edge", files: Some(files), quic: false, extra: "" })?;
        towline.forward(backend);
        towline.start(ground)
    };
    [
        (TOWLINE, towline()),
        ("nginx", nginx(ground, files, answer, "ssl_early_data on;")),
        ("haproxy", haproxy(ground, files, answer, "", "allow-0rtt")),
    ]
}

fn link_rows(ground: &Ground, server: &Result<Server, String>, table: &mut Table) {
    let roots = std::fs::read(&ground.certificates.ca).map_err(|error| error.to_string());
    let counted = server.as_ref().map_err(String::clone).and_then(|server| {
        let (first, again, early) = link::round_trips(server.address, roots?)?;
        Ok([(first, ""), (again, if early { "early data" } else { "no early data" })])
    });
    for (at, case) in ["link, first connection", "link, after a break"].into_iter().enumerate() {
        let row = counted.as_ref().map(|rows| (vec![rows[at].0], rows[at].1.to_owned()));
        table.row(case, TOWLINE, row.map_err(String::clone));
    }
}

fn count(server: &Result<Server, String>, start: Start) -> Result<(Vec<f64>, String), String> {
    let address = server.as_ref().map_err(String::clone)?.address;
    let best = (0..TRIALS).map(|_| connect(address, start)).collect::<io::Result<Vec<_>>>();
    let best = best.map_err(|error| error.to_string())?.into_iter().min();
    let best = best.ok_or("no trial")?;
    let note = if best.refused { "the server refused the early data" } else { "" };
    Ok((vec![f64::from(best.round_trips)], note.to_owned()))
}

fn connect(address: SocketAddr, start: Start) -> io::Result<Trips> {
    let provider = provider(&[kx_group::X25519]);
    let resume = start != Start::Full;
    let early = start == Start::Early;
    let offer = Offer { address, alpn: b"http/1.1", provider, resume, early };
    let shaker = Shaker::new(&offer).map_err(io::Error::other)?;
    if resume {
        shaker.connect()?;
    }
    let (mut socket, mut session) = shaker.begin()?;
    socket.set_read_timeout(Some(SILENCE))?;
    let mut early = early && begin_early(&mut session)?;
    if !early {
        session.writer().write_all(REQUEST)?;
    }
    let mut trips = Trips { round_trips: 1, refused: start == Start::Early && !early };
    while send(&mut socket, &mut session)? {
        trips.round_trips += 1;
        if listen(&mut socket, &mut session)? {
            return Ok(trips);
        }
        if early && !session.is_handshaking() && !session.is_early_data_accepted() {
            (early, trips.refused) = (false, true);
            session.writer().write_all(REQUEST)?;
        }
    }
    Err(io::Error::other("no answer"))
}

/// False if the ticket allows none.
fn begin_early(session: &mut ClientConnection) -> io::Result<bool> {
    match session.early_data() {
        Some(mut early) => early.write_all(REQUEST).map(|()| true),
        None => Ok(false),
    }
}

/// Sends all that there is; false if there is nothing.
fn send(socket: &mut TcpStream, session: &mut ClientConnection) -> io::Result<bool> {
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight)?;
    }
    socket.write_all(&flight)?;
    Ok(!flight.is_empty())
}

/// Reads until the answer has begun, or the server is silent; whether it is there.
fn listen(socket: &mut TcpStream, session: &mut ClientConnection) -> io::Result<bool> {
    let mut answer = [0; 64];
    loop {
        match session.read_tls(socket) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        session.process_new_packets().map_err(io::Error::other)?;
        if matches!(session.reader().read(&mut answer), Ok(1..)) {
            return Ok(true);
        }
    }
}
