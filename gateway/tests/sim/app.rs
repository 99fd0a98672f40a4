//! An app: the real SDK over the simulated network, and what an app does with it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use towline_client::{
    CallRequest, Client, ClientConfig, ConnectionState, Endpoint, Network, NetworkKind, Policy, Priority,
    RpcError,
};

use crate::{
    datagrams::GATEWAYS,
    determinism,
    dialer::Dialer,
    lists,
    model::{Call, End, Line, LineChange},
    network::Sees,
    phone::{self, Phone},
    questions::{
        answer_of, is_refusal, is_stream, own_headers, question, run_of, session_headers, uploads,
        wrong_in_answer,
    },
    world::World,
};

pub(crate) const CLIENT_IDS: [&str; 2] = ["phone-7", "phone-8"];
/// Longer than all faults and what they cost to get over.
const DEADLINE: Duration = Duration::from_secs(240);

/// How often an app that starts again is another version of itself, with other session headers.
const UPDATES: f64 = 0.3;
/// What streams keep in worlds of short memory.
const SHORT_MEMORY: usize = 1000;

/// One life of an app.
pub(crate) struct App {
    client: Client,
    /// Which app.
    number: usize,
    life: u32,
    /// The session headers.
    shared: Vec<(String, String)>,
    /// Dropped with the app, and with them all that it waited for.
    work: JoinSet<()>,
}

impl App {
    /// Starts the app of that number with the identity that it left on disk.
    pub(crate) fn start(world: &Arc<World>, number: usize) -> Self {
        let update = world.draw() < UPDATES;
        let (life, version, seed) = {
            let mut state = world.state();
            state.app_lives += 1;
            let life = state.app_lives;
            state.living_apps.insert(life);
            state.app_versions[number] += u64::from(update);
            state.model.pushes[number].taken.push(Vec::new());
            (life, state.app_versions[number], state.chance.u64(..))
        };
        world.note(format!("app {number}: life {life}, version {version}"));
        let endpoints = GATEWAYS[..world.plan.gateways].iter();
        let endpoints = endpoints.map(|it| Endpoint { host: it.ip().to_string(), port: it.port() }).collect();
        let mut config = match &world.identity {
            None => ClientConfig::plaintext(endpoints),
            Some(identity) => ClientConfig::new(endpoints, identity.authority_pem.clone()),
        };
        let dialer = Arc::new(Dialer { world: Arc::clone(world), client: number, life });
        let shared = if world.plan.session_headers { session_headers(number, version) } else { Vec::new() };
        config.transports = world.plan.transports;
        config.early_data = world.plan.early > 0.0;
        config.udp = Some(Arc::clone(&dialer) as _);
        config.client_id = Some(CLIENT_IDS[number].to_owned());
        config.identity_file = Some(world.identity_file(number));
        config.durable_storage = Some(Arc::new(Phone { world: Arc::clone(world), app: number, life }));
        config.dialer = Some(dialer);
        config.seed = Some(seed);
        config.endpoint_lists = world.desk.lists();
        config.session_headers.clone_from(&shared);
        (config.short_calls, config.short_after) = (world.plan.posts, world.plan.posts_after);
        // Which of many would make room is decided by the clock of the file system.
        config.limits.dictionaries_max = 8;
        if world.plan.short_memory {
            config.limits.upload_buffer_bytes = SHORT_MEMORY;
        }
        config.policy = Policy {
            heartbeat: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5),
            ..Policy::default()
        };
        let client = Client::start(config).unwrap();
        let mut work = JoinSet::new();
        work.spawn(take_pushes(Arc::clone(world), client.clone(), number));
        work.spawn(phone::take_outcomes(Arc::clone(world), client.clone()));
        work.spawn(watch_line(Arc::clone(world), client.states(), number, life));
        work.spawn(lists::look(Arc::clone(world), client.clone(), number));
        Self { client, number, life, shared, work }
    }

    /// Which app it is a life of.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Makes a call, whose end is written down unless the app dies.
    pub(crate) fn call(&mut self, world: &Arc<World>, id: u64) {
        let (idempotent, durable) = (world.draw() < 0.2, world.draw() < world.plan.durable);
        let size = if world.draw() < 0.9 { 50 } else { 70_000 };
        let kept = world.draw() < world.plan.kept && !is_stream(id);
        let (began, life, shared) = (determinism::elapsed(), self.life, self.shared.clone());
        let (client, streams) = (self.number, is_stream(id));
        let call =
            Call { idempotent, durable, kept, began, client, life, shared, size, streams, ..Call::default() };
        world.state().model.calls.insert(id, call);
        let request = request(id, size, idempotent, durable);
        let (world, client) = (Arc::clone(world), self.client.clone());
        self.work.spawn(async move {
            let mut unsure = Unsure { world: Arc::clone(&world), id, ended: false };
            if kept {
                let refused = phone::call(&world, &client, id, request).await;
                unsure.ended = true;
                if let Some(error) = refused {
                    world.note(format!("call {id} is not taken in: {error}"));
                    world.end_call(id, outcome_of(id, Err(error)));
                }
                return;
            }
            let end = make_call(&world, &client, id, request).await;
            unsure.ended = true;
            world.note(format!("call {id}: {end:?}"));
            world.end_call(id, end);
        });
    }

    pub(crate) fn network_changed(&self) {
        self.client.network_changed(Network::default());
    }

    /// Another network than the one in use is there too.
    pub(crate) fn network_joined(&self, world: &World) {
        let is_wifi = self.client.network().kind == NetworkKind::Wifi;
        let kind = if is_wifi { NetworkKind::Cellular } else { NetworkKind::Wifi };
        world.note(format!("app {}: {kind} joins", self.number));
        world.state().model.joins.push((self.number, determinism::elapsed()));
        self.client.network_joined(Network::new(kind, "sim"));
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
    /// A durable call that was handed out has its end already.
    fn end_call(&self, id: u64, end: End) {
        if let Some(call) = self.state().model.calls.get_mut(&id)
            && call.handed.is_empty()
        {
            call.seen_at_end = call.seen;
            call.end = Some((determinism::elapsed(), end));
        }
    }
}

fn request(id: u64, size: usize, idempotent: bool, durable: bool) -> CallRequest {
    let kind = if is_stream(id) { "stream" } else { "run" };
    let path = format!("{}/{kind}/{id}", if durable { "/durable" } else { "" });
    let mut request = CallRequest::grpc(path, question(id, size)).deadline(DEADLINE);
    request.headers.extend(own_headers(id));
    request.idempotent = idempotent;
    request.priority = Priority::new((id % 8) as u8);
    request
}

async fn make_call(world: &Arc<World>, client: &Client, id: u64, request: CallRequest) -> End {
    let streams = is_stream(id);
    let patience = if world.draw() < 0.05 { world.draw_time(Duration::from_secs(5)) } else { 2 * DEADLINE };
    let outcome = timeout(patience, async {
        if streams { stream(world, client, id, request).await } else { unary(client, request).await }
    });
    match outcome.await {
        Err(_gave_up) => End::GivenUp,
        Ok(outcome) => outcome_of(id, outcome),
    }
}

/// How a call ended that the app has not given up.
pub(crate) fn outcome_of(id: u64, outcome: Arrived) -> End {
    match outcome {
        Err(RpcError { kind, execution, message, .. }) => {
            End::Failed { kind, execution, text: message.to_string() }
        }
        Ok((headers, messages)) => match wrong_in_answer(id, &headers) {
            Some(wrong) => End::WrongAnswer(wrong),
            None if is_refusal(&headers) && messages.is_empty() => End::Refused,
            None if run_of(&headers).is_some_and(|run| messages == answer_of(id, run)) => End::Answered,
            None => {
                let lengths: Vec<usize> = messages.iter().map(Bytes::len).collect();
                let run = run_of(&headers);
                End::WrongAnswer(format!("messages of {lengths:?} bytes, or not of run {run:?}"))
            }
        },
    }
}

/// An answer as it arrived.
pub(crate) type Arrived = Result<(HeaderMap, Vec<Bytes>), RpcError>;

async fn unary(client: &Client, request: CallRequest) -> Arrived {
    let response = client.call(request).await.map_err(|failed| failed.error)?;
    Ok((response.headers, response.messages))
}

/// Sends some messages, and takes the answer now and then slowly.
async fn stream(world: &Arc<World>, client: &Client, id: u64, request: CallRequest) -> Arrived {
    let (mut sender, mut receiver) = client.stream(request);
    let sending = async {
        for message in uploads(id) {
            let pause = world.draw_time(Duration::from_millis(500));
            sleep(pause).await;
            if sender.send(message).await.is_err() {
                return;
            }
        }
        // The receiver knows why.
        let _ = sender.finish().await;
    };
    let receiving = async {
        let headers = receiver.head().await?.headers;
        let mut messages = Vec::new();
        while let Some(message) = receiver.message().await? {
            messages.push(message);
            if world.draw() < 0.3 {
                let pause = world.draw_time(Duration::from_secs(1));
                sleep(pause).await;
            }
        }
        Ok((headers, messages))
    };
    tokio::join!(sending, receiving).1
}

/// Writes down when the line is made, comes up and breaks.
async fn watch_line(
    world: Arc<World>,
    mut states: watch::Receiver<ConnectionState>,
    client: usize,
    life: u32,
) {
    while states.changed().await.is_ok() {
        let at = determinism::elapsed();
        let line = states.borrow_and_update().clone();
        let mut state = world.state();
        state.note(&format!("line {client}: {line}"));
        let line = match line {
            ConnectionState::Connecting => Line::Dialing,
            ConnectionState::Online { .. } => Line::Up,
            ConnectionState::Offline { .. } | ConnectionState::Closed { .. } => Line::Down,
        };
        state.model.lines.push(LineChange { client, life, at, line });
    }
}

async fn take_pushes(world: Arc<World>, client: Client, number: usize) {
    let run = world.state().model.pushes[number].taken.len() - 1;
    let mut pushes = client.pushes();
    while let Some(push) = pushes.next().await {
        let content = push.payload.as_ref().try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
        world.note(format!("app {number} takes push {content}"));
        world.state().model.pushes[number].taken[run].push(content);
        let pause = world.draw_time(Duration::from_millis(300));
        sleep(pause).await;
    }
}

impl World {
    fn identity_file(&self, app: usize) -> PathBuf {
        self.folder.join(format!("identity-{app}"))
    }

    /// The app's process is gone from one moment to the next.
    pub(crate) fn kill_app(self: &Arc<Self>, app: App) {
        self.note(format!("app {} dies", app.number));
        // Nobody hears its destructors, neither the network nor its files.
        let identity = self.identity_file(app.number);
        let files = [identity.with_extension("pushes"), identity];
        let left = files.map(|path| (std::fs::read(&path).ok(), path));
        self.state().living_apps.remove(&app.life);
        self.cut_all(Sees::Reset, self.draw_break());
        drop(app);
        for (content, path) in left {
            content.into_iter().for_each(|content| std::fs::write(&path, content).unwrap());
        }
    }
}
