//! One connection after its CONNECT was accepted.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    ApplicationMessage, Session, Settings,
    greeting::check_method,
    store::{Awaits, Outgoing},
};
use crate::mqtt::{
    Ack, Auth, AuthProperties, Connack, ConnackProperties, Connect, Disconnect, MqttError, Packet, PacketId,
    PacketKind, Publish, PublishHead, QoS, ReasonCode, Secret, Suback, SubackProperties, Subscribe, Text,
    Unsuback, Unsubscribe, Version, decode, encode, topic,
};

/// Payloads of this size or more are handed out by reference instead of being copied behind their head.
const PAYLOAD_BYTES_COPIED_MAX: usize = 4096;
/// How much one [`Connection::poll_transmit`] encodes: what a socket takes at once, about.
const TRANSMIT_BYTES: usize = 16 * 1024;

/// QoS 1 and 2 messages in flight to a client that has acknowledged none.
const WINDOW_FIRST: u16 = 64;

/// The server's side of an MQTT connection.
#[derive(Debug)]
pub struct Connection {
    version: Version,
    /// The client is a bridge of another broker, whose version has no options of subscriptions.
    is_old_bridge: bool,
    /// What the server answers, ahead of messages.
    control: BytesMut,
    /// Seconds; zero when keep-alive is off.
    keep_alive: u16,
    deadline: Option<Instant>,
    expiry: Duration,
    /// QoS 1 and 2 publishes of the client that are not finished.
    unfinished: u16,
    /// QoS 1 and 2 messages sent on this connection and not finished.
    outstanding: u16,
    /// How many there may be at present. It opens by one with each acknowledgement while all of it is used: a client that
    /// acknowledges fast is sent much at one time, and a connection that breaks has little to carry again beside what it
    /// has carried.
    window: u16,
    window_max: u16,
    /// There were as many when something was last transmitted.
    is_window_used: bool,
    /// Largest packet that the client takes.
    packet_bytes_max: u32,
    /// Made when first used: most clients use none.
    aliases: Option<Box<Aliases>>,
    aliases_out_max: u16,
    dropped: u32,
    /// Of extended authentication, if the client came by it. Boxed: few do.
    method: Option<Box<Text>>,
    /// After the server's last word nothing follows.
    is_closed: bool,
}

/// Topics that numbers stand for (MQTT 5, section 3.3.2.3.4).
#[derive(Debug, Default)]
struct Aliases {
    incoming: Vec<Option<Text>>,
    outgoing: HashMap<Box<str>, u16>,
}

/// What the client wants.
#[derive(Debug)]
pub enum Event {
    /// A message. Its topic is there even if an alias stood for it. With QoS 1 or 2,
    /// [`Connection::acknowledge`] follows, in the order of the events [MQTT-4.6.0-2]; a QoS 2 message that is
    /// taken is marked with [`Session::mark_received`] when it is.
    Publish(Box<Publish>),
    /// A QoS 2 publish that is taken already. Answer with [`Connection::acknowledge_repeated`] when its first coming
    /// may be.
    Repeated(PacketId),
    /// The client releases a QoS 2 publish, or one that is not known. Answer with [`Connection::pubcomp`].
    Release(PacketId, ReasonCode),
    /// The client has a QoS 2 message, or one that is not known. Answer with [`Connection::pubrel`].
    Received(PacketId, ReasonCode),
    /// Answer with [`Connection::suback`].
    Subscribe(Subscribe),
    /// Answer with [`Connection::unsuback`].
    Unsubscribe(Unsubscribe),
    /// Extended authentication begins anew or goes on (4.12.1). Answer with [`Connection::authenticate`], or end the
    /// connection.
    Authenticate {
        /// It begins.
        is_new: bool,
        /// What the method has to say.
        data: Option<Secret>,
    },
    /// It leaves, with or without its will.
    Disconnect {
        /// Whether the will is to be published.
        with_will: bool,
    },
}

/// What CONNACK tells one client alone.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    /// Its session goes on.
    pub session_present: bool,
    /// The identifier that the server chose for a client without one.
    pub assigned_id: Option<Text>,
    /// The server's last word in extended authentication.
    pub proof: Option<Secret>,
    /// What its response topics are to begin with. Not told unless it asks [MQTT-3.1.2-28].
    pub response_information: Option<Text>,
}

impl Connection {
    /// Accepts a client: CONNACK is the first thing to transmit.
    pub fn accept(connect: &Connect, welcome: Welcome, settings: &Settings, now: Instant) -> Self {
        let keep_alive = keep_alive(connect, settings);
        let asked = &connect.properties;
        let window_max = asked.receive_maximum.map_or(u16::MAX, |max| max.get()).min(settings.in_flight_max);
        let mut connection = Self {
            version: connect.version,
            is_old_bridge: connect.is_bridge && connect.version != Version::V5,
            control: BytesMut::new(),
            keep_alive,
            deadline: None,
            expiry: expiry(connect, settings),
            unfinished: 0,
            outstanding: 0,
            window: WINDOW_FIRST.min(window_max),
            window_max,
            is_window_used: false,
            packet_bytes_max: asked.packet_bytes_max.map_or(u32::MAX, |max| max.get()),
            aliases: None,
            aliases_out_max: asked.topic_alias_maximum.unwrap_or(0).min(settings.topic_alias_max),
            dropped: 0,
            method: asked.authentication_method.clone().map(Box::new),
            is_closed: false,
        };
        connection.touch(now);
        let mut properties = ConnackProperties::default();
        if connect.version == Version::V5 {
            properties = connack_properties(connect, keep_alive, connection.expiry, settings);
            properties.assigned_client_id = welcome.assigned_id;
            properties.response_information =
                welcome.response_information.filter(|_| asks_for_response_information(connect));
            // MQTT-4.12.0-5
            properties.authentication_method = asked.authentication_method.clone();
            properties.authentication_data = welcome.proof;
        }
        // MQTT 3.1 has no session present flag.
        let session_present = welcome.session_present && connect.version != Version::V31;
        let connack = Connack { session_present, reason: ReasonCode::Success, properties };
        connection.greet(connack);
        connection
    }

    /// Queues CONNACK. For a client that takes small packets only, without what it is safe not to know of.
    fn greet(&mut self, connack: Connack) {
        let mut short = connack.clone();
        short.properties.topic_alias_maximum = None;
        short.properties.response_information = None;
        // [MQTT-3.2.2-20]
        short.properties.user_properties.clear();
        let mut shortest = short.clone();
        shortest.properties.packet_bytes_max = None;
        for connack in [connack, short, shortest] {
            self.control(&Packet::Connack(Box::new(connack)));
            if !self.control.is_empty() {
                break;
            }
        }
    }

    /// The version spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How long the session is kept after this connection.
    pub fn session_expiry(&self) -> Duration {
        self.expiry
    }

    /// QoS 1 and 2 messages that may be in flight to the client at one time.
    pub fn in_flight_max(&self) -> u16 {
        self.window_max
    }

    /// Messages that were neither sent nor kept since the last call: expired, or larger than the client takes.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped).into()
    }

    /// Takes packets off the input up to the next event; `None` when more bytes are needed.
    pub fn handle_bytes<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        input: &mut BytesMut,
        settings: &Settings,
        now: Instant,
    ) -> Result<Option<Event>, MqttError> {
        while let Some(packet) = decode(input, self.version, &settings.limits)? {
            if let Some(event) = self.handle_packet(session, packet, settings, now)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Takes one packet.
    pub fn handle_packet<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        packet: Packet,
        settings: &Settings,
        now: Instant,
    ) -> Result<Option<Event>, MqttError> {
        self.touch(now);
        match packet {
            Packet::Publish(publish) => return self.handle_publish(session, publish, settings),
            Packet::Puback(ack) => return self.handle_receipt(session, &ack, QoS::AtLeastOnce),
            Packet::Pubrec(ack) => return self.handle_receipt(session, &ack, QoS::ExactlyOnce),
            Packet::Pubrel(ack) => return Ok(Some(self.handle_pubrel(session, ack.packet_id))),
            Packet::Pubcomp(ack) => self.handle_pubcomp(session, ack.packet_id),
            Packet::Subscribe(subscribe) => return Ok(Some(Event::Subscribe(self.for_bridge(subscribe)))),
            Packet::Unsubscribe(unsubscribe) => return Ok(Some(Event::Unsubscribe(unsubscribe))),
            Packet::Pingreq => self.control(&Packet::Pingresp),
            Packet::Disconnect(disconnect) => return self.handle_disconnect(&disconnect, settings).map(Some),
            Packet::Connect(_) => {
                return Err(MqttError::protocol("MQTT-3.1.0-2: a second CONNECT on one connection"));
            }
            Packet::Auth(auth) => return self.handle_auth(auth).map(Some),
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(MqttError::protocol("2.1.2: a packet that only servers send"));
            }
        }
        Ok(None)
    }

    /// A bridge takes itself to be sent nothing back that it has brought, and what is retained as such, once its CONNECT
    /// was accepted with its bit set: mosquitto's are to MQTT 3.1.1 what MQTT 5 has options for.
    fn for_bridge(&self, mut subscribe: Subscribe) -> Subscribe {
        if self.is_old_bridge {
            for subscription in &mut subscribe.subscriptions {
                // MQTT-3.8.3-4: not of a shared one.
                let (group, _) = topic::split_share(subscription.filter.as_str());
                subscription.options.no_local = group.is_none();
                subscription.options.retain_as_published = true;
            }
        }
        subscribe
    }

    /// Says what became of a publish of QoS 1 or 2. MQTT 3 cannot report failures: close the connection
    /// instead, so that the client sends the message again.
    pub fn acknowledge<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        id: PacketId,
        qos: QoS,
        reason: ReasonCode,
    ) {
        let ack = Ack::new(id, reason);
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                self.unfinished = self.unfinished.saturating_sub(1);
                self.control(&Packet::Puback(ack));
            }
            QoS::ExactlyOnce => {
                if reason.is_error() {
                    self.unfinished = self.unfinished.saturating_sub(1);
                    session.unmark_received(id);
                }
                self.control(&Packet::Pubrec(ack));
            }
        }
    }

    /// Answers the repetition of a QoS 2 publish. It counts for nothing towards Receive Maximum; and it is not marked:
    /// the client may have released it in the meantime, and what then comes under its identifier is another message.
    pub fn acknowledge_repeated<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        id: PacketId,
        reason: ReasonCode,
    ) {
        if reason.is_error() {
            session.unmark_received(id);
        }
        self.control(&Packet::Pubrec(Ack::new(id, reason)));
    }

    /// Releases a QoS 2 message that the client has.
    pub fn pubrel(&mut self, id: PacketId, reason: ReasonCode) {
        self.control(&Packet::Pubrel(Ack::new(id, reason)));
    }

    /// Says that a QoS 2 publish of the client is done: its identifier is free.
    pub fn pubcomp(&mut self, id: PacketId, reason: ReasonCode) {
        self.control(&Packet::Pubcomp(Ack::new(id, reason)));
    }

    /// Answers a SUBSCRIBE.
    pub fn suback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.control(&Packet::Suback(Suback { packet_id, properties: SubackProperties::default(), reasons }));
    }

    /// Answers an UNSUBSCRIBE.
    pub fn unsuback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        self.control(&Packet::Unsuback(Unsuback {
            packet_id,
            properties: SubackProperties::default(),
            reasons,
        }));
    }

    /// Goes on with extended authentication, or says that it is complete.
    pub fn authenticate(&mut self, reason: ReasonCode, data: Option<Secret>) {
        let properties = AuthProperties {
            authentication_method: self.method.as_deref().cloned(),
            authentication_data: data,
            ..Default::default()
        };
        self.control(&Packet::Auth(Auth { reason, properties }));
    }

    /// The method of extended authentication that the client came by.
    pub fn method(&self) -> Option<&Text> {
        self.method.as_deref()
    }

    /// The server ends the connection: what is still to be transmitted ends with DISCONNECT, where the
    /// version has one for servers. `text` is for a person on the other side to read.
    pub fn disconnect(&mut self, reason: ReasonCode, text: &'static str) {
        self.disconnect_to(reason, text, None);
    }

    /// The same, with a Server Reference: where the client is to go (4.11).
    pub fn disconnect_to(&mut self, reason: ReasonCode, text: &'static str, server_reference: Option<Text>) {
        // MQTT-3.14.4-1: nothing is sent after DISCONNECT.
        self.is_closed = true;
        if self.version != Version::V5 {
            return;
        }
        let reason =
            if reason.is_allowed_in(PacketKind::Disconnect) { reason } else { ReasonCode::ProtocolError };
        let mut disconnect = Disconnect::new(reason);
        disconnect.properties.server_reference = server_reference;
        let mut full = disconnect.clone();
        full.properties.reason_string = Text::new(Bytes::from_static(text.as_bytes())).ok();
        // MQTT-3.14.2-3: the reason string is left out when the packet would be too large with it.
        for disconnect in [full, disconnect, Disconnect::new(reason)] {
            let before = self.control.len();
            self.control(&Packet::Disconnect(disconnect));
            if self.control.len() > before {
                break;
            }
        }
    }

    /// Whether nothing waits to be transmitted, and nothing in flight for an acknowledgement.
    pub fn is_quiet<M: ApplicationMessage>(&self, session: &Session<M>) -> bool {
        self.control.is_empty() && session.is_empty()
    }

    /// Whether something waits to be transmitted, as far as the client takes it.
    pub fn has_output<M: ApplicationMessage>(&self, session: &Session<M>) -> bool {
        let is_taken = |qos| qos == QoS::AtMostOnce || self.outstanding < self.window;
        !self.control.is_empty() || session.first_queued().is_some_and(is_taken)
    }

    /// Bytes of answers that wait to be transmitted: a driver stops reading from a client that reads none.
    pub fn control_bytes(&self) -> usize {
        self.control.len()
    }

    /// Takes the answers that wait to be transmitted, without messages: a client that has taken leave may read on for them.
    pub fn take_answers(&mut self) -> BytesMut {
        std::mem::take(&mut self.control)
    }

    /// Appends to `out` what is to be sent, about 16 KiB at most. A returned payload follows those bytes;
    /// then there may be more.
    pub fn poll_transmit<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        out: &mut BytesMut,
        now: Instant,
    ) -> Option<Bytes> {
        let payload = self.transmit(session, out, now);
        self.is_window_used = self.outstanding >= self.window;
        session.release_memory();
        payload
    }

    fn transmit<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        out: &mut BytesMut,
        now: Instant,
    ) -> Option<Bytes> {
        if !self.control.is_empty() {
            out.extend_from_slice(&std::mem::take(&mut self.control));
        }
        if self.is_closed {
            return None;
        }
        if let Some(payload) = self.transmit_again(session, out, now) {
            return Some(payload);
        }
        while out.len() < TRANSMIT_BYTES {
            let next = session.next_queued(now, &mut self.dropped)?;
            let (qos, own_id) = (next.qos, next.message.packet_id());
            let id = match own_id {
                _ if qos == QoS::AtMostOnce => None,
                _ if self.outstanding >= self.window => return None,
                // A client that leaves one unanswered for 65535 others waits for itself.
                Some(id) if session.is_in_flight(id) => return None,
                Some(id) => Some(id),
                None => Some(session.next_id()?),
            };
            let (next, before) = (session.dequeue()?, out.len());
            let payload = self.put_publish(&next, id, false, out, now);
            match id {
                None => {}
                // MQTT-3.1.2-25: too large for the client counts as sent and done.
                Some(_) if out.len() == before => next.message.finish(),
                Some(id) => {
                    session.depart(id, next);
                    self.outstanding += 1;
                }
            }
            if payload.is_some() {
                return payload;
            }
        }
        None
    }

    /// When [`Connection::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Fails when the client was silent for one and a half keep-alive periods [MQTT-3.1.2-22].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), MqttError> {
        match self.deadline {
            Some(deadline) if deadline <= now => Err(MqttError::new(
                ReasonCode::KeepAliveTimeout,
                "MQTT-3.1.2-22: no packet within one and a half keep-alive periods",
            )),
            _ => Ok(()),
        }
    }

    /// Starts the keep-alive anew: after each packet, and when the server itself had stopped reading.
    pub fn touch(&mut self, now: Instant) {
        // MQTT-3.1.2-22: one and a half periods.
        let silence_max = Duration::from_secs(self.keep_alive.into()) * 3 / 2;
        self.deadline = (!silence_max.is_zero()).then(|| now + silence_max);
    }

    fn handle_publish<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        mut publish: Box<Publish>,
        settings: &Settings,
    ) -> Result<Option<Event>, MqttError> {
        self.resolve_alias(&mut publish, settings)?;
        if !publish.properties.subscription_ids.is_empty() {
            return Err(MqttError::protocol(
                "MQTT-3.3.4-6: a client must not send a Subscription Identifier",
            ));
        }
        if let (QoS::ExactlyOnce, Some(id)) = (publish.qos, publish.packet_id)
            && session.has_received(id)
        {
            // MQTT-4.3.3-10: a repetition is answered, and not delivered again.
            return Ok(Some(Event::Repeated(id)));
        }
        if publish.qos != QoS::AtMostOnce {
            self.count_unfinished(session, settings)?;
        }
        if topic::levels(publish.topic.as_bytes()) > settings.topic_levels_max {
            return self.refuse_topic(session, &publish).map(|()| None);
        }
        Ok(Some(Event::Publish(publish)))
    }

    /// MQTT-3.3.4-9: the client keeps to the server's Receive Maximum. MQTT 3 clients are not told of it;
    /// a driver slows them by not reading on.
    fn count_unfinished<M: ApplicationMessage>(
        &mut self,
        session: &Session<M>,
        settings: &Settings,
    ) -> Result<(), MqttError> {
        // Identifiers received on an earlier connection count too, since they take memory here.
        let unfinished = usize::from(self.unfinished).max(session.received_len());
        if self.version == Version::V5 && unfinished >= usize::from(settings.receive_maximum) {
            return Err(MqttError::new(
                ReasonCode::ReceiveMaximumExceeded,
                "MQTT-3.3.4-9: more QoS 1 and 2 publishes at one time than Receive Maximum",
            ));
        }
        self.unfinished = self.unfinished.saturating_add(1);
        Ok(())
    }

    fn refuse_topic<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        publish: &Publish,
    ) -> Result<(), MqttError> {
        match publish.packet_id {
            Some(id) if self.version == Version::V5 => {
                self.acknowledge(session, id, publish.qos, ReasonCode::TopicNameInvalid);
                Ok(())
            }
            _ => Err(MqttError::new(
                ReasonCode::TopicNameInvalid,
                "the topic has more levels than mqtt.topic_levels_max",
            )),
        }
    }

    fn resolve_alias(&mut self, publish: &mut Publish, settings: &Settings) -> Result<(), MqttError> {
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(()) };
        if alias > settings.topic_alias_max {
            return Err(MqttError::new(
                ReasonCode::TopicAliasInvalid,
                "MQTT-3.3.2-9: a topic alias above Topic Alias Maximum",
            ));
        }
        let index = usize::from(alias) - 1;
        if !publish.topic.is_empty() {
            let incoming = &mut self.aliases.get_or_insert_default().incoming;
            if incoming.len() <= index {
                incoming.resize(index + 1, None);
            }
            // A copy, so that the alias does not hold on to the packet it came in.
            incoming[index] = Text::try_from(publish.topic.as_str()).ok();
            return Ok(());
        }
        let known = self.aliases.as_ref().and_then(|aliases| aliases.incoming.get(index).cloned().flatten());
        publish.topic =
            known.ok_or(MqttError::protocol("3.3.2.3.4: a topic alias that stands for nothing yet"))?;
        Ok(())
    }

    /// PUBACK and PUBREC.
    fn handle_receipt<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        ack: &Ack,
        qos: QoS,
    ) -> Result<Option<Event>, MqttError> {
        let id = ack.packet_id;
        match session.awaits_receipt(id) {
            Some(sent) if sent != qos => {
                Err(MqttError::protocol("4.3: the acknowledgement is not that of the message's QoS"))
            }
            Some(QoS::ExactlyOnce) if !ack.reason.is_error() => {
                session.release(id);
                Ok(Some(Event::Received(id, ReasonCode::Success)))
            }
            Some(_) => {
                self.complete(session, id);
                Ok(None)
            }
            None if qos == QoS::ExactlyOnce && !ack.reason.is_error() => {
                // A repeated PUBREC is answered as the first one was.
                let known = session.awaits_completion(id);
                let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                Ok(Some(Event::Received(id, reason)))
            }
            None => Ok(None),
        }
    }

    fn handle_pubrel<M: ApplicationMessage>(&mut self, session: &mut Session<M>, id: PacketId) -> Event {
        let known = session.unmark_received(id);
        if known {
            self.unfinished = self.unfinished.saturating_sub(1);
        }
        Event::Release(id, if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound })
    }

    fn handle_pubcomp<M: ApplicationMessage>(&mut self, session: &mut Session<M>, id: PacketId) {
        if session.awaits_completion(id) {
            self.complete(session, id);
        }
    }

    /// The client has acknowledged a message for good.
    fn complete<M: ApplicationMessage>(&mut self, session: &mut Session<M>, id: PacketId) {
        session.complete(id);
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.is_window_used && self.window < self.window_max {
            self.window += 1;
        }
    }

    fn handle_auth(&self, auth: Auth) -> Result<Event, MqttError> {
        let Some(method) = &self.method else {
            return Err(MqttError::protocol(
                "MQTT-4.12.0-6: AUTH without an authentication method in CONNECT",
            ));
        };
        check_method(&auth, method)?;
        let is_new = match auth.reason {
            ReasonCode::ReAuthenticate => true,
            ReasonCode::ContinueAuthentication => false,
            _ => return Err(MqttError::protocol("3.15.2.1: a client sends AUTH with reason 0x18 or 0x19")),
        };
        Ok(Event::Authenticate { is_new, data: auth.properties.authentication_data })
    }

    fn handle_disconnect(
        &mut self,
        disconnect: &Disconnect,
        settings: &Settings,
    ) -> Result<Event, MqttError> {
        if let Some(seconds) = disconnect.properties.session_expiry {
            if self.expiry.is_zero() && seconds != 0 {
                return Err(MqttError::protocol(
                    "3.14.2.2.2: a session that was to end with its connection cannot be prolonged",
                ));
            }
            self.expiry = interval(seconds).min(settings.session_expiry_max);
        }
        Ok(Event::Disconnect { with_will: disconnect.reason != ReasonCode::Success })
    }

    /// Sends what was in flight when an earlier connection ended [MQTT-4.4.0-1].
    fn transmit_again<M: ApplicationMessage>(
        &mut self,
        session: &mut Session<M>,
        out: &mut BytesMut,
        now: Instant,
    ) -> Option<Bytes> {
        while self.outstanding < self.window && out.len() < TRANSMIT_BYTES {
            let entry = session.next_unsent()?;
            let id = entry.id;
            entry.is_sent = true;
            self.outstanding += 1;
            let Awaits::Receipt(outgoing) = &entry.awaits else {
                let _ = encode(&Packet::Pubrel(Ack::new(id, ReasonCode::Success)), self.version, out);
                continue;
            };
            let (outgoing, dup, before) = (outgoing.clone(), entry.dup, out.len());
            let payload = self.put_publish(&outgoing, Some(id), dup, out, now);
            if out.len() == before {
                session.complete(id);
                self.outstanding -= 1;
            }
            if payload.is_some() {
                return payload;
            }
        }
        None
    }

    /// Appends a PUBLISH, or nothing when the client does not take packets of its size. A large payload is
    /// returned instead of appended.
    fn put_publish<M: ApplicationMessage>(
        &mut self,
        outgoing: &Outgoing<M>,
        packet_id: Option<PacketId>,
        dup: bool,
        out: &mut BytesMut,
        now: Instant,
    ) -> Option<Bytes> {
        let message = outgoing.message.view();
        let (topic_alias, is_known) = self.alias(message.topic);
        let head = PublishHead {
            dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: if is_known { "" } else { message.topic },
            packet_id,
            topic_alias,
            payload_utf8: message.payload_utf8,
            expiry: message.expires.map(|at| seconds_left(at, now)),
            response_topic: message.response_topic,
            correlation_data: message.correlation_data,
            user_properties: message.user_properties,
            subscription_ids: &outgoing.subscription_ids,
            content_type: message.content_type,
            payload_bytes: message.payload.len(),
        };
        let start = out.len();
        let encoded = match outgoing.message.heads() {
            Some(heads) => head.encode_shared(self.version, heads, out),
            None => head.encode(self.version, out),
        };
        let is_encoded = encoded.is_ok();
        // MQTT-3.1.2-24: nothing larger than the client's Maximum Packet Size.
        if !is_encoded || out.len() - start + message.payload.len() > self.packet_bytes_max as usize {
            out.truncate(start);
            self.dropped = self.dropped.saturating_add(1);
            return None;
        }
        if let (Some(alias), false) = (topic_alias, is_known) {
            self.aliases.get_or_insert_default().outgoing.insert(message.topic.into(), alias);
        }
        if message.payload.len() >= PAYLOAD_BYTES_COPIED_MAX {
            return Some(message.payload.clone());
        }
        out.extend_from_slice(message.payload);
        None
    }

    /// The alias of a topic and whether the client knows it. The first topics get one, up to the maximum.
    fn alias(&self, topic: &str) -> (Option<u16>, bool) {
        if self.aliases_out_max == 0 {
            return (None, false);
        }
        let known = self.aliases.as_ref().map(|aliases| &aliases.outgoing);
        if let Some(alias) = known.and_then(|known| known.get(topic)) {
            return (Some(*alias), true);
        }
        let next = known.map_or(0, HashMap::len) + 1;
        ((next <= usize::from(self.aliases_out_max)).then_some(next as u16), false)
    }

    /// Queues an answer, if the client takes packets of its size.
    fn control(&mut self, packet: &Packet) {
        let start = self.control.len();
        let is_encoded = encode(packet, self.version, &mut self.control).is_ok();
        if !is_encoded || self.control.len() - start > self.packet_bytes_max as usize {
            self.control.truncate(start);
        }
    }
}

fn keep_alive(connect: &Connect, settings: &Settings) -> u16 {
    let max = u16::try_from(settings.keep_alive_max.as_secs()).unwrap_or(u16::MAX);
    let is_bound = connect.version == Version::V5 && max != 0;
    if is_bound && (connect.keep_alive == 0 || connect.keep_alive > max) { max } else { connect.keep_alive }
}

fn expiry(connect: &Connect, settings: &Settings) -> Duration {
    match (connect.version, connect.clean_start) {
        (Version::V5, _) => {
            interval(connect.properties.session_expiry.unwrap_or(0)).min(settings.session_expiry_max)
        }
        (_, true) => Duration::ZERO,
        (_, false) => settings.session_expiry_max,
    }
}

/// 0xFFFFFFFF means for ever (3.1.2.11.2).
fn interval(seconds: u32) -> Duration {
    if seconds == u32::MAX { Duration::MAX } else { Duration::from_secs(seconds.into()) }
}

fn connack_properties(
    connect: &Connect,
    keep_alive: u16,
    expiry: Duration,
    settings: &Settings,
) -> ConnackProperties {
    let is_cut = interval(connect.properties.session_expiry.unwrap_or(0)) != expiry;
    ConnackProperties {
        session_expiry: is_cut.then(|| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        receive_maximum: std::num::NonZeroU16::new(settings.receive_maximum),
        packet_bytes_max: std::num::NonZeroU32::new(
            u32::try_from(settings.limits.packet_bytes_max).unwrap_or(u32::MAX),
        ),
        topic_alias_maximum: (settings.topic_alias_max > 0).then_some(settings.topic_alias_max),
        keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
        user_properties: settings.user_properties.clone(),
        ..Default::default()
    }
}

/// 3.1.2.11.6: the value is 0 where it is left out.
fn asks_for_response_information(connect: &Connect) -> bool {
    connect.properties.request_response_information == Some(true)
}

/// Rounded up, so that a message that is still worth sending is not sent as expired.
fn seconds_left(at: Instant, now: Instant) -> u32 {
    let left = at.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
