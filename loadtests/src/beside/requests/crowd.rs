//! One thread's connections to one server, driven by epoll: what a client costs must not hide what the server
//! costs, since both sides of it share a core with the backend.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::client::Client;
use crate::{clock, latencies::Latencies};

/// What a crowd connects to.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// `None` speaks plaintext.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// What came of a run.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) requests: u64,
    /// From the moment that a request was due.
    pub(super) latency: Latencies,
    pub(super) nanos: u64,
}

/// Connections, and what they wait for.
pub(super) struct Crowd {
    epoll: OwnedFd,
    lines: Vec<Line>,
    scratch: Vec<u8>,
}

/// One connection.
struct Line {
    socket: TcpStream,
    session: Option<ClientConnection>,
    client: Client,
    input: BytesMut,
    output: BytesMut,
    waits_for_room: bool,
}

/// How fast requests are sent.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// So many in flight on each connection.
    Closed(usize),
    /// So many per second over all connections, whatever the answers do.
    Open(f64),
}

/// The place of the timer among the connections.
const TIMER: u64 = u64::MAX;
const READ_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 256;
/// An answer that has not come by then never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Crowd {
    /// Opens a connection for each client, up to the end of its handshake.
    pub(super) fn open(target: &Target, clients: impl Iterator<Item = Client>) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{}: {error}", target.address);
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut crowd = Self { epoll, lines: Vec::new(), scratch: vec![0; READ_BYTES] };
        for client in clients {
            let line = Line::open(target, client).map_err(failed)?;
            let data = EventData::new_u64(crowd.lines.len() as u64);
            epoll::add(&crowd.epoll, &line.socket, data, EventFlags::IN).map_err(|e| failed(e.into()))?;
            crowd.lines.push(line);
        }
        Ok(crowd)
    }

    /// Sends requests for `duration` and waits for all answers.
    pub(super) fn run(&mut self, pace: Pace, duration: Duration) -> Result<Counted, String> {
        let begun = clock::now();
        let mut run = Run { until: begun + duration.as_nanos() as u64, counted: Counted::default() };
        match pace {
            Pace::Closed(in_flight) => self.closed(in_flight, &mut run)?,
            Pace::Open(rate) => self.paced(rate, begun, &mut run)?,
        }
        run.counted.nanos = clock::now() - begun;
        Ok(run.counted)
    }

    fn closed(&mut self, in_flight: usize, run: &mut Run) -> Result<(), String> {
        for place in 0..self.lines.len() {
            let now = clock::now();
            (0..in_flight).for_each(|_| self.lines[place].request(now));
            self.flush(place)?;
        }
        self.serve(run, true, |_, _| Ok(()))
    }

    /// Requests are due at even distances and go to one connection after the other.
    fn paced(&mut self, rate: f64, begun: u64, run: &mut Run) -> Result<(), String> {
        let timer = Ticker::start(&self.epoll, rate).map_err(|error| format!("timer: {error}"))?;
        let mut sent = 0_u64;
        let until = run.until;
        self.serve(run, false, move |crowd, now| {
            timer.rearm();
            loop {
                let due = begun + (sent as f64 / rate * clock::SECOND as f64) as u64;
                if due > now || due >= until {
                    return Ok(());
                }
                let place = (sent % crowd.lines.len() as u64) as usize;
                crowd.lines[place].request(due);
                crowd.flush(place)?;
                sent += 1;
            }
        })
    }

    fn serve(
        &mut self,
        run: &mut Run,
        again: bool,
        mut on_turn: impl FnMut(&mut Self, u64) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = clock::now();
            on_turn(self, now)?;
            if now >= run.until {
                let open: usize = self.lines.iter().map(|line| line.client.open()).sum();
                if open == 0 {
                    return Ok(());
                }
                if now > run.until + ANSWER_TIMEOUT.as_nanos() as u64 {
                    return Err(format!("{open} requests were not answered"));
                }
            }
            events.clear();
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&second)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("epoll: {error}")),
            }
            for event in &events {
                let place = { event.data }.u64();
                if place != TIMER {
                    self.attend(place as usize, run, again)?;
                }
            }
        }
    }

    fn attend(&mut self, place: usize, run: &mut Run, again: bool) -> Result<(), String> {
        let line = &mut self.lines[place];
        line.read(&mut self.scratch).map_err(|error| error.to_string())?;
        let answered = line.client.take(&mut line.input, &mut line.output)?;
        let now = clock::now();
        for due in answered {
            run.counted.requests += 1;
            run.counted.latency.record(now.saturating_sub(due));
            if again && now < run.until {
                line.request(now);
            }
        }
        self.flush(place)
    }

    fn flush(&mut self, place: usize) -> Result<(), String> {
        self.lines[place].flush(&self.epoll, place as u64).map_err(|error| error.to_string())
    }
}

struct Run {
    until: u64,
    counted: Counted,
}

impl Line {
    fn open(target: &Target, client: Client) -> io::Result<Self> {
        let mut socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        let mut session = match &target.tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                Some(ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?)
            }
        };
        if let Some(session) = &mut session {
            session.set_buffer_limit(None);
            while session.is_handshaking() {
                session.complete_io(&mut socket)?;
            }
        }
        socket.set_nonblocking(true)?;
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let mut line = Self { socket, session, client, input, output, waits_for_room: false };
        line.client.greet(&mut line.output);
        Ok(line)
    }

    fn request(&mut self, due: u64) {
        self.client.request(due, &mut self.output);
    }

    /// One read: what is left makes epoll say so again.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let count = match self.socket.read(scratch) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(session) = &mut self.session else {
            self.input.extend_from_slice(&scratch[..count]);
            return Ok(());
        };
        let mut records = &scratch[..count];
        while !records.is_empty() {
            session.read_tls(&mut records)?;
            let ready = session.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read();
            let before = self.input.len();
            self.input.resize(before + ready, 0);
            session.reader().read_exact(&mut self.input[before..])?;
        }
        Ok(())
    }

    fn flush(&mut self, epoll: &OwnedFd, place: u64) -> io::Result<()> {
        match self.write() {
            Ok(()) if !self.waits_for_room => Ok(()),
            Ok(()) => self.wait_for(epoll, place, false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for(epoll, place, true),
            Err(error) => Err(error),
        }
    }

    fn wait_for(&mut self, epoll: &OwnedFd, place: u64, room: bool) -> io::Result<()> {
        self.waits_for_room = room;
        let flags = if room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(epoll, &self.socket, EventData::new_u64(place), flags)?;
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else {
            while !self.output.is_empty() {
                let count = self.socket.write(&self.output)?;
                self.output.advance(count);
            }
            return Ok(());
        };
        session.writer().write_all(&self.output)?;
        self.output.clear();
        while session.wants_write() {
            session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// Wakes the loop when a request is due.
struct Ticker(OwnedFd);

impl Ticker {
    fn start(epoll: &OwnedFd, rate: f64) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let nanos = (clock::SECOND as f64 / rate) as i64;
        let each = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        let every = Itimerspec { it_interval: each, it_value: each };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        epoll::add(epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self(timer))
    }

    /// The kernel lets the next tick come only behind a read.
    fn rearm(&self) {
        let mut ticks = [0; 8];
        // Where no tick has come there is nothing to read.
        let _ = rustix::io::read(&self.0, &mut ticks);
    }
}
