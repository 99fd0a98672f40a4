//! An upstream MQTT broker that takes messages: one MQTT 5 connection, opened with the first message.
//!
//! ```text
//! idle --message--> connecting --CONNACK--> up --error--> (back-off) --> idle
//! ```
//! A message is reported accepted when the broker's PUBACK came (QoS 1) or its bytes were written (QoS 0).
//! Nothing is kept over a broken connection: the publisher still holds what was not accepted, and sends
//! it again. The gateway never subscribes upstream, and a message carries who has forwarded it, so it
//! cannot go in circles.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::{
    Outgoing,
    v5::{
        AsyncClient, Event, EventLoop, Incoming, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{ConnAck, PubAck, PubAckReason, PublishProperties},
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::dial::{failed, overloaded, unavailable};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    hub::Message,
    settings,
};

/// Messages that wait to be sent; more would only wait to time out.
const QUEUE_MAX: usize = 1024;
/// Messages sent and not acknowledged: what a broker with default settings takes at one time is more.
const IN_FLIGHT_MAX: usize = 256;
/// Packet identifiers used in turn. A multiple of what is in flight, so that a late acknowledgement
/// seldom blocks its identifier.
const PACKET_IDS: u16 = 1024;
/// Of a PUBLISH beside what its publisher chose: two lengths of up to four bytes, the header, the topic's length,
/// the identifier, and what stands before each property.
const PACKET_BYTES: usize = 32;
/// Of a user property beside its text.
const USER_PROPERTY_BYTES: usize = 5;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// User property that names a gateway that has forwarded the message.
const VIA: &str = "towline-via";
/// This process among gateways.
static INSTANCE: LazyLock<String> = LazyLock::new(|| format!("{:016x}", fastrand::u64(..)));

/// The way to one broker.
pub(super) struct Upstream {
    settings: settings::Backend,
    /// Of the task that owns the connection; started with the first message.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
}

struct Job {
    topic: String,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    properties: PublishProperties,
    /// The broker may have seen it.
    sent: Arc<AtomicBool>,
    done: Done,
}

type Done = oneshot::Sender<Result<(), RpcError>>;

impl Upstream {
    pub(super) fn new(settings: settings::Backend) -> Self {
        Self { settings, queue: Mutex::new(None) }
    }

    /// Hands a message to the broker; `Ok` when the broker has it.
    pub(super) async fn publish(&self, message: &Message, within: Duration) -> Result<(), RpcError> {
        let came_from_here = |(name, value): &(Arc<str>, Arc<str>)| &**name == VIA && **value == **INSTANCE;
        if message.user_properties.iter().any(came_from_here) {
            let message = format!(
                "backend {}: the message was forwarded by this gateway before; its broker leads back here",
                self.settings.name
            );
            return Err(RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, message));
        }
        let sent = Arc::new(AtomicBool::new(false));
        let (done, outcome) = oneshot::channel();
        let job = Job::new(message, &self.settings.topic_prefix, sent.clone(), done);
        job.check_strings(&self.settings)?;
        self.enqueue(job)?;
        match timeout(within, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_dropped)) => Err(unavailable(&self.settings, &"the connection was shut down")),
            Err(_elapsed) => Err(self.too_late(sent.load(Ordering::Relaxed))),
        }
    }

    fn enqueue(&self, job: Job) -> Result<(), RpcError> {
        let mut queue = self.queue.lock();
        let sender = queue.get_or_insert_with(|| {
            let (sender, jobs) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(Link { settings: self.settings.clone(), jobs }.run());
            sender
        });
        sender.try_send(job).map_err(|_full| overloaded(&self.settings))
    }

    fn too_late(&self, sent: bool) -> RpcError {
        let (execution, what) = match sent {
            true => (Execution::MayHaveRun, "did not acknowledge the message in time"),
            false => (Execution::NotRun, "could not be sent the message in time"),
        };
        let message = format!("backend {}: the broker {what}", self.settings.name);
        RpcError::new(RpcErrorKind::DeadlineExceeded, execution, message)
    }
}

impl Job {
    fn new(message: &Message, prefix: &str, sent: Arc<AtomicBool>, done: Done) -> Self {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        let owned = |(name, value): &(Arc<str>, Arc<str>)| (name.to_string(), value.to_string());
        let mut user_properties: Vec<_> = message.user_properties.iter().map(owned).collect();
        user_properties.push((VIA.to_owned(), INSTANCE.clone()));
        let seconds = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs();
        let properties = PublishProperties {
            payload_format_indicator: message.payload_utf8.then_some(1),
            // Whole seconds begun: a message that is still worth delivering here is so at the broker.
            message_expiry_interval: message
                .expires
                .map(|at| u32::try_from(seconds(at).saturating_add(1)).unwrap_or(u32::MAX)),
            response_topic: text(&message.response_topic),
            correlation_data: message.correlation_data.clone(),
            content_type: text(&message.content_type),
            user_properties,
            ..PublishProperties::default()
        };
        Self {
            topic: format!("{prefix}{}", message.topic),
            payload: message.payload.clone(),
            // At least once is what the gateway vouches for on this leg.
            qos: if message.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            retain: message.retain,
            properties,
            sent,
            done,
        }
    }

    /// MQTT's strings have a length of 16 bits, and the client writes it without a look. A topic is longer
    /// than what its publisher sent by the prefix; an app's texts came by another protocol.
    fn check_strings(&self, settings: &settings::Backend) -> Result<(), RpcError> {
        let PublishProperties { response_topic, correlation_data, content_type, user_properties, .. } =
            &self.properties;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let longest_pair = user_properties.iter().map(|(name, value)| name.len().max(value.len())).max();
        let lengths = [
            self.topic.len(),
            text(response_topic),
            text(content_type),
            correlation_data.as_ref().map_or(0, Bytes::len),
            longest_pair.unwrap_or(0),
        ];
        if lengths.iter().all(|length| u16::try_from(*length).is_ok()) {
            return Ok(());
        }
        let message = format!(
            "backend {}: the topic with its prefix, or a property, is longer than MQTT's 65535 bytes",
            settings.name
        );
        Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, message))
    }

    /// The size of the packet: at the most a few bytes less than this.
    fn packet_bytes(&self) -> usize {
        let PublishProperties { response_topic, correlation_data, content_type, user_properties, .. } =
            &self.properties;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let user_properties: usize =
            user_properties.iter().map(|(name, value)| USER_PROPERTY_BYTES + name.len() + value.len()).sum();
        PACKET_BYTES
            + self.topic.len()
            + self.payload.len()
            + text(response_topic)
            + text(content_type)
            + correlation_data.as_ref().map_or(0, Bytes::len)
            + user_properties
    }
}

/// What a broker says of itself in CONNACK. To go beyond it would end the connection, and with it what
/// others have on their way.
struct Admitted {
    packet_bytes_max: usize,
    retain: bool,
    qos_max: u8,
}

impl Admitted {
    fn new(connack: &ConnAck) -> Self {
        let properties = connack.properties.as_ref();
        let packet_bytes_max = properties.and_then(|properties| properties.max_packet_size);
        Self {
            packet_bytes_max: packet_bytes_max.map_or(usize::MAX, |max| max as usize),
            retain: properties.and_then(|properties| properties.retain_available) != Some(0),
            qos_max: properties.and_then(|properties| properties.max_qos).unwrap_or(2),
        }
    }

    fn check(&self, job: &Job, settings: &settings::Backend) -> Result<(), RpcError> {
        let refused = |kind, what: String| {
            let message = format!("backend {}: the broker {what}", settings.name);
            Err(RpcError::new(kind, Execution::NotRun, message))
        };
        if job.packet_bytes() > self.packet_bytes_max {
            let what = format!("takes packets of at most {} bytes", self.packet_bytes_max);
            return refused(RpcErrorKind::LimitExceeded, what);
        }
        if job.qos != QoS::AtMostOnce && self.qos_max == 0 {
            return refused(RpcErrorKind::PermissionDenied, "takes QoS 0 only".to_owned());
        }
        Ok(())
    }
}

/// The task that owns the connection. Ends when the backend is dropped.
struct Link {
    settings: settings::Backend,
    jobs: mpsc::Receiver<Job>,
}

/// Messages on their way over one connection.
#[derive(Default)]
struct Waiting {
    /// Handed to the client and not written yet, in order.
    handed: VecDeque<(Done, Arc<AtomicBool>)>,
    /// Written, by packet identifier. An identifier may be taken again before its acknowledgement has
    /// been seen here, so each has a queue.
    in_flight: HashMap<u16, VecDeque<Done>>,
    in_flight_count: usize,
}

impl Link {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        while let Some(first) = self.jobs.recv().await {
            let (client, mut events) = AsyncClient::new(self.options(), IN_FLIGHT_MAX);
            let admitted = match self.connect(&mut events).await {
                Ok(admitted) => admitted,
                Err(error) => {
                    warn!(backend = %self.settings.name, %error, "upstream broker");
                    self.refuse(first, &error);
                    // Full jitter, so that gateways do not return in step.
                    sleep(backoff.mul_f64(fastrand::f64())).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = BACKOFF_MIN;
            info!(backend = %self.settings.name, "connected to the upstream broker");
            self.carry(first, &client, &mut events, &admitted).await;
        }
    }

    fn options(&self) -> MqttOptions {
        let (host, port) = match self.settings.address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().unwrap_or(1883)),
            None => (&*self.settings.address, 1883),
        };
        let client_id = format!("towline-{}-{}", self.settings.name, *INSTANCE);
        let mut options = MqttOptions::new(client_id, host, port);
        options
            .set_clean_start(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_outgoing_inflight_upper_limit(PACKET_IDS);
        options
    }

    async fn connect(&self, events: &mut EventLoop) -> Result<Admitted, RpcError> {
        let connected = timeout(self.settings.connect_timeout, events.poll()).await;
        match connected {
            Ok(Ok(Event::Incoming(Incoming::ConnAck(connack)))) => Ok(Admitted::new(&connack)),
            Ok(Ok(_other)) => Err(unavailable(&self.settings, &"no CONNACK came")),
            Ok(Err(error)) => Err(unavailable(&self.settings, &error)),
            Err(_elapsed) => Err(unavailable(&self.settings, &"connect timed out")),
        }
    }

    /// Nobody is left waiting for a broker that is away.
    fn refuse(&mut self, first: Job, error: &RpcError) {
        drop(first.done.send(Err(error.clone())));
        while let Ok(job) = self.jobs.try_recv() {
            drop(job.done.send(Err(error.clone())));
        }
    }

    /// Carries messages until the connection breaks or the backend is dropped.
    async fn carry(&mut self, first: Job, client: &AsyncClient, events: &mut EventLoop, admitted: &Admitted) {
        let mut waiting = Waiting::default();
        self.hand_over(first, client, &mut waiting, admitted);
        loop {
            let room = waiting.handed.len() + waiting.in_flight_count < IN_FLIGHT_MAX;
            tokio::select! {
                job = self.jobs.recv(), if room => match job {
                    Some(job) => self.hand_over(job, client, &mut waiting, admitted),
                    None => return,
                },
                event = events.poll() => match event {
                    Ok(event) => waiting.on_event(event, &self.settings),
                    Err(error) => {
                        warn!(backend = %self.settings.name, %error, "upstream connection broke");
                        waiting.fail(&self.settings, &error);
                        return;
                    }
                },
            }
        }
    }

    fn hand_over(&self, job: Job, client: &AsyncClient, waiting: &mut Waiting, admitted: &Admitted) {
        // Its publisher gave up while it waited.
        if job.done.is_closed() {
            return;
        }
        if let Err(error) = admitted.check(&job, &self.settings) {
            drop(job.done.send(Err(error)));
            return;
        }
        let Job { topic, payload, qos, retain, properties, sent, done } = job;
        // A broker that retains nothing still has subscribers.
        let retain = retain && admitted.retain;
        match client.try_publish_with_properties(topic, qos, retain, payload, properties) {
            Ok(()) => waiting.handed.push_back((done, sent)),
            Err(error) => drop(done.send(Err(unavailable(&self.settings, &error)))),
        }
    }
}

impl Waiting {
    fn on_event(&mut self, event: Event, settings: &settings::Backend) {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) => self.written(id),
            Event::Incoming(Incoming::PubAck(ack)) => self.acknowledged(&ack, settings),
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }

    fn written(&mut self, id: u16) {
        let Some((done, sent)) = self.handed.pop_front() else {
            return;
        };
        sent.store(true, Ordering::Relaxed);
        if id == 0 {
            // QoS 0 has no identifier and no acknowledgement.
            drop(done.send(Ok(())));
            return;
        }
        self.in_flight.entry(id).or_default().push_back(done);
        self.in_flight_count += 1;
    }

    fn acknowledged(&mut self, ack: &PubAck, settings: &settings::Backend) {
        let Some(done) = self.in_flight.get_mut(&ack.pkid).and_then(VecDeque::pop_front) else {
            return;
        };
        self.in_flight_count -= 1;
        let outcome = match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
            reason => {
                let message = format!("backend {}: the broker said {reason:?}", settings.name);
                Err(RpcError::new(RpcErrorKind::PermissionDenied, Execution::Ran, message))
            }
        };
        drop(done.send(outcome));
    }

    fn fail(self, settings: &settings::Backend, why: &dyn std::fmt::Display) {
        for (done, _sent) in self.handed {
            drop(done.send(Err(unavailable(settings, why))));
        }
        for done in self.in_flight.into_values().flatten() {
            drop(done.send(Err(failed(settings, why))));
        }
    }
}
