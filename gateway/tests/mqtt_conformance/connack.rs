//! Section 3.2: CONNACK.

use tokio::io::AsyncReadExt;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// The first bytes that the gateway sends to a client with this CONNECT.
async fn first_bytes<const N: usize>(connect: &[u8]) -> [u8; N] {
    let mut client = Client::open(&default_gateway());
    client.send_bytes(connect).await;
    let mut bytes = [0; N];
    client.stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_0_1_connack_comes_first_and_once() {
    let gateway = default_gateway();
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("t", QoS::AtLeastOnce).await;
    device.leave().await;
    Client::v5(&gateway, "publisher").await.publish_acked("t", "waits").await;
    let mut device = Client::open(&gateway);
    let connack = device.greet(connect_for(60, "device")).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(device.payload().await, "waits");
    device.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_2_1_the_reserved_flags_are_zero() {
    let accepted = first_bytes::<4>(&connect_bytes(CLEAN, b"", &field(b"c"))).await;
    assert_eq!((accepted[0], accepted[2], accepted[3]), (0x20, 0, 0));
    let refused = first_bytes::<5>(&connect_bytes(CLEAN | 1, b"", &field(b"c"))).await;
    assert_eq!(refused, *b"\x20\x03\0\x81\0");
    assert_eq!(first_bytes::<4>(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await, *b"\x20\x02\0\0");
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_2_2_session_present_says_whether_there_was_one() {
    let gateway = default_gateway();
    let clean = |is_clean| {
        let mut connect = connect_for(60, "device");
        connect.clean_start = is_clean;
        connect
    };
    for (is_clean, is_present) in [(false, false), (false, true), (true, false), (false, true)] {
        let (client, connack) = Client::connect(&gateway, clean(is_clean)).await;
        assert_eq!(connack.session_present, is_present);
        client.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_2_6_a_refusal_names_no_session_and_closes() {
    let gateway = default_gateway();
    Client::connect(&gateway, connect_for(60, "device")).await.0.leave().await;
    let mut refused = connect_for(60, "device");
    refused.properties.authentication_method = Some(text("GS2-KRB5"));
    let mut client = Client::open(&gateway);
    let connack = client.greet(refused).await;
    assert_eq!((connack.reason, connack.session_present), (ReasonCode::BadAuthenticationMethod, false));
    assert_eq!(client.receive().await, None);
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_2_9_everything_is_available_and_so_not_restricted() {
    let gateway = default_gateway();
    let mut asked = with_will(connect(Version::V5, "client"), "wills", None);
    let will = asked.will.as_mut().unwrap();
    (will.qos, will.retain) = (QoS::ExactlyOnce, true);
    let (mut client, connack) = Client::connect(&gateway, asked).await;
    let told = connack.properties;
    assert_eq!((told.qos_max, told.retain_available), (None, None));
    assert_eq!((told.wildcard_available, told.shared_available), (None, None));
    assert_eq!(told.subscription_id_available, None);
    for (filter, qos) in [("a", QoS::AtMostOnce), ("#", QoS::AtLeastOnce), ("$share/g/+", QoS::ExactlyOnce)] {
        assert_eq!(client.subscribe_with(filter, options(qos), Some(7)).await, qos.granted());
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_2_2_16_assigned_identifiers_are_new_ones() {
    let gateway = default_gateway();
    let mut ids = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (client, connack) = Client::connect(&gateway, connect(Version::V5, "")).await;
        ids.push(connack.properties.assigned_client_id.unwrap().as_str().to_owned());
        clients.push(client);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    for client in &mut clients {
        client.expect_nothing().await;
    }
}
