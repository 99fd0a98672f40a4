//! A client's session towards a server that says anything in any order: numbers and epochs are used once, HELLO and
//! ACK never let go of what the app still waits for, and no push is handed on twice.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use towline_protocols::link::{
    Event, Execution, Hello, LimitsMessage, Partial, Place, Priority, Push, RpcError, RpcErrorKind, Welcome,
    client::{CallOptions, Fate, Session},
};

pub(crate) fn run(data: &[u8]) {
    let mut history = History {
        session: Session::new("fuzz", [7; 16], 0),
        hello: Hello::default(),
        awaits_welcome: false,
        last_seq: 0,
        calls: BTreeMap::new(),
        ever_sent: BTreeSet::new(),
        carried: BTreeSet::new(),
        complete: BTreeSet::new(),
        line: 0,
        handed_on: [0; URGENCIES],
    };
    for step in data.chunks_exact(3) {
        history.step(step[0], step[1], step[2]);
        history.check();
    }
}

const URGENCIES: usize = 8;

struct History {
    session: Session,
    /// The newest.
    hello: Hello,
    /// A second WELCOME is refused by the connection.
    awaits_welcome: bool,
    last_seq: u64,
    /// What the app waits for, and whether it was sent.
    calls: BTreeMap<u64, (CallOptions, bool)>,
    /// Those that were sent on any connection.
    ever_sent: BTreeSet<u64>,
    /// Those whose answer the newest connection may bring.
    carried: BTreeSet<u64>,
    /// Those whose end has arrived: nothing more of them is handed on.
    complete: BTreeSet<u64>,
    line: u64,
    /// The newest push of each urgency.
    handed_on: [u64; URGENCIES],
}

impl History {
    fn step(&mut self, kind: u8, first: u8, second: u8) {
        let seq = self.pick(first);
        match kind % 12 {
            0 | 1 => self.open(CallOptions {
                idempotent: first & 1 == 1,
                replayable: first & 2 == 2,
                continues: first & 4 == 4,
                sees_whole: first & 8 == 8,
            }),
            2 => self.send(seq),
            3 => self.connect(),
            4 => self.welcome(first, second),
            5 => self.answer(seq, second),
            6 => self.reset(seq, second),
            7 => self.push(first, second),
            8 => self.take(seq),
            9 => self.retry(seq, second),
            10 => self.acknowledge(),
            _ => {
                self.session.push_taken(Priority::new(first % 8), second.into());
                while let Some((priority, id)) = self.session.take_push_ack() {
                    assert!(id <= self.handed_on[usize::from(priority.urgency())]);
                }
            }
        }
    }

    fn pick(&self, which: u8) -> u64 {
        let count = self.calls.len().max(1);
        self.calls.keys().nth(usize::from(which) % count).copied().unwrap_or(u64::from(which))
    }

    fn open(&mut self, options: CallOptions) {
        let seq = self.session.open(options);
        self.opened(seq, options);
    }

    fn opened(&mut self, seq: u64, options: CallOptions) {
        assert!(seq > self.last_seq, "{seq} names two requests");
        self.last_seq = seq;
        self.calls.insert(seq, (options, false));
    }

    fn send(&mut self, seq: u64) {
        // A driver sends what was not sent, or what is to be sent again.
        let Some((_, sent @ false)) = self.calls.get_mut(&seq) else { return };
        *sent = true;
        assert!(self.session.may_send(seq));
        self.ever_sent.insert(seq);
        self.session.on_request_sent(seq);
        self.carried.insert(seq);
    }

    fn connect(&mut self) {
        let hello = self.session.hello(Hello::default());
        assert_eq!(hello.epoch, self.hello.epoch + 1);
        assert!(hello.waiting.is_sorted_by(|a, b| a.seq < b.seq));
        for waiting in &hello.waiting {
            // One that is to be sent again is asked for first: a session that it was given to may have run it.
            assert!(self.ever_sent.contains(&waiting.seq));
            let (_, sent) = self.calls.get_mut(&waiting.seq).expect("asked for, and given up");
            *sent = true;
        }
        self.check_floor(hello.outcome_floor);
        (self.hello, self.awaits_welcome) = (hello, true);
        self.carried.clear();
    }

    fn welcome(&mut self, first: u8, second: u8) {
        if !std::mem::take(&mut self.awaits_welcome) {
            return;
        }
        let unknown = self.hello.waiting.iter().map(|waiting| waiting.seq);
        let open = unknown.clone().filter(|seq| (seq * u64::from(second)) & 2 == 2);
        let partial = |seq| Partial {
            seq,
            messages_received: second.into(),
            bytes_received: first.into(),
            ..Partial::default()
        };
        let rests = second & 1 == 1;
        let welcome = Welcome {
            resumed: first & 1 == 1,
            session_id: u64::from(first >> 4),
            unknown: unknown.filter(|seq| (seq * u64::from(second)) & 4 == 4).collect(),
            seq_min: if first & 2 == 2 { u64::from(second) * 8 } else { 0 },
            push_line: u64::from(first & 12),
            partial: open.map(partial).collect(),
            limits: Some(LimitsMessage { message_rests: rests, ..LimitsMessage::default() }),
            ..Welcome::default()
        };
        if welcome.push_line != self.line {
            (self.line, self.handed_on) = (welcome.push_line, [0; URGENCIES]);
        }
        for (seq, fate) in self.session.on_welcome(&self.hello, &welcome) {
            let (options, sent) = self.calls[&seq];
            let is_unknown = welcome.resumed && welcome.unknown.contains(&seq);
            match fate {
                Fate::Send => {
                    assert!(!sent || (options.replayable && (is_unknown || options.idempotent)));
                    self.calls.entry(seq).and_modify(|(_, sent)| *sent = false);
                }
                Fate::Keep { received, sent: rest } => {
                    self.carried.insert(seq);
                    assert!(sent && welcome.resumed && !is_unknown);
                    let is_open = options.continues && welcome.partial.iter().any(|open| open.seq == seq);
                    assert_eq!(rest, is_open.then_some(Place { messages: second.into(), bytes: first.into() }));
                    let waiting = self.hello.waiting.iter().find(|waiting| waiting.seq == seq);
                    let told = waiting.expect("it was asked for").received();
                    assert_eq!(received, if rests { told } else { told.of_message() });
                }
                Fate::Ask => panic!("there are no short connections here"),
                Fate::Anew => {
                    assert!(options.idempotent && options.replayable && options.sees_whole);
                    let again = self.session.repeat(seq).expect("it may run again");
                    self.calls.remove(&seq);
                    self.opened(again, options);
                }
                Fate::Fail(error) => {
                    assert!(error.execution == Execution::MayHaveRun || is_unknown);
                    self.calls.remove(&seq);
                }
            }
        }
        self.last_seq = self.last_seq.max(welcome.seq_min);
    }

    fn answer(&mut self, seq: u64, what: u8) {
        let end = what & 1 == 1;
        let event = match what >> 6 {
            0 => Event::Response { seq, fields: Vec::new(), end },
            1 => Event::End { seq },
            _ => Event::MessagePart {
                seq,
                message_bytes: Some(what.into()),
                bytes: Bytes::from(vec![0; usize::from(what & 15)]),
                wire_bytes: usize::from(what & 15),
                end_of_message: what & 2 == 2,
                end,
            },
        };
        let offered = if let Event::MessagePart { bytes, .. } = &event { bytes.len() } else { 0 };
        let ends = end || what >> 6 == 1;
        let delivery = self.session.on_event(event);
        assert!(self.is_under_way(seq) || delivery.event.is_none());
        if ends && self.is_under_way(seq) {
            self.complete.insert(seq);
        }
        let taken = if let Some(Event::MessagePart { bytes, .. }) = &delivery.event { bytes.len() } else { 0 };
        assert_eq!(taken + delivery.credit, offered, "every byte is handed on or given back");
    }

    fn reset(&mut self, seq: u64, what: u8) {
        const EXECUTIONS: [Execution; 4] =
            [Execution::NotRun, Execution::MayHaveRun, Execution::Ran, Execution::NotNow];
        let execution = EXECUTIONS[usize::from(what % 4)];
        let kind = match what >> 3 & 3 {
            0 => RpcErrorKind::OutcomeExpired,
            1 => RpcErrorKind::TakenElsewhere,
            _ => RpcErrorKind::Cancelled,
        };
        let is_under_way = self.is_under_way(seq);
        if is_under_way {
            self.complete.insert(seq);
        }
        let delivery = self.session.on_event(Event::Reset { seq, error: RpcError::new(kind, execution, "") });
        assert_eq!(delivery.event.is_some(), is_under_way);
        if let Some(Event::Reset { error, .. }) = delivery.event {
            assert!(error.execution != Execution::NotNow && error.kind != RpcErrorKind::TakenElsewhere);
        }
    }

    /// Whether the newest connection may bring more of its answer.
    fn is_under_way(&self, seq: u64) -> bool {
        self.calls.contains_key(&seq) && self.carried.contains(&seq) && !self.complete.contains(&seq)
    }

    fn push(&mut self, urgency: u8, id: u8) {
        let (priority, id) = (Priority::new(urgency % 8), u64::from(id));
        let delivery = self.session.on_event(Event::Push(Push { id, priority, ..Push::default() }));
        let newest = &mut self.handed_on[usize::from(priority.urgency())];
        assert_eq!(delivery.event.is_some(), id > *newest);
        *newest = id.max(*newest);
    }

    fn take(&mut self, seq: u64) {
        self.session.taken(seq);
        self.calls.remove(&seq);
    }

    fn retry(&mut self, seq: u64, what: u8) {
        let execution = if what & 1 == 1 { Execution::NotRun } else { Execution::MayHaveRun };
        let Some(&(options, _)) = self.calls.get(&seq) else { return };
        let error = RpcError::new(RpcErrorKind::Draining, execution, "");
        let Some(again) = self.session.retry(seq, &error) else { return };
        assert!(options.replayable && (execution == Execution::NotRun || options.idempotent));
        self.calls.remove(&seq);
        self.opened(again, options);
    }

    fn acknowledge(&mut self) {
        while let Some(ack) = self.session.take_ack() {
            self.check_floor(ack.floor);
            assert!(ack.seqs.iter().all(|seq| *seq > ack.floor && !self.calls.contains_key(seq)));
        }
    }

    fn check_floor(&self, floor: u64) {
        assert!(self.calls.keys().next().is_none_or(|&first| floor < first), "{floor} lets go of an open call");
    }

    fn check(&self) {
        assert!(self.session.calls().eq(self.calls.keys().copied()));
    }
}
