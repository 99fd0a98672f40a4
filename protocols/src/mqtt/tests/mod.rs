mod arbitrary;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

/// Decodes `bytes` to `packet` and encodes it back; every shorter prefix asks for more.
#[track_caller]
fn check(version: Version, bytes: &[u8], packet: Packet) {
    let limits = Limits::default();
    let mut input = BytesMut::from(bytes);
    assert_eq!(decode(&mut input, version, &limits), Ok(Some(packet.clone())));
    assert!(input.is_empty(), "the packet is taken whole");
    let mut out = BytesMut::new();
    encode(&packet, version, &mut out).unwrap();
    assert_eq!(out, bytes);
    for cut in 0..bytes.len() {
        let mut short = BytesMut::from(&bytes[..cut]);
        assert_eq!(decode(&mut short, version, &limits), Ok(None), "{cut} bytes");
        assert_eq!(short.len(), cut, "a short input is left untouched");
    }
}

/// `bytes` break the rule whose number starts the error, with this reason for an MQTT 5 peer.
#[track_caller]
fn check_broken(version: Version, bytes: &[u8], reason: ReasonCode, rule: &str) {
    let error = decode(&mut BytesMut::from(bytes), version, &Limits::default()).unwrap_err();
    assert!(error.rule.starts_with(rule), "{error} is not {rule}");
    assert_eq!(error.reason, reason);
}

fn text(value: &str) -> Text {
    Text::try_from(value).unwrap()
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: text("c"),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

#[test]
fn connect_in_each_version() {
    let bytes = b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c";
    check(Version::V311, bytes, Packet::Connect(Box::new(connect(Version::V31))));
    let bytes = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
    check(Version::V311, bytes, Packet::Connect(Box::new(connect(Version::V311))));
    let bytes = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";
    check(Version::V311, bytes, Packet::Connect(Box::new(connect(Version::V5))));
}

#[test]
fn connect_with_everything() {
    let mut all = connect(Version::V5);
    all.will = Some(Box::new(LastWill {
        topic: text("w"),
        payload: Binary::new("x").unwrap(),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: WillProperties { delay: Some(5), ..Default::default() },
    }));
    all.user_name = Some(text("u"));
    all.password = Some(Secret(Binary::new("p").unwrap()));
    all.properties.session_expiry = Some(10);
    let bytes = b"\x10\x25\x00\x04MQTT\x05\xee\x00\x3c\x05\x11\0\0\0\x0a\x00\x01c\
        \x05\x18\0\0\0\x05\x00\x01w\x00\x01x\x00\x01u\x00\x01p";
    check(Version::V5, bytes, Packet::Connect(Box::new(all.clone())));
    assert_eq!(format!("{:?}", all.password), "Some(Secret(..))");
}

#[test]
fn rules_of_connect() {
    use ReasonCode::*;
    let check = |bytes: &[u8], reason, rule| check_broken(Version::V311, bytes, reason, rule);
    check(b"\x10\x0d\x00\x04MQTX\x04\x02\0\0\0\x01c", UnsupportedProtocolVersion, "MQTT-3.1.2-1:");
    check(b"\x10\x0d\x00\x04MQTT\x06\x02\0\0\0\x01c", UnsupportedProtocolVersion, "MQTT-3.1.2-2:");
    check(b"\x10\x0d\x00\x04MQTT\x04\x03\0\0\0\x01c", MalformedPacket, "MQTT-3.1.2-3:");
    check(b"\x10\x0d\x00\x04MQTT\x04\x22\0\0\0\x01c", MalformedPacket, "MQTT-3.1.2-11:");
    check(b"\x10\x13\x00\x04MQTT\x04\x1e\0\0\0\x01c\0\x01w\0\x01x", MalformedPacket, "MQTT-3.1.2-12:");
    check(b"\x10\x10\x00\x04MQTT\x04\x42\0\0\0\x01c\0\x01p", MalformedPacket, "3.1.1, MQTT-3.1.2-22:");
    check(b"\x11\x0d\x00\x04MQTT\x04\x02\0\0\0\x01c", MalformedPacket, "MQTT-2.1.3-1:");
    check(b"\x10\x0e\x00\x04MQTT\x04\x02\0\0\0\x01cX", MalformedPacket, "2.1.4: the packet is longer");
    check(b"\x10\x0c\x00\x04MQTT\x04\x02\0\0\0\x01", MalformedPacket, "2.1.4: a field reaches");
    check(b"\x10\x0d\x00\x04MQTT\x04\x02\0\0\0\x01\0", MalformedPacket, "MQTT-1.5.4-2:");
    check(b"\x10\x0d\x00\x04MQTT\x04\x02\0\0\0\x01\xff", MalformedPacket, "MQTT-1.5.4-1:");
    let twice = b"\x10\x14\x00\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\x01c";
    check(twice, ProtocolError, "2.2.2: a property stands twice");
    check(b"\x10\x11\x00\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c", ProtocolError, "3.1.2.11.3:");
    check(b"\x10\x11\x00\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\x01c", ProtocolError, "2.2.2.2:");
    check(b"\x10\x11\x00\x04MQTT\x05\x02\0\0\x03\x7d\0\x01\0\x01c", MalformedPacket, "2.2.2.2:");
    check(b"\x10\x10\x00\x04MQTT\x05\x02\0\0\x02\x19\x02\0\x01c", ProtocolError, "2.2.2:");
    check(b"\x10\x12\x00\x04MQTT\x05\x02\0\0\x04\x16\0\x01a\0\x01c", ProtocolError, "3.1.2.11.10:");
}

#[test]
fn connack_in_mqtt_3_and_5() {
    let connack = |session_present, reason| {
        Packet::Connack(Box::new(Connack { session_present, reason, properties: Default::default() }))
    };
    check(Version::V311, b"\x20\x02\x01\x00", connack(true, ReasonCode::Success));
    check(Version::V311, b"\x20\x02\x00\x05", connack(false, ReasonCode::NotAuthorized));
    check(Version::V5, b"\x20\x03\x00\x87\x00", connack(false, ReasonCode::NotAuthorized));
    check_broken(Version::V311, b"\x20\x02\x02\x00", ReasonCode::MalformedPacket, "MQTT-3.2.2-1:");
    check_broken(Version::V311, b"\x20\x02\x00\x06", ReasonCode::MalformedPacket, "3.1.1, 3.2.2.3:");
    check_broken(Version::V5, b"\x20\x03\x00\x8b\x00", ReasonCode::MalformedPacket, "2.4:");
}

#[test]
fn publish_in_each_qos() {
    let publish = |qos, packet_id| Publish {
        dup: false,
        qos,
        retain: false,
        topic: text("a/b"),
        packet_id,
        properties: Default::default(),
        payload: "hi".into(),
    };
    check(Version::V311, b"\x30\x07\0\x03a/bhi", Packet::Publish(Box::new(publish(QoS::AtMostOnce, None))));
    let q1 = publish(QoS::AtLeastOnce, Some(id(10)));
    check(Version::V311, b"\x32\x09\0\x03a/b\0\x0ahi", Packet::Publish(Box::new(q1.clone())));
    check(Version::V5, b"\x32\x0a\0\x03a/b\0\x0a\0hi", Packet::Publish(Box::new(q1.clone())));
    let mut aliased = q1;
    aliased.topic = text("");
    aliased.properties.topic_alias = Some(7);
    check(Version::V5, b"\x32\x0a\0\0\0\x0a\x03\x23\0\x07hi", Packet::Publish(Box::new(aliased)));
}

#[test]
fn rules_of_publish() {
    use ReasonCode::*;
    check_broken(Version::V311, b"\x36\x07\0\x03a/b\0\x01", MalformedPacket, "MQTT-3.3.1-4:");
    check_broken(Version::V311, b"\x38\x05\0\x03a/b", MalformedPacket, "MQTT-3.3.1-2:");
    check_broken(Version::V311, b"\x30\x05\0\x03a/+", MalformedPacket, "MQTT-3.3.2-2:");
    check_broken(Version::V311, b"\x30\x02\0\0", ProtocolError, "MQTT-4.7.3-1:");
    check_broken(Version::V5, b"\x30\x03\0\0\0", ProtocolError, "MQTT-4.7.3-1:");
    check_broken(Version::V311, b"\x32\x07\0\x03a/b\0\0", ProtocolError, "MQTT-2.2.1-3:");
    check_broken(Version::V5, b"\x30\x07\0\x01a\x03\x23\0\0", TopicAliasInvalid, "MQTT-3.3.2-8:");
    check_broken(Version::V5, b"\x30\x08\0\x01a\x04\x08\0\x01#", ProtocolError, "MQTT-3.3.2-14:");
    check_broken(Version::V5, b"\x30\x07\0\x01a\x03\x08\0\0", ProtocolError, "MQTT-4.7.3-1:");
    check_broken(Version::V5, b"\x30\x06\0\x01a\x02\x0b\0", ProtocolError, "3.8.2.1.2:");
    check_broken(Version::V5, b"\x30\x07\0\x01a\x83\0ab", MalformedPacket, "MQTT-1.5.5-1:");
}

#[test]
fn acknowledgements_are_short_when_they_can_be() {
    type Kind = fn(Ack) -> Packet;
    let puback: (u8, Kind) = (0x40, Packet::Puback);
    let kinds = [puback, (0x50, Packet::Pubrec), (0x62, Packet::Pubrel), (0x70, Packet::Pubcomp)];
    for (first, packet) in kinds {
        for version in [Version::V31, Version::V311, Version::V5] {
            check(version, &[first, 2, 1, 2], packet(Ack::new(id(0x0102), ReasonCode::Success)));
            let unnamed = decode(&mut BytesMut::from(&[first, 2, 0, 0][..]), version, &Limits::default());
            assert!(unnamed.is_err(), "MQTT-2.2.1-3: no identifier is 0");
        }
        let tiny = Limits { packet_bytes_max: 3, ..Limits::default() };
        let large = decode(&mut BytesMut::from(&[first, 2, 0, 1][..]), Version::V5, &tiny).unwrap_err();
        assert_eq!(large.reason, ReasonCode::PacketTooLarge);
    }
    check(
        Version::V5,
        b"\x40\x03\0\x01\x10",
        Packet::Puback(Ack::new(id(1), ReasonCode::NoMatchingSubscribers)),
    );
    check(Version::V5, b"\x50\x03\0\x01\x97", Packet::Pubrec(Ack::new(id(1), ReasonCode::QuotaExceeded)));
    check(
        Version::V5,
        b"\x62\x03\0\x01\x92",
        Packet::Pubrel(Ack::new(id(1), ReasonCode::PacketIdentifierNotFound)),
    );
    check(Version::V5, b"\x70\x02\xff\xff", Packet::Pubcomp(Ack::new(id(65535), ReasonCode::Success)));
    let mut said = Ack::new(id(1), ReasonCode::Success);
    said.properties.reason_string = Some(text("x"));
    check(Version::V5, b"\x40\x08\0\x01\x00\x04\x1f\0\x01x", Packet::Puback(said));
    check_broken(Version::V5, b"\x40\x03\0\x01\x92", ReasonCode::MalformedPacket, "2.4:");
    check_broken(Version::V311, b"\x60\x02\0\x01", ReasonCode::MalformedPacket, "MQTT-2.1.3-1:");
}

#[test]
fn subscribe_and_its_options() {
    let subscribe = |options| {
        Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: Default::default(),
            subscriptions: vec![Subscription { filter: text("a/#"), options }],
        })
    };
    let plain = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
    check(Version::V311, b"\x82\x08\0\x01\0\x03a/#\x01", subscribe(plain));
    let all = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    check(Version::V5, b"\x82\x09\0\x01\0\0\x03a/#\x2e", subscribe(all));
    use ReasonCode::*;
    check_broken(Version::V311, b"\x82\x08\0\x01\0\x03a/#\x04", MalformedPacket, "MQTT-3.8.3-5:");
    check_broken(Version::V5, b"\x82\x09\0\x01\0\0\x03a/#\x41", MalformedPacket, "MQTT-3.8.3-5:");
    check_broken(Version::V5, b"\x82\x09\0\x01\0\0\x03a/#\x30", ProtocolError, "3.8.3.1:");
    check_broken(Version::V5, b"\x82\x09\0\x01\0\0\x03a/#\x03", ProtocolError, "3.8.3.1:");
    check_broken(Version::V311, b"\x82\x02\0\x01", ProtocolError, "MQTT-3.8.3-2:");
    check_broken(Version::V5, b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04", ProtocolError, "MQTT-3.8.3-4:");
    check_broken(Version::V311, b"\x80\x08\0\x01\0\x03a/#\x01", MalformedPacket, "MQTT-2.1.3-1:");
}

#[test]
fn the_other_packets() {
    let reasons = vec![ReasonCode::GrantedQos1, ReasonCode::UnspecifiedError];
    let suback = Suback { packet_id: id(1), properties: Default::default(), reasons };
    check(Version::V311, b"\x90\x04\0\x01\x01\x80", Packet::Suback(suback.clone()));
    check(Version::V5, b"\x90\x05\0\x01\0\x01\x80", Packet::Suback(suback));
    let unsubscribe =
        Unsubscribe { packet_id: id(1), properties: Default::default(), filters: vec![text("a")] };
    check(Version::V311, b"\xa2\x05\0\x01\0\x01a", Packet::Unsubscribe(unsubscribe.clone()));
    check(Version::V5, b"\xa2\x06\0\x01\0\0\x01a", Packet::Unsubscribe(unsubscribe));
    let mut unsuback = Unsuback { packet_id: id(1), properties: Default::default(), reasons: vec![] };
    check(Version::V311, b"\xb0\x02\0\x01", Packet::Unsuback(unsuback.clone()));
    unsuback.reasons = vec![ReasonCode::NoSubscriptionExisted];
    check(Version::V5, b"\xb0\x04\0\x01\0\x11", Packet::Unsuback(unsuback));
    check(Version::V311, b"\xc0\0", Packet::Pingreq);
    check(Version::V311, b"\xd0\0", Packet::Pingresp);
    check(Version::V311, b"\xe0\0", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    check(Version::V5, b"\xe0\0", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    check(Version::V5, b"\xe0\x01\x8e", Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver)));
    let auth = Auth { reason: ReasonCode::ContinueAuthentication, properties: Default::default() };
    check(Version::V5, b"\xf0\x02\x18\0", Packet::Auth(auth));
    check_broken(Version::V311, b"\xf0\0", ReasonCode::MalformedPacket, "3.1.1, 2.2.1:");
    check_broken(Version::V311, b"\x00\0", ReasonCode::MalformedPacket, "2.1.2:");
}

#[test]
fn the_size_is_known_before_the_body_is_there() {
    let limits = Limits { packet_bytes_max: 130, ..Default::default() };
    let head = |remaining: u8| BytesMut::from(&[0x30, remaining | 0x80, 1][..]);
    assert_eq!(
        decode(&mut head(127), Version::V311, &limits).unwrap_err().reason,
        ReasonCode::PacketTooLarge
    );
    // 3 bytes of header and 127 of body are 130 in a length that fits in one byte; here it has two.
    assert_eq!(decode(&mut BytesMut::from(&[0x30, 0x7f][..]), Version::V311, &limits), Ok(None));
    let mut endless = BytesMut::from(&[0x30, 0xff, 0xff, 0xff, 0xff][..]);
    assert!(decode(&mut endless, Version::V311, &limits).unwrap_err().rule.starts_with("1.5.5:"));
}

#[test]
fn list_items_of_one_packet_are_bounded() {
    let limits = Limits { items_max: 2, ..Default::default() };
    let filters = |count: u8| {
        let mut bytes = vec![0x82, 2 + 4 * count, 0, 1];
        (0..count).for_each(|_| bytes.extend(b"\0\x01a\0"));
        decode(&mut BytesMut::from(&bytes[..]), Version::V311, &limits)
    };
    assert!(filters(2).is_ok());
    assert_eq!(filters(3).unwrap_err().reason, ReasonCode::QuotaExceeded, "its bytes are not too many");
}

#[test]
fn text_keeps_a_byte_order_mark_and_refuses_surrogates() {
    assert!(Text::new(&b"\xef\xbb\xbfa"[..]).is_ok_and(|text| text.as_str() == "\u{feff}a"));
    assert!(Text::new(&b"\xed\xa0\x80"[..]).is_err());
    assert!(Text::new(vec![b'a'; 65_535]).is_ok());
    assert!(Text::new(vec![b'a'; 65_536]).is_err());
}

#[test]
fn payload_and_topic_share_the_input() {
    let mut bytes = BytesMut::from(&b"\x30\x07\0\x03a/bhi"[..]);
    let input = bytes.as_ptr();
    let Some(Packet::Publish(publish)) = decode(&mut bytes, Version::V311, &Limits::default()).unwrap()
    else {
        panic!("not a PUBLISH")
    };
    assert_eq!(publish.topic.as_bytes().as_ptr(), input.wrapping_add(4));
    assert_eq!(publish.payload.as_ptr(), input.wrapping_add(7));
}

proptest! {
    #[test]
    fn any_packet_survives_a_round_trip((version, packet) in arbitrary::packet()) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        let whole = bytes.clone();
        let limits = Limits { packet_bytes_max: whole.len(), ..Default::default() };
        prop_assert_eq!(decode(&mut bytes, version, &limits), Ok(Some(packet)));
        prop_assert!(bytes.is_empty());
        let mut short = BytesMut::from(&whole[..whole.len() - 1]);
        prop_assert_eq!(decode(&mut short, version, &limits), Ok(None));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in arbitrary::version()) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut input, version, &Limits::default()) {}
    }

    #[test]
    fn a_flipped_byte_never_panics_and_what_parses_can_be_written(
        (version, packet) in arbitrary::packet(), at in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some(packet)) = decode(&mut bytes, version, &Limits::default()) {
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
            let mut out = BytesMut::new();
            encode(&packet, version, &mut out).unwrap();
            prop_assert_eq!(decode(&mut out, version, &Limits::default()), Ok(Some(packet)));
        }
    }
}
