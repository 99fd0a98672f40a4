//! What could not be delivered comes by itself when the client is back: once, in order, whoever was started
//! again in between.

use std::{path::Path, time::Duration};

use towline_client::{Client, ClientConfig, Pushes};
use towline_gateway::{gateway::Gateway, run, settings::Settings};

use crate::{
    bed::{Bed, answer, call, online},
    chaos::{Chaos, Weather},
};

async fn next(pushes: &mut Pushes) -> String {
    String::from_utf8(pushes.next().await.unwrap().payload.to_vec()).unwrap()
}

fn app(bed: &Bed, network: &Chaos, identity: &Path) -> Client {
    let mut config: ClientConfig = bed.plain(network.address());
    config.client_id = Some("phone".into());
    config.identity_file = Some(identity.to_owned());
    Client::start(config).unwrap()
}

fn without_delay(settings: &mut Settings) {
    (settings.drain_timeout, settings.drain_spread) = (Duration::ZERO, Duration::ZERO);
}

/// Ends the gateway and starts the next one at the same addresses, on what is in the store.
async fn restart(bed: &mut Bed) {
    let mut settings = bed.gateway().snapshot().settings.clone();
    for listener in &mut settings.listeners {
        listener.bind = bed.serving.address(&listener.name).unwrap();
        listener.quic = false;
    }
    let store = bed.gateway().store.clone();
    bed.serving.drain().await;
    bed.serving = run::serve(Gateway::with_store(settings, store).unwrap()).await.unwrap();
}

async fn away(bed: &Bed) {
    while bed.gateway().hub.is_connected("phone") != Some(false) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_and_pushes_that_were_missed_come_unasked() {
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let client = app(&bed, &network, &bed.folder.path().join("phone"));
    online(&client).await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "pay")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    network.set(Weather::Tunnel);
    network.cut();
    away(&bed).await;
    bed.backend.release();
    bed.backend.wait("Hold", |counts| counts.finished == 1).await;
    ["1", "2", "3"].into_iter().for_each(|payload| bed.push("phone", payload));
    network.set(Weather::Clear);
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "pay");
    assert_eq!(bed.backend.counts("Hold").started, 1, "run once");
    let mut pushes = client.pushes();
    for expected in ["1", "2", "3"] {
        assert_eq!(next(&mut pushes).await, expected);
    }
}

#[tokio::test]
async fn a_push_that_was_taken_does_not_come_again_whoever_is_started_again() {
    let mut bed = Bed::with(without_delay).await;
    let network = Chaos::start(bed.address("plain")).await;
    let identity = bed.folder.path().join("phone");
    let client = app(&bed, &network, &identity);
    online(&client).await;
    ["1", "2", "3", "4", "5"].into_iter().for_each(|payload| bed.push("phone", payload));
    // Sent behind them, so they are there when it is answered.
    answer(&client, "Echo", "x").await;
    let mut pushes = client.pushes();
    network.set(Weather::Tunnel);
    for expected in ["1", "2", "3"] {
        assert_eq!(next(&mut pushes).await, expected);
    }
    // The app ends while it handles 3, and the acknowledgements of 1 and 2 are lost with the network.
    drop(pushes);
    client.close().await;
    network.cut();
    away(&bed).await;
    restart(&mut bed).await;
    network.set(Weather::Clear);
    bed.push("phone", "6");

    let client = app(&bed, &network, &identity);
    let mut pushes = client.pushes();
    for expected in ["3", "4"] {
        assert_eq!(next(&mut pushes).await, expected);
    }
    restart(&mut bed).await;
    for expected in ["5", "6"] {
        assert_eq!(next(&mut pushes).await, expected);
    }
    bed.push("phone", "7");
    assert_eq!(next(&mut pushes).await, "7");
}
