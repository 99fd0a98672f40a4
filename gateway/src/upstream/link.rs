//! The task that keeps one broker's connection.
//!
//! ```text
//! idle --> connecting --CONNACK--> SUBSCRIBE, status 1 --> carrying --error--> (back-off) --> connecting
//!   |                                                         |
//!   +-- without a buffer or subscriptions, until the first    +-- the gateway leaves: status 0, DISCONNECT
//!       message
//! ```

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use rumqttc::v5::{
    Request,
    mqttbytes::{
        QoS,
        v5::{
            ConnAck, Connect, ConnectProperties, ConnectReturnCode, Filter, LastWill, Login, Packet, PubAck,
            Publish, RetainForwardRule, SubAck, Subscribe, SubscribeReasonCode,
        },
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Shared,
    direct::Job,
    hops,
    inbound::{Inbound, WAITING_MAX},
    packet,
    refusals::Refusals,
    window::{Admitted, Sent, Window},
    wire::{Broken, Event, Socket, Wire},
};
use crate::{
    backend::{connect_by_tls, dial, unavailable},
    error::RpcError,
    gateway::Gateway,
    outbox::Letter,
    request::{Origin, Protocol},
};

const ONLINE: &[u8] = b"1";
const OFFLINE: &[u8] = b"0";

/// Ends when it is told to leave, or with its gateway.
pub(super) struct Link {
    gateway: Weak<Gateway>,
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    leave: watch::Receiver<bool>,
    /// Taken from `jobs` and not sent.
    held: Option<Job>,
    /// Beyond one connection: to come back does not change what the broker said.
    refusals: Refusals,
}

/// One connection that the broker has accepted.
struct Connected {
    wire: Wire,
    window: Window,
    inbound: Inbound,
    ping: Interval,
    /// The last letter that was sent on it.
    sent_last: u64,
}

/// How a connection ended.
enum End {
    Broken(Broken),
    Left,
    GatewayGone,
}

impl Link {
    pub(super) fn new(
        gateway: Weak<Gateway>,
        shared: Arc<Shared>,
        jobs: mpsc::Receiver<Job>,
        leave: watch::Receiver<bool>,
    ) -> Self {
        Self { gateway, shared, jobs, leave, held: None, refusals: Refusals::default() }
    }

    pub(super) async fn run(mut self) {
        let name = self.shared.settings.name.clone();
        let (delay_min, delay_max) =
            (self.shared.settings.upstream.backoff_min, self.shared.settings.upstream.backoff_max);
        let (mut delay, mut told) = (delay_min, None);
        while self.has_work().await {
            // rumqttc's codec reads what a peer has sent; what it did not foresee ends the connection, not the bridge.
            let turn = AssertUnwindSafe(self.connect_and_carry()).catch_unwind().await;
            self.shared.set_up(false);
            match turn {
                Ok(Ok(End::Left | End::GatewayGone)) => return,
                Ok(Ok(End::Broken(error))) => {
                    warn!(backend = %name, %error, "upstream connection broke");
                    (delay, told) = (delay_min, None);
                }
                Ok(Err(error)) => {
                    self.tell_unreachable(&error, &mut told);
                    self.refuse(&error);
                }
                Err(_panic) => warn!(backend = %name, "the upstream broker's packets cannot be read"),
            }
            // Full jitter, so that gateways do not return in step.
            let pause = delay.mul_f64(fastrand::f64());
            delay = (delay * 2).min(delay_max);
            tokio::select! {
                () = sleep(pause) => {}
                () = told_to_leave(&mut self.leave) => return,
            }
        }
    }

    /// Waits for a reason to connect; false when there will be none.
    async fn has_work(&mut self) -> bool {
        let upstream = &self.shared.settings.upstream;
        let always = upstream.buffer || !upstream.subscribe.is_empty() || upstream.status_topic.is_some();
        if always || self.held.is_some() {
            return !*self.leave.borrow();
        }
        tokio::select! {
            job = self.jobs.recv() => self.held = job,
            () = told_to_leave(&mut self.leave) => return false,
        }
        self.held.is_some()
    }

    /// Warns of a broker that cannot be reached once for each reason: a night without it is not thousands of lines.
    fn tell_unreachable(&self, error: &RpcError, told: &mut Option<String>) {
        let (name, address) = (&self.shared.settings.name, &self.shared.settings.address);
        let text = error.to_string();
        if told.as_ref() == Some(&text) {
            debug!(backend = %name, address, %error, "the upstream broker still cannot be reached");
            return;
        }
        warn!(backend = %name, address, %error, "the upstream broker cannot be reached; it is tried again and again");
        *told = Some(text);
    }

    async fn connect_and_carry(&mut self) -> Result<End, RpcError> {
        let within = self.shared.settings.connect_timeout;
        let connecting = timeout(within, self.connect()).await;
        let connecting =
            connecting.unwrap_or_else(|_| Err(unavailable(&self.shared.settings, &"connect timed out")));
        let Some(connected) = connecting? else { return Ok(End::GatewayGone) };
        info!(backend = %self.shared.settings.name, "connected to the upstream broker");
        self.shared.set_up(true);
        Ok(self.carry(connected).await)
    }

    async fn connect(&self) -> Result<Option<Connected>, RpcError> {
        let backend = &self.shared.settings;
        let failed = |error: &dyn std::fmt::Display| unavailable(backend, error);
        let tcp = dial(backend).await?;
        let peer = tcp.peer_addr().map_err(|error| failed(&error))?;
        let socket: Box<dyn Socket> = match &backend.upstream.tls {
            Some(tls) => {
                Box::new(connect_by_tls(tcp, backend, tls, None).await.map_err(|what| failed(&what))?)
            }
            None => Box::new(tcp),
        };
        let Some(gateway) = self.gateway.upgrade() else { return Ok(None) };
        let packet_bytes_max = gateway.snapshot().settings.mqtt.packet_bytes_max;
        let mut wire = Wire::new(socket, packet_bytes_max);
        wire.send(&self.connect_packet(packet_bytes_max).map_err(|what| failed(&what))?)
            .map_err(|error| failed(&error))?;
        let connack = connack(&mut wire).await.map_err(|what| failed(&what))?;
        let mut window = Window::new(Admitted::new(&connack));
        self.begin(&mut wire, &mut window).map_err(|error| failed(&error))?;
        let listener = format!("upstream.{}", backend.name).into();
        let origin = Origin::new(listener, peer, Protocol::Mqtt, backend.upstream.tls.is_some());
        let inbound =
            Inbound::new(self.gateway.clone(), self.shared.clone(), Arc::new(origin), hops::source(&connack));
        let asked = connack.properties.as_ref().and_then(|properties| properties.server_keep_alive);
        let keep_alive = asked.map_or(backend.upstream.keep_alive, |asked| Duration::from_secs(asked.into()));
        let mut ping = interval(keep_alive.max(Duration::from_secs(1)));
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        Ok(Some(Connected { wire, window, inbound, ping, sent_last: 0 }))
    }

    fn connect_packet(&self, packet_bytes_max: usize) -> Result<Packet, String> {
        let backend = &self.shared.settings;
        let upstream = &backend.upstream;
        let client_id = match &upstream.client_id {
            Some(id) => id.clone(),
            None => format!("towline-{}-{}", backend.name, self.shared.node),
        };
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let keeps = !upstream.subscribe.is_empty();
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = keeps.then(|| seconds(upstream.session_expiry));
        properties.receive_maximum = Some(WAITING_MAX);
        properties.max_packet_size = u32::try_from(packet_bytes_max).ok();
        properties.user_properties = vec![(hops::NODE.to_owned(), self.shared.node.to_string())];
        let connect = Connect {
            keep_alive: u16::try_from(upstream.keep_alive.as_secs()).unwrap_or(u16::MAX),
            client_id,
            clean_start: !keeps,
            properties: Some(properties),
        };
        let will = upstream
            .status_topic
            .as_ref()
            .map(|topic| LastWill::new(topic.clone(), OFFLINE, QoS::AtLeastOnce, true, None));
        let password = match &upstream.password_file {
            None => String::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("password_file {}: {error}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
        };
        let login = upstream.user.as_ref().map(|user| Login::new(user.clone(), password));
        Ok(Packet::Connect(connect, will, login))
    }

    /// What a new connection begins with.
    fn begin(&self, wire: &mut Wire, window: &mut Window) -> Result<(), Broken> {
        let backend = &self.shared.settings;
        let qos = if backend.upstream.subscribe_qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let filters = backend.upstream.subscribe.iter().map(|filter| Filter {
            path: format!("{}{filter}", backend.topic_prefix),
            qos,
            // What this gateway has forwarded does not come back to it.
            nolocal: true,
            preserve_retain: true,
            // A session that goes on has had them.
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
        });
        let mut subscribe = Subscribe::new_many(filters, None);
        if !subscribe.filters.is_empty() {
            subscribe.pkid = window.next_id();
            wire.send(&Packet::Subscribe(subscribe))?;
        }
        self.tell_status(wire, ONLINE)
    }

    /// Quality 0 on a connection that works: nobody waits for an acknowledgement, and the will says the rest.
    fn tell_status(&self, wire: &mut Wire, status: &'static [u8]) -> Result<(), Broken> {
        let Some(topic) = &self.shared.settings.upstream.status_topic else { return Ok(()) };
        let mut publish = Publish::new(topic.clone(), QoS::AtMostOnce, status, None);
        publish.retain = true;
        wire.request(Request::Publish(publish))
    }

    /// Nobody is left waiting for a broker that is away.
    fn refuse(&mut self, error: &RpcError) {
        if let Some(job) = self.held.take() {
            job.finish(Err(error.clone()));
        }
        while let Ok(job) = self.jobs.try_recv() {
            job.finish(Err(error.clone()));
        }
    }

    /// Carries messages both ways until the connection breaks or the gateway leaves.
    async fn carry(&mut self, mut connected: Connected) -> End {
        let end = loop {
            if let Err(end) = self.step(&mut connected).await {
                break end;
            }
        };
        let Connected { mut wire, window, .. } = connected;
        match &end {
            End::Broken(error) => window.fail(&self.shared.settings, error),
            End::Left | End::GatewayGone => {
                let farewell = self.tell_status(&mut wire, OFFLINE);
                if farewell.is_ok() && wire.request(Request::Disconnect).is_ok() {
                    wire.close().await;
                }
            }
        }
        end
    }

    async fn step(&mut self, connected: &mut Connected) -> Result<(), End> {
        let Connected { wire, window, inbound, ping, sent_last } = connected;
        if let Some(job) = self.held.take() {
            self.send_job(job, wire, window)?;
        }
        let (outbox, room) = (self.shared.outbox.clone(), window.has_room() && wire.has_room());
        let (resume_at, may_read) = (self.refusals.resume_at(), inbound.has_room());
        tokio::select! {
            job = self.jobs.recv(), if room => match job {
                Some(job) => self.send_job(job, wire, window)?,
                None => return Err(End::GatewayGone),
            },
            letter = outbox.next_after(*sent_last), if room && resume_at.is_none() => {
                *sent_last = letter.number;
                self.send_letter(letter, wire, window)?;
            }
            () = sleep_until_some(resume_at), if resume_at.is_some() && !window.has_letters() => {
                self.refusals.resume(outbox.after(0).map(|letter| letter.number));
                *sent_last = 0;
            }
            id = inbound.next() => match id {
                Ok(id) => wire.request(Request::PubAck(PubAck::new(id, None)))?,
                Err(error) => {
                    warn!(backend = %self.shared.settings.name, %error, "what the broker brought could not be stored");
                    return Err(Broken::Rule("what it brought could not be stored").into());
                }
            },
            event = wire.next(may_read) => match event? {
                Event::Written => window.written(&self.shared),
                Event::Packet(packet) => self.handle(*packet, window, inbound)?,
            },
            _ = ping.tick() => wire.request(Request::PingReq)?,
            () = told_to_leave(&mut self.leave) => return Err(End::Left),
        }
        Ok(())
    }

    fn handle(&mut self, packet: Packet, window: &mut Window, inbound: &mut Inbound) -> Result<(), Broken> {
        match packet {
            Packet::PubAck(ack) => {
                if let Some(sent) = window.acknowledged(&ack) {
                    self.refusals.settle(sent, ack.reason, &self.shared, &self.gateway);
                }
            }
            Packet::Publish(publish) if publish.qos == QoS::ExactlyOnce => {
                return Err(Broken::Rule("it sent QoS 2 where QoS 1 was asked for"));
            }
            Packet::Publish(publish) => inbound.push(publish),
            Packet::SubAck(suback) => self.note_refused_filters(&suback),
            _ => {}
        }
        Ok(())
    }

    fn note_refused_filters(&self, suback: &SubAck) {
        let backend = &self.shared.settings;
        for (filter, reason) in backend.upstream.subscribe.iter().zip(&suback.return_codes) {
            if !matches!(reason, SubscribeReasonCode::Success(_)) {
                warn!(backend = %backend.name, filter, ?reason, "the upstream broker refuses a subscription");
            }
        }
    }

    fn send_job(&self, job: Job, wire: &mut Wire, window: &mut Window) -> Result<(), Broken> {
        if job.is_over() {
            return Ok(());
        }
        let mut publish = packet::publish(&job.message, &self.shared.settings, &self.shared.node);
        if let Err(error) = window.check(&mut publish, &self.shared.settings) {
            job.finish(Err(error));
            return Ok(());
        }
        job.note_sent();
        window.add(&mut publish, Sent::Job(job));
        wire.request(Request::Publish(publish))
    }

    fn send_letter(&self, letter: Letter, wire: &mut Wire, window: &mut Window) -> Result<(), Broken> {
        let mut publish = packet::publish(&letter.message, &self.shared.settings, &self.shared.node);
        if let Err(error) = window.check(&mut publish, &self.shared.settings) {
            self.shared.count_refusal("not_admitted");
            self.shared.give_up(&self.gateway, &letter, &error.message);
            return Ok(());
        }
        window.add(&mut publish, Sent::Letter(letter));
        wire.request(Request::Publish(publish))
    }
}

impl From<Broken> for End {
    fn from(error: Broken) -> Self {
        Self::Broken(error)
    }
}

/// Also when whoever could say so is gone.
async fn told_to_leave(leave: &mut watch::Receiver<bool>) {
    _ = leave.wait_for(|leave| *leave).await;
}

async fn sleep_until_some(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at.into()).await;
    }
}

async fn connack(wire: &mut Wire) -> Result<ConnAck, String> {
    loop {
        match wire.next(true).await {
            Ok(Event::Written) => {}
            Ok(Event::Packet(packet)) => match *packet {
                Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => return Ok(connack),
                other => return Err(format!("no CONNACK came, but {other:?}")),
            },
            Err(error) => return Err(error.to_string()),
        }
    }
}
