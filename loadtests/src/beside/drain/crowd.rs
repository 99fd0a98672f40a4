//! Many clients of the SDK in one process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use towline_client::{CallRequest, Client, ClientConfig, ConnectionState, Endpoint, Execution, Transports};

/// Connections that are made at one time.
const OPENING_MAX: usize = 64;
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Long beside everything that a drain may cost a call.
const DEADLINE: Duration = Duration::from_secs(60);

/// Kinds of failures that are told apart.
const FAILURES_MAX: usize = 16;

/// Clients that are online.
pub(super) struct Crowd {
    clients: Vec<Client>,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

/// What the clients were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Paths of calls that were answered.
    pub(super) answered: Vec<String>,
    /// Paths of calls that failed as certainly not run.
    pub(super) not_run: Vec<String>,
    /// Calls that failed in any way.
    pub(super) failed: usize,
    /// By what was said, [`FAILURES_MAX`] kinds.
    pub(super) failures: BTreeMap<String, usize>,
    /// From the drain's beginning to each client's next WELCOME.
    pub(super) moved: Vec<Duration>,
}

struct Shared {
    told: Mutex<Told>,
    drain: OnceLock<Instant>,
    over: watch::Sender<bool>,
}

impl Crowd {
    /// Starts the clients and waits until all are online.
    pub(super) async fn gather(count: u32, gateway: SocketAddr, roots_pem: &[u8]) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            told: Mutex::default(),
            drain: OnceLock::new(),
            over: watch::Sender::new(false),
        });
        let (mut clients, mut tasks) = (Vec::new(), JoinSet::new());
        let mut opening = JoinSet::new();
        for _ in 0..count {
            if opening.len() >= OPENING_MAX {
                joined(&mut opening).await?;
            }
            let client = Client::start(config(gateway, roots_pem)).map_err(|error| error.to_string())?;
            tasks.spawn(watch_moves(client.clone(), Arc::clone(&shared)));
            clients.push(client.clone());
            opening.spawn(online(client));
        }
        while !opening.is_empty() {
            joined(&mut opening).await?;
        }
        Ok(Self { clients, shared, tasks: Mutex::new(tasks) })
    }

    /// Every client calls from now on, `rate` times per second all together.
    pub(super) fn work(&self, rate: u32) {
        let pace = Duration::from_secs(1).mul_f64(self.clients.len() as f64 / f64::from(rate));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, client) in self.clients.iter().enumerate() {
            tasks.spawn(work(client.clone(), number, pace, Arc::clone(&self.shared)));
        }
    }

    /// Reconnects count from now on.
    pub(super) fn drain_begins(&self) -> Instant {
        *self.shared.drain.get_or_init(Instant::now)
    }

    /// Waits for the calls that are under way.
    pub(super) async fn end(self) -> Told {
        self.shared.over.send_replace(true);
        let mut tasks = self.tasks.into_inner().unwrap_or_else(PoisonError::into_inner);
        while tasks.join_next().await.is_some() {}
        self.shared.told().clone()
    }
}

impl Shared {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn over(&self) {
        // The sender lives as long as this.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

fn config(gateway: SocketAddr, roots_pem: &[u8]) -> ClientConfig {
    let endpoint = Endpoint { host: gateway.ip().to_string(), port: gateway.port() };
    let mut config = ClientConfig::new(vec![endpoint], roots_pem);
    config.transports = Transports::Tcp;
    config
}

async fn online(client: Client) -> Result<(), String> {
    let mut states = client.states();
    let up = states.wait_for(|state| matches!(state, ConnectionState::Online { .. }));
    let state = timeout(OPEN_TIMEOUT, up).await.map_err(|_| "a client does not come online")?;
    state.map(drop).map_err(|error| error.to_string())
}

async fn joined(opening: &mut JoinSet<Result<(), String>>) -> Result<(), String> {
    match opening.join_next().await {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(()),
    }
}

/// Notes the first WELCOME after the drain began.
async fn watch_moves(client: Client, shared: Arc<Shared>) {
    let mut states = client.states();
    loop {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = shared.over() => return,
        }
        let online = matches!(*states.borrow_and_update(), ConnectionState::Online { .. });
        if let (true, Some(drain)) = (online, shared.drain.get()) {
            shared.told().moved.push(drain.elapsed());
            return;
        }
    }
}

async fn work(client: Client, number: usize, pace: Duration, shared: Arc<Shared>) {
    let mut pause = pace.mul_f64(fastrand::f64());
    for round in 0_u64.. {
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.over() => return,
        }
        pause = pace;
        let path = format!("/work/{number}-{round}");
        let request = CallRequest::http(Method::POST, path.clone(), Bytes::from_static(b"pay"));
        let outcome = client.call(request.deadline(DEADLINE)).await;
        let mut told = shared.told();
        match outcome {
            Ok(response) if response.status == 200 => told.answered.push(path),
            Ok(response) => told.fail(format!("status {}", response.status)),
            Err(error) => {
                if error.execution == Execution::NotRun {
                    told.not_run.push(path);
                }
                told.fail(error.to_string());
            }
        }
    }
}

impl Told {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        let has_room = self.failures.len() < FAILURES_MAX;
        match self.failures.get_mut(&why) {
            Some(count) => *count += 1,
            None if has_room => _ = self.failures.insert(why, 1),
            None => {}
        }
    }
}
