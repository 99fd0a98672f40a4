//! A NAT between the client and the gateway that changes its mind.

use crate::{
    bed::{Bed, client, echo},
    nat::Nat,
};

#[tokio::test]
async fn a_nat_that_forgets_its_binding_costs_no_call_and_no_connection() {
    let bed = Bed::on_loopback(|_| {}).await;
    let nat = Nat::start(bed.address()).await;
    let client = client(nat.address(), bed.ca.clone());
    assert_eq!(echo(&client, "before", 0).await, "before");
    let caller = client.clone();
    let running = tokio::spawn(async move { echo(&caller, "during", 1500).await });
    while bed.gateway().metrics.requests.with_label_values(&["all", "ok"]).get() > 1 {
        tokio::task::yield_now().await;
    }
    nat.rebind().await;
    // What the client sends next shows the gateway where it is now.
    assert_eq!(echo(&client, "after", 0).await, "after");
    assert_eq!(running.await.unwrap(), "during");
    let metrics = &bed.gateway().metrics;
    assert_eq!(metrics.quic_migrations.with_label_values(&["edge"]).get(), 1);
    assert_eq!(metrics.handshakes.with_label_values(&["edge", "ok"]).get(), 1, "it is the same connection");
}

#[tokio::test]
async fn a_client_that_is_told_of_a_change_moves_to_a_new_socket_within_a_call() {
    let bed = Bed::on_loopback(|_| {}).await;
    let client = client(bed.address(), bed.ca.clone());
    assert_eq!(echo(&client, "before", 0).await, "before");
    let caller = client.clone();
    let running = tokio::spawn(async move { echo(&caller, "during", 1000).await });
    tokio::task::yield_now().await;
    client.network_changed(towline_client::Network::default());
    assert_eq!(running.await.unwrap(), "during");
    assert_eq!(echo(&client, "after", 0).await, "after");
    let metrics = &bed.gateway().metrics;
    assert_eq!(metrics.quic_migrations.with_label_values(&["edge"]).get(), 1);
    assert_eq!(metrics.handshakes.with_label_values(&["edge", "ok"]).get(), 1);
}
