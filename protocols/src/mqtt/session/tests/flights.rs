//! What is in flight: packet identifiers, repetitions, quotas.

use super::*;

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
    pair.connection = Connection::accept(&connect(Version::V311), back(), &pair.settings, pair.now);
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
    pair.connection = Connection::accept(&connect(Version::V5), back(), &pair.settings, pair.now);
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
    let (mut pair, _) = Pair::new(&connect(Version::V311), Settings { in_flight_max: 3, ..settings() });
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

/// Identifiers of the publishes that the client gets now.
fn publishes(pair: &mut Pair) -> Vec<PacketId> {
    pair.receive().iter().filter_map(|packet| published(packet).packet_id).collect()
}

fn acknowledge_all(pair: &mut Pair, ids: &[PacketId]) {
    for id in ids {
        pair.send(Packet::Puback(Ack::new(*id, ReasonCode::Success))).unwrap();
    }
}

#[test]
fn the_window_opens_while_a_client_acknowledges_all_that_it_is_sent() {
    let settings = Settings { in_flight_max: 200, queue_max: 9999, queue_bytes_max: 1 << 20, ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for _ in 0..30 {
        pair.deliver("m", QoS::AtLeastOnce);
    }
    let ids = publishes(&mut pair);
    acknowledge_all(&mut pair, &ids);
    for _ in 0..900 {
        pair.deliver("m", QoS::AtLeastOnce);
    }
    let mut sent = Vec::new();
    for _ in 0..4 {
        let ids = publishes(&mut pair);
        sent.push(ids.len());
        acknowledge_all(&mut pair, &ids);
    }
    assert_eq!(sent, [64, 128, 200, 200], "30 did not use it");
    pair.session.resume();
    pair.connection = Connection::accept(&connect(Version::V311), back(), &pair.settings, pair.now);
    assert_eq!(pair.receive().len(), 1 + 64, "another connection begins anew, with CONNACK");
}

#[test]
fn a_client_that_asks_for_few_at_one_time_gets_no_more() {
    let mut asked = connect(Version::V5);
    asked.properties.receive_maximum = NonZeroU16::new(3);
    let settings = Settings { in_flight_max: 200, queue_max: 99, ..settings() };
    let (mut pair, _) = Pair::new(&asked, settings);
    for _ in 0..9 {
        pair.deliver("m", QoS::AtLeastOnce);
    }
    for _ in 0..3 {
        let ids = publishes(&mut pair);
        assert_eq!(ids.len(), 3);
        acknowledge_all(&mut pair, &ids);
    }
}

#[test]
fn acknowledgements_in_any_order_are_known() {
    let settings = Settings { in_flight_max: 9, queue_max: 9, ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    let terms = pair.terms(QoS::AtLeastOnce);
    for own in [700, 5, 65_535, 701] {
        let message = Arc::new(Message { topic: "t", id: PacketId::new(own), ..Default::default() });
        pair.session.restore(message, terms, Phase::MaybeSent, &pair.settings);
    }
    for _ in 0..3 {
        pair.deliver("m", QoS::AtLeastOnce);
    }
    let ids = publishes(&mut pair);
    assert_eq!(ids.len(), 7);
    for (done, at) in [3, 0, 6, 1, 4, 2, 5].into_iter().enumerate() {
        acknowledge_all(&mut pair, &[id(9999), ids[at], ids[at]]);
        assert_eq!(pair.session.len(), 6 - done);
    }
}
