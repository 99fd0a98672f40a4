//! What a TLS 1.3 handshake costs the server, full and resumed, by certificate and key exchange.

mod client;
mod tickets;

use std::{sync::Arc, time::Duration};

use clap::Args;
use rustls::crypto::{CryptoProvider, aws_lc_rs::kx_group};
use towline_crypto::{Provider, ShangMi};

pub(super) use self::client::{Crowd, Made, Offer, Shaker, provider};
use super::{
    CommonArgs,
    certificates::Files,
    cores,
    ground::Ground,
    servers::{Answer, Listener, Server, Towline, haproxy, nginx, openssl_shangmi},
    table::{Report, TOWLINE, Table},
};
use crate::clock;

/// `handshakes`.
#[derive(Debug, Args)]
pub struct HandshakesArgs {
    /// Times that each server is asked in each case, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each time
    #[arg(long, default_value = "2s", value_parser = crate::cli::duration)]
    pub duration: Duration,
    /// Handshakes at one time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Long enough for a handshake of every thread.
const WARM_UP: Duration = Duration::from_millis(200);
const HTTP1: &[u8] = b"http/1.1";
/// Clients with this name may be shown a delegated certificate.
const LINK: &[u8] = b"towline/1";

/// What a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Ecdsa,
    Rsa,
    Sm2,
}

/// The servers, each with the certificate that it shows.
struct Stage(Vec<(Shows, &'static str, Result<Server, String>)>);

/// What is offered in one case.
struct Case {
    name: &'static str,
    shows: Shows,
    alpn: &'static [u8],
    provider: Arc<CryptoProvider>,
    peers: bool,
}

/// One server in one case, and what it has cost so far.
struct Seat<'a> {
    case: String,
    name: &'static str,
    server: Result<&'a Server, String>,
    offer: Option<Offer>,
    crowd: Option<Crowd>,
    made: Made,
    cpu_ns: u64,
    wall_ns: u64,
}

/// Measures every case.
pub(super) fn run(args: &HandshakesArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let stage = Stage::start(ground);
    let mut seats = Vec::new();
    let cases = cases();
    for case in &cases {
        for resume in [false, true] {
            let name = format!("{}, {}", case.name, if resume { "resumed" } else { "full" });
            if args.common.wants(&name) {
                seats.extend(stage.seats(case, resume, name));
            }
        }
    }
    for round in 1..=args.rounds {
        args.common.say(&format!("handshakes: round {round} of {}", args.rounds));
        seats.iter_mut().try_for_each(|seat| seat.round(args, ground))?;
    }
    let columns = ["CPU us/handshake", "handshakes/s", "server busy %"];
    let mut table = Table::new("TLS 1.3 handshakes, server on one core, clients on another", &columns);
    for seat in seats {
        let (case, name) = (seat.case.clone(), seat.name);
        table.row(&case, name, seat.figures());
    }
    table.note(
        "accept, handshake, first ticket, close; no request. User and system time of the server's process.",
    );
    report.add(table);
    Ok(())
}

fn cases() -> Vec<Case> {
    let x25519 = provider(&[kx_group::X25519]);
    let hybrid = provider(&[kx_group::X25519MLKEM768]);
    let case = |name, shows, alpn, provider: &Arc<CryptoProvider>, peers| Case {
        name,
        shows,
        alpn,
        provider: provider.clone(),
        peers,
    };
    vec![
        case("ECDSA P-256", Shows::Ecdsa, HTTP1, &x25519, true),
        case("RSA-2048", Shows::Rsa, HTTP1, &x25519, true),
        case("RSA-2048, delegated", Shows::Rsa, LINK, &x25519, false),
        case("ECDSA P-256, hybrid", Shows::Ecdsa, HTTP1, &hybrid, false),
        case("RSA-2048, delegated, hybrid", Shows::Rsa, LINK, &hybrid, false),
        case("ShangMi", Shows::Sm2, HTTP1, &ShangMi::default().crypto(), true),
    ]
}

impl Stage {
    fn start(ground: &Ground) -> Self {
        let certificates = &ground.certificates;
        let mut servers = Vec::new();
        for (shows, files) in [(Shows::Ecdsa, &certificates.ecdsa), (Shows::Rsa, &certificates.rsa)] {
            servers.push((shows, TOWLINE, start_towline(ground, files, "")));
            servers.push((shows, "nginx", nginx(ground, files, Answer::Empty, "")));
            servers.push((shows, "haproxy", haproxy(ground, files, Answer::Empty, "", "")));
        }
        let files = &certificates.sm2;
        servers.push((Shows::Sm2, TOWLINE, start_towline(ground, files, "crypto = [\"shangmi\"]")));
        servers.push((Shows::Sm2, "openssl", openssl_shangmi(ground, files)));
        Self(servers)
    }

    fn seats<'a>(&'a self, case: &'a Case, resume: bool, name: String) -> impl Iterator<Item = Seat<'a>> {
        let there = self.0.iter().filter(|(shows, ..)| *shows == case.shows);
        there.filter(|(_, server_name, _)| case.peers || *server_name == TOWLINE).map(
            move |(_, server_name, server)| {
                let offer = |server: &Server| Offer {
                    address: server.address,
                    alpn: case.alpn,
                    provider: case.provider.clone(),
                    resume,
                    early: false,
                };
                let address = server.as_ref().ok().map(offer);
                Seat::new(&name, server_name, server.as_ref(), address)
            },
        )
    }
}

fn start_towline(ground: &Ground, files: &Files, extra: &str) -> Result<Server, String> {
    let mut towline = Towline::default();
    towline.listen(Listener { name: "edge", files: Some(files), quic: false, extra })?;
    towline.start(ground)
}

impl<'a> Seat<'a> {
    fn new(
        case: &str,
        name: &'static str,
        server: Result<&'a Server, &String>,
        offer: Option<Offer>,
    ) -> Self {
        let (case, server) = (case.to_owned(), server.map_err(String::clone));
        Self { case, name, server, offer, crowd: None, made: Made::default(), cpu_ns: 0, wall_ns: 0 }
    }

    fn round(&mut self, args: &HandshakesArgs, ground: &Ground) -> Result<(), String> {
        let (Ok(server), Some(offer)) = (&self.server, &self.offer) else { return Ok(()) };
        let crowd = match self.crowd.take() {
            Some(crowd) => crowd,
            None => prepared(args, ground, offer)?,
        };
        let (cpu, begun) = (server.cpu_ns()?, clock::now());
        let until = begun + args.duration.as_nanos() as u64;
        self.made.merge(cores::on(ground.cores.load, || crowd.run(until))?);
        self.crowd = Some(crowd);
        self.cpu_ns += server.cpu_ns()? - cpu;
        self.wall_ns += clock::now() - begun;
        Ok(())
    }

    fn figures(self) -> Result<(Vec<f64>, String), String> {
        self.server?;
        let count = self.made.full + self.made.resumed;
        if count == 0 {
            return Err(self.made.failure.unwrap_or_else(|| "no handshake in time".into()));
        }
        let per = |ns: u64| ns as f64 / 1000.0 / count as f64;
        let busy = self.cpu_ns as f64 * 100.0 / self.wall_ns.max(1) as f64;
        let rate = count as f64 * clock::SECOND as f64 / self.wall_ns.max(1) as f64;
        let resume = self.offer.is_some_and(|offer| offer.resume);
        Ok((vec![per(self.cpu_ns), rate, busy], self.made.describe(resume)))
    }
}

/// Clients that have tickets, and a server that has warmed up.
fn prepared(args: &HandshakesArgs, ground: &Ground, offer: &Offer) -> Result<Crowd, String> {
    let crowd = Crowd::new(offer, usize::from(args.threads))?;
    let until = clock::now() + WARM_UP.as_nanos() as u64;
    cores::on(ground.cores.load, || crowd.run(until))?;
    Ok(crowd)
}

impl Made {
    /// What was agreed on, and what did not go as asked.
    fn describe(&self, resume: bool) -> String {
        let named = |name: Option<String>| name.unwrap_or_else(|| "-".into());
        let suite = named(self.suite.map(|suite| format!("{suite:?}")));
        let mut text = format!("{}, {suite}", named(self.group.map(|group| format!("{group:?}"))));
        if !resume {
            text += &format!(", {}", named(self.scheme.map(|scheme| format!("{scheme:?}"))));
        }
        if resume && self.full > 0 {
            text += &format!(", only {} of {} resumed", self.resumed, self.full + self.resumed);
        }
        if self.failed > 0 {
            text += &format!(", {} failed: {}", self.failed, self.failure.as_deref().unwrap_or_default());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, NamedGroup, SignatureScheme};

    use super::*;

    #[test]
    fn a_description_says_what_did_not_go_as_asked() {
        let made = Made {
            full: 2,
            resumed: 900,
            group: Some(NamedGroup::X25519),
            scheme: Some(SignatureScheme::ECDSA_NISTP256_SHA256),
            suite: Some(CipherSuite::TLS13_AES_128_GCM_SHA256),
            ..Made::default()
        };
        assert_eq!(made.describe(false), "X25519, TLS13_AES_128_GCM_SHA256, ECDSA_NISTP256_SHA256");
        assert_eq!(made.describe(true), "X25519, TLS13_AES_128_GCM_SHA256, only 900 of 902 resumed");
        let broken = Made { full: 0, failed: 3, failure: Some("alert".into()), ..made };
        assert_eq!(broken.describe(true), "X25519, TLS13_AES_128_GCM_SHA256, 3 failed: alert");
    }
}
