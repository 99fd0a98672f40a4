//! Section 4.8.2: shared subscriptions.

use std::{num::NonZeroU16, sync::Arc};

use towline_gateway::gateway::Gateway;
use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_1_and_2_a_share_has_a_name_and_a_filter() {
    for filter in [&b"$share//t"[..], b"$share/g", b"$share/g/", b"$share/+/t", b"$share/g#/t", b"$share/"] {
        check_ended(&subscribe_bytes(filter, 0), MALFORMED).await;
    }
    let mut client = Client::v5(&default_gateway(), "client").await;
    for filter in ["$share/g/t", "$share/g/#", "$share/g//", "$share/\u{e9} x/+/a"] {
        assert_eq!(client.subscribe(filter, QoS::AtMostOnce).await, ReasonCode::Success);
    }
    // Such a filter is not a share.
    client.subscribe("$shared/t", QoS::AtMostOnce).await;
    client.publish("$shared/t", "x", QoS::AtMostOnce).await;
    assert_eq!(client.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_each_group_gets_a_message_once_beside_ordinary_subscribers() {
    let gateway = default_gateway();
    let mut members = Vec::new();
    for (id, filter) in [("a1", "$share/a/t"), ("a2", "$share/a/t"), ("b1", "$share/b/+"), ("c", "t")] {
        let mut client = Client::v5(&gateway, id).await;
        client.subscribe(filter, QoS::AtMostOnce).await;
        members.push(client);
    }
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for _ in 0..4 {
        publisher.publish_acked("t", "x").await;
    }
    for (client, count) in members.iter_mut().zip([2, 2, 4, 4]) {
        for _ in 0..count {
            client.expect_publish().await;
        }
        client.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_3_a_members_qos_is_its_own() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for (id, qos) in [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)] {
        let mut client = Client::v5(&gateway, id).await;
        client.subscribe("$share/g/t", qos).await;
        publisher.publish_twice_acked("t", "x").await;
        assert_eq!(client.take_publish().await.qos, qos);
        client.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_4_a_member_is_sent_its_message_to_the_end_and_mqtt_4_8_2_5_nobody_else_is() {
    let gateway = default_gateway();
    let (mut first, _) = Client::connect(&gateway, connect_for(60, "first")).await;
    first.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_twice_acked("t", "x").await;
    let sent = first.take_publish().await;
    let mut second = Client::v5(&gateway, "second").await;
    second.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    drop(first);
    let (mut first, connack) = Client::connect(&gateway, connect_for(60, "first")).await;
    assert!(connack.session_present);
    assert_eq!(first.take_publish().await, Publish { dup: true, ..sent });
    drop(first);
    // Its session ends: the message ends with it.
    pass(SECOND * 61).await;
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_6_what_a_member_refuses_goes_to_nobody_else() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut first = Client::v5(&gateway, "first").await;
    first.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    publisher.publish_acked("t", "x").await;
    let id = first.take_publish().await.packet_id.unwrap();
    let mut second = Client::v5(&gateway, "second").await;
    second.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    first.send(Packet::Puback(Ack::new(id, ReasonCode::QuotaExceeded))).await;
    first.expect_nothing().await;
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_nothing_retained_is_sent_and_members_who_are_away_are_passed_over() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.send(retained("t", "old", QoS::AtMostOnce)).await;
    publisher.expect_nothing().await;
    let (mut away, _) = Client::connect(&gateway, connect_for(60, "away")).await;
    away.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    away.expect_nothing().await;
    away.leave().await;
    let mut there = Client::v5(&gateway, "there").await;
    there.subscribe("$share/g/t", QoS::AtLeastOnce).await;
    for payload in ["1", "2", "3"] {
        publisher.publish_acked("t", payload).await;
        assert_eq!(there.payload().await, payload);
    }
    assert_eq!(there.unsubscribe(&["$share/g/t"]).await, [ReasonCode::Success]);
    // All are away: it waits for one of them.
    assert_eq!(publisher.publish_acked("t", "4").await, ReasonCode::Success);
    let (mut away, _) = Client::connect(&gateway, connect_for(60, "away")).await;
    assert_eq!(away.payload().await, "4");
}

/// A member whose session outlives its connections by so many seconds.
async fn member(gateway: &Arc<Gateway>, seconds: u32, id: &str, qos: QoS) -> Client {
    let (mut client, _) = Client::connect(gateway, connect_for(seconds, id)).await;
    assert_eq!(client.subscribe("$share/g/t", qos).await, qos.granted());
    client
}

/// How a member's session ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Leave,
    Loss,
    Expiry,
    CleanStart,
}

async fn end(gateway: &Arc<Gateway>, mut client: Client, ending: Ending) {
    match ending {
        Ending::Leave => {
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            disconnect.properties.session_expiry = Some(0);
            client.send(Packet::Disconnect(disconnect)).await;
            // What it was sent meanwhile is not acknowledged.
            while client.receive().await.is_some() {}
        }
        Ending::Loss => drop(client),
        Ending::Expiry => {
            drop(client);
            pass(SECOND * 61).await;
        }
        Ending::CleanStart => {
            drop(client);
            Client::v5(gateway, "first").await.leave().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_a_session_that_ends_leaves_another_member_what_it_has_not_acknowledged() {
    for (seconds, ending) in
        [(60, Ending::Leave), (0, Ending::Loss), (60, Ending::Expiry), (60, Ending::CleanStart)]
    {
        let gateway = default_gateway();
        let mut asked = connect_for(seconds, "first");
        asked.properties.receive_maximum = NonZeroU16::new(2);
        let (mut first, _) = Client::connect(&gateway, asked).await;
        first.subscribe("$share/g/t", QoS::AtLeastOnce).await;
        let mut publisher = Client::v5(&gateway, "publisher").await;
        for payload in ["acknowledged", "sent", "sent too", "waits", "waits too"] {
            publisher.publish_acked("t", payload).await;
        }
        assert_eq!(first.payload().await, "acknowledged");
        assert_eq!(first.take_publish().await.payload, "sent");
        let mut second = member(&gateway, 0, "second", QoS::AtLeastOnce).await;
        end(&gateway, first, ending).await;
        for payload in ["sent", "sent too", "waits", "waits too"] {
            let publish = second.expect_publish().await;
            // For this client it is the first time.
            assert_eq!((&publish.payload[..], publish.dup), (payload.as_bytes(), false), "{ending:?}");
        }
        second.expect_nothing().await;
        assert_eq!(metric(&gateway, "towline_mqtt_messages_handed_over_total"), 4.0, "{ending:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_5_of_qos_2_another_member_gets_what_was_never_sent_and_nothing_else() {
    let gateway = default_gateway();
    let mut asked = connect_for(60, "first");
    asked.properties.receive_maximum = NonZeroU16::new(2);
    let (mut first, _) = Client::connect(&gateway, asked).await;
    first.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for payload in ["received", "sent", "waits"] {
        publisher.publish_twice_acked("t", payload).await;
    }
    let received = first.take_publish().await.packet_id.unwrap();
    first.take_publish().await;
    first.send(Packet::Pubrec(ack(received))).await;
    assert_eq!(first.receive().await, Some(Packet::Pubrel(ack(received))));
    let mut second = member(&gateway, 0, "second", QoS::ExactlyOnce).await;
    end(&gateway, first, Ending::Expiry).await;
    let publish = second.take_publish().await;
    assert_eq!((&publish.payload[..], publish.qos, publish.dup), (&b"waits"[..], QoS::ExactlyOnce, false));
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_6_what_a_member_refused_does_not_go_on_when_its_session_ends() {
    let gateway = default_gateway();
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut first = member(&gateway, 60, "first", QoS::ExactlyOnce).await;
    let mut second = Client::v5(&gateway, "second").await;
    publisher.publish_acked("t", "1").await;
    publisher.publish_twice_acked("t", "2").await;
    publisher.publish_acked("t", "not refused").await;
    let ids = [first.take_publish().await, first.take_publish().await].map(|sent| sent.packet_id.unwrap());
    first.send(Packet::Puback(Ack::new(ids[0], ReasonCode::UnspecifiedError))).await;
    first.send(Packet::Pubrec(Ack::new(ids[1], ReasonCode::QuotaExceeded))).await;
    second.subscribe("$share/g/t", QoS::ExactlyOnce).await;
    end(&gateway, first, Ending::Leave).await;
    assert_eq!(second.payload().await, "not refused");
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_a_member_who_is_away_keeps_its_messages_while_its_session_goes_on() {
    let gateway = default_gateway();
    let first = member(&gateway, 60, "first", QoS::AtLeastOnce).await;
    first.leave().await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_acked("t", "x").await;
    let mut second = member(&gateway, 0, "second", QoS::AtLeastOnce).await;
    pass(SECOND * 59).await;
    second.expect_nothing().await;
    let (mut first, _) = Client::connect(&gateway, connect_for(60, "first")).await;
    assert_eq!(first.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_a_message_that_goes_on_expires_when_it_would_have() {
    let gateway = default_gateway();
    let first = member(&gateway, 60, "first", QoS::AtLeastOnce).await;
    first.leave().await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for (payload, seconds) in [("late", 30), ("in time", 100)] {
        let properties = PublishProperties { expiry: Some(seconds), ..Default::default() };
        let publish = Publish { properties, ..publish("t", payload, QoS::AtLeastOnce) };
        publisher.send(Packet::Publish(Box::new(publish))).await;
        publisher.receive().await;
    }
    let mut second = member(&gateway, 0, "second", QoS::AtLeastOnce).await;
    pass(SECOND * 61).await;
    let publish = second.expect_publish().await;
    assert_eq!((&publish.payload[..], publish.properties.expiry), (&b"in time"[..], Some(40)));
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_a_message_that_goes_on_has_waited_since_it_came() {
    let mut settings = settings();
    settings.mqtt.queue_age_max = SECOND * 90;
    let gateway = gateway(settings);
    member(&gateway, 60, "first", QoS::AtLeastOnce).await.leave().await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_acked("t", "early").await;
    pass(SECOND * 30).await;
    publisher.publish_acked("t", "late").await;
    member(&gateway, 600, "second", QoS::AtLeastOnce).await.leave().await;
    // The first one's session has ended, and what came first is too old.
    pass(SECOND * 61).await;
    let (mut second, _) = Client::connect(&gateway, connect_for(600, "second")).await;
    assert_eq!(second.payload().await, "late");
    second.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_what_goes_on_goes_to_members_with_room_and_is_counted_where_nobody_has_any() {
    let mut settings = settings();
    settings.mqtt.queue_max = 3;
    let gateway = gateway(settings);
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let away = async |id| member(&gateway, 600, id, QoS::AtLeastOnce).await.leave().await;
    let publish = async |publisher: &mut Client, topic, payloads: &[&str]| {
        for payload in payloads {
            publisher.publish_acked(topic, payload).await;
        }
    };
    member(&gateway, 60, "first", QoS::AtLeastOnce).await.leave().await;
    publish(&mut publisher, "t", &["1", "2", "3"]).await;
    for (id, own) in [("full", &["a", "b", "c"][..]), ("nearly", &["d", "e"])] {
        away(id).await;
        let (mut client, _) = Client::connect(&gateway, connect_for(600, id)).await;
        client.subscribe(id, QoS::AtLeastOnce).await;
        client.leave().await;
        publish(&mut publisher, id, own).await;
    }
    pass(SECOND * 61).await;
    for (id, payloads) in [("full", &["a", "b", "c"][..]), ("nearly", &["d", "e", "1"])] {
        let (mut client, _) = Client::connect(&gateway, connect_for(600, id)).await;
        for payload in payloads {
            assert_eq!(client.payload().await, *payload);
        }
        client.expect_nothing().await;
    }
    assert_eq!(metric(&gateway, "towline_mqtt_messages_handed_over_total"), 1.0);
    assert_eq!(metric(&gateway, "towline_mqtt_messages_dropped_total"), 2.0);
    assert_eq!(metric(&gateway, "towline_limit_hits_total{limit=\"mqtt.queue_max\"}"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_8_2_what_a_session_leaves_ends_with_it_where_nobody_else_is_in_the_group() {
    let gateway = default_gateway();
    let first = member(&gateway, 0, "first", QoS::AtLeastOnce).await;
    let mut others = Client::v5(&gateway, "others").await;
    for filter in ["$share/h/t", "$share/g/+", "u"] {
        others.subscribe(filter, QoS::AtMostOnce).await;
    }
    let mut publisher = Client::v5(&gateway, "publisher").await;
    publisher.publish_acked("t", "x").await;
    for _ in 0..2 {
        others.expect_publish().await;
    }
    end(&gateway, first, Ending::Loss).await;
    others.expect_nothing().await;
    let mut second = member(&gateway, 0, "second", QoS::AtLeastOnce).await;
    second.expect_nothing().await;
    assert_eq!(metric(&gateway, "towline_mqtt_messages_handed_over_total"), 0.0);
}
