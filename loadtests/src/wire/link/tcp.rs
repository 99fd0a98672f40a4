//! The link over TLS or plaintext: a task that drives the connection's machine.

use std::{collections::HashMap, io, rc::Rc, sync::Arc, time::Instant};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use towline_protocols::link::{Ack, Config, Connection, Event};

use super::{Prepared, answer::Answer, closed, hello, refused, sleep_until};
use crate::{
    fault::{Fault, FaultKind},
    wire::stream::{Stream, write_some},
};

/// What is read at a time.
const READ_BYTES: usize = 8 << 10;
/// What is asked of the machine at a time: a TLS record's worth.
const TRANSMIT_BYTES: usize = 16 << 10;
/// Calls that wait for the task; a worker's in-flight bound is below it.
const CALLS_MAX: usize = 1024;

/// One connection; dropping it closes the socket.
#[derive(Debug)]
pub struct TcpLink {
    calls: mpsc::Sender<Call>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Call {
    prepared: Rc<Prepared>,
    outcome: oneshot::Sender<Result<(), Fault>>,
}

impl TcpLink {
    /// Sends HELLO and waits for WELCOME.
    pub async fn open(stream: Stream, client_id: String, config: Arc<Config>) -> Result<Self, Fault> {
        let (reader, writer) = tokio::io::split(stream);
        let machine = Connection::client(config, hello(client_id), Instant::now());
        let (calls, received) = mpsc::channel(CALLS_MAX);
        let (welcome, welcomed) = oneshot::channel();
        let driver = Driver {
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            machine,
            welcome: Some(welcome),
            running: HashMap::new(),
            seq: 0,
            ack: Vec::new(),
            calls: received,
        };
        let task = tokio::task::spawn_local(driver.run());
        welcomed.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(Self { calls, task })
    }

    /// Sends one request and waits for its whole answer.
    pub async fn call(&self, prepared: Rc<Prepared>) -> Result<(), Fault> {
        let (outcome, answered) = oneshot::channel();
        self.calls.send(Call { prepared, outcome }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

fn gone() -> Fault {
    Fault::new(FaultKind::Closed, "the connection is gone")
}

struct Driver {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes wait in `output` or inside TLS.
    unflushed: bool,
    machine: Connection,
    /// Until the server has answered HELLO.
    welcome: Option<oneshot::Sender<Result<(), Fault>>>,
    running: HashMap<u64, (Answer, oneshot::Sender<Result<(), Fault>>)>,
    /// Of the last request.
    seq: u64,
    /// Requests whose outcome was taken since the last ACK.
    ack: Vec<u64>,
    calls: mpsc::Receiver<Call>,
}

/// What happened first.
enum Turn {
    Read(io::Result<usize>),
    Wrote(io::Result<()>),
    Call(Option<Call>),
    Timeout,
}

impl Driver {
    /// Until the connection ends or its owner is gone.
    async fn run(mut self) {
        let Err(fault) = self.serve().await else { return };
        if let Some(welcome) = self.welcome.take() {
            // The opener may have given up.
            let _ = welcome.send(Err(fault.clone()));
        }
        for (_, outcome) in self.running.into_values() {
            let _ = outcome.send(Err(fault.clone()));
        }
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        loop {
            self.transmit()?;
            match self.turn().await {
                Turn::Read(read) => {
                    if read.map_err(|error| Fault::io(&error))? == 0 {
                        return Err(Fault::new(FaultKind::Closed, "the gateway closed the connection"));
                    }
                    let handled = self.machine.handle_bytes(Instant::now(), &mut self.input);
                    self.handle_events()?;
                    handled.map_err(|error| Fault::new(FaultKind::Protocol, error))?;
                }
                Turn::Wrote(result) => {
                    result.map_err(|error| Fault::io(&error))?;
                    self.unflushed = !self.output.is_empty();
                }
                Turn::Call(None) => return Ok(()),
                Turn::Call(Some(call)) => self.begin(call),
                Turn::Timeout => {
                    let handled = self.machine.handle_timeout(Instant::now());
                    handled.map_err(|error| Fault::new(FaultKind::Protocol, error))?;
                }
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        self.input.reserve(READ_BYTES);
        let timeout = self.machine.poll_timeout();
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => Turn::Read(read),
            wrote = write_some(&mut self.writer, &mut self.output), if self.unflushed => Turn::Wrote(wrote),
            call = self.calls.recv() => Turn::Call(call),
            () = sleep_until(timeout) => Turn::Timeout,
        }
    }

    fn begin(&mut self, call: Call) {
        self.seq += 1;
        let Call { prepared, outcome } = call;
        let head = prepared.head.clone();
        let has_message = prepared.has_message();
        let sent = self.machine.send_request(self.seq, head, !has_message).and_then(|()| match has_message {
            true => self.machine.send_message(self.seq, prepared.message.clone(), true).map(drop),
            false => Ok(()),
        });
        match sent {
            Ok(()) => _ = self.running.insert(self.seq, (Answer::new(prepared.grpc), outcome)),
            // A caller that stopped waiting needs no word.
            Err(error) => _ = outcome.send(Err(refused(&error))),
        }
    }

    fn handle_events(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.machine.poll_event() {
            match &event {
                Event::Welcome(_) => {
                    if let Some(welcome) = self.welcome.take() {
                        let _ = welcome.send(Ok(()));
                    }
                }
                Event::Close { code, text } => return Err(closed(*code, text)),
                Event::Push(push) => self.machine.control().push_ack(push.priority, push.id),
                Event::Policy(policy) => self.machine.control().policy_ack(policy.revision, Ok(())),
                Event::MessagePart { seq, bytes, .. } => {
                    let (seq, length) = (*seq, bytes.len());
                    self.handle_answer(seq, &event);
                    self.machine.credit(seq, length);
                }
                Event::Response { seq, .. }
                | Event::Trailers { seq, .. }
                | Event::End { seq }
                | Event::Reset { seq, .. } => self.handle_answer(*seq, &event),
                _ => {}
            }
        }
        Ok(())
    }

    fn handle_answer(&mut self, seq: u64, event: &Event) {
        let Some((answer, _)) = self.running.get_mut(&seq) else { return };
        let Some(result) = answer.take(event) else { return };
        if let Some((_, outcome)) = self.running.remove(&seq) {
            let _ = outcome.send(result);
        }
        self.ack.push(seq);
    }

    /// Fills the output when it has been written.
    fn transmit(&mut self) -> Result<(), Fault> {
        if !self.output.is_empty() {
            return Ok(());
        }
        if !self.ack.is_empty() {
            let seqs = std::mem::take(&mut self.ack);
            let floor = self.running.keys().min().map_or(self.seq, |oldest| oldest - 1);
            self.machine.control().ack(Ack { floor, seqs: above(floor, seqs) });
        }
        while self.output.len() < TRANSMIT_BYTES
            && self.machine.poll_transmit(Instant::now(), &mut self.output, TRANSMIT_BYTES) > 0
        {}
        self.unflushed |= !self.output.is_empty();
        self.handle_events()
    }
}

fn above(floor: u64, mut seqs: Vec<u64>) -> Vec<u64> {
    seqs.retain(|seq| *seq > floor);
    seqs.sort_unstable();
    seqs
}
