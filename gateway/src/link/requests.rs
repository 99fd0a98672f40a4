//! The requests of one TCP connection, whose frames all pass through its one machine.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use towline_protocols::link::{Connection, Event, Priority, RpcError};

use super::{
    door::{Admission, Door, Opening},
    head,
};
use crate::session::{BodySender, Consumer, Credits, ExchangePart, Next, TakenBytes};

/// Requests that the machine has open, by sequence number.
pub(super) struct TcpRequests {
    pub(super) machine: Connection,
    pub(super) credits: Arc<Credits>,
    answers: BTreeMap<u64, Consumer>,
    bodies: BTreeMap<u64, BodySender>,
}

impl TcpRequests {
    pub(super) fn new(machine: Connection) -> Self {
        Self { machine, credits: Arc::default(), answers: BTreeMap::new(), bodies: BTreeMap::new() }
    }

    /// Takes up what earlier connections left, and says WELCOME.
    pub(super) fn welcome(&mut self, admission: &mut Admission) {
        for consumer in std::mem::take(&mut admission.attached) {
            let (seq, priority) = (consumer.seq(), consumer.exchange().priority());
            match admission.door.lease.take_up(seq, &self.credits) {
                None => self.machine.attach(seq, priority),
                Some((body, window_used)) => {
                    let window_used = u32::try_from(window_used).unwrap_or(u32::MAX);
                    self.machine.attach_open(seq, priority, window_used);
                    self.bodies.insert(seq, body);
                }
            }
            self.answers.insert(seq, consumer);
        }
        admission.refused.iter().for_each(|(seq, _)| self.machine.attach(*seq, Priority::NORMAL));
        self.machine.control().welcome(std::mem::take(&mut admission.welcome));
        for (seq, error) in &admission.refused {
            self.machine.reset(*seq, error);
        }
        let attached: Vec<u64> = self.answers.keys().copied().collect();
        attached.into_iter().for_each(|seq| self.send_answer(seq));
    }

    /// Opens requests whose answers come with [`TcpRequests::resume`].
    pub(super) fn await_answers(&mut self, seqs: &[u64]) {
        seqs.iter().for_each(|&seq| self.machine.attach(seq, Priority::NORMAL));
    }

    /// Sends the answers that were awaited.
    pub(super) fn resume(&mut self, attached: Vec<Consumer>, refused: &[(u64, RpcError)]) {
        refused.iter().for_each(|(seq, error)| self.machine.reset(*seq, error));
        for consumer in attached {
            let seq = consumer.seq();
            self.machine.prioritize(seq, consumer.exchange().priority());
            self.answers.insert(seq, consumer);
            self.send_answer(seq);
        }
    }

    /// Whether request `seq` is being answered.
    pub(super) fn carries(&self, seq: u64) -> bool {
        self.answers.contains_key(&seq)
    }

    /// Gives back the credit of a part that nobody takes.
    pub(super) fn discard(&mut self, event: &Event) {
        if let Event::MessagePart { seq, bytes, .. } = event {
            self.machine.credit(*seq, bytes.len());
        }
    }

    /// Follows what concerns a request; gives back what does not, and what has to wait.
    pub(super) fn on_event(&mut self, door: &Door, event: Event) -> Option<Event> {
        match event {
            Event::Request { seq, head, end } => match door.open(seq, &head, end, &self.credits) {
                Opening::Later => return Some(Event::Request { seq, head, end }),
                Opening::Answered(consumer, body) => {
                    self.answers.insert(seq, consumer);
                    self.bodies.extend(body.map(|body| (seq, body)));
                    self.send_answer(seq);
                }
                Opening::Refused(error) => self.machine.reset(seq, &error),
            },
            Event::MessagePart { seq, message_bytes, bytes, end_of_message, end, .. } => {
                let passed = match self.bodies.get(&seq).filter(|body| body.is_open()) {
                    Some(body) => body.part(message_bytes, bytes, end_of_message),
                    // Nobody takes it: what ran before is not fed again.
                    None => {
                        self.machine.credit(seq, bytes.len());
                        Ok(())
                    }
                };
                match passed {
                    Ok(()) if end => self.end_body(door, seq, None),
                    Ok(()) => {}
                    Err(error) => self.refuse_body(door, seq, &error),
                }
            }
            Event::End { seq } => self.end_body(door, seq, None),
            Event::Trailers { seq, fields } => self.end_body(door, seq, Some(head::trailers(&fields))),
            Event::Reset { seq, error } => {
                self.bodies.remove(&seq);
                self.answers.remove(&seq);
                head::count_limit(&door.gateway, &error);
                if !head::is_unreadable(&error) {
                    door.lease.cancel(seq, &error.message);
                }
            }
            Event::Writable { seq } => self.send_answer(seq),
            other => return Some(other),
        }
        None
    }

    /// Gives the machine as much of an answer as it has room for.
    pub(super) fn send_answer(&mut self, seq: u64) {
        while self.machine.send_capacity(seq) > 0 {
            let Some(consumer) = self.answers.get_mut(&seq) else { return };
            let sent = match consumer.try_next() {
                Next::Pending => return,
                Next::Done => Ok(true),
                Next::Part { part, ends } => self.send_part(seq, part, ends).map(|()| ends),
            };
            match sent {
                Ok(false) => {}
                Ok(true) => {
                    self.answers.remove(&seq);
                }
                Err(error) => {
                    self.answers.remove(&seq);
                    self.machine.reset(seq, &head::answer_lost(error));
                }
            }
        }
    }

    fn send_part(&mut self, seq: u64, part: ExchangePart, ends: bool) -> Result<(), RpcError> {
        match part {
            ExchangePart::Head(fields) => self.machine.send_response(seq, fields, ends),
            ExchangePart::Message(message) => self.machine.send_message(seq, message, ends).map(drop),
            ExchangePart::Trailers(fields) => self.machine.send_trailers(seq, fields),
            ExchangePart::End => self.machine.send_end(seq),
            ExchangePart::Error(error) => {
                self.machine.reset(seq, &error);
                self.bodies.remove(&seq);
                Ok(())
            }
        }
    }

    /// Gives back the credit of what backends have taken, and says how much that was.
    pub(super) fn give_credit(&mut self) -> usize {
        let TakenBytes { taken, kept, let_go } = self.credits.take();
        self.machine.keep(kept);
        self.machine.let_go(let_go);
        taken.iter().for_each(|&(seq, bytes)| self.machine.credit(seq, bytes));
        taken.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether a backend takes messages of request `seq`.
    pub(super) fn feeds(&self, seq: u64) -> bool {
        self.bodies.get(&seq).is_some_and(BodySender::is_open)
    }

    /// Whether no answer and no body is under way.
    pub(super) fn are_over(&self) -> bool {
        self.answers.is_empty() && self.bodies.is_empty()
    }

    /// The rest of a request will not come: its answer says so.
    pub(super) fn cut(&mut self, door: &Door, seq: u64) {
        self.bodies.remove(&seq);
        door.lease.cancel(seq, "the connection ended before the request had arrived whole");
    }

    /// Whether no request is open and nothing waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.answers.is_empty() && self.bodies.is_empty() && self.machine.is_idle()
    }

    /// Gives back memory when nothing runs.
    pub(super) fn compact(&mut self) {
        if self.answers.is_empty() && self.bodies.is_empty() {
            self.answers = BTreeMap::new();
            self.bodies = BTreeMap::new();
            self.machine.compact();
        }
    }

    fn end_body(&mut self, door: &Door, seq: u64, trailers: Option<HeaderMap>) {
        let Some(body) = self.bodies.remove(&seq) else { return };
        let ended = match trailers {
            Some(fields) => body.trailers(fields),
            None => body.end(),
        };
        match (ended, self.answers.get(&seq)) {
            (Ok(true), Some(consumer)) => consumer.exchange().request_complete(),
            (Ok(_), _) => {}
            (Err(error), _) => self.refuse_body(door, seq, &error),
        }
    }

    /// The client broke a rule about what it sends again.
    fn refuse_body(&mut self, door: &Door, seq: u64, error: &RpcError) {
        self.bodies.remove(&seq);
        self.answers.remove(&seq);
        self.machine.reset(seq, error);
        door.lease.cancel(seq, &error.message);
    }
}
