//! Each bound on MQTT clients is crossed by one client while a neighbour goes on unharmed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use mqtt_support::*;
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::io::AsyncReadExt;
use towline_gateway::{gateway::Gateway, settings::Settings};
use towline_protocols::mqtt::*;

const SECOND: Duration = Duration::from_secs(1);

/// A gateway and a client on it that must not notice anything.
struct Neighbourhood {
    gateway: Arc<Gateway>,
    neighbour: Client,
}

impl Neighbourhood {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let gateway = gateway(settings);
        let mut neighbour = Client::v5(&gateway, "neighbour").await;
        neighbour.subscribe("neighbour", QoS::AtLeastOnce).await;
        Self { gateway, neighbour }
    }

    /// The neighbour's own messages still come back to it.
    async fn check(&mut self) {
        self.neighbour.publish("neighbour", "well", QoS::AtMostOnce).await;
        assert_eq!(&self.neighbour.expect_publish().await.payload[..], b"well");
    }

    fn limit_hits(&self, limit: &str) -> f64 {
        metric(&self.gateway, &format!("towline_limit_hits_total{{limit=\"{limit}\"}}"))
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_packet_must_be_connect() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut client = Client::open(&hood.gateway);
    client.send(Packet::Pingreq).await;
    assert_eq!(client.receive().await, None);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn connect_must_come_in_time() {
    let mut hood = Neighbourhood::new(|settings| settings.limits.first_message_timeout = SECOND * 10).await;
    let mut client = Client::open(&hood.gateway);
    let started = tokio::time::Instant::now();
    client.send_bytes(b"\x10\x0d\x00\x04MQ").await;
    assert_eq!(client.receive().await, None);
    assert_eq!(started.elapsed().as_secs(), 10);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_connect_ends_the_connection() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    client.send(Packet::Connect(Box::new(connect(Version::V5, "client")))).await;
    client.expect_end(ReasonCode::ProtocolError).await;
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_told_so() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut client = Client::open(&hood.gateway);
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x06\x02\0\0\0\x01c").await;
    let Some(Packet::Connack(connack)) = client.receive().await else { panic!("no CONNACK") };
    assert_eq!(connack.reason, ReasonCode::UnsupportedProtocolVersion);
    assert_eq!(client.receive().await, None);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_packet_may_be_as_large_as_the_limit_and_no_larger() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.packet_bytes_max = 1000).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    // 1 byte, 2 of length, 2 and 1 of topic, 2 of identifier, 1 of properties.
    let payload = "x".repeat(1000 - 9);
    assert_eq!(client.publish_acked("t", &payload).await, ReasonCode::NoMatchingSubscribers);
    client.publish("t", &(payload + "x"), QoS::AtLeastOnce).await;
    client.expect_end(ReasonCode::PacketTooLarge).await;
    assert_eq!(hood.limit_hits("mqtt.packet_bytes_max"), 1.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_there_is_no_room_to_retain_is_refused_and_reaches_nobody() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.retained_max = 1).await;
    let retained =
        |topic, qos| Packet::Publish(Box::new(Publish { retain: true, ..publish(topic, "x", qos) }));
    let mut listener = Client::v5(&hood.gateway, "listener").await;
    listener.subscribe("state/#", QoS::AtLeastOnce).await;
    let mut modern = Client::v5(&hood.gateway, "modern").await;
    modern.send(retained("one", QoS::AtLeastOnce)).await;
    assert!(matches!(modern.receive().await, Some(Packet::Puback(ack)) if !ack.reason.is_error()));
    modern.send(retained("state/two", QoS::AtLeastOnce)).await;
    let full = Ack::new(PacketId::new(1).unwrap(), ReasonCode::QuotaExceeded);
    assert_eq!(modern.receive().await, Some(Packet::Puback(full.clone())));
    // Under the same identifier as often as it likes: none of them was taken.
    for _ in 0..2 {
        modern.send(retained("state/two", QoS::ExactlyOnce)).await;
        assert_eq!(modern.receive().await, Some(Packet::Pubrec(full.clone())));
    }
    let mut old = Client::v311(&hood.gateway, "old").await;
    old.send(retained("state/two", QoS::AtLeastOnce)).await;
    old.expect_end(ReasonCode::QuotaExceeded).await;
    listener.expect_nothing().await;
    assert_eq!(hood.limit_hits("mqtt.retained_max"), 4.0);
    // Nobody is told of QoS 0; who listens need not miss it.
    modern.send(retained("state/two", QoS::AtMostOnce)).await;
    assert_eq!(listener.expect_publish().await.topic.as_str(), "state/two");
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_packet_holds_so_many_properties_and_filters_whatever_its_bytes() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let greeting = |count| {
        let mut connect = connect(Version::V5, "client");
        connect.properties.user_properties = vec![(text("n"), text("v")); count];
        connect
    };
    let (mut client, _) = Client::connect(&hood.gateway, greeting(4096)).await;
    let connack = Client::open(&hood.gateway).greet(greeting(4097)).await;
    assert_eq!(connack.reason, ReasonCode::QuotaExceeded);
    // 4097 filters of one byte.
    let filters = b"\0\x01t\0".repeat(4097);
    client.send_bytes(&[&[0x82, 0x87, 0x80, 0x01, 0, 1, 0], &filters[..]].concat()).await;
    client.expect_end(ReasonCode::QuotaExceeded).await;
    assert_eq!(hood.limit_hits("mqtt.packet_items"), 1.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_oversize_packet_is_refused_from_its_header() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    client.send_bytes(b"\x30\xff\xff\xff\x7f").await;
    client.expect_end(ReasonCode::PacketTooLarge).await;
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn bad_utf_8_ends_the_connection() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    client.send_bytes(b"\x30\x04\0\x01\xff\0").await;
    client.expect_end(ReasonCode::MalformedPacket).await;
    let mut client = Client::v311(&hood.gateway, "client").await;
    client.send_bytes(b"\x30\x03\0\x01\0").await;
    client.expect_end(ReasonCode::MalformedPacket).await;
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded_and_old_ones_may_change() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.subscriptions_max = 2).await;
    for version in [Version::V311, Version::V5] {
        let (mut client, _) = Client::connect(&hood.gateway, connect(version, "client")).await;
        assert_eq!(client.subscribe("a", QoS::AtMostOnce).await, ReasonCode::Success);
        assert_eq!(client.subscribe("b", QoS::AtMostOnce).await, ReasonCode::Success);
        let full =
            if version == Version::V5 { ReasonCode::QuotaExceeded } else { ReasonCode::UnspecifiedError };
        assert_eq!(client.subscribe("c", QoS::AtMostOnce).await, full);
        assert_eq!(client.subscribe("a", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        client.leave().await;
    }
    assert_eq!(hood.limit_hits("mqtt.subscriptions_max"), 2.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn levels_of_topics_are_bounded() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.topic_levels_max = 3).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    assert_eq!(client.subscribe("a/b/c", QoS::AtMostOnce).await, ReasonCode::Success);
    assert_eq!(client.subscribe("a/b/c/d", QoS::AtMostOnce).await, ReasonCode::TopicFilterInvalid);
    assert_eq!(client.publish_acked("a/b/c/d", "x").await, ReasonCode::TopicNameInvalid);
    client.publish("a/b/c/d", "x", QoS::AtMostOnce).await;
    client.expect_end(ReasonCode::TopicNameInvalid).await;
    assert_eq!(hood.limit_hits("mqtt.topic_levels_max"), 2.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_misses_its_keep_alive_is_lost() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut watcher = Client::v5(&hood.gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let mut silent = with_will(connect(Version::V5, "silent"), "wills/silent", None);
    silent.keep_alive = 10;
    let (mut client, _) = Client::connect(&hood.gateway, silent).await;
    for _ in 0..3 {
        pass(SECOND * 14).await;
        client.expect_nothing().await;
    }
    let started = tokio::time::Instant::now();
    client.expect_end(ReasonCode::KeepAliveTimeout).await;
    assert_eq!(started.elapsed().as_secs(), 15);
    watcher.expect_publish().await;
    assert_eq!(hood.limit_hits("keep_alive"), 1.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.sessions_max = 2).await;
    let one = Client::v5(&hood.gateway, "one").await;
    for (version, reason) in
        [(Version::V5, ReasonCode::QuotaExceeded), (Version::V311, ReasonCode::ServerUnavailable)]
    {
        let mut refused = Client::open(&hood.gateway);
        assert_eq!(refused.greet(connect(version, "two")).await.reason, reason);
    }
    one.leave().await;
    Client::v5(&hood.gateway, "two").await;
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn retained_messages_are_bounded() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.retained_max = 1).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    for topic in ["a", "b"] {
        let retained = Publish { retain: true, ..publish(topic, "x", QoS::AtMostOnce) };
        client.send(Packet::Publish(Box::new(retained))).await;
    }
    client.expect_nothing().await;
    assert_eq!(hood.gateway.mqtt.retained.len(), 1);
    assert_eq!(hood.limit_hits("mqtt.retained_max"), 1.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_alias_above_the_maximum_ends_the_connection() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.topic_alias_max = 1).await;
    let mut client = Client::v5(&hood.gateway, "client").await;
    let mut aliased = publish("t", "x", QoS::AtMostOnce);
    aliased.properties.topic_alias = Some(2);
    client.send(Packet::Publish(Box::new(aliased))).await;
    client.expect_end(ReasonCode::TopicAliasInvalid).await;
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_read_costs_its_queue_and_slows_nobody() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.queue_max = 10).await;
    let mut stuck = Client::v311(&hood.gateway, "stuck").await;
    stuck.subscribe("flood", QoS::AtMostOnce).await;
    hood.neighbour.subscribe("flood", QoS::AtMostOnce).await;
    let mut publisher = Client::v311(&hood.gateway, "publisher").await;
    let payload = "x".repeat(10_000);
    for _ in 0..100 {
        publisher.publish("flood", &payload, QoS::AtMostOnce).await;
        assert_eq!(hood.neighbour.expect_publish().await.payload.len(), 10_000);
    }
    let dropped = metric(&hood.gateway, "towline_mqtt_messages_dropped_total");
    // 64 KiB are in the transport, 16 KiB and a message are being written, ten messages wait.
    assert!((80.0..=84.0).contains(&dropped), "{dropped} of 100 were dropped");
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_all_sessions_together_is_bounded_and_who_reads_misses_nothing() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.held_bytes_max = 100_000).await;
    for id in ["one", "two", "three"] {
        let mut asked = connect(Version::V311, id);
        asked.clean_start = false;
        let (mut client, _) = Client::connect(&hood.gateway, asked).await;
        client.subscribe("flood", QoS::AtLeastOnce).await;
        client.leave().await;
    }
    hood.neighbour.subscribe("flood", QoS::AtLeastOnce).await;
    let mut publisher = Client::v311(&hood.gateway, "publisher").await;
    let payload = "x".repeat(10_000);
    for _ in 0..10 {
        publisher.publish_acked("flood", &payload).await;
        let publish = hood.neighbour.expect_publish().await;
        let ack = Ack::new(publish.packet_id.unwrap(), ReasonCode::Success);
        hood.neighbour.send(Packet::Puback(ack)).await;
    }
    let dropped = metric(&hood.gateway, "towline_mqtt_messages_dropped_total");
    assert!((15.0..=20.0).contains(&dropped), "{dropped} of 30 for those that are away");
    assert_eq!(hood.limit_hits("mqtt.held_bytes_max"), dropped);
    hood.gateway.mqtt.observe(&hood.gateway.metrics);
    let held = metric(&hood.gateway, "towline_mqtt_held_bytes");
    assert!((100_000.0..140_000.0).contains(&held), "{held} bytes");
    hood.check().await;
}

/// A subscriber of QoS 1 that is sent one message at a time, and one who publishes so many to it.
async fn one_at_a_time(hood: &Neighbourhood, messages: usize) -> (Client, Client) {
    let mut asked = connect(Version::V5, "behind");
    asked.properties.receive_maximum = std::num::NonZeroU16::new(1);
    let (mut behind, _) = Client::connect(&hood.gateway, asked).await;
    behind.subscribe("cmd", QoS::AtLeastOnce).await;
    let mut publisher = Client::v311(&hood.gateway, "publisher").await;
    for number in 0..messages {
        publisher.publish("cmd", &number.to_string(), QoS::AtLeastOnce).await;
    }
    (behind, publisher)
}

#[tokio::test(start_paused = true)]
async fn a_publisher_of_qos_1_waits_for_a_subscriber_that_is_behind_and_nothing_is_lost() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.queue_max = 10).await;
    let (mut behind, mut publisher) = one_at_a_time(&hood, 40).await;
    for number in 0..40 {
        let publish = behind.expect_publish().await;
        assert_eq!(publish.payload, number.to_string());
        let ack = Ack::new(publish.packet_id.unwrap(), ReasonCode::Success);
        behind.send(Packet::Puback(ack)).await;
    }
    for _ in 0..40 {
        assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
    }
    assert_eq!(metric(&hood.gateway, "towline_mqtt_messages_dropped_total"), 0.0);
    hood.check().await;
}

/// Forty devices publish one message each to a subscriber that takes one at a time, each of them after `before` of its
/// own have come through. Nothing is lost, and all are acknowledged.
async fn check_single_publishes(before: usize) {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.queue_max = 10).await;
    let (mut behind, _publisher) = one_at_a_time(&hood, 0).await;
    let mut take = async |count: usize| {
        for _ in 0..count {
            let publish = behind.expect_publish().await;
            let ack = Ack::new(publish.packet_id.unwrap(), ReasonCode::Success);
            behind.send(Packet::Puback(ack)).await;
        }
    };
    let mut meters = Vec::new();
    for number in 0..40 {
        let mut meter = Client::v311(&hood.gateway, &format!("meter-{number}")).await;
        for _ in 0..before {
            meter.publish("cmd", "early", QoS::AtLeastOnce).await;
            take(1).await;
            assert!(matches!(meter.receive().await, Some(Packet::Puback(_))));
        }
        meters.push(meter);
    }
    for (number, meter) in meters.iter_mut().enumerate() {
        meter.publish("cmd", &number.to_string(), QoS::AtLeastOnce).await;
    }
    take(40).await;
    for meter in &mut meters {
        assert!(matches!(meter.receive().await, Some(Packet::Puback(_))));
    }
    assert_eq!(metric(&hood.gateway, "towline_mqtt_messages_dropped_total"), 0.0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn who_publishes_for_the_first_time_waits_for_a_subscriber_that_is_behind_as_well() {
    check_single_publishes(0).await;
}

#[tokio::test(start_paused = true)]
async fn who_knows_a_subscriber_as_one_that_is_not_behind_learns_that_it_is() {
    check_single_publishes(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_takes_nothing_holds_a_publisher_up_for_a_second_and_no_more() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.queue_max = 10).await;
    let begun = tokio::time::Instant::now();
    let (_stuck, mut publisher) = one_at_a_time(&hood, 40).await;
    for _ in 0..40 {
        assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
    }
    assert_eq!(begun.elapsed().as_secs(), 1);
    let dropped = metric(&hood.gateway, "towline_mqtt_messages_dropped_total");
    assert_eq!(dropped, 40.0 - 1.0 - 10.0, "one is in flight, ten wait");
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn who_publishes_to_itself_does_not_wait_for_itself() {
    let mut hood = Neighbourhood::new(|settings| settings.mqtt.queue_max = 10).await;
    let mut own = Client::v311(&hood.gateway, "own").await;
    own.subscribe("cmd", QoS::AtLeastOnce).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..2000 {
        own.publish("cmd", "x", QoS::AtLeastOnce).await;
    }
    let mut acknowledged = 0;
    while acknowledged < 2000 {
        acknowledged += usize::from(matches!(own.receive().await, Some(Packet::Puback(_))));
    }
    assert_eq!(begun.elapsed().as_secs(), 0);
    hood.check().await;
}

#[tokio::test(start_paused = true)]
async fn qos_1_in_flight_is_bounded_by_the_clients_receive_maximum() {
    let mut hood = Neighbourhood::new(|_| ()).await;
    let mut asked = connect(Version::V5, "device");
    asked.properties.receive_maximum = std::num::NonZeroU16::new(2);
    let (mut device, _) = Client::connect(&hood.gateway, asked).await;
    device.subscribe("cmd", QoS::AtLeastOnce).await;
    for _ in 0..3 {
        hood.neighbour.publish_acked("cmd", "x").await;
    }
    let (first, second) = (device.receive().await, device.receive().await);
    assert!(matches!((first, second), (Some(Packet::Publish(_)), Some(Packet::Publish(_)))));
    device.expect_nothing().await;
    device.send(Packet::Puback(Ack::new(PacketId::MIN, ReasonCode::Success))).await;
    device.expect_publish().await;
    hood.check().await;
}

#[test]
fn random_bytes_end_their_own_connection_at_the_worst() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let hood = runtime.block_on(Neighbourhood::new(|_| ()));
    let hood = tokio::sync::Mutex::new(hood);
    let strategy = (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..300));
    TestRunner::default()
        .run(&strategy, |(is_connected, bytes)| {
            runtime.block_on(async {
                let mut hood = hood.lock().await;
                let mut client = Client::open(&hood.gateway);
                if is_connected {
                    client.greet(connect(Version::V5, "random")).await;
                }
                client.send_bytes(&bytes).await;
                // Half a packet is waited for; anything else is answered or the end.
                let mut answer = BytesMut::new();
                let _ = tokio::time::timeout(SECOND, client.stream.read_buf(&mut answer)).await;
                hood.check().await;
            });
            Ok(())
        })
        .unwrap();
}
