//! The link over QUIC: a task for the control stream, and a stream per request.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use bytes::BytesMut;
use quinn::{RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};
use towline_protocols::link::{Config, Control, Event, StreamCodec, StreamSettings};

use super::{Prepared, answer::Answer, closed, hello, refused, sleep_until};
use crate::{
    fault::{Fault, FaultKind},
    tally::{Bytes, WireBytes},
};

/// Connections that share a UDP socket: enough sockets to look like many peers, few enough for the
/// limit on open files.
const CONNECTIONS_PER_SOCKET: usize = 100;
const READ_BYTES: usize = 16 << 10;
const TRANSMIT_BYTES: usize = 16 << 10;

/// The UDP sockets of a worker.
#[derive(Debug)]
pub struct Endpoints {
    config: quinn::ClientConfig,
    local: IpAddr,
    current: RefCell<Option<quinn::Endpoint>>,
    used: Cell<usize>,
}

impl Endpoints {
    /// Sockets that reach `target`.
    pub fn new(tls: Arc<rustls::ClientConfig>, target: SocketAddr) -> Result<Self, String> {
        let tls = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut transport = quinn::TransportConfig::default();
        // The link's own heartbeat decides; quinn's 30 seconds would end idle connections early.
        transport.max_idle_timeout(None);
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let local = match target.ip() {
            loopback if loopback.is_loopback() => loopback,
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Ok(Self { config, local, current: RefCell::default(), used: Cell::new(0) })
    }

    /// One connection, up to the end of its handshake.
    pub async fn connect(&self, address: SocketAddr, host: &str) -> Result<quinn::Connection, Fault> {
        let handshake = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Handshake, error);
        let endpoint = self.next().map_err(|error| Fault::io(&error))?;
        let connecting = endpoint.connect(address, host).map_err(|error| handshake(&error))?;
        connecting.await.map_err(|error| handshake(&error))
    }

    fn next(&self) -> io::Result<quinn::Endpoint> {
        let used = self.used.replace(self.used.get() + 1);
        if used.is_multiple_of(CONNECTIONS_PER_SOCKET) {
            let mut endpoint = quinn::Endpoint::client(SocketAddr::new(self.local, 0))?;
            endpoint.set_default_client_config(self.config.clone());
            self.current.replace(Some(endpoint));
        }
        self.current.borrow().clone().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// One connection.
#[derive(Debug)]
pub struct QuicLink {
    connection: quinn::Connection,
    settings: StreamSettings,
    seq: Cell<u64>,
    control: AbortHandle,
    ack: tokio::sync::mpsc::UnboundedSender<u64>,
    wire: Arc<WireBytes>,
    counted: Cell<Bytes>,
}

impl QuicLink {
    /// The handshake, HELLO, and WELCOME.
    pub async fn open(
        endpoints: &Endpoints,
        address: SocketAddr,
        host: &str,
        client_id: String,
        config: Arc<Config>,
        wire: Arc<WireBytes>,
    ) -> Result<Self, Fault> {
        let handshake = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Handshake, error);
        let connection = endpoints.connect(address, host).await?;
        let (send, recv) = connection.open_bi().await.map_err(|error| handshake(&error))?;
        let machine = Control::client(config, hello(client_id), Instant::now());
        let (welcome, welcomed) = oneshot::channel();
        let (ack, acks) = tokio::sync::mpsc::unbounded_channel();
        let driver =
            ControlDriver { send, recv, input: BytesMut::new(), machine, welcome: Some(welcome), acks };
        let task: JoinHandle<()> = tokio::task::spawn_local(driver.run());
        let settings = welcomed.await.unwrap_or_else(|_| Err(Fault::new(FaultKind::Closed, "no WELCOME")))?;
        let (seq, counted, control) = (Cell::new(0), Cell::default(), task.abort_handle());
        let link = Self { connection, settings, seq, control, ack, wire, counted };
        link.count_bytes();
        Ok(link)
    }

    /// Sends one request and waits for its whole answer.
    pub async fn call(&self, prepared: &Rc<Prepared>) -> Result<(), Fault> {
        let seq = self.seq.get() + 1;
        self.seq.set(seq);
        let result = self.exchange(seq, prepared).await;
        // The control task ends with the connection; there is nobody left to tell then.
        let _ = self.ack.send(seq);
        self.count_bytes();
        result
    }

    async fn exchange(&self, seq: u64, prepared: &Prepared) -> Result<(), Fault> {
        let (mut send, mut recv) = self.connection.open_bi().await.map_err(|error| lost(&error))?;
        let mut codec = StreamCodec::client(self.settings.clone(), send.id().index(), seq);
        let mut output = BytesMut::new();
        let has_message = prepared.has_message();
        codec.send_request(&prepared.head, !has_message, &mut output).map_err(|error| refused(&error))?;
        if has_message {
            let message = prepared.message.clone();
            codec.send_message(message, true, &mut output).map_err(|error| refused(&error))?;
        }
        send.write_all(&output).await.map_err(|error| lost(&error))?;
        send.finish().map_err(|error| lost(&error))?;
        let mut answer = Answer::new(prepared.grpc);
        let mut input = BytesMut::new();
        loop {
            while let Some(event) = codec.poll_event().map_err(|error| refused(&error))? {
                if let Some(result) = answer.take(&event) {
                    return result;
                }
            }
            let chunk = recv.read_chunk(READ_BYTES, true).await.map_err(|error| lost(&error))?;
            let Some(chunk) = chunk else {
                codec.handle_fin(&input).map_err(|error| refused(&error))?;
                return Err(Fault::new(FaultKind::Protocol, "the stream ended before the answer"));
            };
            input.extend_from_slice(&chunk.bytes);
            codec.handle_bytes(&mut input).map_err(|error| refused(&error))?;
        }
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none() && !self.control.is_finished()
    }

    /// Adds what the connection moved since the last time.
    fn count_bytes(&self) {
        let stats = self.connection.stats();
        let now = Bytes { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes };
        let new = now.since(self.counted.replace(now));
        self.wire.sent.fetch_add(new.sent, Relaxed);
        self.wire.received.fetch_add(new.received, Relaxed);
    }
}

fn lost(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Closed, error)
}

/// The control stream.
struct ControlDriver {
    send: SendStream,
    recv: RecvStream,
    input: BytesMut,
    machine: Control,
    welcome: Option<oneshot::Sender<Result<StreamSettings, Fault>>>,
    /// Requests whose outcome was taken.
    acks: tokio::sync::mpsc::UnboundedReceiver<u64>,
}

impl ControlDriver {
    async fn run(mut self) {
        if let Err(fault) = self.serve().await
            && let Some(welcome) = self.welcome.take()
        {
            // The opener may have given up.
            let _ = welcome.send(Err(fault));
        }
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        let mut output = BytesMut::new();
        loop {
            while self.machine.poll_transmit(Instant::now(), &mut output, TRANSMIT_BYTES) > 0 {}
            self.send.write_all(&output).await.map_err(|error| lost(&error))?;
            output.clear();
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                chunk = self.recv.read_chunk(READ_BYTES, true) => match chunk.map_err(|error| lost(&error))? {
                    Some(chunk) => self.handle(&chunk.bytes)?,
                    None => return Err(Fault::new(FaultKind::Closed, "the control stream ended")),
                },
                seq = self.acks.recv() => match seq {
                    Some(seq) => self.acknowledge(seq),
                    None => return Ok(()),
                },
                () = poll_fn(|cx| self.machine.poll_instructions(cx)) => {}
                () = sleep_until(timeout) => {
                    let handled = self.machine.handle_timeout(Instant::now());
                    handled.map_err(|error| Fault::new(FaultKind::Protocol, error))?;
                }
            }
        }
    }

    fn handle(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.input.extend_from_slice(bytes);
        let handled = self.machine.handle_bytes(Instant::now(), &mut self.input);
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Welcome(_) => {
                    if let Some(welcome) = self.welcome.take() {
                        let _ = welcome.send(Ok(self.machine.stream_settings()));
                    }
                }
                Event::Close { code, text } => return Err(closed(code, &text)),
                Event::Push(push) => self.machine.push_ack(push.priority, push.id),
                Event::Policy(policy) => self.machine.policy_ack(policy.revision, Ok(())),
                _ => {}
            }
        }
        handled.map_err(|error| Fault::new(FaultKind::Protocol, error))
    }

    /// All that have been taken by now, in one frame.
    fn acknowledge(&mut self, first: u64) {
        let mut seqs = vec![first];
        while let (Ok(seq), true) = (self.acks.try_recv(), seqs.len() < 256) {
            seqs.push(seq);
        }
        seqs.sort_unstable();
        self.machine.ack(towline_protocols::link::Ack { floor: 0, seqs });
    }
}
