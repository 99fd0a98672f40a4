//! Sections 3.12, 3.14, 3.15, 4.12 and 4.13: PINGREQ, DISCONNECT, AUTH, and what ends a connection.

use std::num::NonZeroU32;

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

#[tokio::test(start_paused = true)]
async fn mqtt_3_12_4_1_a_ping_is_answered_in_every_version() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let (mut client, _) = Client::connect(&default_gateway(), connect(version, "client")).await;
        client.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_2_1_a_disconnect_has_a_reason_of_its_own() {
    check_ended(b"\xe0\x01\x03", ReasonCode::MalformedPacket).await;
    check_ended(b"\xe0\x01\x10", ReasonCode::MalformedPacket).await;
    check_ended(b"\xe0\x04\0\x01\x01\x01", ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_2_3_the_last_words_are_no_larger_than_the_client_takes() {
    let gateway = default_gateway();
    for (bytes_max, is_explained) in [(1000, true), (20, false)] {
        let mut asked = connect(Version::V5, "client");
        asked.properties.packet_bytes_max = NonZeroU32::new(bytes_max);
        let (mut client, _) = Client::connect(&gateway, asked).await;
        client.send_bytes(b"\xf0\0").await;
        let Some(Packet::Disconnect(disconnect)) = client.receive().await else { panic!("no DISCONNECT") };
        assert_eq!(disconnect.reason, ReasonCode::ProtocolError);
        assert_eq!(disconnect.properties.reason_string.is_some(), is_explained);
        // MQTT-3.14.2-2: only clients say how long their session is kept.
        assert_eq!(disconnect.properties.session_expiry, None);
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_14_4_1_nothing_is_answered_behind_the_last_word_of_either_side() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    client.send_bytes(b"\xe0\0\xc0\0\xc0\0").await;
    assert_eq!(client.receive().await, None);
    let mut client = Client::v5(&gateway, "client").await;
    client.send_bytes(b"\xf0\0\xc0\0\xc0\0").await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_12_0_1_an_unknown_method_is_refused() {
    let method = [&[0x15][..], &field(b"GS2-KRB5")].concat();
    let connect = connect_bytes(CLEAN, &method, &field(b"c"));
    check_refused(&connect, Some(ReasonCode::BadAuthenticationMethod)).await;
    // Data without a method.
    let data = [&[0x16][..], &field(b"x")].concat();
    check_refused(&connect_bytes(CLEAN, &data, &field(b"c")), Some(ReasonCode::ProtocolError)).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_12_0_6_who_named_no_method_is_asked_for_nothing() {
    let (mut client, connack) = Client::connect(&default_gateway(), connect(Version::V5, "client")).await;
    assert_eq!(connack.properties.authentication_method, None);
    assert!(connack.properties.authentication_data.is_none());
    // MQTT-4.12.0-7: nor does it send AUTH.
    client.send_bytes(b"\xf0\0").await;
    client.expect_end(ReasonCode::ProtocolError).await;
    check_ended_v311(b"\xf0\0").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_13_1_1_what_only_servers_send_ends_the_connection() {
    let packets: [&[u8]; 4] = [b"\x20\x03\0\0\0", b"\x90\x04\0\x01\0\0", b"\xb0\x04\0\x01\0\0", b"\xd0\0"];
    for bytes in packets {
        check_ended(bytes, ReasonCode::ProtocolError).await;
    }
    check_ended(b"\0\0", ReasonCode::MalformedPacket).await;
    check_ended_v311(b"\0\0").await;
    check_ended_v311(b"\xd0\0").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_13_2_1_the_reason_arrives_although_the_client_goes_on_to_send() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "client").await;
    client.send_bytes(b"\xf0\0").await;
    // The other end is still there to take it, and is not moved by it.
    for _ in 0..100 {
        client.send_bytes(&publish_bytes(b"t", b"")).await;
        tokio::task::yield_now().await;
    }
    client.expect_end(ReasonCode::ProtocolError).await;
    // Not for ever.
    pass(SECOND * 10).await;
    assert!(tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"\xc0\0").await.is_err());
}
