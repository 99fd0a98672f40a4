//! A line before its connection: what it will say first.

use std::{io, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use towline_protocols::link::{Connection, Hello};

use super::Setup;
use crate::{connect::FirstFlight, core::Core, state::Transport};

/// Bytes that are made ready before there is a connection: what most gateways take as early data. The rest of
/// the app's requests follows on the connection.
const FLIGHT_BYTES_MAX: usize = 16 << 10;

/// The beginning of one line, for all connections that race for it.
pub(crate) struct Opening {
    setup: Setup,
    stage: Mutex<Stage>,
}

enum Stage {
    /// Nothing was said.
    Waiting,
    /// The first flight is out, on one connection or several.
    Flying(Box<Flying>),
    /// A connection won, or the attempt is over.
    Over,
}

struct Flying {
    hello: Hello,
    machine: Box<Connection>,
    flight: Bytes,
}

/// What a line begins with on the connection that it got.
pub(super) enum Opened {
    /// `flight` are the machine's first bytes, if it was asked for them before.
    Tcp { hello: Hello, machine: Box<Connection>, flight: Bytes },
    /// Frames go by streams.
    Quic { hello: Hello },
}

impl Opening {
    pub(crate) fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Self { setup, stage: Mutex::new(Stage::Waiting) })
    }

    /// For connections that can carry early data.
    pub(crate) fn first_flight(self: &Arc<Self>) -> FirstFlight {
        let opening = Arc::clone(self);
        Arc::new(move || opening.fly(Instant::now()))
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What the connection that won begins with. What was said over TCP when QUIC won is for the gateway to
    /// sort out: HELLO names the requests.
    pub(super) fn take(&self, transport: Transport, now: Instant) -> io::Result<Opened> {
        match (std::mem::replace(&mut *self.stage.lock(), Stage::Over), transport) {
            (Stage::Flying(flying), Transport::Tcp) => {
                let Flying { hello, machine, flight } = *flying;
                Ok(Opened::Tcp { hello, machine, flight })
            }
            (_, Transport::Tcp) => {
                let (hello, machine) = self.begin(now)?;
                Ok(Opened::Tcp { hello, machine, flight: Bytes::new() })
            }
            (_, Transport::Quic) => {
                let base = self.setup.base.clone();
                let hello = self.setup.shared.with(|core| core.begin_line(transport, base))?;
                Ok(Opened::Quic { hello })
            }
        }
    }

    /// HELLO and the requests that wait, once. PROTOCOL.md, section 17: only for a session that the gateway
    /// has named.
    fn fly(&self, now: Instant) -> Option<Bytes> {
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Flying(flying) => return Some(flying.flight.clone()),
            Stage::Over => return None,
            Stage::Waiting => {}
        }
        if !self.setup.shared.with(|core| core.session.is_known()) {
            return None;
        }
        // What is wrong with the identity file is told by the line itself.
        let (hello, mut machine) = self.begin(now).ok()?;
        self.setup.shared.with(|core| tell_calls(&mut machine, core, now));
        let mut flight = BytesMut::new();
        machine.poll_transmit(now, &mut flight, FLIGHT_BYTES_MAX);
        let flight = flight.freeze();
        *stage = Stage::Flying(Box::new(Flying { hello, machine, flight: flight.clone() }));
        Some(flight)
    }

    fn begin(&self, now: Instant) -> io::Result<(Hello, Box<Connection>)> {
        let base = self.setup.base.clone();
        let hello = self.setup.shared.with(|core| core.begin_line(Transport::Tcp, base))?;
        let machine = Connection::client(Arc::clone(&self.setup.link), hello.clone(), now);
        Ok((hello, Box::new(machine)))
    }
}

/// Gives the machine the calls that wait. Streams do not fly early: what they have sent is not kept, so that
/// another connection could not send it again.
fn tell_calls(machine: &mut Connection, core: &mut Core, now: Instant) {
    let mut waiting = Vec::new();
    while let Some(key) = core.next_dirty() {
        let streams_max = machine.control().peer().limits.streams_max as usize;
        let unary = core.call(key).is_some_and(|call| call.is_unary());
        if !unary || !core.pump(key, machine, machine.streams_open() < streams_max, now) {
            waiting.push(key);
        }
    }
    core.put_back(waiting);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towline_protocols::link::{RequestHead, Welcome};

    use super::*;
    use crate::{
        config::ClientConfig,
        core::{Outgoing, Shared},
    };

    /// A client with one call and one stream; `known`: it has been told a session.
    fn setup(known: bool) -> Setup {
        let config = ClientConfig::plaintext(Vec::new());
        let shared = Arc::new(Shared::new(&config).unwrap());
        let now = Instant::now();
        shared.with(|core| {
            let hello = core.begin_line(Transport::Tcp, Hello::default()).unwrap();
            let session_id = if known { 7 } else { 0 };
            core.welcomed(&hello, &Welcome { session_id, ..Welcome::default() });
            for message in [Some(Bytes::from_static(b"x")), None] {
                let (head, deadline) = (RequestHead::default(), now + Duration::from_secs(60));
                core.open(Outgoing { head, deadline, message, bodiless: false }, now).unwrap();
            }
        });
        let welcome_timeout = Duration::from_secs(10);
        Setup { shared, link: Arc::default(), base: Hello::default(), spread_share: 0.0, welcome_timeout }
    }

    #[test]
    fn all_connections_of_a_race_carry_the_same_flight() {
        let opening = Opening::new(setup(true));
        let fly = opening.first_flight();
        let bytes = fly().unwrap();
        assert_eq!(fly(), Some(bytes.clone()));
        let Ok(Opened::Tcp { hello, flight, .. }) = opening.take(Transport::Tcp, Instant::now()) else {
            panic!("TCP won")
        };
        assert_eq!((flight, hello.epoch, hello.session_id), (bytes, 2, 7));
        assert_eq!(fly(), None, "a connection that lost the race says nothing any more");
    }

    #[test]
    fn streams_wait_for_the_connection() {
        let opening = Opening::new(setup(true));
        opening.first_flight()().unwrap();
        let on_line = |core: &mut Core, key| core.call(key).unwrap().is_on_line();
        assert_eq!(opening.setup.shared.with(|core| (on_line(core, 0), on_line(core, 1))), (true, false));
    }

    #[test]
    fn nothing_flies_before_the_gateway_has_named_a_session() {
        let opening = Opening::new(setup(false));
        assert_eq!(opening.first_flight()(), None);
        let opened = opening.take(Transport::Tcp, Instant::now());
        assert!(matches!(opened, Ok(Opened::Tcp { flight, .. }) if flight.is_empty()));
    }

    #[test]
    fn what_flew_before_quic_won_is_asked_for() {
        let opening = Opening::new(setup(true));
        opening.first_flight()().unwrap();
        let Ok(Opened::Quic { hello }) = opening.take(Transport::Quic, Instant::now()) else {
            panic!("QUIC won")
        };
        let waiting: Vec<_> = hello.waiting.iter().map(|waiting| waiting.seq).collect();
        assert_eq!((hello.epoch, waiting), (3, vec![1]));
    }
}
