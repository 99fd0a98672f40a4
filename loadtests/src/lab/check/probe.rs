//! Packets that tell how long they took, and floods that show the rate.
//!
//! ```text
//!  phone                                    edge
//!    | PROBE number, sent  ------------------> |  one by one, then
//!    | <------ the same, and when it was here  |
//!    | FLOOD FLOOD FLOOD ... ----------------> |  measures, then
//!    | TURN ---------------------------------> |
//!    | <---------------- FLOOD FLOOD FLOOD ... |
//! ```

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::lab::model::{EDGE, Way};

const PORT: u16 = 7100;
/// Of a probe's payload.
pub(super) const PROBE_BYTES: usize = 32;
/// IPv4 and UDP.
pub(super) const HEADERS: usize = 28;
const FLOOD_BYTES: usize = 1000;
/// How much of the rate a flood sends.
const FLOOD_SHARE: f64 = 1.5;
const FLOOD_TIME: Duration = Duration::from_secs(3);
/// Of a slow link: fewer would say nothing.
const FLOOD_PACKETS: u32 = 20;
/// Longest time without a packet after which nothing more comes.
const SILENCE: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// A TURN may be lost.
const TURNS: usize = 10;

const PROBE: u8 = 1;
const FLOOD: u8 = 2;
const TURN: u8 = 3;

/// What arrived of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flood {
    first: Option<Instant>,
    last: Option<Instant>,
    packets: u64,
}

impl Flood {
    fn count(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.packets += 1;
    }

    /// Bits of IP packets per second between the first and the last that arrived.
    pub(super) fn rate_bps(&self) -> f64 {
        let Some((first, last)) = self.first.zip(self.last).filter(|(first, last)| last > first) else {
            return 0.0;
        };
        (self.packets - 1) as f64 * ((FLOOD_BYTES + HEADERS) * 8) as f64 / (last - first).as_secs_f64()
    }
}

/// What is sent, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The clock of both ends begins here.
    pub(super) began: Instant,
    pub(super) time: Duration,
    pub(super) interval: Duration,
    pub(super) up: Way,
    pub(super) down: Way,
}

/// What the phone saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Phone {
    pub(super) sent: u64,
    pub(super) answers: u64,
    /// Means, milliseconds.
    pub(super) up_ms: f64,
    pub(super) down_ms: f64,
    pub(super) flood: Flood,
}

impl Phone {
    pub(super) fn run(plan: &Plan) -> Result<Self, String> {
        let failed = |error: io::Error| format!("probes: {error}");
        let socket = bound(0).map_err(failed)?;
        socket.connect((EDGE, PORT)).map_err(failed)?;
        let mut phone = Self::default();
        phone.probe(plan, &socket).map_err(failed)?;
        flood(&socket, None, &plan.up);
        thread::sleep(plan.up.queue + 2 * (plan.up.delay + plan.down.delay));
        phone.be_flooded(&socket);
        let answers = phone.answers.max(1) as f64;
        (phone.up_ms, phone.down_ms) = (phone.up_ms / answers, phone.down_ms / answers);
        Ok(phone)
    }

    fn probe(&mut self, plan: &Plan, socket: &UdpSocket) -> io::Result<()> {
        let started = Instant::now();
        let mut last = started;
        socket.set_read_timeout(Some(plan.interval.min(READ_TIMEOUT)))?;
        while started.elapsed() < plan.time || last.elapsed() < SILENCE {
            let due = started + self.sent as u32 * plan.interval;
            if Instant::now() >= due && started.elapsed() < plan.time {
                let mut probe = [0; PROBE_BYTES];
                probe[0] = PROBE;
                probe[8..16].copy_from_slice(&nanos(plan.began).to_be_bytes());
                // A full buffer loses it, as a link would.
                let _ = socket.send(&probe);
                self.sent += 1;
                last = Instant::now();
            }
            let mut answer = [0; PROBE_BYTES];
            if socket.recv(&mut answer).is_ok_and(|length| length == PROBE_BYTES) && answer[0] == PROBE {
                let (sent, there) = (time_at(&answer, 8), time_at(&answer, 16));
                self.up_ms += there.saturating_sub(sent) as f64 / 1e6;
                self.down_ms += nanos(plan.began).saturating_sub(there) as f64 / 1e6;
                self.answers += 1;
            }
        }
        Ok(())
    }

    fn be_flooded(&mut self, socket: &UdpSocket) {
        for _ in 0..TURNS {
            let _ = socket.send(&[TURN]);
        }
        let mut last = Instant::now();
        let mut packet = [0; FLOOD_BYTES];
        while last.elapsed() < SILENCE {
            if socket.recv(&mut packet).is_ok_and(|length| length == FLOOD_BYTES) {
                last = Instant::now();
                self.flood.count(last);
            }
        }
    }
}

/// What the edge saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edge {
    pub(super) probes: u64,
    pub(super) flood: Flood,
}

impl Edge {
    pub(super) fn run(began: Instant, down: Way, ends: &AtomicBool) -> Result<Self, String> {
        let socket = bound(PORT).map_err(|error| format!("the far end of probes: {error}"))?;
        let mut edge = Self::default();
        let mut had_turn = false;
        let mut packet = [0; FLOOD_BYTES];
        while !ends.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
            match packet[0] {
                PROBE if length == PROBE_BYTES => {
                    edge.probes += 1;
                    packet[16..24].copy_from_slice(&nanos(began).to_be_bytes());
                    let _ = socket.send_to(&packet[..PROBE_BYTES], from);
                }
                FLOOD if !had_turn => edge.flood.count(Instant::now()),
                TURN if !had_turn => {
                    had_turn = true;
                    flood(&socket, Some(from), &down);
                }
                _ => {}
            }
        }
        Ok(edge)
    }
}

fn flood(socket: &UdpSocket, to: Option<SocketAddr>, way: &Way) {
    let mut packet = [0; FLOOD_BYTES];
    packet[0] = FLOOD;
    let started = Instant::now();
    let time = FLOOD_TIME.max(FLOOD_PACKETS * way.transmission(FLOOD_BYTES + HEADERS));
    let per_second = FLOOD_SHARE * way.rate_bps as f64 / ((FLOOD_BYTES + HEADERS) * 8) as f64;
    let mut sent = 0.0;
    while started.elapsed() < time {
        while sent < started.elapsed().as_secs_f64() * per_second {
            let _ = match to {
                Some(to) => socket.send_to(&packet, to),
                None => socket.send(&packet),
            };
            sent += 1.0;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn bound(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(socket)
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn time_at(packet: &[u8; PROBE_BYTES], at: usize) -> u64 {
    packet[at..at + 8].iter().fold(0, |time, byte| time << 8 | u64::from(*byte))
}
