//! One connection's life: HELLO to the last byte. The machines of the protocol decide; this file moves
//! bytes and wakes.

mod acks;
mod gauge;
mod io;
mod leaving;
mod machine;
mod opening;
mod policy;
#[cfg(feature = "quic")]
mod quic;
#[cfg(not(feature = "quic"))]
#[path = "without_quic.rs"]
mod quic;
#[cfg(feature = "quic")]
mod streams;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep_until, timeout},
};
use towline_protocols::{
    link::{self, CloseCode, Event, Hello, LinkError, RpcErrorKind, SessionHeaders, Welcome},
    policy::{Event as Seen, Network, Step},
};

pub(crate) use self::opening::Opening;
use self::{
    acks::Acks,
    io::{Moved, move_bytes},
    leaving::Leaving,
    machine::Machine,
    opening::Opened,
    watch::{Finding, Watch},
};
use crate::{
    config::Endpoint,
    connect::{Moves, Racing, Reached, Wire},
    core::{Control, Core, Shared, now as clock},
    state::{ConnectionState, Transport},
    timeline::Made,
};

/// Bytes asked of the machine at a time: enough to fill a few TLS records, little enough that an urgent
/// request waits behind no more.
const BURST_BYTES: usize = 32 << 10;
/// How long the last words may take to leave.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// A burst of calls has pauses; a line without calls for so long is idle.
const FETCH_AFTER: Duration = Duration::from_millis(500);
/// What is offered waits for an idle line no longer than this: an app that always has a call open would never hear of another
/// list or dictionary. A piece has 16 KiB at the most, so that calls share the network with little.
const FETCH_WAITS_MAX: Duration = Duration::from_secs(60);

/// Why a connection ended and what is to be done next.
pub(crate) struct LineEnd {
    /// For the app and the log.
    pub(crate) reason: String,
    /// Whether the gateway had said WELCOME.
    pub(crate) was_online: bool,
    pub(crate) next: Next,
}

/// What is to be done after a connection.
pub(crate) enum Next {
    /// Connect again, after the back-off.
    Again,
    /// Connect again, after a back-off that is never long: no packet has left for any gateway.
    Unsent,
    /// Connect again without delay.
    AtOnce,
    /// Connect to the same gateway again without delay: it refused the token, and the password was not tried.
    WithPassword,
    /// What was said early on QUIC was not answered before another connection was there: go on with that.
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "TCP is answered before it is used"))]
    Overtaken(Box<(Reached, Racing)>),
    /// Go on over the connection that was made beside this one.
    Beside,
    /// Connect to one of these, if there are any; the delay has passed.
    Elsewhere(Vec<String>),
    /// Connect to the same gateway again without delay, and spell out what HELLO named: it does not hold that, and
    /// acted upon nothing.
    Spelled,
    /// Never: the gateway refused this client, or the app closed it.
    Never(RpcErrorKind),
}

/// What a connection needs from its supervisor.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) shared: Arc<Shared>,
    /// Where the connection leads.
    pub(crate) gateway: Endpoint,
    pub(crate) link: Arc<link::Config>,
    pub(crate) base: Hello,
    /// The session headers that `base` spells out or names.
    pub(crate) headers: Arc<SessionHeaders>,
    /// A draw in 0..1 for this connection's share of a GOAWAY's spread.
    pub(crate) spread_share: f64,
    /// Bound on the time to WELCOME, which a gateway says at once.
    pub(crate) welcome_timeout: Duration,
    /// The gateway has answered before: WELCOME alone is waited for.
    pub(crate) answered: bool,
}

/// Drives a fresh connection to its end.
pub(crate) async fn run(made: Reached, opening: &Opening, racing: Racing) -> LineEnd {
    let Reached { at, wire, gateway, number } = made;
    let now = clock();
    let transport = wire.transport();
    let setup = opening.setup(&gateway);
    let (early, flew) = match &wire {
        Wire::Tcp { early, .. } => (*early, *early > 0),
        Wire::Quic(wire) => (usize::from(wire.early.is_some()), wire.early.is_some()),
    };
    setup.shared.with(|core| {
        core.made = Some(Made { at, times: wire.times() });
        let is_known = core.session.is_known();
        if opening.flies() {
            core.link.flew(flew, is_known);
        }
    });
    let opened = match opening.take(&setup, transport, early, now) {
        Ok(opened) => opened,
        Err(error) => {
            let reason = format!("the identity file cannot be written: {error}");
            return LineEnd { reason, was_online: false, next: Next::Again };
        }
    };
    match (wire, opened) {
        (Wire::Tcp { stream, .. }, Opened::Tcp { hello, machine, owed }) => {
            drop(racing);
            let machine = Machine::Tcp(machine);
            let line = Line::new(setup, stream, machine, transport, hello, now);
            line.going_on(&owed, early > 0).drive().await
        }
        (Wire::Tcp { .. }, Opened::Quic { .. }) | (Wire::Quic(_), Opened::Tcp { .. }) => {
            LineEnd { reason: "the transport changed".to_owned(), was_online: false, next: Next::Again }
        }
        (Wire::Quic(wire), Opened::Quic { hello }) => quic::drive(wire, setup, hello, racing, number).await,
    }
}

struct Line<S> {
    setup: Setup,
    shared: Arc<Shared>,
    stream: S,
    machine: Machine,
    transport: Transport,
    hello: Hello,
    input: BytesMut,
    out: BytesMut,
    flush_due: bool,
    online: bool,
    /// The gateway took the first flight as early data.
    early_data: bool,
    began: Instant,
    welcome_due: Instant,
    leaving: Option<Leaving>,
    /// QUIC's next socket, while it is being made.
    moving: Option<Moves>,
    /// Since when nothing is under way.
    idle_since: Option<Instant>,
    /// Since when a piece of a dictionary could be asked for, were the line idle.
    wanting_since: Option<Instant>,
    acks: Acks,
    watch: Watch,
    /// Nobody said why the connection ended.
    is_silent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(
        setup: Setup,
        stream: S,
        machine: Machine,
        transport: Transport,
        hello: Hello,
        now: Instant,
    ) -> Self {
        let watch = Watch::new(Arc::clone(&setup.shared), transport, now);
        Self {
            shared: Arc::clone(&setup.shared),
            began: now,
            welcome_due: now + setup.welcome_timeout,
            setup,
            stream,
            machine,
            transport,
            hello,
            input: BytesMut::new(),
            out: BytesMut::new(),
            flush_due: false,
            online: false,
            early_data: false,
            leaving: None,
            moving: None,
            idle_since: None,
            wanting_since: None,
            acks: Acks::default(),
            watch,
            is_silent: false,
        }
    }

    /// The machine has said something already, and `owed` is still to be sent of it.
    fn going_on(mut self, owed: &[u8], early_data: bool) -> Self {
        self.out.extend_from_slice(owed);
        self.early_data = early_data;
        self
    }

    /// Steps until the end, then says the last words.
    async fn drive(mut self) -> LineEnd {
        let end = loop {
            if let Some(end) = self.turn().await {
                break end;
            }
        };
        self.shared.with(Core::end_line);
        self.watch.ended(self.is_silent, clock());
        self.fill(clock(), usize::MAX);
        // A peer that is gone hears nothing.
        let listens = matches!(end.next, Next::Never(_) | Next::Elsewhere(_));
        // Where another connection is there, nobody waits for this one.
        let limit = if matches!(end.next, Next::Beside) { Duration::ZERO } else { LAST_WORDS_MAX };
        let _ = timeout(limit, self.say_last_words(listens)).await;
        end
    }

    /// One turn: tell the machine what the app wants, then wait for bytes, the app or the time.
    async fn turn(&mut self) -> Option<LineEnd> {
        let now = clock();
        let datagrams = self.machine.datagrams();
        if let Some(at) = self.shared.with(|core| core.stream_heard.take()) {
            self.machine.control().heard(at);
            self.watch.heard(at);
        }
        self.watch.look(self.machine.control(), datagrams, now);
        self.watch.count(self.machine.counts(), now);
        if let Some(end) = self.follow(now) {
            return Some(end);
        }
        self.fetch_when_idle(now);
        let mut sends = false;
        // What is sent makes events, and what they bring leaves something to be sent.
        loop {
            let filled = self.fill(now, BURST_BYTES);
            sends |= filled > 0;
            if let Some(end) = self.follow_events() {
                return Some(end);
            }
            if filled == 0 && !self.report_when_due(now, sends) {
                break;
            }
        }
        self.watch.measure(self.machine.control(), now);
        let due = self.next_timeout(now);
        let waiting = Arc::clone(&self.shared);
        tokio::select! {
            moved = move_bytes(&mut self.stream, &mut self.input, &mut self.out, &mut self.flush_due) => {
                self.on_moved(moved)
            }
            () = waiting.line.notified() => None,
            () = sleep_until(due.into()) => self.on_time(),
            () = self.machine.streams_moved() => None,
            made = next_socket(&mut self.moving) => self.on_next_socket(made),
        }
    }

    fn on_moved(&mut self, moved: std::io::Result<Moved>) -> Option<LineEnd> {
        match moved {
            Ok(Moved::Read(0)) => Some(self.lost("the gateway closed the connection".to_owned())),
            Ok(Moved::Read(bytes)) => {
                self.shared.traffic.received(bytes);
                let now = clock();
                self.watch.heard(now);
                self.shared.with(Core::link_heard);
                match self.machine.handle_bytes(now, &mut self.input) {
                    Ok(()) => self.follow_events(),
                    // What came before the fault still counts.
                    Err(error) => Some(self.follow_events().unwrap_or_else(|| self.broken(&error))),
                }
            }
            Ok(Moved::Wrote) => {
                if let (Machine::Tcp(connection), true) = (&self.machine, self.out.is_empty()) {
                    self.shared.with(|core| core.left(|seq| connection.has_sent(seq)));
                }
                None
            }
            Err(error) => {
                self.is_silent = true;
                Some(self.lost(format!("{}: {}", self.transport, with_causes(&error))))
            }
        }
    }

    fn on_time(&mut self) -> Option<LineEnd> {
        let now = clock();
        if !self.online && now >= self.welcome_due {
            self.shared.quality.on(Seen::Expired(Step::FirstByte));
            let waited = self.setup.welcome_timeout;
            return Some(self.lost(format!("the gateway did not say WELCOME within {waited:?}")));
        }
        if self.watch.on_time(self.machine.control(), now) == Finding::Dead {
            self.is_silent = true;
            let seen = self.watch.seen(self.machine.control(), now);
            let error = self.machine.control().give_up();
            let end = self.broken(&error);
            return Some(LineEnd { reason: format!("{} ({seen})", end.reason), ..end });
        }
        match self.machine.control().handle_timeout(now) {
            Ok(()) => None,
            Err(error) => {
                self.is_silent = true;
                Some(LineEnd { next: Next::AtOnce, ..self.broken(&error) })
            }
        }
    }

    /// What the app wants of the connection.
    fn follow(&mut self, now: Instant) -> Option<LineEnd> {
        if let Some(end) = self.check_leaving(now) {
            return Some(end);
        }
        let (machine, online, leaving) = (&mut self.machine, self.online, self.leaving.as_ref());
        let (closing, reconnect, spoke, network, asks) = self.shared.with(|core| {
            core.end_pauses(now);
            let may_open = leaving.is_none_or(|leaving| leaving.opens(core, now));
            let spoke = machine.tell(core, online, may_open, now);
            let network = std::mem::take(&mut core.network_changed).then(|| core.network.clone());
            (core.closing.clone(), core.reconnect, spoke, network, std::mem::take(&mut core.probe))
        });
        let stays = network.and_then(|network| self.move_to(&network));
        if spoke {
            self.watch.said(now);
        }
        if asks {
            self.watch.ask(self.machine.control(), now);
        }
        self.acknowledge(now, closing.is_some());
        let reconnect = reconnect || self.machine.is_lost(now);
        if let Some(reason) = closing {
            self.machine.control().close(CloseCode::Done, &reason);
            return Some(self.end(reason, Next::Never(RpcErrorKind::Cancelled)));
        }
        stays.or_else(|| {
            reconnect.then(|| self.end("a new connection was asked for".to_owned(), Next::AtOnce))
        })
    }

    /// The network changed: QUIC goes on from a socket there. The end, where only a new connection can.
    fn move_to(&mut self, network: &Network) -> Option<LineEnd> {
        self.moving = self.machine.move_on(network);
        let Some(moving) = &mut self.moving else {
            return Some(self.end("the network changed".to_owned(), Next::AtOnce));
        };
        // Where the app need not be asked, the socket is there at once.
        match moving.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(made) => self.on_next_socket(made),
        }
    }

    fn on_next_socket(&mut self, made: std::io::Result<()>) -> Option<LineEnd> {
        self.moving = None;
        if let Err(error) = made {
            return Some(self.end(format!("the network changed: {error}"), Next::AtOnce));
        }
        let now = clock();
        self.machine.moved(now);
        self.watch.moves(self.machine.control(), now);
        None
    }

    /// Tells which outcomes were taken. The next request does it for nothing, so that an ACK waits for one.
    fn acknowledge(&mut self, now: Instant, at_once: bool) {
        let (outcomes, bytes) = self.shared.with(|core| core.session.ack_due());
        if self.online && (self.acks.are_due(now, outcomes, bytes) || at_once) {
            let control = self.machine.control();
            self.shared.with(|core| {
                while let Some(ack) = core.session.take_ack() {
                    control.ack(ack);
                }
            });
        }
    }

    /// Asks for the next piece of a dictionary, once nothing else was under way for a while, or something always was.
    fn fetch_when_idle(&mut self, now: Instant) {
        let (in_flight, is_wanting) =
            self.shared.with(|core| (core.in_flight(), core.dictionaries.is_wanting()));
        let may_ask = self.online && self.leaving.is_none();
        let is_idle = may_ask && in_flight == 0 && self.out.is_empty();
        self.idle_since = self.idle_since.filter(|_| is_idle).or(is_idle.then_some(now));
        let is_wanting = may_ask && is_wanting;
        self.wanting_since = self.wanting_since.filter(|_| is_wanting).or(is_wanting.then_some(now));
        if self.fetch_due().is_some_and(|due| due <= now)
            && let Some(fetch) = self.shared.with(|core| core.dictionaries.next_fetch())
        {
            self.wanting_since = None;
            self.machine.control().fetch(fetch);
        }
    }

    /// When a dictionary may be asked for.
    fn fetch_due(&self) -> Option<Instant> {
        let latest = self.wanting_since? + FETCH_WAITS_MAX;
        Some(self.idle_since.map_or(latest, |since| latest.min(since + FETCH_AFTER)))
    }

    /// What the gateway said.
    fn follow_events(&mut self) -> Option<LineEnd> {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Rtt(after) => {
                    let tells = self.watch.on_round_trip(after, clock());
                    let ping = self.machine.control().pings_answered();
                    self.shared.with(|core| core.reports.answered(ping));
                    if !tells {
                        continue;
                    }
                }
                Event::Moved => self.watch.on_moved(self.machine.control(), clock()),
                _ => {}
            }
            let Some(control) = self.shared.on_event(event) else { continue };
            match control {
                Control::Welcome(welcome) => self.on_welcome(&welcome),
                Control::Policy(policy) => self.on_policy(&policy),
                Control::GoAway(goaway) => self.on_goaway(&goaway),
                Control::Close { code, text } => return Some(self.closed(code, &text)),
            }
        }
        None
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        self.online = true;
        let now = clock();
        // What was said early is answered together with the handshake, or before.
        if self.setup.answered && !self.early_data {
            let after = now.saturating_duration_since(self.began);
            self.shared.quality.on(Seen::Came(Step::FirstByte, after));
        }
        self.machine.welcomed();
        self.watch.on_welcome(self.machine.control(), welcome, now);
        let (hello, machine, setup) = (&self.hello, &mut self.machine, &self.setup);
        self.shared.with(|core| {
            core.tokens.learn(&setup.gateway, hello, welcome, now);
            core.known.on_welcome(&setup.gateway, &setup.headers, hello, welcome, SystemTime::now());
            core.link_up(&setup.gateway);
            core.reports.on_welcome(hello, welcome);
            for kept in core.welcomed(hello, welcome) {
                machine.attach(core, &kept);
            }
        });
        let state = ConnectionState::Online {
            transport: self.transport,
            resumed: welcome.resumed,
            early_data: self.early_data,
        };
        self.shared.set_state(state);
    }

    /// The gateway's last words.
    fn closed(&mut self, code: CloseCode, text: &str) -> LineEnd {
        let reason = format!("the gateway closed the connection ({code:?}): {text}");
        let next = match code {
            CloseCode::Unauthorized => {
                let (gateway, hello) = (&self.setup.gateway, &self.hello);
                match self.shared.with(|core| core.tokens.refused(gateway, hello)) {
                    true => Next::WithPassword,
                    false => Next::Never(RpcErrorKind::PermissionDenied),
                }
            }
            CloseCode::TakenOver => Next::Never(RpcErrorKind::SessionLost),
            CloseCode::UnknownReference if !self.online && self.hello.refers() => {
                let (hello, gateway) = (&self.hello, &self.setup.gateway);
                self.shared.with(|core| core.refused(hello, gateway));
                Next::Spelled
            }
            _ => match self.leaving.take() {
                Some(leaving) => Next::Elsewhere(leaving.endpoints),
                None => Next::Again,
            },
        };
        if let (false, Next::Never(_)) = (self.online, &next) {
            // The calls that end with it are told that they did not run.
            self.shared.with(|core| core.not_taken_in(&self.hello));
        }
        self.end(reason, next)
    }

    fn broken(&mut self, error: &LinkError) -> LineEnd {
        let next = if error.code == CloseCode::HeartbeatMissed { Next::AtOnce } else { Next::Again };
        self.end(error.to_string(), next)
    }

    fn lost(&mut self, reason: String) -> LineEnd {
        let next = match self.leaving.take() {
            Some(leaving) => Next::Elsewhere(leaving.endpoints),
            None => Next::Again,
        };
        self.end(reason, next)
    }

    fn end(&self, reason: String, next: Next) -> LineEnd {
        LineEnd { reason, was_online: self.online, next }
    }

    /// Says how much it added.
    fn fill(&mut self, now: Instant, bytes_max: usize) -> usize {
        let room = bytes_max.saturating_sub(self.out.len());
        let filled = if room > 0 { self.machine.poll_transmit(now, &mut self.out, room) } else { 0 };
        if filled > 0 {
            self.watch.sent(filled, now);
        }
        self.shared.traffic.sent(filled);
        filled
    }

    /// With time to spare, waits until the gateway has heard them: closing a QUIC connection drops what is
    /// under way.
    async fn say_last_words(&mut self, listens: bool) -> std::io::Result<()> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        self.stream.write_all_buf(&mut self.out).await?;
        self.stream.shutdown().await?;
        while listens && self.stream.read_buf(&mut self.input).await? > 0 {
            self.input.clear();
        }
        Ok(())
    }

    fn next_timeout(&mut self, now: Instant) -> Instant {
        let leaving = self.leaving.as_ref().map(|it| it.due(now));
        let welcome = (!self.online).then_some(self.welcome_due);
        let pauses = self.shared.with(|core| core.pause_ends());
        let others = [welcome, self.machine.moved_due(), self.fetch_due(), self.acks.due(), leaving, pauses];
        let others: Vec<Instant> = others.into_iter().flatten().collect();
        self.watch.next_wake(self.machine.control(), &others, now)
    }
}

/// Resolves when QUIC's next socket is there, or cannot be made.
async fn next_socket(moving: &mut Option<Moves>) -> std::io::Result<()> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}

/// quinn says "connection lost", and only the cause of that says why: an alert, for instance.
fn with_causes(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.get_ref().and_then(|inner| inner.source());
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
