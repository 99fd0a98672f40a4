//! An answer that stands still on a link that lives.

use std::time::Duration;

use http::Method;
use towline_client::{CallRequest, Client, Policy};

use crate::{bed::Bed, chaos::Chaos, waits::until};

#[tokio::test]
async fn the_rest_of_an_answer_is_asked_for_by_post_while_the_link_goes_on() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let mut config = bed.plain(network.address());
    // What is waited for where nothing is known of a network.
    config.policy = Policy { connect_timeout: Duration::from_secs(1), ..config.policy };
    let client = Client::start(config).unwrap();
    let caller = client.clone();
    let request = CallRequest::http(Method::POST, "/test/Stall", "pay");
    let running = tokio::spawn(async move { caller.call(request).await });
    until("a POST", || network.accepted() == 2).await;
    bed.backend.release();
    let response = running.await.unwrap().unwrap();
    assert_eq!((response.status, response.body()), (200, "halfhalf".into()));
    assert_eq!(bed.backend.counts("Stall").started, 1);
}
