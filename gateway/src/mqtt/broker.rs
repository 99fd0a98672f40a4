//! Who comes, who goes, and what stays of them.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dashmap::{DashMap, Entry};
use parking_lot::Mutex;
use prometheus::IntCounter;
use towline_protocols::mqtt::{
    Connect, Limits, ReasonCode, Secret, Text,
    session::{Connection, Held, Settings, Welcome},
};

use super::{
    attachment::{Admitted, Attachment, Parting, ends_at},
    client::{Client, Common, Inner, Present, Will},
    departures::Departures,
    hand_over::hand_over,
    kept::Keeper,
    message, publish,
    retained::Retained,
};
use crate::{
    auth::Identity,
    gateway::Gateway,
    hub::{Hub, Mailbox},
    metrics::Metrics,
    presence::What,
    request::Origin,
    settings::Mqtt,
    snapshot::Snapshot,
    store::{Store, StoreError},
};

/// Topic filters and list properties that one packet may hold: a client that restores many subscriptions
/// may do so in one SUBSCRIBE, and each costs about a hundred bytes while it is taken apart.
const PACKET_ITEMS_MAX: usize = 4096;

/// The MQTT sessions of one gateway, live or away, and what is retained.
pub struct Broker {
    /// The last message of each topic that was published to be retained.
    pub retained: Retained,
    pub(super) departures: Departures,
    pub(super) counters: Counters,
    pub(super) common: Arc<Common>,
    pub(super) clients: DashMap<Arc<str>, Arc<Client>>,
    held: Held,
    /// The machine's settings of the newest snapshot that a connection has met.
    settings: Mutex<(Weak<Snapshot>, Arc<Settings>)>,
}

/// Counters at hand, since to look one up costs more than a delivery.
pub(super) struct Counters {
    pub(super) published: IntCounter,
    pub(super) forwarded: IntCounter,
    pub(super) refused: IntCounter,
}

impl Broker {
    /// The sessions and retained messages that the store kept; their subscriptions are in the hub.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is not of this version.
    pub fn restore(
        settings: &crate::settings::Settings,
        hub: &Hub,
        store: &Store,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let &Mqtt { retained_max, retained_bytes_max, .. } = &settings.mqtt;
        let retained = if store.is_lasting() {
            Retained::restore(retained_max, retained_bytes_max, store, super::now())?
        } else {
            Retained::new(retained_max, retained_bytes_max)
        };
        let common = Common {
            keeper: Keeper::new(store.clone()),
            dropped: metrics.mqtt_messages_dropped.clone(),
            limit_hits: metrics.limit_hits.clone(),
            presence: hub.presence().clone(),
        };
        let held = Held::default();
        let broker = Self {
            retained,
            departures: Departures::default(),
            counters: Counters::new(metrics),
            common: Arc::new(common),
            clients: DashMap::new(),
            settings: Mutex::new((Weak::new(), machine_settings(settings, held.clone()))),
            held,
        };
        broker.follow(&settings.mqtt, hub);
        if store.is_lasting() {
            broker.restore_sessions(hub)?;
        }
        Ok(broker)
    }

    /// Follows a reload, in what concerns others than those who connect from then on.
    pub fn follow(&self, settings: &Mqtt, hub: &Hub) {
        self.retained.set_bounds(settings.retained_max, settings.retained_bytes_max);
        hub.set_share_strategy(settings.share_strategy);
    }

    /// The machine's settings as they are now.
    pub(super) fn present_settings(&self) -> Arc<Settings> {
        self.settings.lock().1.clone()
    }

    /// MQTT sessions, live or away.
    pub fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// Brings the gauges of what is kept up to date.
    pub fn observe(&self, metrics: &Metrics) {
        let shown = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.mqtt_sessions.set(shown(self.sessions()));
        metrics.mqtt_retained.set(shown(self.retained.len()));
        metrics.mqtt_retained_bytes.set(shown(self.retained.bytes()));
        metrics.mqtt_held_bytes.set(shown(self.held.bytes()));
    }

    /// The machine's settings of the gateway's present snapshot.
    pub(super) fn settings(&self, gateway: &Gateway) -> Arc<Settings> {
        let snapshot = gateway.snapshot();
        let mut cached = self.settings.lock();
        if cached.0.as_ptr() != Arc::as_ptr(&snapshot) {
            *cached = (Arc::downgrade(&snapshot), machine_settings(&snapshot.settings, self.held.clone()));
        }
        cached.1.clone()
    }

    /// Gives a client its session, new or old, and makes this connection the session's only one.
    ///
    /// # Errors
    /// Why the client is refused.
    pub(super) fn attach(
        &self,
        gateway: &Arc<Gateway>,
        connect: &Connect,
        origin: &Origin,
        identity: Identity,
        proof: Option<Secret>,
        settings: &Arc<Settings>,
    ) -> Result<Admitted, ReasonCode> {
        let assigned = connect.client_id.is_empty().then(assigned_id).transpose()?;
        let mut id: Arc<str> = assigned.as_ref().unwrap_or(&connect.client_id).as_str().into();
        if let Some(held) = self.clients.get(&id) {
            // One copy of the id, however often its client comes.
            id = held.id.clone();
        }
        let Identity { user, claims, until, by } = identity;
        let (client_id, named) = (Some(id.clone()), origin.clone());
        let origin = &Arc::new(Origin { user: user.clone(), client_id, claims, by, ..named });
        let is_full = self.clients.len() >= gateway.snapshot().settings.mqtt.sessions_max;
        let response_information = response_information(gateway, origin);
        let seated = |client: &Arc<Client>, session_present| {
            let welcome = Welcome { session_present, assigned_id: assigned, proof, response_information };
            self.seat(
                client,
                connect,
                Connection::accept(connect, welcome, settings, super::now()),
                until.map(ends_at),
                origin,
            )
        };
        // The entry is held until the client has its connection, so that no other comes or goes in between.
        let (client, seat) = match self.clients.entry(id.clone()) {
            Entry::Occupied(held) if held.get().user != user => return Err(ReasonCode::NotAuthorized),
            Entry::Occupied(held) if !connect.clean_start && held.get().is_lasting() => {
                held.get().lock().settings = settings.clone();
                let seat = seated(held.get(), true);
                (held.get().clone(), seat)
            }
            Entry::Occupied(mut held) => {
                let waits = self.end_session(gateway, held.get());
                let client = match self.new_client(gateway, id, user, settings) {
                    Ok(client) => client,
                    Err(reason) => {
                        held.remove();
                        return Err(reason);
                    }
                };
                held.insert(client.clone());
                let seat = seated(&client, false);
                (client, Seat { waits, ..seat })
            }
            Entry::Vacant(_) if is_full => {
                gateway.metrics.limit_hit("mqtt.sessions_max");
                return Err(ReasonCode::QuotaExceeded);
            }
            Entry::Vacant(vacant) => {
                let client = self.new_client(gateway, id, user, settings)?;
                let _held = vacant.insert(client.clone());
                let seat = seated(&client, false);
                (client, seat)
            }
        };
        let Seat { epoch, orphaned, waits } = seat;
        let (origin, gateway, version) = (origin.clone(), gateway.clone(), connect.version);
        let attachment = Attachment::new(gateway, client, epoch, version);
        if let Some(will) = orphaned {
            publish::publish_will(&attachment.gateway, *will);
        }
        attachment.record();
        Ok(Admitted { attachment, origin, waits })
    }

    /// Makes a connection the client's only one.
    fn seat(
        &self,
        client: &Arc<Client>,
        connect: &Connect,
        connection: Connection,
        expires: Option<Instant>,
        origin: &Arc<Origin>,
    ) -> Seat {
        let mut inner = client.lock();
        let orphaned = self.take_over(client, &mut inner);
        // PUBREL goes out again, and must not before the store knows that the client has the message.
        let waits = inner.durable.is_some() && inner.session().has_released();
        if !connection.session_expiry().is_zero() {
            client.keep(&mut inner);
        }
        inner.will = will(connect, &client.id, origin);
        inner.epoch = inner.epoch.wrapping_add(1);
        inner.connection = Some(connection);
        inner.expires = expires;
        inner.origin = Some(origin.clone());
        client.tell(What::Connected);
        Seat { epoch: inner.epoch, orphaned, waits }
    }

    /// The client of that id, live or away.
    pub(super) fn client(&self, id: &str) -> Option<Arc<Client>> {
        self.clients.get(id).map(|client| client.clone())
    }

    /// Every client that has a connection.
    pub(super) fn connected(&self) -> Vec<Arc<Client>> {
        let clients = self.clients.iter().map(|client| client.clone());
        clients.filter(|client| client.is_connected()).collect()
    }

    /// The present connections whose origins `concerns` says it of.
    pub(crate) fn present(&self, concerns: &dyn Fn(&Origin) -> bool) -> Vec<Present> {
        self.clients.iter().filter_map(|client| client.present(concerns)).collect()
    }

    /// Does what has become due for clients that are away.
    pub(super) fn settle_departures(&self, gateway: &Arc<Gateway>, now: Instant) {
        while let Some(id) = self.departures.pop_due(now) {
            let Some(client) = self.clients.get(&id).map(|client| client.clone()) else { continue };
            let mut inner = client.lock();
            if inner.connection.is_some() || inner.departure.is_none() {
                continue;
            }
            inner.departure = None;
            let will = inner.will.take_if(|will| will.due.is_some_and(|due| due <= now));
            let is_over = inner.ends.is_some_and(|ends| ends <= now);
            if !is_over {
                self.schedule(&client, &mut inner);
            }
            drop(inner);
            if let Some(will) = will {
                publish::publish_will(gateway, *will);
            }
            if is_over {
                self.remove(gateway, &client);
            } else {
                client.record_again();
            }
        }
    }

    /// The connection of `epoch` is gone.
    pub(super) fn detach(
        &self,
        gateway: &Arc<Gateway>,
        client: &Arc<Client>,
        epoch: u32,
        parting: Parting,
        ending: &'static str,
    ) {
        let now = super::now();
        let mut inner = client.lock();
        if inner.epoch != epoch {
            return;
        }
        let Some(mut connection) = inner.connection.take() else { return };
        client.tell(What::Disconnected(ending));
        inner.origin = None;
        inner.closing = None;
        inner.make_room();
        let lost = inner.session().detach() as u64 + connection.take_dropped();
        inner.compact();
        self.common.dropped.inc_by(lost);
        let expiry = connection.session_expiry();
        // A will that waits for the gateway's return is due when it is back.
        let is_deferred = parting == Parting::Shutdown && self.common.keeper.is_on() && inner.will.is_some();
        inner.will.take_if(|_| parting != Parting::Lost && !is_deferred);
        // MQTT-3.1.3-9: when the delay has passed or the session ends, whichever is first.
        let is_due = |will: &mut Box<Will>| !is_deferred && will.delay.min(expiry).is_zero();
        let due = inner.will.take_if(is_due);
        if let Some(will) = inner.will.as_mut().filter(|_| !is_deferred) {
            will.due = now.checked_add(will.delay.min(expiry));
        }
        inner.ends = now.checked_add(expiry);
        if !expiry.is_zero() {
            self.schedule(client, &mut inner);
        }
        if due.is_none() {
            client.record(&mut inner);
        }
        drop(inner);
        if let Some(will) = due {
            // A crash in between has it published once more, rather than not at all.
            publish::publish_will(gateway, *will);
            client.record_again();
        }
        if expiry.is_zero() && !is_deferred {
            self.remove(gateway, client);
        }
    }

    /// Ends the connection that a new one replaces. Its will is returned if it is to be published: it is,
    /// unless it asked for a delay within which the session goes on (3.1.3.2.2).
    fn take_over(&self, client: &Arc<Client>, inner: &mut Inner) -> Option<Box<Will>> {
        if let Some(departure) = inner.departure.take() {
            self.departures.remove(departure, &client.id);
        }
        inner.ends = None;
        inner.closing = None;
        let was_connected = inner.connection.take().is_some();
        inner.make_room();
        if was_connected {
            client.tell(What::Disconnected("session_taken_over"));
        }
        inner.dismiss();
        if was_connected {
            self.common.dropped.inc_by(inner.session().detach() as u64);
        }
        inner.session().resume();
        inner.will.take().filter(|will| was_connected && will.delay.is_zero())
    }

    /// A new session takes the place of what was there. "If Clean Start is 1 the Will Message is sent because the
    /// Session ends" (3.1.4), whatever is left of its delay, and whether its client was there or not. Says whether
    /// the store has to hear of the end.
    fn end_session(&self, gateway: &Arc<Gateway>, client: &Arc<Client>) -> bool {
        let mut inner = client.lock();
        let will = inner.will.take();
        self.take_over(client, &mut inner);
        inner.epoch = inner.epoch.wrapping_add(1);
        drop(inner);
        if let Some(will) = will {
            // A crash in between has it published once more, rather than not at all.
            publish::publish_will(gateway, *will);
        }
        Self::bury(gateway, client)
    }

    /// Ends a session that nobody can come back to meanwhile, since its entry is held: what its client's next one writes
    /// must not be taken for this one's. Says whether the store has to hear of it.
    fn bury(gateway: &Gateway, client: &Arc<Client>) -> bool {
        // From here on it takes nothing, so nothing is left behind.
        let orphans = client.lock().end();
        let mailbox: Arc<dyn Mailbox> = client.clone();
        gateway.hub.unregister(&client.id, &mailbox);
        hand_over(gateway, orphans);
        // Behind that, or a crash in between would leave what it had to nobody.
        client.forget(&mut client.lock())
    }

    fn new_client(
        &self,
        gateway: &Arc<Gateway>,
        id: Arc<str>,
        user: Option<Arc<str>>,
        settings: &Arc<Settings>,
    ) -> Result<Arc<Client>, ReasonCode> {
        let client = Arc::new(Client::new(id, user.clone(), settings.clone(), self.common.clone()));
        // A link session may hold the id: the two share one namespace.
        gateway
            .hub
            .register(&client.id, user, client.clone())
            .map_err(|_| ReasonCode::ClientIdentifierNotValid)?;
        Ok(client)
    }

    fn remove(&self, gateway: &Gateway, client: &Arc<Client>) {
        let Entry::Occupied(held) = self.clients.entry(client.id.clone()) else { return };
        // A client that has come back in the meantime stays.
        if Arc::ptr_eq(held.get(), client) && !client.is_connected() {
            Self::bury(gateway, client);
            held.remove();
        }
    }

    pub(super) fn schedule(&self, client: &Arc<Client>, inner: &mut Inner) {
        let due = inner.will.as_ref().and_then(|will| will.due);
        inner.departure = due.into_iter().chain(inner.ends).min();
        if let Some(departure) = inner.departure {
            self.departures.insert(departure, client.id.clone());
        }
    }
}

/// A client's new connection.
struct Seat {
    epoch: u32,
    /// A will that its predecessor leaves.
    orphaned: Option<Box<Will>>,
    waits: bool,
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        let publishes = |outcome| metrics.publishes.with_label_values(&["mqtt", outcome]);
        Self { published: publishes("ok"), forwarded: publishes("forwarded"), refused: publishes("refused") }
    }
}

/// `held` is what all sessions hold.
fn machine_settings(settings: &crate::settings::Settings, held: Held) -> Arc<Settings> {
    let Mqtt { receive_maximum, in_flight_max, topic_alias_max, topic_levels_max, .. } = settings.mqtt;
    let Mqtt { queue_max, queue_bytes_max, queue_age_max, queue_policy, held_bytes_max, .. } = settings.mqtt;
    Arc::new(Settings {
        limits: Limits { packet_bytes_max: settings.mqtt.packet_bytes_max, items_max: PACKET_ITEMS_MAX },
        connect_timeout: settings.limits.first_message_timeout,
        session_expiry_max: settings.mqtt.session_expiry_max,
        keep_alive_max: settings.mqtt.keep_alive_max,
        receive_maximum,
        in_flight_max,
        topic_alias_max,
        topic_levels_max,
        queue_max,
        queue_bytes_max,
        held,
        held_bytes_max,
        queue_age_max,
        queue_policy,
        user_properties: Vec::new(),
    })
}

fn will(connect: &Connect, client_id: &Arc<str>, origin: &Arc<Origin>) -> Option<Box<Will>> {
    let will = connect.will.as_ref()?;
    Some(Box::new(Will {
        message: message::from_will(will, client_id),
        expiry: will.properties.expiry,
        delay: Duration::from_secs(will.properties.delay.unwrap_or(0).into()),
        due: None,
        origin: origin.clone(),
    }))
}

/// What the client's response topics are to begin with, where its names can stand in a topic.
fn response_information(gateway: &Gateway, origin: &Origin) -> Option<Text> {
    let snapshot = gateway.snapshot();
    let text = snapshot.settings.mqtt.response_information.as_ref()?.expand(origin)?;
    Text::try_from(text.as_str()).ok()
}

/// An identifier for a client that has none. Nobody can guess it, so nobody can take the session over.
fn assigned_id() -> Result<Text, ReasonCode> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| ReasonCode::ServerUnavailable)?;
    let id = format!("auto-{:032x}", u128::from_be_bytes(random));
    Text::try_from(id.as_str()).map_err(|_| ReasonCode::ServerUnavailable)
}
