//! How long POSTs wait.

use super::*;

/// A message that does not get smaller.
fn noise(bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn ask(message: &Bytes, deadline: Duration) -> CallRequest {
    CallRequest::http(http::Method::POST, "/pay", message.clone()).deadline(deadline)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_keeps_coming_is_not_cut() {
    let network = Network::default();
    let client = network.client(|_| {});
    answered(&client, "one").await;
    network.with(|world| world.trickles = Some(Duration::from_secs(3)));
    let (start, message) = (Instant::now(), noise(60_000));
    let response = client.call(ask(&message, Duration::from_secs(120))).await.unwrap();
    assert_eq!((response.messages.concat(), response.timeline.attempts), (message.to_vec(), 1));
    assert!(start.elapsed() > Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stops_coming_is_asked_for_again() {
    let network = Network::default();
    let client = network.client(|_| {});
    answered(&client, "one").await;
    network.with(|world| (world.trickles, world.stalls) = (Some(Duration::from_millis(100)), 2));
    let (start, message) = (Instant::now(), noise(60_000));
    let response = client.call(ask(&message, Duration::from_secs(60))).await.unwrap();
    assert_eq!((response.messages.concat(), response.timeline.attempts), (message.to_vec(), 2));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "not only behind the whole wait: {:?}",
        start.elapsed()
    );
    assert_eq!(network.with(|world| world.runs[&2]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_on_an_unknown_network_tries_more_than_one_post() {
    let network = Network::default();
    let client = network.client(|config| config.short_calls = ShortCalls::Always);
    network.with(|world| world.is_mute = true);
    let error = client.call(ask(&noise(100), Duration::from_secs(16))).await.unwrap_err();
    assert_eq!(error.kind, RpcErrorKind::DeadlineExceeded);
    assert!(network.with(|world| world.muted) >= 3, "{}", network.with(|world| world.muted));
}
