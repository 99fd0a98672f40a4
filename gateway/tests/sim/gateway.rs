//! The gateway, one life after the other.

use std::{
    future::poll_fn,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use towline_gateway::{
    backend::Service,
    gateway::Gateway,
    http,
    hub::{Delivered, Message},
    link, listener,
    request::{Origin, Protocol},
    session,
    settings::{
        Backend as BackendSettings, BackendKind, CertificateFiles, ClientPolicy, Listener, Route, Settings,
    },
    store::{Store, Writer},
    transport::{Handshake, quic::endpoint_on},
};
use towline_protocols::link::DictionaryKind;

use crate::{
    app::CLIENT_IDS,
    backend::Backend,
    datagrams::GATEWAYS,
    determinism,
    model::{DISK_MAX, Fault},
    network::{End, Sees},
    questions::header_dictionary,
    world::World,
};

pub(crate) const LISTENER: &str = "edge";
/// The longest pause between two lives.
const DEAD_MAX: Duration = Duration::from_secs(4);

/// The longest that nobody looks after a disk that fails.
const DISK_FAILS_MAX: Duration = Duration::from_secs(10);

/// What gateways show on QUIC, and whom its clients trust. The keys are of the kind whose signatures are all
/// of one length.
pub(crate) struct Identity {
    files: CertificateFiles,
    pub(crate) authority_pem: Vec<u8>,
}

impl Identity {
    pub(crate) fn make(folder: &Path) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).unwrap();
        let leaf = CertificateParams::new(GATEWAYS.map(|gateway| gateway.ip().to_string())).unwrap();
        let leaf_key = key();
        let leaf = leaf.signed_by(&leaf_key, &authority).unwrap();
        let (chain, private) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&chain, leaf.pem()).unwrap();
        std::fs::write(&private, leaf_key.serialize_pem()).unwrap();
        Self { files: CertificateFiles::pem(chain, private), authority_pem: authority.pem().into_bytes() }
    }
}

/// One life.
pub(crate) struct Incarnation {
    pub(crate) gateway: Arc<Gateway>,
    alive: Arc<AtomicBool>,
    disk: Arc<Mutex<Option<Writer>>>,
    /// Of its connections and of its housekeeping.
    tasks: JoinSet<()>,
}

impl Incarnation {
    fn new(world: &Arc<World>, place: usize) -> Self {
        let alive = Arc::new(AtomicBool::new(true));
        let backend = Backend { world: Arc::clone(world), gateway: place, alive: Arc::clone(&alive) };
        let (store, writer) = Store::by_hand(&world.memories[place]);
        let settings = settings(world, place, Service(Arc::new(backend)));
        let gateway = Gateway::with_store(settings, store).unwrap();
        let disk = Arc::new(Mutex::new(Some(writer)));
        let mut tasks = JoinSet::new();
        tasks.spawn(session::sweep(Arc::downgrade(&gateway)));
        tasks.spawn(keep_writing(Arc::clone(world), place, Arc::clone(&disk)));
        let quic = gateway.snapshot().listener(LISTENER).and_then(|listener| listener.quic.clone());
        if let Some(quic) = quic {
            let endpoint = endpoint_on(world.datagrams.bind_gateway(place), &quic).unwrap();
            tasks.spawn(listener::accept_quic(Arc::clone(&gateway), LISTENER.into(), endpoint));
        }
        Self { gateway, alive, disk, tasks }
    }

    /// Serves a connection of the link.
    pub(crate) fn serve(&mut self, end: End, handshake: Handshake) {
        let origin = Arc::new(Origin { handshake, ..origin(Protocol::LinkTcp) });
        self.tasks.spawn(link::serve_stream(Arc::clone(&self.gateway), origin, end));
    }

    /// Serves a connection that carries POSTs.
    pub(crate) fn serve_http(&mut self, end: End) {
        let origin = Arc::new(origin(Protocol::Http));
        let serving = http::serve(Arc::clone(&self.gateway), origin, end);
        self.tasks.spawn(async move { drop(serving.await) });
    }

    /// Ends all at once. Of what its disk has not written, the first `unheard` changes are written and nobody is
    /// told; the rest is gone.
    fn die(mut self, unheard: usize) {
        self.alive.store(false, Ordering::SeqCst);
        self.tasks.abort_all();
        if let Some(writer) = lock(&self.disk).take() {
            writer.write_and_die(unheard);
        }
    }
}

fn origin(protocol: Protocol) -> Origin {
    Origin::new(LISTENER.into(), ([198, 51, 100, 7], 5000).into(), protocol, true)
}

/// A disk that takes its time.
async fn keep_writing(world: Arc<World>, gateway: usize, disk: Arc<Mutex<Option<Writer>>>) {
    let is_written_to = |cx: &mut Context<'_>| match &*lock(&disk) {
        Some(writer) => writer.poll_waiting(cx),
        None => Poll::Pending,
    };
    loop {
        poll_fn(is_written_to).await;
        let pause = world.draw_time(DISK_MAX);
        sleep(pause).await;
        if world.happens(world.plan.disk_deaths) {
            world.crash(gateway, "at a write");
            return;
        }
        let fails = world.happens(world.plan.disk_faults);
        if fails {
            world.fail_disk(gateway);
        }
        match &*lock(&disk) {
            Some(writer) if fails => writer.fail(),
            Some(writer) => writer.write(),
            None => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn settings(world: &World, place: usize, service: Service) -> Settings {
    let backend = BackendSettings {
        service: Some(service),
        timeout: Duration::from_secs(120),
        ..BackendSettings::new("service", BackendKind::Grpc, "service:1")
    };
    let plain = Listener::plain(LISTENER, GATEWAYS[place]);
    let listener = match &world.identity {
        None => plain,
        Some(identity) => Listener { quic: true, certificates: vec![identity.files.clone()], ..plain },
    };
    let route = |name: &str, path: &str| Route { path: Some(path.into()), ..Route::new(name, "service") };
    Settings {
        listeners: vec![listener],
        backends: vec![backend],
        routes: vec![Route { durable: true, ..route("durable", "/durable/*") }, route("all", "/*")],
        client_policy: ClientPolicy {
            heartbeat: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5),
            ..ClientPolicy::default()
        },
        drain_spread: Duration::from_secs(1),
        endpoint_list: world.desk.published(place),
        ..Settings::default()
    }
}

impl World {
    pub(crate) fn start_gateway(self: &Arc<Self>, place: usize) {
        let incarnation = Incarnation::new(self, place);
        let mut state = self.state();
        state.lives += 1;
        let lives = state.lives;
        state.note(&format!("gateway {place}: life {lives}"));
        state.gateways[place] = Some((lives, incarnation));
        drop(state);
        if self.plan.dictionaries {
            // One that clients hold is there again, or is not.
            let more = (self.draw() * 3.0) as u64;
            self.publish_dictionary(place, more);
        }
    }

    /// The gateway publishes a header dictionary: that of all gateways, or one that is so much newer.
    pub(crate) fn publish_dictionary(&self, place: usize, newer: u64) {
        let mut state = self.state();
        state.dictionary += newer;
        let version = state.dictionary;
        let Some((_, gateway)) = &state.gateways[place] else { return };
        let library = &gateway.gateway.dictionaries;
        let published = library.publish(DictionaryKind::Headers, header_dictionary(version), 100, None);
        state.note(&format!("gateway {place} publishes header dictionary {version}: {}", published.is_ok()));
    }

    /// Kills a gateway, and starts it again a while later.
    pub(crate) async fn restart_gateway(self: &Arc<Self>, place: usize) {
        self.kill_gateway(place, "any time");
        self.revive_gateway(place).await;
    }

    /// Kills a gateway in the middle of a step, which must not go on; it starts again a while later.
    pub(crate) fn crash(self: &Arc<Self>, place: usize, when: &str) {
        self.kill_gateway(place, when);
        let world = Arc::clone(self);
        tokio::spawn(async move { world.revive_gateway(place).await });
    }

    /// The gateway's disk takes nothing more, until somebody looks after it.
    fn fail_disk(self: &Arc<Self>, place: usize) {
        self.note("the disk fails");
        let fault = Fault { gateway: place, at: determinism::elapsed() };
        self.state().model.disk_faults.push(fault);
        let world = Arc::clone(self);
        tokio::spawn(async move {
            let pause = world.draw_time(DISK_FAILS_MAX);
            sleep(pause).await;
            world.restart_gateway(place).await;
        });
    }

    fn kill_gateway(&self, place: usize, when: &str) {
        let unheard = [0, 1, 2, usize::MAX][(self.draw() * 4.0) as usize];
        let Some((_, gateway)) = self.state().gateways[place].take() else { return };
        self.note(format!("gateway {place} dies {when}, {unheard} of its last writes unheard"));
        let death = Fault { gateway: place, at: determinism::elapsed() };
        self.state().model.deaths.push(death);
        self.datagrams.cut_gateway(place);
        gateway.die(unheard);
        let client = if self.draw() < 0.7 { Sees::Reset } else { Sees::Silence };
        self.cut_streams(Some(place), client, Sees::Reset);
    }

    async fn revive_gateway(self: &Arc<Self>, place: usize) {
        let pause = self.draw_time(DEAD_MAX);
        sleep(pause).await;
        let is_dead = self.state().gateways[place].is_none();
        if is_dead {
            self.start_gateway(place);
        }
    }

    /// Replaces a gateway as an operator does.
    pub(crate) async fn drain_gateway(self: &Arc<Self>, place: usize) {
        let Some(gateway) = self.living(place) else { return };
        self.note(format!("gateway {place} drains"));
        self.state().model.drains.push(determinism::elapsed());
        gateway.drain.begin(Instant::now() + Duration::from_secs(15));
        let _ = tokio::time::timeout(Duration::from_secs(15), gateway.drain.finished()).await;
        drop(gateway);
        self.restart_gateway(place).await;
    }

    /// The gateway there, while it lives.
    pub(crate) fn living(&self, place: usize) -> Option<Arc<Gateway>> {
        self.state().gateways[place].as_ref().map(|(_, held)| Arc::clone(&held.gateway))
    }

    /// Pushes message `number` to a client, if the gateway is there and knows it.
    pub(crate) async fn push(self: &Arc<Self>, client: usize, number: u64) {
        let Some(gateway) = self.living(0) else { return };
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        let message = Message { topic: "news".into(), payload, qos: 1, ..Message::default() };
        let delivered = gateway.hub.push_to_client(CLIENT_IDS[client], &Arc::new(message));
        self.note(format!("push {number} to {}: {delivered:?}", CLIENT_IDS[client]));
        let kept = matches!(delivered, Some(Delivered::Sent | Delivered::Stored));
        let durable = gateway.store.barrier();
        if kept && durable.await.is_ok() {
            self.note(format!("push {number} is durable"));
            self.state().model.pushes[client].accepted.push(number);
        }
    }
}
