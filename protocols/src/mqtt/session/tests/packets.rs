//! How packets lie on the wire: aliases, sizes, what is encoded once.

use super::*;

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
    let refused = [("", 1, ReasonCode::ProtocolError), ("a", 3, ReasonCode::TopicAliasInvalid)];
    for (name, alias, reason) in refused {
        let error = send_publish(&mut pair, with_alias(name, alias)).unwrap_err();
        assert_eq!(error.reason, reason);
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
