//! What a member of a shared subscription leaves when its session ends, and a crash meanwhile.

use towline_gateway::store::Table;
use towline_protocols::mqtt::*;

use crate::{
    bed::{Bed, SECOND, ack},
    mqtt_support::*,
};

const SHARE: &str = "$share/g/+";

/// `first` has three messages that it was never sent, and `second` is in its group; both are away.
async fn two_members() -> Bed {
    let bed = Bed::new();
    bed.absent_subscriber("first", SHARE, QoS::ExactlyOnce).await;
    // The first two share their records with a session that goes on.
    let (mut beside, _) = Client::connect(&bed.gateway, connect_for(600, "beside")).await;
    beside.subscribe("t", QoS::AtLeastOnce).await;
    beside.leave().await;
    bed.publish("t", "1").await;
    publish_twice(&bed, "t", "2").await;
    publish_twice(&bed, "u", "3").await;
    let (mut second, _) = Client::connect(&bed.gateway, connect_for(600, "second")).await;
    second.subscribe(SHARE, QoS::ExactlyOnce).await;
    second.leave().await;
    bed
}

async fn publish_twice(bed: &Bed, topic: &str, payload: &str) {
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    let id = publisher.publish(topic, payload, QoS::ExactlyOnce).await.unwrap();
    publisher.receive().await;
    publisher.send(Packet::Pubrel(ack(id))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubcomp(ack(id))));
}

/// `second` gets the three, each once, and the store forgets them when it has them.
async fn check_second_has_all(bed: &mut Bed) {
    let (mut second, connack) = Client::connect(&bed.gateway, connect_for(600, "second")).await;
    assert!(connack.session_present);
    let mut twice = Vec::new();
    for expected in ["1", "2", "3"] {
        let publish = second.expect_publish().await;
        assert_eq!(publish.payload, expected);
        twice.extend(publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce));
    }
    for id in twice {
        second.send(Packet::Pubrec(ack(id))).await;
        assert_eq!(second.receive().await, Some(Packet::Pubrel(ack(id))));
        second.send(Packet::Pubcomp(ack(id))).await;
    }
    second.expect_nothing().await;
    let (mut beside, _) = Client::connect(&bed.gateway, connect_for(0, "beside")).await;
    for _ in 0..2 {
        beside.expect_publish().await;
    }
    beside.leave().await;
    bed.settle_and_restart().await;
    for table in [Table::MqttMessages, Table::MqttProgress] {
        assert!(bed.gateway.store.scan(table).unwrap().is_empty(), "{table:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_member_leaves_is_another_ones_over_restarts() {
    let mut bed = two_members().await;
    // Which shared subscription asked for it is in the store.
    bed.settle_and_restart().await;
    pass(SECOND * 61).await;
    assert_eq!(metric(&bed.gateway, "towline_mqtt_messages_handed_over_total"), 3.0);
    bed.settle_and_restart().await;
    assert_eq!(bed.gateway.hub.is_connected("first"), None);
    check_second_has_all(&mut bed).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_hand_over_is_written_has_it_done_once_more_and_nothing_doubled() {
    let mut bed = two_members().await;
    bed.hold().await;
    pass(SECOND * 61).await;
    assert_eq!(metric(&bed.gateway, "towline_mqtt_messages_handed_over_total"), 3.0);
    assert_eq!(bed.gateway.hub.is_connected("first"), None);
    bed.restart();
    pass(SECOND).await;
    assert_eq!(metric(&bed.gateway, "towline_mqtt_messages_handed_over_total"), 3.0);
    check_second_has_all(&mut bed).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_session_is_kept_is_sent_what_another_one_left_when_the_store_has_it() {
    let mut bed = two_members().await;
    bed.hold().await;
    let (mut second, _) = Client::connect(&bed.gateway, connect_for(600, "second")).await;
    pass(SECOND * 61).await;
    second.expect_nothing().await;
    bed.write();
    assert_eq!(second.expect_publish().await.payload, "1");
}

#[tokio::test(start_paused = true)]
async fn a_member_who_keeps_nothing_has_what_another_one_left_and_the_store_forgets_it() {
    let mut bed = two_members().await;
    let mut third = Client::v5(&bed.gateway, "third").await;
    third.subscribe(SHARE, QoS::AtLeastOnce).await;
    pass(SECOND * 61).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(third.expect_publish().await.payload, expected);
    }
    bed.settle_and_restart().await;
    assert_eq!(
        bed.gateway.store.scan(Table::MqttMessages).unwrap().len(),
        2,
        "those that another session has"
    );
    let (mut second, _) = Client::connect(&bed.gateway, connect_for(600, "second")).await;
    second.expect_nothing().await;
}
