//! A line before its connection: what it will say first.

use std::{io, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use towline_protocols::link::{Connection, Hello};

use super::Setup;
use crate::{
    config::Endpoint,
    connect::FirstFlight,
    core::{Core, now},
    state::Transport,
    supervisor::Greeting,
};

/// Bytes that are made ready before there is a connection: what most gateways take as early data. The rest of
/// the app's requests follows on the connection.
const FLIGHT_BYTES_MAX: usize = 16 << 10;

/// The beginning of one line, while connections race for it. One of them may carry its first flight, once: the
/// gateway that issued the ticket is then the only one that can have run what was in it, whoever else sends the
/// same bytes, and wherever the others of the race lead.
pub(crate) struct Opening {
    greeting: Arc<Greeting>,
    /// A draw in 0..1 for the connection's share of a GOAWAY's spread.
    spread_share: f64,
    flies: bool,
    stage: Mutex<Stage>,
}

enum Stage {
    /// Nothing was said.
    Waiting,
    /// The first flight is out.
    Flying(Box<Flying>),
    /// A connection won, or the attempt is over.
    Over,
}

struct Flying {
    hello: Hello,
    machine: Box<Connection>,
    /// What the machine has said first.
    flight: Bytes,
}

/// What a line begins with on the connection that it got.
pub(super) enum Opened {
    /// `owed` is what the machine has said and the gateway has not.
    Tcp { hello: Hello, machine: Box<Connection>, owed: Bytes },
    /// Frames go by streams.
    Quic { hello: Hello },
}

impl Opening {
    /// With `flies` false nothing is said before there is a connection.
    pub(crate) fn new(greeting: Arc<Greeting>, spread_share: f64, flies: bool) -> Arc<Self> {
        let stage = if flies { Stage::Waiting } else { Stage::Over };
        Arc::new(Self { greeting, spread_share, flies, stage: Mutex::new(stage) })
    }

    /// Whether something could have been said before there was a connection.
    pub(super) fn flies(&self) -> bool {
        self.flies
    }

    /// For a connection to `gateway` that can carry early data.
    pub(crate) fn first_flight(self: &Arc<Self>, gateway: &Endpoint) -> FirstFlight {
        let (opening, gateway) = (Arc::clone(self), gateway.clone());
        Arc::new(move || opening.fly(&gateway, now()))
    }

    /// Whether calls may leave before the gateway has answered. PROTOCOL.md, section 17: only for a session that
    /// it has named, in this run of the app or in the one before.
    pub(crate) fn may_fly(&self) -> bool {
        matches!(&*self.stage.lock(), Stage::Waiting)
            && self.greeting.shared.with(|core| core.session.may_fly())
    }

    /// What a connection to `gateway` is driven with.
    pub(super) fn setup(&self, gateway: &Endpoint) -> Setup {
        self.greeting.setup(gateway, self.spread_share)
    }

    /// What the connection that won begins with, of which `early` bytes of the first flight were taken; on QUIC, any
    /// number says that it begins with early data. A
    /// flight that was rejected, or flew on another connection, is one that a lost connection carried: it may
    /// have run where somebody else sent it, so HELLO asks for its requests.
    pub(super) fn take(
        &self,
        setup: &Setup,
        transport: Transport,
        early: usize,
        now: Instant,
    ) -> io::Result<Opened> {
        match (std::mem::replace(&mut *self.stage.lock(), Stage::Over), transport) {
            (Stage::Flying(flying), Transport::Tcp) if early > 0 => {
                let Flying { hello, machine, mut flight } = *flying;
                let owed = flight.split_off(early.min(flight.len()));
                Ok(Opened::Tcp { hello, machine, owed })
            }
            (_, Transport::Tcp | Transport::Post) => {
                let (hello, machine) = begin(setup, now)?;
                Ok(Opened::Tcp { hello, machine, owed: Bytes::new() })
            }
            (_, Transport::Quic) => {
                let base = setup.base.clone();
                let hello = setup.shared.with(|core| {
                    if early > 0 {
                        core.session.recall();
                    }
                    core.begin_line(transport, base)
                })?;
                Ok(Opened::Quic { hello })
            }
        }
    }

    /// HELLO and the requests that wait, once. PROTOCOL.md, section 17: only for a session that the gateway
    /// has named.
    fn fly(&self, gateway: &Endpoint, now: Instant) -> Option<Bytes> {
        let mut stage = self.stage.lock();
        let Stage::Waiting = &*stage else { return None };
        if !self.greeting.shared.with(|core| core.session.may_fly()) {
            return None;
        }
        self.greeting.shared.with(|core| core.session.recall());
        let setup = self.setup(gateway);
        // What is wrong with the identity file is told by the line itself.
        let (hello, mut machine) = begin(&setup, now).ok()?;
        setup.shared.with(|core| tell_calls(&mut machine, core, now));
        let mut flight = BytesMut::new();
        machine.poll_transmit(now, &mut flight, FLIGHT_BYTES_MAX);
        let flight = flight.freeze();
        *stage = Stage::Flying(Box::new(Flying { hello, machine, flight: flight.clone() }));
        Some(flight)
    }
}

fn begin(setup: &Setup, now: Instant) -> io::Result<(Hello, Box<Connection>)> {
    let base = setup.base.clone();
    let hello = setup.shared.with(|core| core.begin_line(Transport::Tcp, base))?;
    let machine = Connection::client(Arc::clone(&setup.link), hello.clone(), now);
    Ok((hello, Box::new(machine)))
}

/// Gives the machine the calls that wait. Streams do not fly early: of what they have sent only
/// `limits.upload_buffer_bytes` is kept, and another connection may have to send it from the beginning.
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
    fn greeting(known: bool) -> Arc<Greeting> {
        let config = ClientConfig::plaintext(Vec::new());
        let shared = Arc::new(Shared::new(&config).unwrap().0);
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
        Arc::new(Greeting::new(shared, config))
    }

    fn gateway() -> Endpoint {
        Endpoint { host: "edge".into(), port: 1 }
    }

    fn opening(known: bool, flies: bool) -> Arc<Opening> {
        Opening::new(greeting(known), 0.0, flies)
    }

    fn take(opening: &Opening, transport: Transport, early: usize) -> io::Result<Opened> {
        opening.take(&opening.setup(&gateway()), transport, early, Instant::now())
    }

    #[test]
    fn one_connection_carries_the_flight_and_goes_on_behind_it() {
        let opening = opening(true, true);
        let fly = opening.first_flight(&gateway());
        let bytes = fly().unwrap();
        assert_eq!(fly(), None, "another connection of the race may lead elsewhere");
        let Ok(Opened::Tcp { hello, owed, .. }) = take(&opening, Transport::Tcp, 3) else {
            panic!("TCP won")
        };
        assert_eq!((&owed[..], hello.epoch, hello.session_id), (&bytes[3..], 2, 7));
        assert_eq!(fly(), None);
    }

    #[test]
    fn streams_wait_for_the_connection() {
        let opening = opening(true, true);
        opening.first_flight(&gateway())().unwrap();
        let on_line = |core: &mut Core, key| core.call(key).unwrap().is_on_line();
        assert_eq!(opening.greeting.shared.with(|core| (on_line(core, 0), on_line(core, 1))), (true, false));
    }

    #[test]
    fn nothing_flies_before_the_gateway_has_named_a_session_or_when_it_goes() {
        for opening in [opening(false, true), opening(true, false)] {
            assert_eq!(opening.first_flight(&gateway())(), None);
            let opened = take(&opening, Transport::Tcp, 0);
            assert!(matches!(opened, Ok(Opened::Tcp { owed, .. }) if owed.is_empty()));
        }
    }

    #[test]
    fn what_flew_in_vain_is_asked_for() {
        for transport in [Transport::Tcp, Transport::Quic] {
            let opening = opening(true, true);
            opening.first_flight(&gateway())().unwrap();
            let hello = match take(&opening, transport, 0).unwrap() {
                Opened::Tcp { hello, .. } | Opened::Quic { hello } => hello,
            };
            let waiting: Vec<_> = hello.waiting.iter().map(|waiting| waiting.seq).collect();
            assert_eq!((hello.epoch, waiting), (3, vec![1]), "{transport}");
        }
    }
}
