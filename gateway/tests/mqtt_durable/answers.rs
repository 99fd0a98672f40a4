//! Nothing is said that the store has not made true.

use std::sync::Arc;

use futures_util::FutureExt as _;
use towline_gateway::hub::Message;
use towline_protocols::mqtt::*;

use crate::{
    bed::{Bed, ack, payloads, settle},
    mqtt_support::*,
};

/// Receipt.State of push.proto.
const HANDED: u8 = 6;
const DROPPED: u8 = 5;

/// A bed whose disk is held, with a session of `id` that subscribed to `t`.
async fn held(id: &str) -> Bed {
    let mut bed = Bed::new();
    bed.absent_subscriber(id, "t", QoS::ExactlyOnce).await;
    bed.hold().await;
    bed
}

/// The gateway says nothing more until the disk has written; returns what it says then.
async fn after_the_write(bed: &Bed, client: &mut Client) -> Packet {
    client.expect_nothing().await;
    bed.write();
    client.receive().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn puback_waits_for_the_disk() {
    let bed = held("app").await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    let id = publisher.publish("t", "x", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(after_the_write(&bed, &mut publisher).await, Packet::Puback(ack(id)));
}

#[tokio::test(start_paused = true)]
async fn puback_of_a_retained_message_waits_for_the_disk() {
    let bed = held("app").await;
    let mut publisher = Client::v311(&bed.gateway, "publisher").await;
    let retained = Publish { retain: true, ..publish("other", "x", QoS::AtLeastOnce) };
    publisher.send(Packet::Publish(Box::new(retained))).await;
    assert!(matches!(after_the_write(&bed, &mut publisher).await, Packet::Puback(_)));
}

#[tokio::test(start_paused = true)]
async fn puback_for_those_who_keep_nothing_does_not_wait() {
    let bed = held("app").await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    let mut subscriber = Client::v311(&bed.gateway, "subscriber").await;
    subscriber.subscribe("live", QoS::AtLeastOnce).await;
    assert_eq!(publisher.publish_acked("live", "x").await, ReasonCode::Success);
    assert_eq!(payloads(&mut subscriber, 1).await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn pubrec_and_pubcomp_wait_for_the_disk() {
    let bed = held("app").await;
    let (mut meter, _) = bed.client("meter").await;
    let id = meter.publish("t", "x", QoS::ExactlyOnce).await.unwrap();
    assert_eq!(after_the_write(&bed, &mut meter).await, Packet::Pubrec(ack(id)));
    meter.send(Packet::Pubrel(ack(id))).await;
    assert_eq!(after_the_write(&bed, &mut meter).await, Packet::Pubcomp(ack(id)));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_publish_is_answered_when_its_first_coming_is() {
    let bed = held("app").await;
    let (mut meter, _) = bed.client("meter").await;
    let id = meter.publish("t", "x", QoS::ExactlyOnce).await.unwrap();
    meter.expect_nothing().await;
    let mut meter = bed.back("meter").await;
    let again = Publish { packet_id: Some(id), dup: true, ..publish("t", "x", QoS::ExactlyOnce) };
    meter.send(Packet::Publish(Box::new(again))).await;
    assert_eq!(after_the_write(&bed, &mut meter).await, Packet::Pubrec(ack(id)));
    let mut app = bed.back("app").await;
    assert_eq!(payloads(&mut app, 1).await, ["x"]);
    app.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_sent_when_the_store_has_it_and_pubrel_when_it_knows_that_the_client_has() {
    let bed = held("app").await;
    let mut app = bed.back("app").await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    publisher.publish("t", "x", QoS::ExactlyOnce).await;
    publisher.expect_nothing().await;
    let Packet::Publish(sent) = after_the_write(&bed, &mut app).await else { panic!("no PUBLISH") };
    let id = sent.packet_id.unwrap();
    assert_eq!(id.get(), 1, "the session's first");
    app.send(Packet::Pubrec(ack(id))).await;
    assert_eq!(after_the_write(&bed, &mut app).await, Packet::Pubrel(ack(id)));
}

#[tokio::test(start_paused = true)]
async fn those_who_keep_nothing_do_not_wait_for_those_who_do() {
    let bed = held("app").await;
    let mut live = Client::v311(&bed.gateway, "live").await;
    live.subscribe("t", QoS::AtLeastOnce).await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    publisher.publish("t", "x", QoS::AtLeastOnce).await;
    assert_eq!(payloads(&mut live, 1).await, ["x"]);
    publisher.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn suback_waits_for_the_disk_and_what_is_retained_comes_behind_it() {
    let bed = held("app").await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    let retained = Publish { retain: true, ..publish("s", "x", QoS::AtMostOnce) };
    publisher.send(Packet::Publish(Box::new(retained))).await;
    publisher.expect_nothing().await;
    let (mut meter, _) = bed.client("meter").await;
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
    let subscribe = Subscribe {
        packet_id: meter.id(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription { filter: text("s"), options }],
    };
    meter.send(Packet::Subscribe(subscribe)).await;
    assert!(matches!(after_the_write(&bed, &mut meter).await, Packet::Suback(_)));
    assert_eq!(payloads(&mut meter, 1).await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn connack_of_a_clean_start_waits_until_the_old_session_is_off_the_disk() {
    let bed = held("meter").await;
    let mut clean = connect_for(60, "meter");
    clean.clean_start = true;
    let mut meter = Client::open(&bed.gateway);
    let greeting = tokio::spawn(async move { meter.greet(clean).await });
    settle().await;
    assert!(!greeting.is_finished());
    bed.write();
    assert!(!greeting.await.unwrap().session_present);
}

#[tokio::test(start_paused = true)]
async fn a_backend_hears_that_a_session_has_its_push_when_the_store_does() {
    let bed = held("app").await;
    let receipts = bed.gateway.sessions.receipts();
    let push = |push_id| {
        let receipt = receipts.ticket("shop", push_id, false).ok().map(Arc::new);
        let message = Message { topic: "news".into(), qos: 1, receipt, ..Message::default() };
        bed.gateway.hub.push_to_client("app", &Arc::new(message));
    };
    push("kept");
    let queue = receipts.queue("shop").unwrap();
    settle().await;
    assert!(queue.next_after(0).now_or_never().is_none());
    bed.write();
    let receipt = queue.next_after(0).now_or_never().unwrap();
    assert_eq!((&*receipt.client_id, receipt.state), ("app", HANDED));

    bed.fault.strike();
    push("lost");
    bed.write();
    let receipt = queue.next_after(receipt.number).now_or_never().unwrap();
    assert_eq!((&*receipt.push_id, receipt.state, &*receipt.reason), ("lost", DROPPED, "store_queue_bytes"));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_publishes_cost_one_commit() {
    let bed = held("app").await;
    let mut publishers = Vec::new();
    for at in 0..10 {
        let mut publisher = Client::v5(&bed.gateway, &format!("publisher-{at}")).await;
        for _ in 0..10 {
            publisher.publish("t", "x", QoS::AtLeastOnce).await;
        }
        publisher.expect_nothing().await;
        publishers.push(publisher);
    }
    let before = bed.gateway.store.counts().commits.get();
    bed.write();
    for publisher in &mut publishers {
        for _ in 0..10 {
            assert!(matches!(publisher.receive().await, Some(Packet::Puback(_))));
        }
    }
    assert_eq!(bed.gateway.store.counts().commits.get() - before, 1);
}
