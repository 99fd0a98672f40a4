//! The gateway, one life after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use towline_gateway::{
    backend::Service,
    gateway::Gateway,
    hub::{Delivered, Message},
    link,
    request::{Origin, Protocol},
    session,
    settings::{Backend as BackendSettings, BackendKind, ClientPolicy, Listener, Route, Settings},
    store::{Store, Writer},
    transport::Handshake,
};

use crate::{
    backend::Backend,
    network::{End, Sees},
    world::World,
};

const LISTENER: &str = "edge";

/// One life.
pub(crate) struct Incarnation {
    pub(crate) gateway: Arc<Gateway>,
    alive: Arc<AtomicBool>,
    disk: Arc<std::sync::Mutex<Option<Writer>>>,
    /// Of its connections and of its housekeeping.
    tasks: JoinSet<()>,
}

impl Incarnation {
    fn new(world: &Arc<World>) -> Self {
        let alive = Arc::new(AtomicBool::new(true));
        let backend = Backend { world: Arc::clone(world), alive: Arc::clone(&alive) };
        let (store, writer) = Store::by_hand(&world.memory);
        let gateway = Gateway::with_store(settings(Service(Arc::new(backend))), store).unwrap();
        let disk = Arc::new(std::sync::Mutex::new(Some(writer)));
        let mut tasks = JoinSet::new();
        tasks.spawn(session::sweep(Arc::downgrade(&gateway)));
        tasks.spawn(keep_writing(Arc::clone(world), Arc::clone(&disk)));
        Self { gateway, alive, disk, tasks }
    }

    /// Serves a connection.
    pub(crate) fn serve(&mut self, end: End, handshake: Handshake) -> AbortHandle {
        let peer = ([192, 0, 2, 7], 5000).into();
        let origin = Origin { handshake, ..Origin::new(LISTENER.into(), peer, Protocol::LinkTcp, true) };
        self.tasks.spawn(link::serve_stream(Arc::clone(&self.gateway), Arc::new(origin), end))
    }

    /// Ends all at once: what its disk had not written is gone, or was written and nobody was told.
    fn die(mut self, unheard: bool) {
        self.alive.store(false, Ordering::SeqCst);
        self.tasks.abort_all();
        let writer = self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer.filter(|_| unheard) {
            writer.write_and_die();
        }
    }
}

/// A disk that takes its time.
async fn keep_writing(world: Arc<World>, disk: Arc<std::sync::Mutex<Option<Writer>>>) {
    loop {
        let pause = world.draw_time(Duration::from_millis(100));
        sleep(pause).await;
        if let Some(writer) = &*disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            writer.write();
        }
    }
}

fn settings(service: Service) -> Settings {
    let backend = BackendSettings {
        service: Some(service),
        timeout: Duration::from_secs(120),
        ..BackendSettings::new("service", BackendKind::Grpc, "service:1")
    };
    Settings {
        listeners: vec![Listener::plain(LISTENER, ([127, 0, 0, 1], 0).into())],
        backends: vec![backend],
        routes: vec![Route { path: Some("/*".into()), ..Route::new("all", "service") }],
        client_policy: ClientPolicy {
            heartbeat: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5),
            ..ClientPolicy::default()
        },
        drain_spread: Duration::from_secs(1),
        ..Settings::default()
    }
}

impl World {
    pub(crate) fn start_gateway(self: &Arc<Self>) {
        let incarnation = Incarnation::new(self);
        let mut state = self.state();
        state.lives += 1;
        let lives = state.lives;
        state.note(&format!("gateway: life {lives}"));
        state.gateway = Some(incarnation);
    }

    /// Kills the gateway, and starts it again a while later.
    pub(crate) async fn restart_gateway(self: &Arc<Self>) {
        let unheard = self.draw() < 0.5;
        self.note(format!("gateway dies, its last writes unheard: {unheard}"));
        let gateway = self.state().gateway.take();
        self.state().model.gateway_died = true;
        if let Some(gateway) = gateway {
            gateway.die(unheard);
        }
        let client = if self.draw() < 0.7 { Sees::Reset } else { Sees::Silence };
        self.cut_all(client, Sees::Reset);
        let pause = self.draw_time(Duration::from_secs(4));
        sleep(pause).await;
        self.start_gateway();
    }

    /// Replaces the gateway as an operator does.
    pub(crate) async fn drain_gateway(self: &Arc<Self>) {
        let draining = self.state().gateway.as_ref().map(|held| Arc::clone(&held.gateway));
        let Some(gateway) = draining else { return };
        self.note("gateway drains");
        self.state().model.gateway_died = true;
        gateway.drain.begin(Instant::now() + Duration::from_secs(15));
        let _ = tokio::time::timeout(Duration::from_secs(15), gateway.drain.finished()).await;
        drop(gateway);
        self.restart_gateway().await;
    }

    /// Pushes message `number` to the client, if the gateway is there and knows the client.
    pub(crate) async fn push(self: &Arc<Self>, client: &str, number: u64) {
        let held = self.state().gateway.as_ref().map(|held| Arc::clone(&held.gateway));
        let Some(gateway) = held else { return };
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        let message = Message { topic: "news".into(), payload, qos: 1, ..Message::default() };
        let delivered = gateway.hub.push_to_client(client, &Arc::new(message));
        self.note(format!("push {number}: {delivered:?}"));
        let kept = matches!(delivered, Some(Delivered::Sent | Delivered::Stored));
        let durable = gateway.store.barrier();
        if kept && durable.await.is_ok() {
            self.note(format!("push {number} is durable"));
            self.state().model.pushes.accepted.push(number);
        }
    }
}
