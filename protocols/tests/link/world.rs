//! A client with its session and a server with its ledger, over a network that cuts and drops, all from
//! one seed; and the rules that must hold whatever the seed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test support: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use towline_protocols::link::{
    Config, Connection, Event, Execution, Hello, Partial, Place, Priority, Push, RequestHead, RpcError,
    RpcErrorKind, Welcome,
    client::{CallOptions, Fate, PushMarks, Session},
    server::{Admission, Ledger, LedgerLimits},
};

use crate::pair::{field, head, noise, origin, status_200};

const CALLS: u64 = 30;
const PUSHES: u64 = 30;

/// Runs a seed; says how many uploads went on over another connection.
pub(crate) fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for step in 0..4000 {
        // Chaos first, then a calm in which everything must come to its end.
        world.step(step < 1000);
        if step > 1000 && world.is_settled() {
            world.check();
            return world.server.continued;
        }
    }
    let open = world.client.calls.iter().filter(|(_, call)| call.outcome.is_none());
    panic!(
        "open in the calm: {:?}, {} pushes",
        open.map(|(seq, call)| (seq, call.name, call.answer.len())).collect::<Vec<_>>(),
        world.server.pushes.len()
    );
}

struct World {
    seed: u64,
    random: Rng,
    now: Instant,
    client: Client,
    server: Server,
    wire: Option<Wire>,
    calls_opened: u64,
    sessions_lost: u64,
}

/// The live connection's two ends, and the bytes on their way.
struct Wire {
    client: Connection,
    server: Connection,
    hello: Hello,
    up: BytesMut,
    down: BytesMut,
    server_input: BytesMut,
    client_input: BytesMut,
}

struct Client {
    session: Session,
    /// Bytes that the application has not consumed yet, by request.
    unconsumed: Vec<(u64, usize)>,
    calls: BTreeMap<u64, Call>,
    /// Ids of the pushes handed on, and the server session each belongs to.
    pushes: Vec<(u64, u64)>,
    /// The newest push, which the application takes some time later.
    push_seen: u64,
}

struct Call {
    /// What the request says, so that a retry under another number is known for the same.
    name: u64,
    options: CallOptions,
    answer: Vec<u8>,
    outcome: Option<Result<(), RpcError>>,
}

struct Server {
    ledger: Option<Ledger<Exchange>>,
    limits: LedgerLimits,
    generation: u64,
    pushes: BTreeMap<u64, Push>,
    push_next: u64,
    runs: BTreeMap<u64, u64>,
    /// Bodies that were cut wait for the rest.
    parks: bool,
    /// Bytes of bodies that the backend has not consumed, by request.
    unconsumed: BTreeMap<u64, usize>,
    continued: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Exchange {
    body: Vec<u8>,
    /// Whole messages in `body`, and bytes of the one behind them.
    messages: u64,
    partial: usize,
    body_complete: bool,
    /// Steps until the backend answers.
    busy: u32,
    answered: bool,
}

/// The answer to the call of this name: a few messages, some of them larger than a frame.
fn answer(name: u64) -> Vec<Bytes> {
    let mut random = Rng::with_seed(name);
    (0..random.u64(0..4))
        .map(|n| match random.choice([0, 10, 700, 20_000, 90_000]).unwrap() {
            // Small on the wire, and together more than a window.
            bytes @ 90_000 => vec![n as u8; bytes].into(),
            bytes => noise(bytes, name * 10 + n),
        })
        .collect()
}

/// The request of this name: its name, padded to what may be larger than a frame, and perhaps more messages.
fn request(name: u64) -> Vec<Bytes> {
    let padding = match name % 5 {
        4 => vec![0; 90_000].into(),
        rest => noise([0, 5, 3000, 20_000][rest as usize], name),
    };
    let first = [&name.to_be_bytes()[..], &padding].concat().into();
    let sizes = [0, 1, 900, 17_000, 40_000];
    let more = (0..name % 4).map(|n| noise(sizes[((name + n) % 5) as usize], name * 10 + n));
    std::iter::once(first).chain(more).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let parks = random.u8(..4) > 0;
        let limits = match random.bool() {
            true => LedgerLimits::default(),
            // Tight enough that outcomes are lost now and then.
            false => LedgerLimits { outcomes_max: 3, outcome_bytes_max: 30_000, ..LedgerLimits::default() },
        };
        Self {
            seed,
            random,
            now: origin(),
            client: Client {
                session: Session::new("phone-7", [7; 16], 0),
                unconsumed: Vec::new(),
                calls: BTreeMap::new(),
                pushes: Vec::new(),
                push_seen: 0,
            },
            server: Server {
                ledger: None,
                limits,
                generation: 0,
                pushes: BTreeMap::new(),
                push_next: 1,
                runs: BTreeMap::new(),
                parks,
                unconsumed: BTreeMap::new(),
                continued: 0,
            },
            wire: None,
            calls_opened: 0,
            sessions_lost: 0,
        }
    }

    fn step(&mut self, chaos: bool) {
        self.now += Duration::from_millis(20);
        match self.random.u32(..100) {
            0..2 if chaos => self.wire = None,
            2 if chaos && self.random.u8(..8) == 0 => self.lose_server_session(),
            3..8 if self.calls_opened < CALLS => self.open_call(),
            8..13 if self.server.push_next <= PUSHES && self.server.ledger.is_some() => self.push(),
            13 if chaos => self.cancel_one(),
            _ => {}
        }
        if self.wire.is_none() && (!chaos || self.random.u8(..4) == 0) {
            self.connect();
        }
        self.server.work();
        self.exchange_bytes();
        if self.wire.is_none() {
            self.server.on_disconnected();
        }
    }

    fn connect(&mut self) {
        self.server.on_disconnected();
        self.client.unconsumed.clear();
        let config = Arc::new(Config::default());
        let hello = self.client.session.hello(Hello::default());
        self.wire = Some(Wire {
            client: Connection::client(config.clone(), hello.clone(), self.now),
            server: Connection::server(config, self.now),
            hello,
            up: BytesMut::new(),
            down: BytesMut::new(),
            server_input: BytesMut::new(),
            client_input: BytesMut::new(),
        });
    }

    fn lose_server_session(&mut self) {
        self.wire = None;
        self.server.ledger = None;
        self.sessions_lost += 1;
    }

    fn open_call(&mut self) {
        self.calls_opened += 1;
        let options = CallOptions {
            idempotent: self.random.bool(),
            replayable: self.random.u8(..10) > 0,
            continues: self.random.u8(..10) > 1,
            sees_whole: self.random.bool(),
        };
        let seq = self.client.session.open(options);
        let call = Call { name: self.calls_opened, options, answer: Vec::new(), outcome: None };
        self.client.calls.insert(seq, call);
        if let Some(wire) = &mut self.wire {
            // Perhaps before WELCOME.
            self.client.send(seq, &mut wire.client);
        }
    }

    fn cancel_one(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let open = self.client.calls.iter_mut().filter(|(_, call)| call.outcome.is_none());
        let Some((&seq, call)) = self.random.choice(open.collect::<Vec<_>>()) else { return };
        let execution = self.client.session.cancel(seq);
        let error = RpcError::new(RpcErrorKind::Cancelled, execution, "cancelled by the test");
        wire.client.reset(seq, &error);
        call.outcome = Some(Err(error));
    }

    fn push(&mut self) {
        let server = &mut self.server;
        let payload = [server.generation.to_be_bytes(), server.push_next.to_be_bytes()].concat().into();
        let push = Push { id: server.push_next, payload, ..Push::default() };
        server.push_next += 1;
        if let Some(wire) = &mut self.wire
            && wire.server.control().may_push()
        {
            wire.server.control().push(&push).unwrap();
        }
        server.pushes.insert(push.id, push);
    }

    fn exchange_bytes(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let some = |random: &mut Rng| random.choice([1, 7, 100, 20_000, 1_000_000]).unwrap();
        wire.client.poll_transmit(self.now, &mut wire.up, some(&mut self.random));
        wire.server.poll_transmit(self.now, &mut wire.down, some(&mut self.random));
        let cut = self.random.usize(..=wire.up.len()).min(some(&mut self.random));
        wire.server_input.unsplit(wire.up.split_to(cut));
        let cut = self.random.usize(..=wire.down.len()).min(some(&mut self.random));
        wire.client_input.unsplit(wire.down.split_to(cut));
        wire.server.handle_bytes(self.now, &mut wire.server_input).unwrap();
        wire.client.handle_bytes(self.now, &mut wire.client_input).unwrap();
        // The application reads in bursts.
        if self.random.u8(..8) == 0 {
            for (seq, bytes) in self.client.unconsumed.drain(..) {
                wire.client.credit(seq, bytes);
            }
        }
        if self.random.u8(..8) == 0 {
            for (seq, bytes) in std::mem::take(&mut self.server.unconsumed) {
                wire.server.credit(seq, bytes);
            }
        }
        while let Some(event) = wire.server.poll_event() {
            self.server.on_event(event, &mut wire.server);
        }
        self.server.answer(&mut wire.server);
        while let Some(event) = wire.client.poll_event() {
            self.client.on_event(event, &wire.hello, &mut wire.client);
        }
        if let Some(ack) = self.client.session.take_ack() {
            wire.client.control().ack(ack);
        }
        if self.random.u8(..8) == 0 {
            self.client.session.push_taken(Priority::NORMAL, self.client.push_seen);
        }
        if let Some((priority, id)) = self.client.session.take_push_ack() {
            wire.client.control().push_ack(priority, id);
        }
    }

    fn is_settled(&self) -> bool {
        let calls_done = self.client.calls.values().all(|call| call.outcome.is_some());
        calls_done && self.calls_opened == CALLS && self.server.pushes.is_empty()
    }

    fn check(&self) {
        for call in self.client.calls.values() {
            let runs = self.server.runs.get(&call.name).copied().unwrap_or(0);
            let run_again = call.options.idempotent && call.options.replayable && self.sessions_lost > 0;
            assert!(runs <= 1 || run_again, "call {} ran {runs} times", call.name);
            match call.outcome.as_ref().unwrap() {
                Ok(()) => {
                    assert!(runs > 0, "call {} has an answer and did not run", call.name);
                    assert_eq!(call.answer, answer(call.name).concat(), "answer of call {}", call.name);
                }
                Err(error) if error.execution == Execution::NotRun => {
                    assert_eq!(runs, 0, "call {} is said not to have run", call.name);
                }
                Err(_) => {}
            }
        }
        let pushes = &self.client.pushes;
        assert!(pushes.is_sorted() && pushes.windows(2).all(|pair| pair[0] != pair[1]), "{pushes:?}");
        if self.sessions_lost == 0 {
            let ids: Vec<u64> = pushes.iter().map(|(_, id)| *id).collect();
            assert_eq!(ids, (1..self.server.push_next).collect::<Vec<_>>());
        }
    }
}

impl Client {
    fn send(&mut self, seq: u64, connection: &mut Connection) {
        let Some(call) = self.calls.get(&seq) else { return };
        self.session.on_request_sent(seq);
        connection.send_request(seq, call.head(), false).unwrap();
        send_messages(seq, &request(call.name), connection);
    }

    /// Sends what the server does not have of a request.
    fn go_on(&self, seq: u64, sent: Place, connection: &mut Connection) {
        let Some(call) = self.calls.get(&seq) else { return };
        connection.go_on(seq, &call.head());
        let mut rest = request(call.name).split_off(sent.messages as usize);
        if let Some(begun) = rest.first_mut() {
            *begun = begun.slice(sent.bytes as usize..);
        }
        if rest.is_empty() {
            connection.send_end(seq).unwrap();
        }
        send_messages(seq, &rest, connection);
    }

    fn on_event(&mut self, event: Event, hello: &Hello, connection: &mut Connection) {
        if let Event::Welcome(welcome) = &event {
            for (seq, fate) in self.session.on_welcome(hello, welcome) {
                match fate {
                    Fate::Send => self.send(seq, connection),
                    Fate::Keep { sent, .. } => {
                        sent.into_iter().for_each(|sent| self.go_on(seq, sent, connection));
                    }
                    Fate::Ask => panic!("there are no short connections here"),
                    Fate::Anew => {
                        let again = self.session.repeat(seq).unwrap();
                        let call = self.calls.remove(&seq).unwrap();
                        self.calls.insert(again, Call { answer: Vec::new(), ..call });
                        self.send(again, connection);
                    }
                    Fate::Fail(error) => self.end(seq, Err(error)),
                }
            }
            return;
        }
        let of = match &event {
            Event::MessagePart { seq, .. } => Some(*seq),
            _ => None,
        };
        let delivery = self.session.on_event(event);
        if let Some(seq) = of {
            connection.credit(seq, delivery.credit);
        }
        match delivery.event {
            Some(Event::MessagePart { seq, bytes, .. }) => {
                self.unconsumed.push((seq, bytes.len()));
                if let Some(call) = self.calls.get_mut(&seq) {
                    call.answer.extend_from_slice(&bytes);
                }
            }
            Some(Event::Trailers { seq, .. }) => {
                self.session.taken(seq);
                self.end(seq, Ok(()));
            }
            Some(Event::Reset { seq, error }) => self.on_reset(seq, error, connection),
            Some(Event::Push(push)) => {
                self.push_seen = push.id;
                let generation = u64::from_be_bytes(push.payload[..8].try_into().unwrap());
                self.pushes.push((generation, push.id));
            }
            Some(Event::Response { .. } | Event::Rtt(_)) | None => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    fn on_reset(&mut self, seq: u64, error: RpcError, connection: &mut Connection) {
        if error.execution == Execution::NotRun
            && let Some(again) = self.session.retry(seq, &error)
        {
            let call = self.calls.remove(&seq).unwrap();
            self.calls.insert(again, call);
            return self.send(again, connection);
        }
        self.session.taken(seq);
        self.end(seq, Err(error));
    }

    fn end(&mut self, seq: u64, outcome: Result<(), RpcError>) {
        if let Some(call) = self.calls.get_mut(&seq)
            && call.outcome.is_none()
        {
            call.outcome = Some(outcome);
        }
    }
}

impl Call {
    fn head(&self) -> RequestHead {
        let head = head(Priority::new((self.name % 8) as u8));
        RequestHead { idempotent: self.options.idempotent, ..head }
    }
}

fn send_messages(seq: u64, messages: &[Bytes], connection: &mut Connection) {
    for (n, message) in messages.iter().enumerate() {
        connection.send_message(seq, message.clone(), n + 1 == messages.len()).unwrap();
    }
}

impl Server {
    fn on_event(&mut self, event: Event, connection: &mut Connection) {
        match event {
            Event::Hello(hello) => self.on_hello(&hello, connection),
            Event::Request { seq, .. } => self.on_request(seq, connection),
            Event::MessagePart { seq, bytes, end_of_message, end, .. } => {
                *self.unconsumed.entry(seq).or_default() += bytes.len();
                if let Some(exchange) = self.ledger.as_mut().unwrap().get_mut(seq)
                    && !exchange.body_complete
                {
                    exchange.take(&bytes, end_of_message);
                    exchange.body_complete = end;
                }
            }
            Event::End { seq } => {
                if let Some(exchange) = self.ledger.as_mut().unwrap().get_mut(seq) {
                    exchange.body_complete = true;
                }
            }
            Event::Reset { seq, .. } => {
                let ledger = self.ledger.as_mut().unwrap();
                if ledger.get(seq).is_some_and(|exchange| !exchange.body_complete) {
                    ledger.forget(seq);
                }
            }
            Event::Ack(ack) => self.ledger.as_mut().unwrap().acknowledge(&ack),
            Event::PushAck { id, .. } => self.pushes.retain(|&stored, _| stored > id),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn on_hello(&mut self, hello: &Hello, connection: &mut Connection) {
        if self.ledger.is_none() {
            self.generation += 1;
            (self.pushes, self.push_next) = (BTreeMap::new(), 1);
        }
        let resumed = hello.session_id == self.generation;
        let limits = self.limits;
        let ledger = self.ledger.get_or_insert_with(|| Ledger::new(limits, hello.outcome_floor));
        let continues =
            |seq| resumed && hello.waiting.iter().any(|waiting| waiting.seq == seq && waiting.continues);
        let cut: Vec<u64> =
            ledger.iter().filter(|(_, exchange)| !exchange.body_complete).map(|(seq, _)| seq).collect();
        let (partial, over): (Vec<u64>, Vec<u64>) = cut.into_iter().partition(|&seq| continues(seq));
        for seq in over {
            ledger.forget(seq);
        }
        let unconsumed = std::mem::take(&mut self.unconsumed);
        let mut told = Vec::new();
        for seq in partial {
            let Some(exchange) = ledger.get_mut(seq) else { continue };
            let used = unconsumed.get(&seq).copied().unwrap_or(0);
            self.unconsumed.insert(seq, used);
            connection.attach_open(seq, Priority::NORMAL, used as u32);
            told.push(Partial {
                seq,
                messages_received: exchange.messages,
                window_used: used as u32,
                bytes_received: exchange.partial as u64,
            });
            self.continued += 1;
        }
        let unknown = ledger.reconcile(hello.outcome_floor, hello.waiting.iter().map(|waiting| waiting.seq));
        connection.control().welcome(Welcome {
            resumed,
            session_id: self.generation,
            push_line: self.generation,
            unknown: unknown.clone(),
            partial: told,
            ..Welcome::default()
        });
        if resumed {
            for waiting in hello.waiting.iter().filter(|waiting| !unknown.contains(&waiting.seq)) {
                connection.attach(waiting.seq, Priority::NORMAL);
                self.answer_one(waiting.seq, waiting.received(), connection);
            }
        }
        if let Some(taken) = hello.pushes_taken.as_ref().filter(|taken| taken.push_line == self.generation) {
            let received = PushMarks::new(&taken.ids).get(Priority::NORMAL);
            self.pushes.retain(|&id, _| id > received);
        }
        for push in self.pushes.values() {
            connection.control().push(push).unwrap();
        }
    }

    fn on_request(&mut self, seq: u64, connection: &mut Connection) {
        let ledger = self.ledger.as_mut().unwrap();
        if let Some(error) = ledger.admit(seq).error() {
            return connection.reset(seq, &error);
        }
        if ledger.admit(seq) == Admission::New {
            ledger.begin(seq, Exchange { busy: 20, ..Exchange::default() });
        }
        self.answer_one(seq, Place::default(), connection);
    }

    /// The backend: runs what is complete.
    fn work(&mut self) {
        let Some(ledger) = &mut self.ledger else { return };
        let seqs: Vec<u64> = ledger.iter().map(|(seq, _)| seq).collect();
        for seq in seqs {
            if let Some(exchange) = ledger.get_mut(seq)
                && exchange.body_complete
                && exchange.busy > 0
            {
                exchange.busy -= 1;
                if exchange.busy == 10 {
                    assert_eq!(exchange.body, request(exchange.name()).concat(), "all of it, once, in order");
                    *self.runs.entry(exchange.name()).or_default() += 1;
                }
            }
        }
    }

    /// Answers what the backend has finished on the connection that waits for it.
    fn answer(&mut self, connection: &mut Connection) {
        let Some(ledger) = &self.ledger else { return };
        let is_due = |exchange: &Exchange| exchange.body_complete && exchange.busy == 0 && !exchange.answered;
        let due: Vec<u64> =
            ledger.iter().filter(|(_, exchange)| is_due(exchange)).map(|(seq, _)| seq).collect();
        for seq in due {
            self.answer_one(seq, Place::default(), connection);
        }
    }

    fn answer_one(&mut self, seq: u64, from: Place, connection: &mut Connection) {
        let Some(ledger) = &mut self.ledger else { return };
        if let Some(error) = ledger.admit(seq).error() {
            return connection.reset(seq, &error);
        }
        let now = origin();
        let Some(exchange) = ledger.get_mut(seq) else { return };
        if exchange.busy > 0 || !exchange.body_complete {
            return;
        }
        let messages = answer(exchange.name());
        if !std::mem::replace(&mut exchange.answered, true) {
            let kept = ledger.record(seq, messages.iter().map(Bytes::len).sum());
            if kept {
                ledger.finish(seq, now);
            }
        }
        // The client may have cancelled it on this connection: then it is no longer open.
        if connection.send_response(seq, status_200(), false).is_ok() {
            let mut begun = from.bytes as usize;
            for message in messages.into_iter().skip(from.messages as usize) {
                connection.send_message(seq, message.slice(std::mem::take(&mut begun)..), false).unwrap();
            }
            connection.send_trailers(seq, vec![field("grpc-status", "0")]).unwrap();
        }
    }

    /// A request whose body was cut waits for the rest, or is as if it had never come: it has not run.
    fn on_disconnected(&mut self) {
        if self.parks {
            return;
        }
        let Some(ledger) = &mut self.ledger else { return };
        let cut: Vec<u64> =
            ledger.iter().filter(|(_, exchange)| !exchange.body_complete).map(|(seq, _)| seq).collect();
        for seq in cut {
            ledger.forget(seq);
        }
    }
}

impl Exchange {
    fn take(&mut self, bytes: &[u8], end_of_message: bool) {
        self.body.extend_from_slice(bytes);
        self.partial += bytes.len();
        if end_of_message {
            self.messages += 1;
            self.partial = 0;
        }
    }

    fn name(&self) -> u64 {
        u64::from_be_bytes(self.body[..8].try_into().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: {}", self.seed);
        }
    }
}
