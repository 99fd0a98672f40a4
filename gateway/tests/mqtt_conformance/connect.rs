//! Section 3.1: CONNECT.

use std::num::NonZeroU32;

use towline_gateway::access::Pattern;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

const MALFORMED: Option<ReasonCode> = Some(ReasonCode::MalformedPacket);
const CHARACTERS: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_0_1_nothing_comes_before_connect() {
    let first: [&[u8]; 5] = [b"\xc0\0", b"\x30\x03\0\x01t", b"\x82\x06\0\x01\0\x01t\0", b"\xe0\0", b"\xf0\0"];
    for bytes in first {
        check_refused(bytes, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_1_another_protocol_or_version_is_told_so_and_closed() {
    for connect in [&b"\x10\x0d\0\x04MQTX\x05\x02\0\0\0\x01c"[..], b"\x10\x0d\0\x04MQTT\x06\x02\0\0\0\x01c"] {
        let mut client = Client::open(&default_gateway());
        client.send_bytes(connect).await;
        match client.receive().await {
            Some(Packet::Connack(connack)) => {
                assert_eq!(connack.reason, ReasonCode::UnsupportedProtocolVersion);
            }
            other => panic!("{other:?} instead of CONNACK"),
        }
        assert_eq!(client.receive().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_3_the_reserved_flag_is_zero() {
    check_refused(&connect_bytes(CLEAN | 0x01, b"", &field(b"c")), MALFORMED).await;
    check_refused(b"\x10\x0d\0\x04MQTT\x04\x03\0\0\0\x01c", None).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_9_fields_are_there_when_their_flags_say_so_and_only_then() {
    let id = field(b"c");
    // A will, a user name and a password that are not there; one that is and should not be.
    for flags in [0x04, 0x80, 0x40, 0xc0] {
        check_refused(&connect_bytes(CLEAN | flags, b"", &id), MALFORMED).await;
    }
    check_refused(&connect_bytes(CLEAN, b"", &[id.clone(), field(b"user")].concat()), MALFORMED).await;
    // MQTT 5 knows a password without a user name; MQTT 3.1.1 does not.
    let mut client = Client::open(&default_gateway());
    client.speak(Version::V5);
    client.send_bytes(&connect_bytes(CLEAN | 0x40, b"", &[id, field(b"secret")].concat())).await;
    let connack = client.receive().await;
    assert!(matches!(connack, Some(Packet::Connack(connack)) if connack.reason == ReasonCode::Success));
    check_refused(b"\x10\x10\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p", None).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_11_without_a_will_it_has_neither_qos_nor_retain() {
    for flags in [0x08, 0x10, 0x20] {
        check_refused(&connect_bytes(CLEAN | flags, b"", &field(b"c")), MALFORMED).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_12_a_will_has_qos_0_1_or_2() {
    let payload = [&field(b"c")[..], &[0], &field(b"t"), &field(b"x")].concat();
    check_refused(&connect_bytes(CLEAN | 0x1c, b"", &payload), MALFORMED).await;
    for qos in 0..3 {
        let mut client = Client::open(&default_gateway());
        client.speak(Version::V5);
        client.send_bytes(&connect_bytes(CLEAN | 0x04 | qos << 3, b"", &payload)).await;
        assert!(
            matches!(client.receive().await, Some(Packet::Connack(connack)) if !connack.reason.is_error())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_22_the_server_keep_alive_is_what_counts() {
    let mut settings = settings();
    settings.mqtt.keep_alive_max = SECOND * 60;
    let gateway = gateway(settings);
    for asked in [0, 120] {
        let mut connect = connect(Version::V5, "client");
        connect.keep_alive = asked;
        let (mut client, connack) = Client::connect(&gateway, connect).await;
        assert_eq!(connack.properties.keep_alive, Some(60));
        pass(SECOND * 89).await;
        client.expect_nothing().await;
        pass(SECOND * 91).await;
        client.expect_end(ReasonCode::KeepAliveTimeout).await;
    }
    // Else it is the client's own.
    let mut connect = connect(Version::V5, "client");
    connect.keep_alive = 10;
    let (mut client, connack) = Client::connect(&gateway, connect).await;
    assert_eq!(connack.properties.keep_alive, None);
    pass(SECOND * 16).await;
    client.expect_end(ReasonCode::KeepAliveTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_24_nothing_larger_is_sent_than_the_client_takes() {
    let gateway = default_gateway();
    let mut small = connect_for(60, "small");
    small.properties.packet_bytes_max = NonZeroU32::new(30);
    let (mut small, _) = Client::connect(&gateway, small).await;
    small.subscribe("t", QoS::AtLeastOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    // 1 and 1 of header, 2 and 1 of topic, 2 of identifier, 1 of properties.
    for bytes in [23, 22] {
        publisher.publish_acked("t", &"x".repeat(bytes)).await;
    }
    publisher.publish("t", &"x".repeat(100), QoS::AtMostOnce).await;
    publisher.publish_acked("t", "last").await;
    // MQTT-3.1.2-25: what is too large counts as sent.
    assert_eq!(small.payload().await.len(), 22);
    assert_eq!(small.payload().await, "last");
    small.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_24_connack_fits_or_the_client_is_refused() {
    for (bytes_max, is_taken) in [(16, true), (15, false)] {
        let mut connect = connect(Version::V5, "client");
        connect.properties.packet_bytes_max = NonZeroU32::new(bytes_max);
        connect.properties.session_expiry = Some(u32::MAX);
        let mut client = Client::open(&default_gateway());
        let connack = client.greet(connect).await;
        let expected = if is_taken { ReasonCode::Success } else { ReasonCode::PacketTooLarge };
        assert_eq!(connack.reason, expected);
        assert_eq!(connack.properties.receive_maximum.is_some(), is_taken);
    }
    let mut nameless = connect(Version::V5, "");
    nameless.properties.packet_bytes_max = NonZeroU32::new(64);
    let (_, connack) = Client::connect(&default_gateway(), nameless).await;
    assert!(connack.properties.assigned_client_id.is_some());
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_26_topics_get_aliases_as_far_as_the_client_takes_them() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for maximum in [None, Some(0), Some(1)] {
        let mut connect = connect(Version::V5, "client");
        connect.properties.topic_alias_maximum = maximum;
        let (mut client, _) = Client::connect(&gateway, connect).await;
        client.subscribe("#", QoS::ExactlyOnce).await;
        let mut heard = Vec::new();
        for topic in ["a", "b", "a"] {
            publisher.publish(topic, "x", QoS::AtMostOnce).await;
            let publish = client.expect_publish().await;
            heard.push((publish.topic.as_str().to_owned(), publish.properties.topic_alias));
        }
        let plain = |topic: &str| (topic.to_owned(), None);
        let aliased = |topic: &str| (topic.to_owned(), Some(1));
        match maximum {
            Some(1) => assert_eq!(heard, [aliased("a"), plain("b"), aliased("")]),
            _ => assert_eq!(heard, [plain("a"), plain("b"), plain("a")]),
        }
        client.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_28_response_information_is_for_who_asks() {
    let mut configured = settings();
    configured.mqtt.response_information = Some(Pattern::parse("responses/${clientid}/").unwrap());
    let gateway = gateway(configured);
    let told = async |id: &str, asks, bytes_max| {
        let mut connect = connect(Version::V5, id);
        connect.properties.request_response_information = asks;
        connect.properties.packet_bytes_max = NonZeroU32::new(bytes_max);
        let (client, connack) = Client::connect(&gateway, connect).await;
        client.leave().await;
        connack.properties
    };
    let information = async |id, asks| told(id, asks, 1000).await.response_information;
    assert_eq!(information("client", Some(true)).await, Some(text("responses/client/")));
    assert_eq!(information("client", Some(false)).await, None);
    assert_eq!(information("client", None).await, None);
    // It would be told another's.
    assert_eq!(information("client/other", Some(true)).await, None);
    let nameless = told("", Some(true), 1000).await;
    let expected = format!("responses/{}/", nameless.assigned_client_id.unwrap().as_str());
    assert_eq!(nameless.response_information, Some(text(&expected)));
    // MQTT-3.1.2-24: it goes without rather than being refused.
    assert_eq!(told("client", Some(true), 24).await.response_information, None);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_2_28_and_29_nothing_is_explained_to_who_does_not_want_it() {
    let gateway = default_gateway();
    let mut connect = connect(Version::V5, "client");
    connect.properties.request_response_information = Some(false);
    connect.properties.request_problem_information = Some(false);
    let (mut client, connack) = Client::connect(&gateway, connect).await;
    assert_eq!(connack.properties.response_information, None);
    // Each of these is refused.
    let filter = "a/".repeat(40);
    client.send_bytes(&subscribe_bytes(filter.as_bytes(), 0)).await;
    let Some(Packet::Suback(suback)) = client.receive().await else { panic!("no SUBACK") };
    assert!(suback.reasons[0].is_error() && suback.properties.is_empty());
    let topic = "$SYS/mine";
    client.publish(topic, "x", QoS::AtLeastOnce).await;
    let Some(Packet::Puback(puback)) = client.receive().await else { panic!("no PUBACK") };
    assert!(puback.reason.is_error() && puback.properties.is_empty());
    client.publish(topic, "x", QoS::ExactlyOnce).await;
    let Some(Packet::Pubrec(pubrec)) = client.receive().await else { panic!("no PUBREC") };
    assert!(pubrec.reason.is_error() && pubrec.properties.is_empty());
    client.send(Packet::Pubrel(ack(id(9)))).await;
    let Some(Packet::Pubcomp(pubcomp)) = client.receive().await else { panic!("no PUBCOMP") };
    assert!(pubcomp.reason.is_error() && pubcomp.properties.is_empty());
    client.send(Packet::Pubrec(ack(id(9)))).await;
    let Some(Packet::Pubrel(pubrel)) = client.receive().await else { panic!("no PUBREL") };
    assert!(pubrel.reason.is_error() && pubrel.properties.is_empty());
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_3_5_plain_client_identifiers_of_1_to_23_characters_are_taken() {
    let gateway = default_gateway();
    for version in [Version::V31, Version::V311, Version::V5] {
        for id in [&CHARACTERS[..1], &CHARACTERS[..23], &CHARACTERS[20..43], &CHARACTERS[39..]] {
            Client::connect(&gateway, connect(version, id)).await.0.leave().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_3_7_the_identifier_that_the_server_chose_is_the_sessions() {
    let gateway = default_gateway();
    let (client, connack) = Client::connect(&gateway, connect_for(60, "")).await;
    let id = connack.properties.assigned_client_id.unwrap();
    client.leave().await;
    let (_again, connack) = Client::connect(&gateway, connect_for(60, id.as_str())).await;
    assert!(connack.session_present);
    assert_eq!(connack.properties.assigned_client_id, None);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_4_1_a_connect_that_does_not_parse_is_refused() {
    let broken: [&[u8]; 5] = [
        // No client identifier; half of one; something behind it; no property length; no flags.
        b"\x10\x0b\0\x04MQTT\x05\x02\0\0\0",
        b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x09c",
        b"\x10\x0f\0\x04MQTT\x05\x02\0\0\0\0\x01cx",
        b"\x10\x0a\0\x04MQTT\x05\x02\0\0",
        b"\x10\x07\0\x04MQTT\x05",
    ];
    for connect in broken {
        check_refused(connect, MALFORMED).await;
    }
    // What is no CONNECT at all, or one of MQTT 3, is closed without a word.
    for connect in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\x09"] {
        check_refused(connect, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_4_6_what_follows_a_refused_connect_is_not_acted_upon() {
    let gateway = default_gateway();
    let mut client = Client::open(&gateway);
    client.speak(Version::V5);
    let connect = connect_bytes(CLEAN | 0x01, b"", &field(b"c"));
    client.send_bytes(&[&connect[..], b"\x31\x05\0\x01t\0x"].concat()).await;
    assert!(matches!(client.receive().await, Some(Packet::Connack(connack)) if connack.reason.is_error()));
    assert_eq!(client.receive().await, None);
    pass(SECOND).await;
    assert!(gateway.mqtt.retained.is_empty());
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_4_5_a_client_need_not_wait_for_connack() {
    let mut client = Client::open(&default_gateway());
    client.speak(Version::V5);
    let connect = connect_bytes(CLEAN, b"", &field(b"c"));
    client.send_bytes(&[&connect[..], &subscribe_bytes(b"t", 0), &publish_bytes(b"t", b"")].concat()).await;
    assert!(matches!(client.receive().await, Some(Packet::Connack(connack)) if !connack.reason.is_error()));
    assert!(matches!(client.receive().await, Some(Packet::Suback(_))));
    assert_eq!(client.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_4_5_a_client_that_says_all_at_once_is_answered_up_to_its_leave() {
    for leave in [&b"\xe0\0"[..], b"\xe0\x01\x04"] {
        let mut client = Client::open(&default_gateway());
        client.speak(Version::V5);
        let connect = connect_bytes(CLEAN, b"", &field(b"c"));
        let all = [&connect[..], &subscribe_bytes(b"t", 0), b"\xc0\0", leave].concat();
        client.send_bytes(&all).await;
        let connack = client.receive().await;
        assert!(matches!(connack, Some(Packet::Connack(connack)) if !connack.reason.is_error()));
        assert!(matches!(client.receive().await, Some(Packet::Suback(_))));
        assert!(matches!(client.receive().await, Some(Packet::Pingresp)));
        assert_eq!(client.receive().await, None);
    }
}
