use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::mqtt::{encode::ENCODED, *};

#[derive(Debug, Default)]
struct Message {
    topic: &'static str,
    payload: Bytes,
    expires: Option<Instant>,
    id: Option<PacketId>,
    heads: Option<SharedHeads>,
}

impl ApplicationMessage for Arc<Message> {
    fn view(&self) -> MessageView<'_> {
        MessageView {
            topic: self.topic,
            payload: &self.payload,
            expires: self.expires,
            payload_utf8: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: &[],
        }
    }

    fn heads(&self) -> Option<&SharedHeads> {
        self.heads.as_ref()
    }

    fn packet_id(&self) -> Option<PacketId> {
        self.id
    }
}

/// One client against one server, with the clock in hand.
struct Pair {
    settings: Settings,
    session: Session<Arc<Message>>,
    connection: Connection,
    version: Version,
    now: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` cannot be made from a number; all others follow from this one"
)]
fn start() -> Instant {
    Instant::now()
}

fn settings() -> Settings {
    Settings {
        limits: Limits::default(),
        connect_timeout: Duration::from_secs(10),
        session_expiry_max: Duration::from_secs(3600),
        keep_alive_max: Duration::ZERO,
        receive_maximum: 2,
        topic_alias_max: 2,
        topic_levels_max: 4,
        queue_max: 3,
        queue_bytes_max: 10_000,
        queue_age_max: Duration::ZERO,
        queue_policy: QueuePolicy::Qos0,
        user_properties: Vec::new(),
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 10,
        client_id: text("c"),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

impl Pair {
    fn new(connect: &Connect, settings: Settings) -> (Self, Connack) {
        let now = start();
        let connection = Connection::accept(connect, false, None, None, &settings, now);
        let mut pair = Self { settings, session: Session::new(), connection, version: connect.version, now };
        let Some(Packet::Connack(connack)) = pair.receive().pop() else { panic!("no CONNACK") };
        (pair, *connack)
    }

    /// The connection breaks and the client comes back to its session.
    fn reconnect(&mut self) {
        self.session.detach();
        self.session.resume();
        self.connection =
            Connection::accept(&connect(self.version), true, None, None, &self.settings, self.now);
        assert_eq!(self.receive_some(1).len(), 1);
    }

    /// What the client sends, with the steps of QoS 2 answered at once, as a driver does that keeps nothing.
    fn send(&mut self, packet: Packet) -> Result<Option<Event>, MqttError> {
        let event = self.connection.handle_packet(&mut self.session, packet, &self.settings, self.now)?;
        match event {
            Some(Event::Repeated(id)) => {
                self.connection.acknowledge_repeated(&mut self.session, id, ReasonCode::Success);
            }
            Some(Event::Release(id, reason)) => self.connection.pubcomp(id, reason),
            Some(Event::Received(id, reason)) => self.connection.pubrel(id, reason),
            event => return Ok(event),
        }
        Ok(None)
    }

    /// A QoS 2 publish is taken, and acknowledged later.
    fn take(&mut self, id: PacketId) {
        self.session.mark_received(id);
    }

    fn acknowledge(&mut self, id: PacketId, reason: ReasonCode) {
        self.connection.acknowledge(&mut self.session, id, QoS::ExactlyOnce, reason);
    }

    fn terms(&self, qos: QoS) -> Terms<'static> {
        Terms { qos, retain: false, subscription_ids: &[], since: self.now }
    }

    fn push(&mut self, message: &Arc<Message>, qos: QoS) -> Push {
        self.session.push(message.clone(), self.terms(qos), &self.settings)
    }

    fn deliver(&mut self, payload: &'static str, qos: QoS) -> Push {
        let message = Message { topic: "t", payload: payload.into(), ..Default::default() };
        self.push(&Arc::new(message), qos)
    }

    fn bytes(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        while let Some(payload) = self.connection.poll_transmit(&mut self.session, &mut out, self.now) {
            out.extend_from_slice(&payload);
        }
        out
    }

    /// Everything that the client gets now.
    fn receive(&mut self) -> Vec<Packet> {
        self.receive_some(usize::MAX)
    }

    fn receive_some(&mut self, count: usize) -> Vec<Packet> {
        let mut bytes = self.bytes();
        let mut packets = Vec::new();
        while packets.len() < count {
            match decode(&mut bytes, self.version, &Limits::default()).unwrap() {
                Some(packet) => packets.push(packet),
                None => break,
            }
        }
        packets
    }
}

fn text(value: &str) -> Text {
    Text::try_from(value).unwrap()
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn publish(topic: &str, qos: QoS, packet: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: text(topic),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(packet)),
        properties: PublishProperties::default(),
        payload: "x".into(),
    }
}

fn send_publish(pair: &mut Pair, publish: Publish) -> Result<Option<Event>, MqttError> {
    pair.send(Packet::Publish(Box::new(publish)))
}

fn published(packet: &Packet) -> &Publish {
    let Packet::Publish(publish) = packet else { panic!("{packet:?} is no PUBLISH") };
    publish
}

#[test]
fn the_first_packet_must_be_connect_and_come_in_time() {
    let now = start();
    let greeting = Greeting::new(&settings(), now);
    let error = greeting.handle_bytes(&mut BytesMut::from(&b"\xc0\0"[..]), &settings()).unwrap_err();
    assert!(error.rule.starts_with("MQTT-3.1.0-1:"));
    let before = greeting.poll_timeout() - Duration::from_millis(1);
    assert!(greeting.handle_timeout(before).is_ok());
    assert!(greeting.handle_timeout(greeting.poll_timeout()).is_err());
}

#[test]
fn what_follows_connect_stays_in_the_input() {
    let mut input = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect(Version::V5))), Version::V5, &mut input).unwrap();
    input.extend_from_slice(b"\xc0\0");
    let found = Greeting::new(&settings(), start()).handle_bytes(&mut input, &settings()).unwrap();
    assert_eq!(found.map(|connect| connect.version), Some(Version::V5));
    assert_eq!(input, b"\xc0\0"[..]);
}

#[test]
fn a_refusal_is_spoken_in_the_clients_version() {
    #[track_caller]
    fn check(version: Option<Version>, reason: ReasonCode, expected: &[u8]) {
        let mut out = BytesMut::new();
        Greeting::refuse(version, reason, None, None, &mut out);
        assert_eq!(out, expected);
    }
    check(Some(Version::V5), ReasonCode::NotAuthorized, b"\x20\x03\0\x87\0");
    check(Some(Version::V311), ReasonCode::NotAuthorized, b"\x20\x02\0\x05");
    check(None, ReasonCode::UnsupportedProtocolVersion, b"\x20\x02\0\x01");
    check(None, ReasonCode::MalformedPacket, b"");
}

#[test]
fn a_refused_client_is_told_where_else_to_go_if_its_version_can_say_so() {
    let mut out = BytesMut::new();
    let reference = Some(text("b:1"));
    Greeting::refuse(Some(Version::V5), ReasonCode::UseAnotherServer, None, reference.clone(), &mut out);
    assert_eq!(out, b"\x20\x09\0\x9c\x06\x1c\0\x03b:1"[..]);
    let mut out = BytesMut::new();
    Greeting::refuse(Some(Version::V311), ReasonCode::UseAnotherServer, None, reference, &mut out);
    assert_eq!(out, b"\x20\x02\0\x03"[..]);
}

#[test]
fn the_last_word_keeps_the_server_reference_as_long_as_it_fits() {
    #[track_caller]
    fn check(packet_bytes_max: Option<u32>, reason_string: bool, server_reference: bool) {
        let mut asked = connect(Version::V5);
        asked.properties.packet_bytes_max = packet_bytes_max.and_then(NonZeroU32::new);
        let (mut pair, _) = Pair::new(&asked, settings());
        let reference = Some(text("other.example:8883"));
        pair.connection.disconnect_to(ReasonCode::UseAnotherServer, "go elsewhere", reference);
        let Some(Packet::Disconnect(disconnect)) = pair.receive().pop() else { panic!("no DISCONNECT") };
        assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
        assert_eq!(disconnect.properties.reason_string.is_some(), reason_string);
        assert_eq!(disconnect.properties.server_reference.is_some(), server_reference);
    }
    check(None, true, true);
    check(Some(30), false, true);
    check(Some(20), false, false);
}

#[test]
fn connack_tells_what_the_server_changed() {
    let mut asked = connect(Version::V5);
    asked.keep_alive = 0;
    asked.properties.session_expiry = Some(u32::MAX);
    let settings = Settings { keep_alive_max: Duration::from_secs(60), ..settings() };
    let (pair, connack) = Pair::new(&asked, settings);
    assert_eq!(connack.properties.keep_alive, Some(60));
    assert_eq!(connack.properties.session_expiry, Some(3600));
    assert_eq!(connack.properties.receive_maximum, NonZeroU16::new(2));
    assert_eq!(connack.properties.topic_alias_maximum, Some(2));
    assert_eq!(pair.connection.session_expiry(), Duration::from_secs(3600));
}

#[test]
fn keep_alive_ends_after_one_and_a_half_periods_without_a_packet() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    pair.now += Duration::from_secs(14);
    assert!(pair.connection.handle_timeout(pair.now).is_ok());
    pair.send(Packet::Pingreq).unwrap();
    assert_eq!(pair.receive(), [Packet::Pingresp]);
    let deadline = pair.connection.poll_timeout().unwrap();
    assert_eq!(deadline, pair.now + Duration::from_secs(15));
    assert!(pair.connection.handle_timeout(deadline - Duration::from_millis(1)).is_ok());
    assert_eq!(pair.connection.handle_timeout(deadline).unwrap_err().reason, ReasonCode::KeepAliveTimeout);
}

#[test]
fn no_keep_alive_means_no_deadline() {
    let mut asked = connect(Version::V311);
    asked.keep_alive = 0;
    let (pair, _) = Pair::new(&asked, settings());
    assert_eq!(pair.connection.poll_timeout(), None);
}

#[test]
fn qos_1_is_sent_within_the_quota_and_again_after_a_reconnect() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    for payload in ["a", "b", "c"] {
        assert_eq!(pair.deliver(payload, QoS::AtLeastOnce), Push::Queued);
    }
    let sent = pair.receive();
    assert_eq!(sent.len(), 2, "Receive Maximum is 2");
    assert!(pair.receive().is_empty());
    pair.send(Packet::Puback(Ack::new(id(1), ReasonCode::Success))).unwrap();
    let sent = pair.receive();
    assert_eq!((&published(&sent[0]).payload[..], published(&sent[0]).packet_id), (&b"c"[..], Some(id(3))));

    pair.session.detach();
    pair.session.resume();
    pair.connection = Connection::accept(&connect(Version::V311), true, None, None, &pair.settings, pair.now);
    let again = pair.receive();
    assert_eq!(again.len(), 3);
    for (packet, (payload, packet_id)) in again[1..].iter().zip([(&b"b"[..], 2), (b"c", 3)]) {
        let publish = published(packet);
        assert_eq!(
            (&publish.payload[..], publish.packet_id, publish.dup),
            (payload, Some(id(packet_id)), true)
        );
    }
    for packet_id in [2, 3] {
        pair.send(Packet::Puback(Ack::new(id(packet_id), ReasonCode::Success))).unwrap();
    }
    assert!(pair.session.is_empty());
    assert_eq!(pair.session.bytes(), 0);
}

#[test]
fn qos_2_to_the_client_goes_on_where_it_was() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    pair.deliver("a", QoS::ExactlyOnce);
    assert_eq!(published(&pair.receive()[0]).qos, QoS::ExactlyOnce);
    pair.send(Packet::Pubrec(Ack::new(id(1), ReasonCode::Success))).unwrap();
    assert_eq!(pair.receive(), [Packet::Pubrel(Ack::new(id(1), ReasonCode::Success))]);
    assert_eq!(pair.session.bytes(), 0, "the payload is the client's now");
    pair.session.resume();
    pair.connection = Connection::accept(&connect(Version::V5), true, None, None, &pair.settings, pair.now);
    let again = pair.receive();
    assert_eq!(again[1..], [Packet::Pubrel(Ack::new(id(1), ReasonCode::Success))]);
    pair.send(Packet::Pubcomp(Ack::new(id(1), ReasonCode::Success))).unwrap();
    assert!(pair.session.is_empty());
}

#[test]
fn qos_2_from_the_client_is_one_event_however_often_it_comes() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    let message = publish("t", QoS::ExactlyOnce, 7);
    assert!(matches!(send_publish(&mut pair, message.clone()), Ok(Some(Event::Publish(_)))));
    pair.take(id(7));
    pair.acknowledge(id(7), ReasonCode::Success);
    assert_eq!(pair.receive(), [Packet::Pubrec(Ack::new(id(7), ReasonCode::Success))]);
    pair.reconnect();
    assert!(matches!(send_publish(&mut pair, Publish { dup: true, ..message.clone() }), Ok(None)));
    assert_eq!(pair.receive(), [Packet::Pubrec(Ack::new(id(7), ReasonCode::Success))]);
    pair.send(Packet::Pubrel(Ack::new(id(7), ReasonCode::Success))).unwrap();
    assert_eq!(pair.receive(), [Packet::Pubcomp(Ack::new(id(7), ReasonCode::Success))]);
    pair.send(Packet::Pubrel(Ack::new(id(7), ReasonCode::Success))).unwrap();
    assert_eq!(pair.receive(), [Packet::Pubcomp(Ack::new(id(7), ReasonCode::PacketIdentifierNotFound))]);
    assert!(matches!(send_publish(&mut pair, message), Ok(Some(_))), "the identifier is free again");
}

#[test]
fn a_late_answer_to_a_repetition_does_not_swallow_the_next_message_of_its_identifier() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    let message = Packet::Publish(Box::new(publish("t", QoS::ExactlyOnce, 5)));
    assert!(matches!(pair.send(message.clone()), Ok(Some(Event::Publish(_)))));
    pair.take(id(5));
    let settings = &pair.settings;
    let repeated = pair.connection.handle_packet(&mut pair.session, message.clone(), settings, pair.now);
    assert!(matches!(repeated, Ok(Some(Event::Repeated(_)))));
    pair.acknowledge(id(5), ReasonCode::Success);
    pair.send(Packet::Pubrel(Ack::new(id(5), ReasonCode::Success))).unwrap();
    pair.connection.acknowledge_repeated(&mut pair.session, id(5), ReasonCode::Success);
    assert!(matches!(pair.send(message), Ok(Some(Event::Publish(_)))));
}

#[test]
fn a_refused_repetition_is_not_taken_off_receive_maximum() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    assert!(send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 1)).is_ok());
    let message = Packet::Publish(Box::new(publish("t", QoS::ExactlyOnce, 5)));
    assert!(pair.send(message.clone()).is_ok());
    pair.take(id(5));
    pair.connection.handle_packet(&mut pair.session, message, &pair.settings, pair.now).unwrap();
    pair.acknowledge(id(5), ReasonCode::UnspecifiedError);
    pair.connection.acknowledge_repeated(&mut pair.session, id(5), ReasonCode::UnspecifiedError);
    assert!(!pair.session.has_received(id(5)));
    assert!(send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 2)).is_ok());
    let error = send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 3)).unwrap_err();
    assert_eq!(error.reason, ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_client_that_exceeds_receive_maximum_is_told_so() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    assert!(send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 1)).is_ok());
    assert!(send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 2)).is_ok());
    pair.connection.acknowledge(&mut pair.session, id(1), QoS::AtLeastOnce, ReasonCode::Success);
    assert!(send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 3)).is_ok());
    let error = send_publish(&mut pair, publish("t", QoS::AtLeastOnce, 4)).unwrap_err();
    assert_eq!(error.reason, ReasonCode::ReceiveMaximumExceeded);
    pair.receive();
    pair.connection.disconnect(error.reason, error.rule);
    pair.deliver("too late", QoS::AtMostOnce);
    let Some(Packet::Disconnect(disconnect)) = pair.receive().pop() else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(disconnect.properties.reason_string, Some(text(error.rule)));
}

#[test]
fn aliases_of_the_client() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    let with_alias = |topic, alias| {
        let mut publish = publish(topic, QoS::AtMostOnce, 1);
        publish.properties.topic_alias = Some(alias);
        publish
    };
    let topic = |event| match event {
        Ok(Some(Event::Publish(publish))) => publish.topic,
        other => panic!("{other:?}"),
    };
    assert_eq!(topic(send_publish(&mut pair, with_alias("a/b", 2))), *"a/b");
    assert_eq!(topic(send_publish(&mut pair, with_alias("", 2))), *"a/b");
    assert_eq!(topic(send_publish(&mut pair, with_alias("c", 2))), *"c");
    assert_eq!(topic(send_publish(&mut pair, with_alias("", 2))), *"c");
    for (name, alias) in [("", 1), ("a", 3)] {
        let error = send_publish(&mut pair, with_alias(name, alias)).unwrap_err();
        assert_eq!(error.reason, ReasonCode::TopicAliasInvalid);
    }
}

#[test]
fn aliases_of_the_server_save_the_topic_after_the_first_message() {
    let mut asked = connect(Version::V5);
    asked.properties.topic_alias_maximum = Some(9);
    let (mut pair, _) = Pair::new(&asked, settings());
    pair.deliver("a", QoS::AtMostOnce);
    pair.deliver("b", QoS::AtMostOnce);
    let sent = pair.receive();
    assert_eq!(
        (published(&sent[0]).topic.as_str(), published(&sent[0]).properties.topic_alias),
        ("t", Some(1))
    );
    assert_eq!(
        (published(&sent[1]).topic.as_str(), published(&sent[1]).properties.topic_alias),
        ("", Some(1))
    );
}

#[test]
fn nothing_larger_than_the_client_takes_is_sent() {
    let mut asked = connect(Version::V5);
    asked.properties.packet_bytes_max = NonZeroU32::new(30);
    let (mut pair, _) = Pair::new(&asked, settings());
    pair.deliver("this payload is far too long for it", QoS::AtLeastOnce);
    pair.deliver("short", QoS::AtLeastOnce);
    let sent = pair.receive();
    assert_eq!(sent.len(), 1);
    assert_eq!(&published(&sent[0]).payload[..], b"short");
    assert_eq!(pair.connection.take_dropped(), 1);
    pair.connection
        .disconnect(ReasonCode::ProtocolError, "a reason string that does not fit into thirty bytes");
    assert_eq!(pair.receive(), [Packet::Disconnect(Disconnect::new(ReasonCode::ProtocolError))]);
}

#[test]
fn a_message_expires_in_the_queue_or_carries_what_is_left() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    for seconds in [5, 10] {
        let expires = Some(pair.now + Duration::from_secs(seconds));
        let message = Message { topic: "t", expires, ..Default::default() };
        let terms = Terms { subscription_ids: &[7, 9], ..pair.terms(QoS::AtLeastOnce) };
        pair.session.push(Arc::new(message), terms, &pair.settings);
    }
    pair.now += Duration::from_millis(5500);
    let sent = pair.receive();
    assert_eq!(sent.len(), 1);
    assert_eq!(published(&sent[0]).properties.expiry, Some(5), "rounded up from 4.5");
    let ids: Vec<_> = published(&sent[0]).properties.subscription_ids.iter().map(|id| id.get()).collect();
    assert_eq!(ids, [7, 9]);
    assert_eq!(pair.connection.take_dropped(), 1);
}

#[test]
fn a_full_queue_drops_qos_0_first() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    assert_eq!(pair.deliver("a", QoS::AtMostOnce), Push::Queued);
    assert_eq!(pair.deliver("b", QoS::AtLeastOnce), Push::Queued);
    assert_eq!(pair.deliver("c", QoS::AtMostOnce), Push::Queued);
    assert_eq!(pair.deliver("d", QoS::AtMostOnce), Push::Dropped(0, Bound::Count));
    assert_eq!(pair.deliver("e", QoS::AtLeastOnce), Push::QueuedInsteadOf(1, Bound::Count));
    assert_eq!(pair.deliver("f", QoS::AtLeastOnce), Push::QueuedInsteadOf(1, Bound::Count));
    assert_eq!(pair.deliver("g", QoS::AtLeastOnce), Push::Dropped(0, Bound::Count));
    assert_eq!(pair.session.len(), 3);
}

/// What waits, in order.
fn waiting(pair: &mut Pair) -> Vec<String> {
    let mut sent = Vec::new();
    for packet in pair.receive() {
        sent.push(String::from_utf8(published(&packet).payload.to_vec()).unwrap());
    }
    sent
}

#[test]
fn a_full_queue_drops_what_its_policy_says() {
    for (policy, kept) in [(QueuePolicy::Oldest, ["b", "c", "d"]), (QueuePolicy::Newest, ["a", "b", "c"])] {
        let settings = Settings { queue_policy: policy, receive_maximum: 9, ..settings() };
        let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
        for (payload, qos) in [("a", 1), ("b", 1), ("c", 0), ("d", 1)] {
            pair.deliver(payload, QoS::from_bits(qos).unwrap());
        }
        assert_eq!(waiting(&mut pair), kept, "{policy:?}");
        assert_eq!(pair.deliver("e", QoS::AtLeastOnce), Push::Queued, "{policy:?}");
    }
}

#[test]
fn what_is_too_large_for_the_queue_does_not_empty_it() {
    let settings = Settings { queue_policy: QueuePolicy::Oldest, ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    pair.deliver("a", QoS::AtLeastOnce);
    let large = Message { topic: "t", payload: vec![0; 10_000].into(), ..Default::default() };
    assert_eq!(pair.push(&Arc::new(large), QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes));
    assert_eq!(waiting(&mut pair), ["a"]);
}

#[test]
fn nothing_is_given_up_for_what_does_not_fit_beside_what_is_in_flight() {
    let message =
        |bytes| Arc::new(Message { topic: "t", payload: vec![0; bytes].into(), ..Default::default() });
    for (policy, waits) in [(QueuePolicy::Oldest, QoS::AtLeastOnce), (QueuePolicy::Qos0, QoS::AtMostOnce)] {
        let settings = Settings { queue_policy: policy, receive_maximum: 1, queue_max: 9, ..settings() };
        let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
        pair.push(&message(6000), QoS::AtLeastOnce);
        assert_eq!(pair.receive().len(), 1);
        for _ in 0..2 {
            assert_eq!(pair.push(&message(1000), waits), Push::Queued);
        }
        assert_eq!(pair.push(&message(5000), QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes), "{policy:?}");
        assert_eq!(pair.session.len(), 3, "{policy:?}");
        let pushed = pair.push(&message(2000), QoS::AtLeastOnce);
        assert_eq!(pushed, Push::QueuedInsteadOf(1, Bound::Bytes), "{policy:?}");
    }
}

#[test]
fn a_message_that_comes_back_when_all_identifiers_are_in_flight_costs_nothing() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    let terms = pair.terms(QoS::AtLeastOnce);
    let mut restore = |id| {
        let message = Arc::new(Message { topic: "t", id, ..Default::default() });
        pair.session.restore(message, terms, Phase::MaybeSent, &pair.settings);
        (pair.session.len(), pair.session.bytes())
    };
    for id in 1..u16::MAX {
        restore(PacketId::new(id));
    }
    let full = restore(PacketId::new(u16::MAX));
    assert_eq!(full.0, 65_535);
    assert_eq!(restore(None), full);
}

#[test]
fn identifiers_go_round_and_pass_over_those_in_flight() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    let send = |pair: &mut Pair| {
        pair.deliver("m", QoS::AtLeastOnce);
        let Some(Packet::Publish(publish)) = pair.receive().pop() else { panic!("nothing is sent") };
        publish.packet_id.unwrap()
    };
    let unanswered = send(&mut pair);
    for expected in (2..=u16::MAX).chain([2, 3]) {
        let id = send(&mut pair);
        assert_eq!(id.get(), expected);
        pair.send(Packet::Puback(Ack::new(id, ReasonCode::Success))).unwrap();
    }
    pair.send(Packet::Puback(Ack::new(unanswered, ReasonCode::Success))).unwrap();
    assert_eq!(send(&mut pair).get(), 4, "what is free again has its turn when it comes to it");
}

#[test]
fn an_identifier_that_a_message_brings_along_is_not_given_to_another() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), Settings { receive_maximum: 3, ..settings() });
    let mut ids = Vec::new();
    for own in [None, PacketId::new(2), None] {
        let message = Message { topic: "t", id: own, ..Default::default() };
        pair.push(&Arc::new(message), QoS::AtLeastOnce);
        ids.extend(pair.receive().into_iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => publish.packet_id.map(PacketId::get),
            _ => None,
        }));
    }
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn what_a_message_cost_that_was_dropped_itself_is_told() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b"] {
        pair.deliver(payload, QoS::AtLeastOnce);
    }
    pair.now += Duration::from_secs(9);
    let large = Message { topic: "t", payload: vec![0; 10_000].into(), ..Default::default() };
    assert_eq!(pair.push(&Arc::new(large), QoS::AtLeastOnce), Push::Dropped(2, Bound::Bytes));
}

#[test]
fn a_message_waits_for_a_bounded_time() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b"] {
        pair.deliver(payload, QoS::AtLeastOnce);
        pair.now += Duration::from_secs(5);
    }
    assert_eq!(waiting(&mut pair), ["b"]);
    assert_eq!((pair.session.take_aged(), pair.connection.take_dropped()), (1, 1));
}

#[test]
fn what_has_waited_for_too_long_makes_room() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b", "c"] {
        pair.deliver(payload, QoS::AtLeastOnce);
    }
    pair.now += Duration::from_secs(9);
    assert_eq!(pair.deliver("d", QoS::AtLeastOnce), Push::QueuedInsteadOf(1, Bound::Count));
    assert_eq!(waiting(&mut pair), ["d"]);
}

#[test]
fn a_queue_is_bounded_in_bytes() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    let payload = Bytes::from(vec![0; 6000]);
    let message = Arc::new(Message { topic: "t", payload, ..Default::default() });
    assert_eq!(pair.push(&message, QoS::AtLeastOnce), Push::Queued);
    assert_eq!(pair.push(&message, QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes));
    assert_eq!(pair.receive().len(), 1);
    let pushed = pair.push(&message, QoS::AtLeastOnce);
    assert_eq!(pushed, Push::Dropped(0, Bound::Bytes), "what is in flight takes memory too");
}

#[test]
fn qos_0_is_not_kept_for_the_next_connection() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    pair.deliver("a", QoS::AtMostOnce);
    pair.deliver("b", QoS::AtLeastOnce);
    assert_eq!(pair.session.detach(), 1);
    assert_eq!(pair.session.len(), 1);
}

#[test]
fn packets_that_a_client_may_not_send() {
    #[track_caller]
    fn check(packet: Packet, rule: &str) {
        let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
        let error = pair.send(packet).unwrap_err();
        assert!(error.rule.starts_with(rule), "{error}");
    }
    check(Packet::Connect(Box::new(connect(Version::V5))), "MQTT-3.1.0-2:");
    check(Packet::Pingresp, "2.1.2:");
    let auth = Auth { reason: ReasonCode::ReAuthenticate, properties: AuthProperties::default() };
    check(Packet::Auth(auth), "MQTT-4.12.0-6:");
    let mut numbered = publish("t", QoS::AtMostOnce, 1);
    numbered.properties.subscription_ids = vec![SubscriptionId::new(1).unwrap()];
    check(Packet::Publish(Box::new(numbered)), "MQTT-3.3.4-6:");
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    disconnect.properties.session_expiry = Some(1);
    check(Packet::Disconnect(disconnect), "3.14.2.2.2:");
}

fn auth(reason: ReasonCode, method: &str, data: &[u8]) -> Packet {
    let properties = AuthProperties {
        authentication_method: Some(text(method)),
        authentication_data: Some(Secret(Binary::new(data.to_vec()).unwrap())),
        ..Default::default()
    };
    Packet::Auth(Auth { reason, properties })
}

#[test]
fn extended_authentication_is_repeated_with_the_same_method() {
    let mut asked = connect(Version::V5);
    asked.properties.authentication_method = Some(text("M"));
    let (mut pair, connack) = Pair::new(&asked, settings());
    assert_eq!(connack.properties.authentication_method, Some(text("M")), "MQTT-4.12.0-5");
    match pair.send(auth(ReasonCode::ReAuthenticate, "M", b"1")).unwrap() {
        Some(Event::Authenticate { is_new: true, data: Some(data) }) => assert_eq!(&data.0[..], b"1"),
        other => panic!("{other:?}"),
    }
    let data = Secret(Binary::new(b"2".to_vec()).unwrap());
    pair.connection.authenticate(ReasonCode::ContinueAuthentication, Some(data));
    assert_eq!(pair.receive(), [auth(ReasonCode::ContinueAuthentication, "M", b"2")]);
    let next = pair.send(auth(ReasonCode::ContinueAuthentication, "M", b"3")).unwrap();
    assert!(matches!(next, Some(Event::Authenticate { is_new: false, .. })));
    let error = pair.send(auth(ReasonCode::ReAuthenticate, "N", b"")).unwrap_err();
    assert_eq!(error.reason, ReasonCode::BadAuthenticationMethod);
    let error = pair.send(auth(ReasonCode::Success, "M", b"")).unwrap_err();
    assert_eq!(error.reason, ReasonCode::ProtocolError);
}

#[test]
fn before_connack_a_client_answers_or_leaves() {
    let greeting = Greeting::new(&settings(), start());
    let handle = |packet: &Packet| {
        let mut input = BytesMut::new();
        encode(packet, Version::V5, &mut input).unwrap();
        greeting.handle_answer(&text("M"), &mut input, &settings())
    };
    let answer = handle(&auth(ReasonCode::ContinueAuthentication, "M", b"1")).unwrap();
    assert!(matches!(answer, Some(Answer::Data(Some(data))) if &data.0[..] == b"1"));
    let left = handle(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).unwrap();
    assert!(matches!(left, Some(Answer::Left)));
    let reason = |packet: &Packet| handle(packet).unwrap_err().reason;
    let other = auth(ReasonCode::ContinueAuthentication, "N", b"1");
    assert_eq!(reason(&other), ReasonCode::BadAuthenticationMethod);
    assert_eq!(reason(&auth(ReasonCode::ReAuthenticate, "M", b"1")), ReasonCode::ProtocolError);
    assert_eq!(reason(&Packet::Pingreq), ReasonCode::ProtocolError);
}

#[test]
fn a_topic_with_too_many_levels_is_refused_where_the_version_can_say_so() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    assert!(matches!(send_publish(&mut pair, publish("a/b/c/d", QoS::AtLeastOnce, 1)), Ok(Some(_))));
    assert!(matches!(send_publish(&mut pair, publish("a/b/c/d/e", QoS::AtLeastOnce, 2)), Ok(None)));
    assert_eq!(pair.receive(), [Packet::Puback(Ack::new(id(2), ReasonCode::TopicNameInvalid))]);
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    assert!(send_publish(&mut pair, publish("a/b/c/d/e", QoS::AtLeastOnce, 1)).is_err());
}

#[test]
fn disconnect_decides_about_will_and_expiry() {
    let mut asked = connect(Version::V5);
    asked.properties.session_expiry = Some(60);
    let (mut pair, _) = Pair::new(&asked, settings());
    let mut disconnect = Disconnect::new(ReasonCode::DisconnectWithWill);
    disconnect.properties.session_expiry = Some(90);
    let event = pair.send(Packet::Disconnect(disconnect)).unwrap();
    assert!(matches!(event, Some(Event::Disconnect { with_will: true })));
    assert_eq!(pair.connection.session_expiry(), Duration::from_secs(90));
}

#[test]
fn a_large_payload_is_handed_out_by_reference() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    let payload = Bytes::from(vec![0; 5000]);
    let message = Arc::new(Message { topic: "t", payload: payload.clone(), ..Default::default() });
    pair.push(&message, QoS::AtMostOnce);
    let mut out = BytesMut::new();
    let handed = pair.connection.poll_transmit(&mut pair.session, &mut out, pair.now).unwrap();
    assert_eq!(handed.as_ptr(), payload.as_ptr());
    out.extend_from_slice(&handed);
    let packet = decode(&mut out, Version::V5, &Limits::default()).unwrap().unwrap();
    assert_eq!(published(&packet).payload, payload);
}

#[test]
fn a_fan_out_encodes_a_message_once_in_each_form_and_every_subscriber_gets_its_own_identifier() {
    const SUBSCRIBERS: u16 = 100;
    let heads = Some(SharedHeads::default());
    let message =
        Arc::new(Message { topic: "a/topic", payload: vec![7; 200].into(), heads, ..Default::default() });
    let mut encoded = Vec::new();
    for version in [Version::V311, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let before = ENCODED.get();
            for subscriber in 0..SUBSCRIBERS {
                let (mut pair, _) = Pair::new(&connect(version), settings());
                // Each is at another identifier.
                for _ in 0..subscriber {
                    pair.session.next_id();
                }
                let terms = Terms { retain: subscriber % 2 == 1, ..pair.terms(qos) };
                pair.session.push(message.clone(), terms, &pair.settings);
                let received = pair.receive();
                let publish = published(&received[0]);
                let expected = (qos != QoS::AtMostOnce).then(|| id(subscriber + 1));
                assert_eq!((publish.qos, publish.packet_id), (qos, expected));
                assert_eq!((publish.retain, publish.dup), (subscriber % 2 == 1, false));
                assert_eq!((publish.topic.as_str(), &publish.payload), (message.topic, &message.payload));
            }
            encoded.push(ENCODED.get() - before);
        }
    }
    // QoS 1 and 2 have one form: they differ in the first octet.
    assert_eq!(encoded, [1, 1, 0, 1, 1, 0]);
}

#[test]
fn what_is_a_subscribers_own_is_not_shared() {
    let heads = Some(SharedHeads::default());
    let message = Arc::new(Message { topic: "t", payload: "x".into(), heads, ..Default::default() });
    for (subscription_ids, aliases) in [([7].as_slice(), 0), (&[8], 0), (&[], 4), (&[], 0)] {
        let mut asked = connect(Version::V5);
        asked.properties.topic_alias_maximum = Some(aliases);
        let (mut pair, _) = Pair::new(&asked, settings());
        let terms = Terms { subscription_ids, ..pair.terms(QoS::AtMostOnce) };
        pair.session.push(message.clone(), terms, &pair.settings);
        let received = pair.receive();
        let properties = &published(&received[0]).properties;
        let named: Vec<_> = properties.subscription_ids.iter().map(|id| id.get()).collect();
        assert_eq!(named, subscription_ids);
        assert_eq!(properties.topic_alias.is_some(), aliases > 0);
    }
}
