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
    Connect, Limits, ReasonCode, Text, Version,
    session::{Connection, Settings},
};

use super::{
    client::{Client, Inner, Will},
    departures::Departures,
    message, publish,
    retained::Retained,
};
use crate::{
    gateway::Gateway, hub::Mailbox, metrics::Metrics, request::Origin, settings::Mqtt, snapshot::Snapshot,
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
    clients: DashMap<Arc<str>, Arc<Client>>,
    /// The machine's settings of the newest snapshot that a connection has met.
    settings: Mutex<(Weak<Snapshot>, Arc<Settings>)>,
}

/// Counters at hand, since to look one up costs more than a delivery.
pub(super) struct Counters {
    pub(super) published: IntCounter,
    pub(super) forwarded: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) dropped: IntCounter,
}

/// A client's connection in its session. To drop it without [`Attachment::detach`] is the loss of the client,
/// unless the gateway itself goes.
pub(super) struct Attachment {
    pub(super) gateway: Arc<Gateway>,
    pub(super) client: Arc<Client>,
    pub(super) epoch: u64,
    /// What the connection speaks, also when the session is another's.
    pub(super) version: Version,
    is_detached: bool,
}

impl Broker {
    /// No sessions, nothing retained.
    pub fn new(settings: &crate::settings::Settings, metrics: &Metrics) -> Self {
        Self {
            retained: Retained::new(settings.mqtt.retained_max, settings.mqtt.retained_bytes_max),
            departures: Departures::default(),
            counters: Counters::new(metrics),
            clients: DashMap::new(),
            settings: Mutex::new((Weak::new(), machine_settings(settings))),
        }
    }

    /// MQTT sessions, live or away.
    pub fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// The machine's settings of the gateway's present snapshot.
    pub(super) fn settings(&self, gateway: &Gateway) -> Arc<Settings> {
        let snapshot = gateway.snapshot();
        let mut cached = self.settings.lock();
        if cached.0.as_ptr() != Arc::as_ptr(&snapshot) {
            let mqtt = &snapshot.settings.mqtt;
            self.retained.set_bounds(mqtt.retained_max, mqtt.retained_bytes_max);
            *cached = (Arc::downgrade(&snapshot), machine_settings(&snapshot.settings));
        }
        cached.1.clone()
    }

    /// Gives a client its session, new or old, and makes this connection the session's only one.
    ///
    /// Also returns the origin with client id and user.
    ///
    /// # Errors
    /// Why the client is refused.
    pub(super) fn attach(
        &self,
        gateway: &Arc<Gateway>,
        connect: &Connect,
        origin: &Origin,
        user: Option<Arc<str>>,
        settings: &Arc<Settings>,
    ) -> Result<(Attachment, Arc<Origin>), ReasonCode> {
        let assigned = connect.client_id.is_empty().then(assigned_id).transpose()?;
        let mut id: Arc<str> = assigned.as_ref().unwrap_or(&connect.client_id).as_str().into();
        if let Some(held) = self.clients.get(&id) {
            // One copy of the id, however often its client comes.
            id = held.id.clone();
        }
        let origin = &Arc::new(Origin { user: user.clone(), client_id: Some(id.clone()), ..origin.clone() });
        let is_full = self.clients.len() >= gateway.snapshot().settings.mqtt.sessions_max;
        let seated = |client: &Arc<Client>, is_present| {
            self.seat(
                client,
                connect,
                Connection::accept(connect, is_present, assigned, settings, super::now()),
                origin,
            )
        };
        // The entry is held until the client has its connection, so that no other comes or goes in between.
        let (client, epoch, orphaned) = match self.clients.entry(id.clone()) {
            Entry::Occupied(held) if held.get().user != user => return Err(ReasonCode::NotAuthorized),
            Entry::Occupied(held) if !connect.clean_start && held.get().is_lasting() => {
                held.get().lock().settings = settings.clone();
                let (epoch, orphaned) = seated(held.get(), true);
                (held.get().clone(), epoch, orphaned)
            }
            Entry::Occupied(mut held) => {
                let orphaned = self.end_session(gateway, held.get());
                let client = match self.new_client(gateway, id, user, settings) {
                    Ok(client) => client,
                    Err(reason) => {
                        held.remove();
                        return Err(reason);
                    }
                };
                held.insert(client.clone());
                (client.clone(), seated(&client, false).0, orphaned)
            }
            Entry::Vacant(_) if is_full => {
                gateway.metrics.limit_hit("mqtt.sessions_max");
                return Err(ReasonCode::QuotaExceeded);
            }
            Entry::Vacant(vacant) => {
                let client = self.new_client(gateway, id, user, settings)?;
                let _held = vacant.insert(client.clone());
                (client.clone(), seated(&client, false).0, None)
            }
        };
        if let Some(will) = orphaned {
            publish::publish_will(gateway, *will);
        }
        let (gateway, version) = (gateway.clone(), connect.version);
        let attachment = Attachment { gateway, client, epoch, version, is_detached: false };
        Ok((attachment, origin.clone()))
    }

    /// Makes a connection the client's only one. Returns its number, and a will that its predecessor leaves.
    fn seat(
        &self,
        client: &Arc<Client>,
        connect: &Connect,
        connection: Connection,
        origin: &Arc<Origin>,
    ) -> (u64, Option<Box<Will>>) {
        let mut inner = client.lock();
        let orphaned = self.take_over(client, &mut inner);
        inner.will = will(connect, &client.id, origin);
        inner.epoch += 1;
        inner.connection = Some(connection);
        (inner.epoch, orphaned)
    }

    /// Every client that has a connection.
    pub(super) fn connected(&self) -> Vec<Arc<Client>> {
        let clients = self.clients.iter().map(|client| client.clone());
        clients.filter(|client| client.is_connected()).collect()
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
            }
        }
    }

    /// The connection of `epoch` is gone.
    fn detach(&self, gateway: &Arc<Gateway>, client: &Arc<Client>, epoch: u64, with_will: bool) {
        let now = super::now();
        let mut inner = client.lock();
        if inner.epoch != epoch {
            return;
        }
        let Some(mut connection) = inner.connection.take() else { return };
        inner.closing = None;
        let lost = inner.session().detach() as u64 + connection.take_dropped();
        inner.compact();
        self.counters.dropped.inc_by(lost);
        let expiry = connection.session_expiry();
        inner.will.take_if(|_| !with_will);
        // MQTT-3.1.3-9: when the delay has passed or the session ends, whichever is first.
        let is_due = |will: &mut Box<Will>| will.delay.min(expiry).is_zero();
        let due = inner.will.take_if(is_due);
        if let Some(will) = &mut inner.will {
            will.due = now.checked_add(will.delay.min(expiry));
        }
        inner.ends = now.checked_add(expiry);
        if !expiry.is_zero() {
            self.schedule(client, &mut inner);
        }
        drop(inner);
        if let Some(will) = due {
            publish::publish_will(gateway, *will);
        }
        if expiry.is_zero() {
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
        inner.dismiss();
        if was_connected {
            self.counters.dropped.inc_by(inner.session().detach() as u64);
        }
        inner.session().resume();
        inner.will.take().filter(|will| was_connected && will.delay.is_zero())
    }

    /// A clean start discards what was there; its will is due, since its session is over.
    fn end_session(&self, gateway: &Gateway, client: &Arc<Client>) -> Option<Box<Will>> {
        let mut inner = client.lock();
        self.take_over(client, &mut inner);
        inner.epoch += 1;
        let will = inner.will.take();
        drop(inner);
        let mailbox: Arc<dyn Mailbox> = client.clone();
        gateway.hub.unregister(&client.id, &mailbox);
        will
    }

    fn new_client(
        &self,
        gateway: &Gateway,
        id: Arc<str>,
        user: Option<Arc<str>>,
        settings: &Arc<Settings>,
    ) -> Result<Arc<Client>, ReasonCode> {
        let dropped = self.counters.dropped.clone();
        let client = Arc::new(Client::new(id, user.clone(), settings.clone(), dropped));
        // A link session may hold the id: the two share one namespace.
        gateway
            .hub
            .register(&client.id, user, client.clone())
            .map_err(|_| ReasonCode::ClientIdentifierNotValid)?;
        Ok(client)
    }

    fn remove(&self, gateway: &Gateway, client: &Arc<Client>) {
        // A client that has come back in the meantime stays.
        let is_away =
            |_: &Arc<str>, held: &Arc<Client>| Arc::ptr_eq(held, client) && held.lock().connection.is_none();
        if self.clients.remove_if(&client.id, is_away).is_some() {
            let mailbox: Arc<dyn Mailbox> = client.clone();
            gateway.hub.unregister(&client.id, &mailbox);
        }
    }

    fn schedule(&self, client: &Arc<Client>, inner: &mut Inner) {
        let due = inner.will.as_ref().and_then(|will| will.due);
        inner.departure = due.into_iter().chain(inner.ends).min();
        if let Some(departure) = inner.departure {
            self.departures.insert(departure, client.id.clone());
        }
    }
}

impl Attachment {
    /// Ends the client's connection in its session, with or without its will.
    pub(super) fn detach(&mut self, with_will: bool) {
        if !std::mem::replace(&mut self.is_detached, true) {
            self.gateway.mqtt.detach(&self.gateway, &self.client, self.epoch, with_will);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach(!self.gateway.drain.is_draining());
    }
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        let publishes = |outcome| metrics.publishes.with_label_values(&["mqtt", outcome]);
        Self {
            published: publishes("ok"),
            forwarded: publishes("forwarded"),
            refused: publishes("refused"),
            dropped: metrics.mqtt_messages_dropped.clone(),
        }
    }
}

fn machine_settings(settings: &crate::settings::Settings) -> Arc<Settings> {
    let Mqtt { receive_maximum, topic_alias_max, topic_levels_max, queue_max, queue_bytes_max, .. } =
        settings.mqtt;
    Arc::new(Settings {
        limits: Limits { packet_bytes_max: settings.mqtt.packet_bytes_max, items_max: PACKET_ITEMS_MAX },
        connect_timeout: settings.limits.first_message_timeout,
        session_expiry_max: settings.mqtt.session_expiry_max,
        keep_alive_max: settings.mqtt.keep_alive_max,
        receive_maximum,
        topic_alias_max,
        topic_levels_max,
        queue_max,
        queue_bytes_max,
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

/// An identifier for a client that has none. Nobody can guess it, so nobody can take the session over.
fn assigned_id() -> Result<Text, ReasonCode> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| ReasonCode::ServerUnavailable)?;
    let id = format!("auto-{:032x}", u128::from_be_bytes(random));
    Text::try_from(id.as_str()).map_err(|_| ReasonCode::ServerUnavailable)
}
