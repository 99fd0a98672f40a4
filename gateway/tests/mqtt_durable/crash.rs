//! A gateway that is killed (SIGKILL) under load, again and again. It is a process of its own: this test program.
//! Publishers go on until all they have begun is acknowledged, subscribers come and go, and in the end it is counted.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    env,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};
use towline_gateway::{
    gateway::Gateway,
    run,
    settings::{Authentication, Listener, ListenerProtocol, Settings},
};
use towline_protocols::mqtt::*;

use crate::{
    bed::ack,
    mqtt_support::{connect_for, text},
};

/// What the process is told: address and data folder, in one variable.
const ORDERS: &str = "TOWLINE_TEST_GATEWAY";
/// How often the gateway is killed; the environment may ask for more.
const KILLS: &str = "TOWLINE_TEST_KILLS";
const KILLS_DEFAULT: u32 = 6;
/// Publishes that one publisher has begun and not finished.
const WINDOW: usize = 16;
/// How often the gateway is started until it listens.
const STARTS_MAX: usize = 20;
/// Something is stuck when all that is left to do takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: the process that the test below kills.
#[test]
#[ignore = "the test of this file runs it as a process"]
fn gateway_process() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let (address, folder) = orders.split_once('|').unwrap();
    let mut settings = Settings {
        data_dir: folder.into(),
        listeners: vec![Listener {
            protocols: vec![ListenerProtocol::Mqtt],
            authentication: Authentication::None,
            ..Listener::plain("devices", address.parse().unwrap())
        }],
        ..Settings::side_by_side()
    };
    // Nothing is dropped for want of room: every loss is one.
    settings.mqtt.queue_max = 1_000_000;
    settings.mqtt.queue_bytes_max = 1 << 30;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let _serving = run::serve(Gateway::open(settings).unwrap()).await.unwrap();
        println!("\nlistening");
        std::future::pending::<()>().await;
    });
}

/// Starts the gateway; again if it ends before it listens, since its port was free for everybody meanwhile.
async fn start(address: SocketAddr, folder: &Path) -> Child {
    let mut exits = Vec::new();
    while exits.len() < STARTS_MAX {
        match try_start(address, folder).await {
            Ok(child) => return child,
            Err(exit) => exits.push(exit),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the gateway ended before it listened on {address}: {exits:?}");
}

/// The process when it listens, or how it ended before.
async fn try_start(address: SocketAddr, folder: &Path) -> Result<Child, ExitStatus> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["crash::gateway_process", "--exact", "--ignored", "--nocapture"])
        .env(ORDERS, format!("{address}|{}", folder.display()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "listening" {
            return Ok(child);
        }
    }
    Err(child.wait().await.unwrap())
}

/// A connection of a client with a session of a minute.
struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

/// The connection is gone.
struct Gone;

impl Wire {
    /// Tries until the gateway is there. Says whether the session is.
    async fn connect(address: SocketAddr, id: &str) -> (Self, bool) {
        loop {
            if let Ok(connected) = Self::try_connect(address, id).await {
                return connected;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn try_connect(address: SocketAddr, id: &str) -> Result<(Self, bool), Gone> {
        let stream = TcpStream::connect(address).await.map_err(|_| Gone)?;
        let mut wire = Self { stream, input: BytesMut::new() };
        wire.send(Packet::Connect(Box::new(connect_for(60, id)))).await?;
        match wire.receive().await? {
            Packet::Connack(connack) => {
                assert_eq!(connack.reason, ReasonCode::Success);
                Ok((wire, connack.session_present))
            }
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    async fn send(&mut self, packet: Packet) -> Result<(), Gone> {
        let mut out = BytesMut::new();
        encode(&packet, Version::V5, &mut out).unwrap();
        self.stream.write_all(&out).await.map_err(|_| Gone)
    }

    async fn receive(&mut self) -> Result<Packet, Gone> {
        loop {
            if let Some(packet) = decode(&mut self.input, Version::V5, &Limits::default()).unwrap() {
                return Ok(packet);
            }
            if !matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                return Err(Gone);
            }
        }
    }
}

/// Publishes 1, 2, 3 ... on its topic, and repeats what was not acknowledged.
struct Publisher {
    address: SocketAddr,
    topic: &'static str,
    qos: QoS,
    published: u64,
    /// Number, packet id, and whether it is released.
    pending: VecDeque<(u64, PacketId, bool)>,
    /// Something was acknowledged, and the session with it.
    is_known: bool,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    fn start(
        address: SocketAddr,
        topic: &'static str,
        qos: QoS,
        stop: &Arc<AtomicBool>,
    ) -> JoinHandle<(&'static str, u64)> {
        let (pending, stop) = (VecDeque::new(), stop.clone());
        let publisher = Self { address, topic, qos, published: 0, pending, is_known: false, stop };
        tokio::spawn(publisher.run())
    }

    /// How many it has published, all of them acknowledged.
    async fn run(mut self) -> (&'static str, u64) {
        while !(self.is_stopping() && self.pending.is_empty()) {
            let (mut wire, is_present) = Wire::connect(self.address, self.topic).await;
            assert!(is_present || !self.is_known, "the session of {} is gone", self.topic);
            // When the connection is gone, the next one goes on.
            _ = self.go_on(&mut wire).await;
        }
        (self.topic, self.published)
    }

    async fn go_on(&mut self, wire: &mut Wire) -> Result<(), Gone> {
        for &(number, id, is_released) in &self.pending {
            let packet = if is_released { Packet::Pubrel(ack(id)) } else { self.publish(number, id, true) };
            wire.send(packet).await?;
        }
        loop {
            while self.pending.len() < WINDOW && !self.is_stopping() {
                self.published += 1;
                let id = PacketId::new((self.published % 60_000) as u16 + 1).unwrap();
                self.pending.push_back((self.published, id, false));
                wire.send(self.publish(self.published, id, false)).await?;
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            let packet = wire.receive().await?;
            self.is_known = true;
            match packet {
                Packet::Puback(ack) => {
                    assert!(!ack.reason.is_error(), "{ack:?}");
                    self.pending.retain(|(_, id, _)| *id != ack.packet_id);
                }
                Packet::Pubrec(received) => {
                    assert!(!received.reason.is_error(), "{received:?}");
                    let entry = self.pending.iter_mut().find(|(_, id, _)| *id == received.packet_id);
                    entry.unwrap().2 = true;
                    wire.send(Packet::Pubrel(ack(received.packet_id))).await?;
                }
                Packet::Pubcomp(done) => self.pending.retain(|(_, id, _)| *id != done.packet_id),
                other => panic!("{other:?} for a publisher"),
            }
        }
    }

    fn publish(&self, number: u64, id: PacketId, dup: bool) -> Packet {
        Packet::Publish(Box::new(Publish {
            dup,
            qos: self.qos,
            retain: false,
            topic: text(self.topic),
            packet_id: Some(id),
            properties: PublishProperties::default(),
            payload: Bytes::from(number.to_string()),
        }))
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// By topic, numbers in the order in which they came.
type Heard = BTreeMap<String, Vec<u64>>;
/// By topic, the same without repetitions.
type Distinct = BTreeMap<String, HashSet<u64>>;
/// By topic, how many there are, once that is known.
type Totals = Option<BTreeMap<&'static str, u64>>;

struct Subscriber {
    address: SocketAddr,
    id: &'static str,
    heard: Heard,
    distinct: Distinct,
    /// QoS 2: taken and not released.
    held: HashSet<PacketId>,
    random: fastrand::Rng,
    totals: watch::Receiver<Totals>,
}

impl Subscriber {
    /// Listens, with breaks, until it has heard everything; what it heard.
    async fn run(mut self) -> Heard {
        while !self.has_all() {
            let (mut wire, is_present) = Wire::connect(self.address, self.id).await;
            assert!(is_present, "the session of {} is gone", self.id);
            for _ in 0..self.random.u32(1..400) {
                let packet = tokio::select! {
                    packet = wire.receive() => packet,
                    _ = self.totals.changed() => break,
                };
                let Ok(packet) = packet else { break };
                if wire.send(self.take(packet)).await.is_err() || self.has_all() {
                    break;
                }
            }
            if self.random.bool() {
                _ = wire.send(Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await;
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(0..30))).await;
        }
        self.heard
    }

    /// What it answers.
    fn take(&mut self, packet: Packet) -> Packet {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.unwrap();
                let is_new = publish.qos != QoS::ExactlyOnce || self.held.insert(id);
                if is_new {
                    let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                    let topic = publish.topic.as_str().to_owned();
                    self.distinct.entry(topic.clone()).or_default().insert(number);
                    self.heard.entry(topic).or_default().push(number);
                }
                match publish.qos {
                    QoS::ExactlyOnce => Packet::Pubrec(ack(id)),
                    _ => Packet::Puback(ack(id)),
                }
            }
            Packet::Pubrel(release) => {
                self.held.remove(&release.packet_id);
                Packet::Pubcomp(ack(release.packet_id))
            }
            other => panic!("{other:?} for a subscriber"),
        }
    }

    fn has_all(&self) -> bool {
        let totals = self.totals.borrow();
        let Some(totals) = &*totals else { return false };
        let heard = |topic: &str| self.distinct.get(topic).map_or(0, HashSet::len) as u64;
        totals.iter().all(|(topic, count)| heard(topic) >= *count)
    }
}

/// What is wrong with the numbers that a subscriber heard of one topic.
fn faults(heard: &[u64], count: u64, once: bool) -> Option<String> {
    let mut seen = HashSet::new();
    let first: Vec<u64> = heard.iter().copied().filter(|number| seen.insert(*number)).collect();
    if let Some(lost) = (1..=count).find(|number| !seen.contains(number)) {
        return Some(format!("{lost} is lost"));
    }
    if let Some(pair) = first.windows(2).find(|pair| pair[0] > pair[1]) {
        return Some(format!("{} came before {}", pair[0], pair[1]));
    }
    let doubled = heard.len() - first.len();
    (once && doubled > 0).then(|| format!("{doubled} came twice"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_nothing_acknowledged_is_lost_and_nothing_of_qos_2_doubled() {
    let kills = env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS_DEFAULT);
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = start(address, folder.path()).await;

    let (told, totals) = watch::channel(None);
    let subscribers =
        [("once", QoS::ExactlyOnce), ("once-more", QoS::ExactlyOnce), ("at-least", QoS::AtLeastOnce)];
    let mut listening = Vec::new();
    for (at, (id, qos)) in subscribers.into_iter().enumerate() {
        // They subscribe before anything is published.
        let (mut wire, _) = Wire::connect(address, id).await;
        let options = SubscriptionOptions { qos, ..Default::default() };
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: SubscribeProperties::default(),
            subscriptions: vec![Subscription { filter: text("t/#"), options }],
        };
        assert!(wire.send(Packet::Subscribe(subscribe)).await.is_ok());
        assert!(matches!(wire.receive().await, Ok(Packet::Suback(_))));
        let (heard, held, random) = (Heard::new(), HashSet::new(), fastrand::Rng::with_seed(at as u64));
        let (distinct, totals) = (Distinct::new(), totals.clone());
        let subscriber = Subscriber { address, id, heard, distinct, held, random, totals };
        listening.push((id, qos, tokio::spawn(subscriber.run())));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publishers = [
        Publisher::start(address, "t/at-least", QoS::AtLeastOnce, &stop),
        Publisher::start(address, "t/once", QoS::ExactlyOnce, &stop),
    ];

    let mut random = fastrand::Rng::with_seed(42);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.u64(100..500))).await;
        gateway.kill().await.unwrap();
        gateway = start(address, folder.path()).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut totals = BTreeMap::new();
    for publisher in publishers {
        let (topic, count) =
            tokio::time::timeout(PATIENCE, publisher).await.expect("a publisher is stuck").unwrap();
        assert!(count > 0, "{topic}: nothing was published");
        totals.insert(topic, count);
    }
    told.send_replace(Some(totals.clone()));
    let mut wrong = Vec::new();
    for (id, qos, subscriber) in listening {
        let heard = tokio::time::timeout(PATIENCE, subscriber).await;
        let Ok(heard) = heard else {
            wrong.push(format!("{id} waits for what never comes of {totals:?}"));
            continue;
        };
        for (topic, heard) in heard.unwrap() {
            let once = topic == "t/once" && qos == QoS::ExactlyOnce;
            wrong.extend(
                faults(&heard, totals[topic.as_str()], once).map(|fault| format!("{id} {topic}: {fault}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{kills} kills, {totals:?}");
}
