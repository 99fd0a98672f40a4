//! Wills over the gateway's end.

use std::time::Duration;

use tokio::time::Instant;
use towline_protocols::mqtt::*;

use crate::{
    bed::{Bed, SECOND, payloads, settle},
    mqtt_support::*,
};

/// A bed with an absent subscriber of `will` that keeps messages.
async fn watched() -> Bed {
    let bed = Bed::new();
    bed.absent_subscriber("watcher", "will", QoS::AtLeastOnce).await;
    bed
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_there_in_the_crash_is_lost() {
    let mut bed = watched().await;
    let (lasting, _) = Client::connect(&bed.gateway, with_will(connect_for(60, "a"), "will", None)).await;
    let fleeting = with_will(connect(Version::V311, "b"), "will", None);
    let (fleeting, _) = Client::connect(&bed.gateway, fleeting).await;
    bed.settle_and_restart().await;
    drop((lasting, fleeting));
    let mut watcher = bed.back("watcher").await;
    assert_eq!(payloads(&mut watcher, 2).await, ["gone", "gone"]);
    watcher.leave().await;
    assert_eq!(bed.gateway.mqtt.sessions(), 2, "the clean one is over");
    bed.settle_and_restart().await;
    settle().await;
    bed.back("watcher").await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_took_leave_has_no_will_after_a_restart() {
    let mut bed = watched().await;
    let (client, _) = Client::connect(&bed.gateway, with_will(connect_for(60, "a"), "will", None)).await;
    client.leave().await;
    bed.settle_and_restart().await;
    settle().await;
    bed.back("watcher").await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_goes_on_over_a_restart() {
    let mut bed = watched().await;
    let delayed = with_will(connect_for(60, "a"), "will", Some(20));
    let (client, _) = Client::connect(&bed.gateway, delayed).await;
    let lost_at = Instant::now();
    drop(client);
    pass(SECOND * 10).await;
    bed.restart();
    let mut watcher = bed.back("watcher").await;
    assert_eq!(payloads(&mut watcher, 1).await, ["gone"]);
    let after = lost_at.elapsed();
    assert!(after >= SECOND * 20 && after < SECOND * 21, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_back_within_the_delay_has_lost_nothing() {
    let mut bed = watched().await;
    let delayed = with_will(connect_for(60, "a"), "will", Some(20));
    let (_client, _) = Client::connect(&bed.gateway, delayed).await;
    bed.settle_and_restart().await;
    pass(SECOND * 10).await;
    bed.back("a").await.leave().await;
    pass(SECOND * 20).await;
    bed.back("watcher").await.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_shut_down_defers_wills_until_it_is_back() {
    let mut bed = watched().await;
    let (mut client, _) = Client::connect(&bed.gateway, with_will(connect_for(60, "a"), "will", None)).await;
    bed.gateway.drain.begin(Instant::now() + Duration::from_secs(5));
    client.expect_end(ReasonCode::ServerShuttingDown).await;
    settle().await;
    assert_eq!(metric(&bed.gateway, "towline_deliveries_total{outcome=\"stored\"}"), 0.0);
    bed.settle_and_restart().await;
    let mut watcher = bed.back("watcher").await;
    assert_eq!(payloads(&mut watcher, 1).await, ["gone"]);
}
