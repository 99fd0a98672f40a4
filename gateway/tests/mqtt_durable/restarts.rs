//! What is there after the gateway's end.

use towline_gateway::{
    settings::QueuePolicy,
    store::{Table, Write},
};
use towline_protocols::mqtt::*;

use crate::{
    bed::{Bed, SECOND, ack, payloads},
    mqtt_support::*,
};

#[tokio::test(start_paused = true)]
async fn messages_wait_over_a_restart_in_their_order_until_they_are_acknowledged() {
    let mut bed = Bed::new();
    bed.absent_subscriber("meter", "cmd/#", QoS::AtLeastOnce).await;
    for payload in ["a", "b", "c"] {
        bed.publish("cmd/1", payload).await;
    }
    bed.restart();
    bed.publish("cmd/1", "d").await;
    let mut meter = bed.back("meter").await;
    assert_eq!(payloads(&mut meter, 3).await, ["a", "b", "c"]);
    meter.expect_publish().await;
    meter.leave().await;
    bed.settle_and_restart().await;
    let mut meter = bed.back("meter").await;
    meter.expect_nothing().await;
    bed.publish("cmd/1", "e").await;
    assert_eq!(payloads(&mut meter, 1).await, ["e"], "the subscription is there too");
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_and_not_acknowledged_is_sent_again_under_its_identifier() {
    let mut bed = Bed::new();
    let (mut meter, _) = bed.client("meter").await;
    meter.subscribe("cmd", QoS::AtLeastOnce).await;
    for payload in ["a", "b"] {
        bed.publish("cmd", payload).await;
    }
    assert_eq!(payloads(&mut meter, 1).await, ["a"]);
    let Some(Packet::Publish(sent)) = meter.receive().await else { panic!("no PUBLISH") };
    meter.expect_nothing().await;
    bed.settle_and_restart().await;
    let mut meter = bed.back("meter").await;
    assert_eq!(meter.expect_publish().await, Publish { dup: true, ..*sent });
    meter.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_came_while_the_client_was_away_is_no_repetition() {
    let mut bed = Bed::new();
    let (mut meter, _) = bed.client("meter").await;
    meter.subscribe("cmd", QoS::AtLeastOnce).await;
    bed.publish("cmd", "sent").await;
    assert!(matches!(meter.receive().await, Some(Packet::Publish(_))));
    meter.leave().await;
    bed.publish("cmd", "not sent").await;
    bed.restart();
    let mut meter = bed.back("meter").await;
    assert!(meter.expect_publish().await.dup);
    assert!(!meter.expect_publish().await.dup);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_qos_2_goes_on_where_it_was() {
    let mut bed = Bed::new();
    let (mut meter, _) = bed.client("meter").await;
    meter.subscribe("cmd", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    publisher.publish("cmd", "once", QoS::ExactlyOnce).await;
    let sent = meter.expect_publish().await;
    let id = sent.packet_id.unwrap();
    // The client has it; the gateway does not know that yet.
    bed.restart();
    let mut meter = bed.back("meter").await;
    assert_eq!(meter.expect_publish().await, Publish { dup: true, ..sent });
    meter.send(Packet::Pubrec(ack(id))).await;
    assert_eq!(meter.receive().await, Some(Packet::Pubrel(ack(id))));
    // The client may have forgotten it by now, so it must not be sent again.
    bed.restart();
    let mut meter = bed.back("meter").await;
    assert_eq!(meter.receive().await, Some(Packet::Pubrel(ack(id))));
    meter.send(Packet::Pubcomp(ack(id))).await;
    meter.expect_nothing().await;
    bed.settle_and_restart().await;
    bed.back("meter").await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_of_qos_2_is_taken_once_over_restarts() {
    let mut bed = Bed::new();
    bed.absent_subscriber("app", "up", QoS::ExactlyOnce).await;
    let (mut meter, _) = bed.client("meter").await;
    let id = meter.publish("up", "once", QoS::ExactlyOnce).await.unwrap();
    assert_eq!(meter.receive().await, Some(Packet::Pubrec(ack(id))));
    bed.restart();
    let mut meter = bed.back("meter").await;
    let again = Publish { packet_id: Some(id), dup: true, ..publish("up", "once", QoS::ExactlyOnce) };
    meter.send(Packet::Publish(Box::new(again.clone()))).await;
    assert_eq!(meter.receive().await, Some(Packet::Pubrec(ack(id))));
    meter.send(Packet::Pubrel(ack(id))).await;
    assert_eq!(meter.receive().await, Some(Packet::Pubcomp(ack(id))));
    bed.restart();
    let mut meter = bed.back("meter").await;
    let other = Publish { dup: false, payload: "another".into(), ..again };
    meter.send(Packet::Publish(Box::new(other))).await;
    assert_eq!(meter.receive().await, Some(Packet::Pubrec(ack(id))), "the identifier is free again");
    let mut app = bed.back("app").await;
    assert_eq!(payloads(&mut app, 2).await, ["once", "another"]);
    app.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn one_message_waits_for_many_sessions_and_for_each_as_long_as_it_takes() {
    let mut bed = Bed::new();
    for id in ["a", "b", "c"] {
        bed.absent_subscriber(id, "news", QoS::AtLeastOnce).await;
    }
    bed.publish("news", "x").await;
    assert_eq!(bed.gateway.store.scan(Table::MqttMessages).unwrap().len(), 1);
    for (id, left) in [("a", 1), ("b", 1), ("c", 0)] {
        bed.settle_and_restart().await;
        let mut client = bed.back(id).await;
        assert_eq!(payloads(&mut client, 1).await, ["x"]);
        client.expect_nothing().await;
        client.leave().await;
        bed.gateway.store.barrier().await.unwrap();
        assert_eq!(bed.gateway.store.scan(Table::MqttMessages).unwrap().len(), left, "{id}");
    }
    assert!(bed.gateway.store.scan(Table::MqttProgress).unwrap().is_empty());
    bed.restart();
    bed.back("a").await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_come_back_with_their_options_and_not_those_that_were_ended() {
    let mut bed = Bed::new();
    let (mut meter, _) = bed.client("meter").await;
    let options =
        SubscriptionOptions { qos: QoS::ExactlyOnce, retain_as_published: true, ..Default::default() };
    meter.subscribe_with("$share/g/a/+", options, Some(9)).await;
    meter.subscribe_with("a/#", SubscriptionOptions { no_local: true, ..options }, None).await;
    meter.subscribe("b", QoS::AtLeastOnce).await;
    let unsubscribe =
        Unsubscribe { packet_id: meter.id(), properties: Default::default(), filters: vec![text("b")] };
    meter.send(Packet::Unsubscribe(unsubscribe)).await;
    assert!(matches!(meter.receive().await, Some(Packet::Unsuback(_))));
    let sorted = |bed: &Bed| {
        let mut subscriptions = bed.gateway.hub.subscriptions("meter");
        subscriptions.sort_by(|a, b| a.0.cmp(&b.0));
        subscriptions
    };
    let before = sorted(&bed);
    bed.restart();
    assert_eq!(sorted(&bed), before, "routable before a client has come");
    assert_eq!(before.iter().map(|(filter, _)| &filter[..]).collect::<Vec<_>>(), ["$share/g/a/+", "a/#"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_over_when_its_interval_is_also_if_the_gateway_was_away() {
    let mut bed = Bed::new();
    bed.absent_subscriber("short", "t", QoS::AtLeastOnce).await;
    bed.publish("t", "x").await;
    pass(SECOND * 30).await;
    bed.restart();
    pass(SECOND * 29).await;
    assert_eq!(bed.gateway.mqtt.sessions(), 1);
    pass(SECOND * 2).await;
    assert_eq!((bed.gateway.mqtt.sessions(), bed.gateway.hub.clients()), (0, 0));
    bed.settle_and_restart().await;
    assert_eq!(bed.gateway.mqtt.sessions(), 0);
    for table in [Table::MqttSessions, Table::MqttSubscriptions, Table::MqttMessages] {
        assert!(bed.gateway.store.scan(table).unwrap().is_empty(), "{table:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_connected_in_the_crash_is_away_from_the_restart_on() {
    let mut bed = Bed::new();
    let (mut meter, _) = bed.client("meter").await;
    meter.subscribe("t", QoS::AtLeastOnce).await;
    bed.restart();
    pass(SECOND * 59).await;
    assert_eq!(bed.gateway.mqtt.sessions(), 1);
    pass(SECOND * 2).await;
    assert_eq!(bed.gateway.mqtt.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_expires_also_while_the_gateway_is_away() {
    let mut bed = Bed::new();
    bed.absent_subscriber("meter", "t", QoS::AtLeastOnce).await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    for (payload, seconds) in [("short", 5), ("long", 20)] {
        let mut publish = publish("t", payload, QoS::AtLeastOnce);
        publish.properties.expiry = Some(seconds);
        publisher.send(Packet::Publish(Box::new(publish))).await;
        assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
    }
    pass(SECOND * 10).await;
    bed.restart();
    let publish = bed.back("meter").await.expect_publish().await;
    assert_eq!((&publish.payload[..], publish.properties.expiry), (&b"long"[..], Some(10)));
}

#[tokio::test(start_paused = true)]
async fn a_clean_start_discards_what_the_store_kept() {
    let mut bed = Bed::new();
    bed.absent_subscriber("meter", "t", QoS::AtLeastOnce).await;
    bed.publish("t", "x").await;
    let mut clean = connect_for(60, "meter");
    clean.clean_start = true;
    let (_, connack) = Client::connect(&bed.gateway, clean).await;
    assert!(!connack.session_present);
    bed.restart();
    let mut meter = bed.back("meter").await;
    meter.expect_nothing().await;
    assert!(bed.gateway.hub.subscriptions("meter").is_empty());
    assert!(bed.gateway.store.scan(Table::MqttMessages).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_with_their_connection_leave_nothing() {
    let mut bed = Bed::new();
    let before = bed.gateway.store.counts().writes.get();
    let (mut meter, _) = Client::connect(&bed.gateway, connect(Version::V311, "meter")).await;
    meter.subscribe("t", QoS::AtLeastOnce).await;
    bed.publish("t", "x").await;
    assert_eq!(payloads(&mut meter, 1).await, ["x"]);
    assert_eq!(bed.gateway.store.counts().writes.get(), before);
    bed.restart();
    assert_eq!((bed.gateway.mqtt.sessions(), bed.gateway.hub.clients()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn retained_messages_come_back_unless_they_were_removed_or_have_expired() {
    let mut bed = Bed::new();
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    for (topic, payload, expiry) in
        [("s/a", "1", None), ("s/a", "2", None), ("s/b", "x", None), ("s/b", "", None), ("s/c", "x", Some(5))]
    {
        let mut publish = Publish { retain: true, ..publish(topic, payload, QoS::AtLeastOnce) };
        publish.properties.expiry = expiry;
        publisher.send(Packet::Publish(Box::new(publish))).await;
        assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
    }
    pass(SECOND * 6).await;
    bed.restart();
    assert_eq!(bed.gateway.mqtt.retained.len(), 1);
    let mut subscriber = Client::v5(&bed.gateway, "subscriber").await;
    subscriber.subscribe("s/#", QoS::AtLeastOnce).await;
    assert_eq!(payloads(&mut subscriber, 1).await, ["2"]);
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_drops_is_dropped_from_the_store_too() {
    let mut settings = settings();
    settings.mqtt.queue_max = 2;
    settings.mqtt.queue_policy = QueuePolicy::Oldest;
    let mut bed = Bed::with(settings);
    bed.absent_subscriber("meter", "t", QoS::AtLeastOnce).await;
    for payload in ["a", "b", "c"] {
        bed.publish("t", payload).await;
    }
    assert_eq!(metric(&bed.gateway, "towline_limit_hits_total{limit=\"mqtt.queue_max\"}"), 1.0);
    bed.settle_and_restart().await;
    let mut meter = bed.back("meter").await;
    assert_eq!(payloads(&mut meter, 2).await, ["b", "c"]);
    meter.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_kept_for_a_bounded_time_over_restarts() {
    let mut settings = settings();
    settings.mqtt.queue_age_max = SECOND * 10;
    let mut bed = Bed::with(settings);
    bed.absent_subscriber("meter", "t", QoS::AtLeastOnce).await;
    bed.publish("t", "old").await;
    pass(SECOND * 6).await;
    bed.publish("t", "new").await;
    bed.restart();
    pass(SECOND * 6).await;
    let mut meter = bed.back("meter").await;
    assert_eq!(payloads(&mut meter, 1).await, ["new"]);
    meter.expect_nothing().await;
    assert_eq!(metric(&bed.gateway, "towline_limit_hits_total{limit=\"mqtt.queue_age_max\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_an_error_and_not_a_loss() {
    let tables = [
        (Table::MqttSessions, "session"),
        (Table::MqttSubscriptions, "subscription"),
        (Table::MqttReceived, "publish"),
        (Table::MqttMessages, "message"),
        (Table::MqttProgress, "note"),
        (Table::MqttRetained, "retained message"),
    ];
    for (table, name) in tables {
        let mut bed = Bed::new();
        bed.gateway.store.write(Write::Put { table, key: b"k".to_vec(), value: vec![0xee] }).unwrap();
        bed.gateway.store.barrier().await.unwrap();
        let error = bed.try_start().err().unwrap();
        assert!(error.contains("is damaged") && error.contains(name), "{table:?}: {error}");
        assert!(error.contains("move it away"), "it says what to do: {error}");
    }
}
