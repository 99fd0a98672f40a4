//! The disk fails: nobody is told that something is safe.

use towline_protocols::mqtt::*;

use crate::{
    bed::{Bed, payloads},
    mqtt_support::*,
};

/// A bed with a connected subscriber of `t` whose session is kept, and a disk that fails from now on.
async fn failing() -> (Bed, Client) {
    let bed = Bed::new();
    let (mut app, _) = bed.client("app").await;
    app.subscribe("t", QoS::ExactlyOnce).await;
    bed.publish("t", "before").await;
    assert_eq!(payloads(&mut app, 1).await, ["before"]);
    app.expect_nothing().await;
    bed.gateway.store.barrier().await.unwrap();
    bed.fault.strike();
    (bed, app)
}

#[tokio::test(start_paused = true)]
async fn a_publisher_of_mqtt_5_is_told_by_the_reason_code() {
    let (bed, mut app) = failing().await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::UnspecifiedError);
    let id = publisher.publish("t", "x", QoS::ExactlyOnce).await.unwrap();
    let refused = Packet::Pubrec(Ack::new(id, ReasonCode::UnspecifiedError));
    assert_eq!(publisher.receive().await, Some(refused));
    assert_eq!(publisher.publish_acked("nobody", "x").await, ReasonCode::NoMatchingSubscribers);
    app.expect_nothing().await;
    assert_eq!(metric(&bed.gateway, "towline_mqtt_messages_dropped_total"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_of_mqtt_3_is_disconnected() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (bed, mut app) = failing().await;
        let mut publisher = Client::v311(&bed.gateway, "publisher").await;
        publisher.publish("t", "x", qos).await;
        publisher.expect_end(ReasonCode::UnspecifiedError).await;
        app.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_works_again_does_not_make_up_for_what_it_missed() {
    let (bed, _app) = failing().await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::UnspecifiedError);
    bed.fault.clear();
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::UnspecifiedError, "until a restart");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_session_is_as_it_was_before_the_fault() {
    let (mut bed, _app) = failing().await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::UnspecifiedError);
    bed.fault.clear();
    bed.reopen();
    let mut app = bed.back("app").await;
    app.expect_nothing().await;
    bed.publish("t", "after").await;
    assert_eq!(payloads(&mut app, 1).await, ["after"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_kept_ends_the_connection() {
    let (bed, mut app) = failing().await;
    let subscribe = Subscribe {
        packet_id: app.id(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription { filter: text("u"), options: SubscriptionOptions::default() }],
    };
    app.send(Packet::Subscribe(subscribe)).await;
    app.expect_end(ReasonCode::ImplementationSpecificError).await;
    // Who asks the store for nothing is served.
    let mut live = Client::v5(&bed.gateway, "live").await;
    live.subscribe("live", QoS::AtLeastOnce).await;
    let mut publisher = Client::v5(&bed.gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("live", "x").await, ReasonCode::Success);
    assert_eq!(payloads(&mut live, 1).await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_for_the_disk_leaves_no_will() {
    let (bed, _app) = failing().await;
    let mut watcher = Client::v5(&bed.gateway, "watcher").await;
    watcher.subscribe("will", QoS::AtLeastOnce).await;
    // The session that it had kept is to be forgotten first.
    let refused = with_will(connect(Version::V5, "app"), "will", None);
    let mut client = Client::open(&bed.gateway);
    assert_eq!(client.greet(refused).await.reason, ReasonCode::ServerUnavailable);
    assert_eq!(client.receive().await, None);
    watcher.expect_nothing().await;
}
