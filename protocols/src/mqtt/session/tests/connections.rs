//! How a connection begins, what keeps it, what ends it.

use super::*;

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

/// An AUTH that leaves its method out.
fn nameless_auth(reason: ReasonCode) -> Packet {
    Packet::Auth(Auth { reason, properties: AuthProperties::default() })
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
    let error = pair.send(nameless_auth(ReasonCode::ReAuthenticate)).unwrap_err();
    assert_eq!(error.reason, ReasonCode::ProtocolError);
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
    assert_eq!(reason(&nameless_auth(ReasonCode::ContinueAuthentication)), ReasonCode::ProtocolError);
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
