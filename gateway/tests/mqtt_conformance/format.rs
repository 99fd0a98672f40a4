//! Sections 1.5 and 2: data representation, fixed header, packet identifiers.

use tokio::io::AsyncReadExt;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

/// A surrogate and a byte that no character has.
const ILL_FORMED: [&[u8]; 2] = [b"a\xed\xa0\x80", b"a\xff"];

/// Packets of a connected client with `text` in each place for a string.
fn with_text(text: &[u8]) -> Vec<Vec<u8>> {
    let text_field = field(text);
    let property = |id: u8| [&[id][..], &text_field].concat();
    let user_name = [&[0x26][..], &text_field, &field(b"v")].concat();
    let user_value = [&[0x26][..], &field(b"k"), &text_field].concat();
    let mut packets: Vec<_> = [property(0x03), property(0x08), user_name, user_value]
        .iter()
        .map(|property| publish_bytes(b"t", property))
        .collect();
    packets.push(publish_bytes(text, b""));
    packets.push(subscribe_bytes(text, 0));
    packets.push(packet(0xa2, &[&[0, 1, 0][..], &text_field].concat()));
    packets
}

/// CONNECTs with `text` as client identifier, will topic and user name.
fn connects_with(text: &[u8]) -> [Vec<u8>; 3] {
    let (text, id) = (field(text), field(b"c"));
    let will = [&id[..], &[0], &text, &field(b"gone")].concat();
    [
        connect_bytes(CLEAN, b"", &text),
        connect_bytes(CLEAN | 0x04, b"", &will),
        connect_bytes(CLEAN | 0x80, b"", &[id, text].concat()),
    ]
}

#[tokio::test(start_paused = true)]
async fn mqtt_1_5_4_1_ill_formed_utf_8_ends_the_connection_wherever_it_stands() {
    for text in ILL_FORMED {
        for packet in with_text(text) {
            check_ended(&packet, MALFORMED).await;
        }
        for connect in connects_with(text) {
            check_refused(&connect, Some(MALFORMED)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_1_5_4_2_a_null_character_ends_the_connection_wherever_it_stands() {
    for packet in with_text(b"a\0b") {
        check_ended(&packet, MALFORMED).await;
    }
    for connect in connects_with(b"a\0b") {
        check_refused(&connect, Some(MALFORMED)).await;
    }
    check_ended_v311(b"\x30\x05\0\x03a\0b").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_1_5_4_3_a_byte_order_mark_is_a_character_like_others() {
    let gateway = default_gateway();
    let mut client = Client::v5(&gateway, "\u{feff}c").await;
    client.subscribe("a", QoS::AtMostOnce).await;
    client.subscribe("\u{feff}a", QoS::AtMostOnce).await;
    client.publish("\u{feff}a", "marked", QoS::AtMostOnce).await;
    let publish = client.expect_publish().await;
    assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("\u{feff}a", &b"marked"[..]));
    client.expect_nothing().await;
    assert!(gateway.hub.is_connected("c").is_none());
}

#[tokio::test(start_paused = true)]
async fn mqtt_1_5_5_1_a_length_in_more_bytes_than_it_needs_is_malformed() {
    // Of the packet, and of its properties.
    check_ended(b"\x30\x84\0\0\x01t\0", MALFORMED).await;
    check_ended(b"\x30\x05\0\x01t\x80\0", MALFORMED).await;
    // More bytes than a length has.
    check_ended(b"\x30\xff\xff\xff\xff\x01", MALFORMED).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_1_3_1_reserved_flags_have_one_value() {
    let acks = [b"\x41\x02\0\x01", b"\x51\x02\0\x01", b"\x60\x02\0\x01", b"\x71\x02\0\x01"];
    for bytes in acks {
        check_ended(bytes, MALFORMED).await;
        check_ended_v311(bytes).await;
    }
    for bytes in [&b"\xc1\0"[..], b"\xe1\0", b"\xf1\0"] {
        check_ended(bytes, MALFORMED).await;
        check_ended_v311(bytes).await;
    }
    check_ended(b"\x80\x07\0\x01\0\0\x01t\0", MALFORMED).await;
    check_ended(b"\xa0\x06\0\x01\0\0\x01t", MALFORMED).await;
    check_ended_v311(b"\x80\x06\0\x01\0\x01t\0").await;
    check_ended_v311(b"\xa0\x05\0\x01\0\x01t").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_2_1_2_a_publish_of_qos_0_has_no_identifier() {
    let gateway = default_gateway();
    let mut client = Client::v311(&gateway, "client").await;
    client.subscribe("t", QoS::ExactlyOnce).await;
    client.publish("t", "x", QoS::AtMostOnce).await;
    let mut bytes = [0; 6];
    client.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"\x30\x04\0\x01tx");
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_2_1_3_a_packet_identifier_of_zero_breaks_the_protocol() {
    for bytes in [&b"\x32\x06\0\x01t\0\0\0"[..], b"\x82\x07\0\0\0\0\x01t\0", b"\xa2\x06\0\0\0\0\x01t"] {
        check_ended(bytes, ReasonCode::ProtocolError).await;
    }
    check_ended_v311(b"\x32\x05\0\x01t\0\0").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_2_1_4_what_is_in_flight_has_an_identifier_of_its_own() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut client = Client::v5(&gateway, "client").await;
    client.subscribe("t", QoS::ExactlyOnce).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        publisher.publish_acked("t", "x").await;
        publisher.publish_twice_acked("t", "x").await;
        for _ in 0..2 {
            ids.push(client.take_publish().await.packet_id.unwrap());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_2_1_6_suback_and_unsuback_name_what_they_answer_and_say_that_they_have_no_properties() {
    let mut client = Client::v5(&default_gateway(), "client").await;
    client.send_bytes(b"\x82\x07\x12\x34\0\0\x01t\x02").await;
    let mut suback = [0; 6];
    client.stream.read_exact(&mut suback).await.unwrap();
    assert_eq!(&suback, b"\x90\x04\x12\x34\0\x02");
    client.send_bytes(b"\xa2\x06\xff\xfe\0\0\x01t").await;
    let mut unsuback = [0; 6];
    client.stream.read_exact(&mut unsuback).await.unwrap();
    assert_eq!(&unsuback, b"\xb0\x04\xff\xfe\0\0");
}

#[tokio::test(start_paused = true)]
async fn mqtt_2_2_2_a_property_stands_where_it_may_and_as_often_as_it_may() {
    let wrong = ReasonCode::ProtocolError;
    // Twice, in the wrong packet, out of range.
    check_ended(&publish_bytes(b"t", b"\x01\x01\x01\x01"), wrong).await;
    check_ended(&publish_bytes(b"t", b"\x11\0\0\0\x01"), wrong).await;
    check_ended(&publish_bytes(b"t", b"\x01\x02"), wrong).await;
    check_ended(&publish_bytes(b"t", b"\x7f\x01"), MALFORMED).await;
    check_refused(&connect_bytes(CLEAN, b"\x21\0\x01\x21\0\x01", &field(b"c")), Some(wrong)).await;
    check_refused(&connect_bytes(CLEAN, b"\x21\0\0", &field(b"c")), Some(wrong)).await;
    check_refused(&connect_bytes(CLEAN, b"\x27\0\0\0\0", &field(b"c")), Some(wrong)).await;
    check_refused(&connect_bytes(CLEAN, b"\x19\x02", &field(b"c")), Some(wrong)).await;
    check_refused(&connect_bytes(CLEAN, b"\x17\x02", &field(b"c")), Some(wrong)).await;
}
