//! Upstream MQTT brokers: one MQTT 5 connection to each, for messages both ways.
//!
//! ```text
//!  device --PUBLISH--> route --> Outbox (store) ---barrier---> PUBACK
//!                                   |
//!                                   v                      topic: - local_prefix + topic_prefix
//!                                 Link: wire <--TLS, TCP--> broker
//!                                   |
//!                                   v                      topic: - topic_prefix + local_prefix
//!                                 Inbound: route, subscribers, retained --barrier--> PUBACK
//! ```
//!
//! What is forwarded stays in its queue until the broker has acknowledged it, and goes out again, in order, on the
//! next connection: at least once. Without `buffer` nothing is kept: a message is accepted when the broker's PUBACK
//! came, and the publisher still holds it until then.
//!
//! What the broker refuses for now is offered again; what it refuses for good is logged, and a dead letter (refusals.rs).
//!
//! A message carries which gateways it has passed (hops.rs), so that it cannot go in circles.

mod direct;
mod hops;
mod inbound;
mod link;
mod packet;
mod refusals;
mod window;
mod wire;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dashmap::{DashMap, Entry};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};
use towline_protocols::mqtt::{Connect, session::Settings as SessionSettings};

use self::{direct::Job, link::Link};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    metrics::Metrics,
    outbox::{Full, Names, Outbox},
    request::Origin,
    settings::{self, BackendKind, Settings},
    store::{Store, StoreError, Table, Write},
};

/// Names of the queues' bounds in metrics.
static BUFFER: Names = Names {
    count: "backends.upstream.buffer_max",
    bytes: "backends.upstream.buffer_bytes_max",
    age: "backends.upstream.buffer_age_max",
};
/// Where the store has the gateway's name among gateways.
const NODE_KEY: &[u8] = b"node";
/// How long brokers are given to hear that the gateway leaves.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// The upstream brokers of one gateway.
pub struct Upstreams {
    /// The gateway's name among gateways.
    node: Arc<str>,
    /// Whether the store has it. A gateway without brokers needs none.
    is_node_stored: AtomicBool,
    running: DashMap<Arc<str>, Running>,
    changed: Notify,
    messages: prometheus::IntCounterVec,
}

/// A broker's connection and the task that keeps it; dropping it ends the task.
struct Running {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    leave: watch::Sender<bool>,
    task: AbortHandle,
}

/// What the task and its callers share.
struct Shared {
    settings: settings::Backend,
    node: Arc<str>,
    outbox: Arc<Outbox>,
    is_up: AtomicBool,
    connected: prometheus::IntGauge,
    /// By backend and reason.
    refusals: prometheus::IntCounterVec,
    counters: Counters,
}

struct Counters {
    forwarded: prometheus::IntCounter,
    received: prometheus::IntCounter,
    /// The broker, or this gateway, would not take it.
    refused: prometheus::IntCounter,
    /// The broker refused it for now; it stays in its queue.
    retried: prometheus::IntCounter,
    /// It had been here before.
    looped: prometheus::IntCounter,
    /// QoS 0 while the broker was away.
    dropped: prometheus::IntCounter,
}

impl Upstreams {
    /// None is connected yet.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn restore(store: &Store, metrics: &Metrics) -> Result<Self, StoreError> {
        let messages = metrics.upstream_messages.clone();
        let known = stored_node(store)?;
        let is_node_stored = AtomicBool::new(known.is_some());
        let node = known.unwrap_or_else(new_node);
        Ok(Self { node, is_node_stored, running: DashMap::new(), changed: Notify::new(), messages })
    }

    /// Follows a reload.
    pub fn follow(&self) {
        self.changed.notify_one();
    }

    /// Whether the message was published by this gateway before: somebody has brought it back.
    pub fn came_back(&self, message: &Message) -> bool {
        hops::has_passed(&self.node, message)
    }

    /// What a client is greeted with: one that says which gateway it is, is told which this one is.
    pub(crate) fn introduce(
        &self,
        store: &Store,
        connect: &Connect,
        settings: Arc<SessionSettings>,
    ) -> Arc<SessionSettings> {
        if !hops::is_gateway(connect) {
            return settings;
        }
        // What is told by this name may come back behind a restart.
        self.store_node(store);
        let user_properties = hops::introduction(&self.node).into_iter().collect();
        Arc::new(SessionSettings { user_properties, ..(*settings).clone() })
    }

    /// Counts a message that was not published again.
    pub fn count_looped(&self) {
        self.messages.with_label_values(&["", "looped"]).inc();
    }

    /// Hands a message to a broker. `Ok` when it is on disk, or, without a buffer, when the broker has it.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) async fn publish(
        &self,
        gateway: &Arc<Gateway>,
        backend: &settings::Backend,
        origin: &Origin,
        message: &Message,
        within: Duration,
    ) -> Result<(), RpcError> {
        if message.upstream.as_deref() == Some(&*backend.name) {
            // It came from there.
            return Ok(());
        }
        hops::check(&self.node, message, backend)?;
        packet::check_strings(message, backend)?;
        let (shared, jobs) = self.ensure(gateway, backend);
        if !backend.upstream.buffer {
            return direct::publish(&shared, &jobs, message, within).await;
        }
        if message.qos == 0 && !shared.is_up.load(Ordering::Relaxed) {
            shared.counters.dropped.inc();
            return Ok(());
        }
        let is_stored = message.qos > 0;
        shared
            .outbox
            .push(Arc::new(message.clone()), origin.user.clone(), None, is_stored)
            .map_err(|full| no_room(backend, full))?;
        if is_stored {
            gateway.store.barrier().await.map_err(|error| not_stored(backend, &error))?;
        }
        Ok(())
    }

    /// The task of a backend that runs by these settings.
    fn ensure(
        &self,
        gateway: &Arc<Gateway>,
        backend: &settings::Backend,
    ) -> (Arc<Shared>, mpsc::Sender<Job>) {
        let parts = |running: &Running| (running.shared.clone(), running.jobs.clone());
        if let Some(running) = self.running.get(&backend.name)
            && running.shared.settings == *backend
        {
            return parts(&running);
        }
        match self.running.entry(backend.name.clone()) {
            Entry::Occupied(held) if held.get().shared.settings == *backend => parts(held.get()),
            Entry::Occupied(mut held) => {
                held.insert(Running::start(gateway, backend));
                parts(held.get())
            }
            Entry::Vacant(vacant) => parts(&vacant.insert(Running::start(gateway, backend))),
        }
    }

    /// The name is on disk before any message that waits for a broker.
    fn store_node(&self, store: &Store) {
        if store.is_lasting() && !self.is_node_stored.swap(true, Ordering::Relaxed) {
            let (key, value) = (NODE_KEY.to_vec(), self.node.as_bytes().to_vec());
            store.must_write(Write::Put { table: Table::Node, key, value });
        }
    }

    /// Starts what the settings name, and ends what they do not.
    fn start_all(&self, gateway: &Arc<Gateway>, settings: &Settings) {
        let brokers = || settings.backends.iter().filter(|backend| backend.kind == BackendKind::Mqtt);
        self.running.retain(|name, _| brokers().any(|backend| backend.name == *name));
        for backend in brokers() {
            self.ensure(gateway, backend);
        }
    }

    /// Tells the brokers that the gateway leaves.
    pub async fn close(&self) {
        let mut left = Vec::new();
        self.running.retain(|_, running| {
            running.leave.send_replace(true);
            left.push(running.leave.clone());
            true
        });
        let all = futures_util::future::join_all(left.iter().map(watch::Sender::closed));
        // Who does not take leave in time finds the connection gone.
        _ = tokio::time::timeout(FAREWELL_TIMEOUT, all).await;
    }
}

/// Keeps the connections that the settings name, until the gateway is gone.
pub async fn watch(gateway: Weak<Gateway>) {
    loop {
        let Some(gateway_now) = gateway.upgrade() else { return };
        let snapshot = gateway_now.snapshot.load_full();
        gateway_now.upstreams.start_all(&gateway_now, &snapshot.settings);
        drop(snapshot);
        let mut drain = gateway_now.drain.watch();
        tokio::select! {
            () = gateway_now.upstreams.changed.notified() => {}
            // A drain changes no settings, and this task must not keep the gateway.
            _ = drain.draining() => return,
        }
    }
}

impl Running {
    fn start(gateway: &Arc<Gateway>, backend: &settings::Backend) -> Self {
        gateway.upstreams.store_node(&gateway.store);
        let outbox = gateway.outboxes.get(&format!("upstream.{}", backend.name));
        outbox.set_bounds(backend.upstream.bounds, &BUFFER);
        let shared = Arc::new(Shared {
            settings: backend.clone(),
            node: gateway.upstreams.node.clone(),
            outbox,
            is_up: AtomicBool::new(false),
            connected: gateway.metrics.upstream_connected.with_label_values(&[&*backend.name]),
            refusals: gateway.metrics.upstream_refusals.clone(),
            counters: Counters::new(&gateway.metrics, &backend.name),
        });
        let (jobs, waiting) = mpsc::channel(direct::QUEUE_MAX);
        let (leave, leaving) = watch::channel(false);
        let link = Link::new(Arc::downgrade(gateway), shared.clone(), waiting, leaving);
        let task = tokio::spawn(link.run()).abort_handle();
        Self { shared, jobs, leave, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.set_up(false);
    }
}

impl Shared {
    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
        self.connected.set(i64::from(is_up));
    }
}

impl Counters {
    fn new(metrics: &Metrics, backend: &str) -> Self {
        let messages = |outcome| metrics.upstream_messages.with_label_values(&[backend, outcome]);
        Self {
            forwarded: messages("forwarded"),
            received: messages("received"),
            refused: messages("refused"),
            retried: messages("retried"),
            looped: messages("looped"),
            dropped: messages("dropped"),
        }
    }
}

/// The gateway's name among gateways. A store that lasts keeps it, since what was forwarded before a restart may come
/// back behind it, and brokers know the gateway's session by it.
fn stored_node(store: &Store) -> Result<Option<Arc<str>>, StoreError> {
    let known = store.scan(Table::Node)?.into_iter().find(|(key, _)| key == NODE_KEY);
    let Some((_, value)) = known else { return Ok(None) };
    let text = String::from_utf8(value).map_err(|_| store.damaged("the gateway's name is not text"))?;
    Ok(Some(text.into()))
}

fn new_node() -> Arc<str> {
    let mut random = [0; 8];
    if SystemRandom::new().fill(&mut random).is_err() {
        random = fastrand::u64(..).to_be_bytes();
    }
    format!("{:016x}", u64::from_be_bytes(random)).into()
}

fn no_room(backend: &settings::Backend, full: Full) -> RpcError {
    let message = format!("backend {}: {full}; the broker is away or slow", backend.name);
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, message)
}

fn not_stored(backend: &settings::Backend, error: &StoreError) -> RpcError {
    let message = format!("backend {}: the message could not be stored: {error}", backend.name);
    RpcError::new(RpcErrorKind::Internal, Execution::MayHaveRun, message)
}
