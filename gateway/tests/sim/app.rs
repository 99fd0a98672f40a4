//! The app: the real SDK over the simulated network, and what an app does with it.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::AsyncUdpSocket;
use tokio::{
    io::AsyncWriteExt as _,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use towline_client::{
    BindUdp, CallRequest, Client, ClientConfig, ConnectionState, Dial, Dialed, Dialing, Endpoint,
    FirstFlight, Policy, Priority, RpcError, Transports,
};
use towline_gateway::transport::Handshake;

use crate::{
    backend::{answer_of, question},
    datagrams::GATEWAY,
    determinism,
    model::{Call, End, Welcome},
    network::{self, Sees},
    world::World,
};

pub(crate) const CLIENT_ID: &str = "phone-7";
/// Longer than all faults and what they cost to get over.
const DEADLINE: Duration = Duration::from_secs(240);

/// Every fourth call is a stream.
fn is_stream(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// One life of the app.
pub(crate) struct App {
    client: Client,
    life: u32,
    /// Dropped with the app, and with them all that it waited for.
    work: JoinSet<()>,
}

impl App {
    /// Starts the app with the identity that it left on disk.
    pub(crate) fn start(world: &Arc<World>, identity: &Path) -> Self {
        let life = {
            let mut state = world.state();
            state.app_lives += 1;
            state.model.pushes.taken.push(Vec::new());
            state.app_lives
        };
        world.note(format!("app: life {life}"));
        let endpoint = Endpoint { host: GATEWAY.ip().to_string(), port: GATEWAY.port() };
        let mut config = match world.plan.transports {
            Transports::Tcp => ClientConfig::plaintext(vec![endpoint]),
            _ => ClientConfig::new(vec![endpoint], world.identity.authority_pem.clone()),
        };
        config.transports = world.plan.transports;
        config.early_data = world.plan.early > 0.0;
        config.udp = Some(Arc::new(Dialer { world: Arc::clone(world), life }));
        config.client_id = Some(CLIENT_ID.to_owned());
        config.identity_file = Some(identity.to_owned());
        config.dialer = Some(Arc::new(Dialer { world: Arc::clone(world), life }));
        config.seed = Some(world.state().chance.u64(..));
        config.policy = Policy {
            heartbeat: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5),
            ..Policy::default()
        };
        let client = Client::start(config).unwrap();
        let mut work = JoinSet::new();
        work.spawn(take_pushes(Arc::clone(world), client.clone(), life));
        work.spawn(watch_line(Arc::clone(world), client.states(), life));
        Self { client, life, work }
    }

    /// Makes a call, whose end is written down unless the app dies.
    pub(crate) fn call(&mut self, world: &Arc<World>, id: u64) {
        let (idempotent, durable) = (world.draw() < 0.2, world.draw() < world.plan.durable);
        let size = if world.draw() < 0.9 { 50 } else { 70_000 };
        let (began, life) = (determinism::elapsed(), self.life);
        let call = Call { idempotent, durable, began, life, ..Call::default() };
        world.state().model.calls.insert(id, call);
        let request = request(id, size, idempotent, durable);
        let (world, client) = (Arc::clone(world), self.client.clone());
        self.work.spawn(async move {
            let mut unsure = Unsure { world: Arc::clone(&world), id, ended: false };
            let end = make_call(&world, &client, id, request).await;
            unsure.ended = true;
            world.note(format!("call {id}: {end:?}"));
            world.end_call(id, end);
        });
    }

    pub(crate) fn network_changed(&self) {
        self.client.network_changed();
    }
}

/// Says of a call that nobody is there any more to hear how it ends.
struct Unsure {
    world: Arc<World>,
    id: u64,
    ended: bool,
}

impl Drop for Unsure {
    fn drop(&mut self) {
        if !self.ended {
            self.world.end_call(self.id, End::GivenUp);
        }
    }
}

impl World {
    fn end_call(&self, id: u64, end: End) {
        if let Some(call) = self.state().model.calls.get_mut(&id) {
            call.end = Some((determinism::elapsed(), end));
        }
    }
}

fn request(id: u64, size: usize, idempotent: bool, durable: bool) -> CallRequest {
    let kind = if is_stream(id) { "stream" } else { "run" };
    let path = format!("{}/{kind}/{id}", if durable { "/durable" } else { "" });
    let mut request = CallRequest::grpc(path, question(id, size)).deadline(DEADLINE);
    request.idempotent = idempotent;
    request.priority = Priority::new((id % 8) as u8);
    request
}

async fn make_call(world: &Arc<World>, client: &Client, id: u64, request: CallRequest) -> End {
    let streams = is_stream(id);
    let patience = if world.draw() < 0.05 { world.draw_time(Duration::from_secs(5)) } else { 2 * DEADLINE };
    let outcome = timeout(patience, async {
        if streams { stream(world, client, request).await } else { unary(client, request).await }
    });
    match outcome.await {
        Err(_gave_up) => End::GivenUp,
        Ok(Err(RpcError { kind, execution, message, .. })) => {
            End::Failed { kind, execution, text: message.to_string() }
        }
        Ok(Ok(messages)) if messages == answer_of(id, streams) => End::Answered,
        Ok(Ok(messages)) => {
            let lengths: Vec<usize> = messages.iter().map(Bytes::len).collect();
            End::WrongAnswer(format!("messages of {lengths:?} bytes"))
        }
    }
}

async fn unary(client: &Client, request: CallRequest) -> Result<Vec<Bytes>, RpcError> {
    Ok(client.call(request).await?.messages)
}

/// Sends some messages, and takes the answer now and then slowly.
async fn stream(world: &Arc<World>, client: &Client, request: CallRequest) -> Result<Vec<Bytes>, RpcError> {
    let (mut sender, mut receiver) = client.stream(request);
    let sending = async {
        for _ in 0..3 {
            let pause = world.draw_time(Duration::from_millis(500));
            sleep(pause).await;
            if sender.send(vec![7; 1000]).await.is_err() {
                return;
            }
        }
        // The receiver knows why.
        let _ = sender.finish().await;
    };
    let receiving = async {
        let mut messages = Vec::new();
        while let Some(message) = receiver.message().await? {
            messages.push(message);
            if world.draw() < 0.3 {
                let pause = world.draw_time(Duration::from_secs(1));
                sleep(pause).await;
            }
        }
        Ok(messages)
    };
    tokio::join!(sending, receiving).1
}

/// Writes down when the line is made, comes up and breaks.
async fn watch_line(world: Arc<World>, mut states: watch::Receiver<ConnectionState>, life: u32) {
    let mut dialed = Duration::ZERO;
    while states.changed().await.is_ok() {
        let at = determinism::elapsed();
        let line = states.borrow_and_update().clone();
        let mut state = world.state();
        state.note(&format!("line: {line}"));
        state.model.line_changes.push(at);
        match line {
            ConnectionState::Connecting => dialed = at,
            ConnectionState::Online { .. } => state.model.welcomes.push(Welcome { life, dialed, at }),
            ConnectionState::Offline { .. } | ConnectionState::Closed { .. } => {}
        }
    }
}

async fn take_pushes(world: Arc<World>, client: Client, life: u32) {
    let mut pushes = client.pushes();
    while let Some(push) = pushes.next().await {
        let number = push.payload.as_ref().try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
        world.note(format!("app takes push {number}"));
        if let Some(taken) = world.state().model.pushes.taken.get_mut(life as usize - 1) {
            taken.push(number);
        }
        let pause = world.draw_time(Duration::from_millis(300));
        sleep(pause).await;
    }
}

/// The way from one life of the app to whichever gateway lives.
struct Dialer {
    world: Arc<World>,
    life: u32,
}

impl BindUdp for Dialer {
    fn bind_udp(&self, _: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        if self.world.state().app_lives != self.life {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        self.world.note("a UDP socket is bound");
        Ok(self.world.datagrams.bind_client())
    }
}

impl Dial for Dialer {
    fn dial(&self, _: &Endpoint, flight: FirstFlight) -> Dialing {
        Box::pin(dial(Arc::clone(&self.world), self.life, flight))
    }
}

/// TCP's and TLS' round trips, and early data where chance wants it.
async fn dial(world: Arc<World>, life: u32, flight: FirstFlight) -> io::Result<Dialed> {
    let round_trip = 2 * world.plan.quality.delay;
    sleep(round_trip).await;
    if world.state().app_lives != life {
        return std::future::pending().await;
    }
    let early = if world.draw() < world.plan.early { flight() } else { None };
    let Some(early) = early else {
        sleep(round_trip).await;
        let stream = world.connect(life, Handshake::complete())?;
        return Ok(Dialed { stream: Box::new(stream), early: 0 });
    };
    world.note(format!("{} bytes fly", early.len()));
    world.state().record_flight(&early);
    let odds = world.draw();
    if odds < 0.2 {
        // The gateway does not take it, and the handshake goes on.
        sleep(round_trip).await;
        let stream = world.connect(life, Handshake::complete())?;
        return Ok(Dialed { stream: Box::new(stream), early: 0 });
    }
    let (completion, handshake) = Handshake::pending();
    let mut stream = world.connect(life, handshake)?;
    stream.write_all(&early).await?;
    sleep(round_trip).await;
    if odds < 0.4 {
        // The handshake breaks: nobody knows what became of the flight.
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let late = world.draw_time(round_trip);
    tokio::spawn(async move {
        sleep(late).await;
        completion.complete();
    });
    Ok(Dialed { stream: Box::new(stream), early: early.len() })
}

impl World {
    /// A connection of this life of the app.
    fn connect(&self, life: u32, handshake: Handshake) -> io::Result<network::End> {
        let mut state = self.state();
        if state.app_lives != life {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let (client, server, cutter) = network::connection(self.plan.quality, &mut state.chance);
        let Some(gateway) = &mut state.gateway else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        gateway.serve(server, handshake);
        state.connections.retain(|cutter| !cutter.is_over());
        state.connections.push(cutter);
        state.note("connected");
        Ok(client)
    }

    /// Somebody sends an earlier first flight again; their handshake will never be complete.
    pub(crate) fn replay(self: &Arc<Self>) {
        let mut state = self.state();
        let lives = state.lives;
        let flights: Vec<Bytes> = state
            .flights
            .iter()
            .filter(|(life, _)| *life == lives)
            .map(|(_, flight)| flight.clone())
            .collect();
        let Some(flight) = state.chance.choice(flights) else { return };
        let (mut stream, server, _) = network::connection(self.plan.quality, &mut state.chance);
        let (completion, handshake) = Handshake::pending();
        let Some(gateway) = &mut state.gateway else { return };
        gateway.serve(server, handshake);
        state.note(&format!("a flight of {} bytes is sent again", flight.len()));
        drop(state);
        tokio::spawn(async move {
            // It may be cut off any time.
            let _ = stream.write_all(&flight).await;
            sleep(Duration::from_secs(5)).await;
            drop((stream, completion));
        });
    }

    /// The app's process is gone from one moment to the next.
    pub(crate) fn kill_app(self: &Arc<Self>, app: App, identity: &Path) {
        self.note("app dies");
        // Nobody hears its destructors, neither the network nor its files.
        let files = [identity.to_owned(), identity.with_extension("pushes")];
        let left = files.map(|path| (std::fs::read(&path).ok(), path));
        self.state().app_lives += 1;
        self.cut_all(Sees::Reset, if self.draw() < 0.5 { Sees::Reset } else { Sees::Silence });
        drop(app);
        for (content, path) in left {
            content.into_iter().for_each(|content| std::fs::write(&path, content).unwrap());
        }
        self.state().app_lives -= 1;
    }
}
