//! Messages to clients, users and topics, whether the client is there or not.

use std::{sync::Arc, time::Instant};

use towline_client::{Client, Credentials, Pushes, RpcErrorKind, Transports};
use towline_gateway::hub::Message;

use crate::{
    bed::{BOTH, Bed, USER, answer, message, online},
    chaos::Chaos,
};

async fn next(pushes: &mut Pushes) -> String {
    let push = pushes.next().await.unwrap();
    String::from_utf8(push.payload.to_vec()).unwrap()
}

#[tokio::test]
async fn pushes_arrive_once_and_in_order_also_what_came_while_away() {
    let bed = Bed::start().await;
    for (name, transports) in ["a", "b"].into_iter().zip(BOTH) {
        let start = || {
            let mut config = bed.config(transports);
            config.client_id = Some(name.into());
            config.identity_file = Some(bed.folder.path().join(name));
            Client::start(config).unwrap()
        };
        let client = start();
        online(&client).await;
        ["1", "2", "3"].into_iter().for_each(|payload| bed.push(name, payload));
        let mut pushes = client.pushes();
        for expected in ["1", "2", "3"] {
            assert_eq!(next(&mut pushes).await, expected);
        }
        pushes.done();
        client.close().await;
        ["4", "5"].into_iter().for_each(|payload| bed.push(name, payload));
        let client = start();
        online(&client).await;
        bed.push(name, "6");
        let mut pushes = client.pushes();
        for expected in ["4", "5", "6"] {
            assert_eq!(next(&mut pushes).await, expected, "{transports:?}");
        }
    }
}

#[tokio::test]
async fn pushes_cross_a_network_that_keeps_breaking() {
    const COUNT: usize = 100;
    let bed = Bed::start().await;
    let network = Chaos::start(bed.address("plain")).await;
    let mut config = bed.plain(network.address());
    config.client_id = Some("phone".into());
    let client = Client::start(config).unwrap();
    online(&client).await;
    let mut pushes = client.pushes();
    for number in 0..COUNT {
        bed.push("phone", &number.to_string());
        if number % 20 == 10 {
            network.cut();
        }
        assert_eq!(next(&mut pushes).await, number.to_string());
    }
}

#[tokio::test]
async fn a_topic_reaches_its_subscribers() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let mut config = bed.config(transports);
        config.topics = vec!["news/+".into()];
        let reader = Client::start(config).unwrap();
        online(&reader).await;
        let mut pushes = reader.pushes();
        let writer = bed.client(transports);
        writer.publish("news/today", "rain").await.unwrap();
        assert_eq!(next(&mut pushes).await, "rain");
        reader.subscribe("sport/#").await.unwrap();
        reader.unsubscribe("news/+").await.unwrap();
        writer.publish("news/today", "sun").await.unwrap();
        writer.publish("sport/a/b", "goal").await.unwrap();
        assert_eq!(next(&mut pushes).await, "goal");
        let error = reader.subscribe("a/#/b").await.unwrap_err();
        assert_eq!(error.kind, RpcErrorKind::Malformed, "{error}");
        let error = writer.publish("news/+", "x").await.unwrap_err();
        assert_eq!(error.kind, RpcErrorKind::Malformed, "a topic name has no wildcards: {error}");
        // Of what nobody waits for, too.
        assert_eq!(writer.publish_and_forget("news/#", "x").unwrap_err().kind, RpcErrorKind::Malformed);
    }
}

#[tokio::test]
async fn a_new_subscription_gets_what_is_retained_once() {
    let bed = Bed::start().await;
    for (name, transports) in ["a", "b"].into_iter().zip(BOTH) {
        let retain = |topic: &str, payload: &str| {
            let kept = Message { retain: true, ..Message::clone(&message(topic, payload)) };
            bed.gateway().mqtt.retained.retain(&Arc::new(kept), Instant::now()).unwrap();
        };
        retain("news/today", "rain");
        retain("sport/a", "goal");
        let start = || {
            let mut config = bed.config(transports);
            config.client_id = Some(name.into());
            config.identity_file = Some(bed.folder.path().join(name));
            config.topics = vec!["news/+".into()];
            Client::start(config).unwrap()
        };
        let client = start();
        let mut pushes = client.pushes();
        assert_eq!(next(&mut pushes).await, "rain", "a filter in HELLO");
        client.subscribe("sport/#").await.unwrap();
        assert_eq!(next(&mut pushes).await, "goal", "a filter in SUBSCRIBE");
        client.subscribe("sport/#").await.unwrap();
        bed.push(name, "marker");
        assert_eq!(next(&mut pushes).await, "marker", "a filter that was held");
        pushes.done();
        client.close().await;
        let client = start();
        online(&client).await;
        bed.push(name, "marker");
        assert_eq!(next(&mut client.pushes()).await, "marker", "the filter of a session that went on");
    }
}

#[tokio::test]
async fn a_user_is_reached_on_every_device() {
    let bed = Bed::start().await;
    let device = || {
        let mut config = bed.plain(bed.address("door"));
        config.credentials = Some(Credentials { user: USER.0.into(), password: USER.1.into() });
        Client::start(config).unwrap()
    };
    let devices = [device(), device()];
    for client in &devices {
        online(client).await;
    }
    bed.gateway().hub.push_to_user(USER.0, &message("inbox", "hello ada"));
    for client in &devices {
        assert_eq!(next(&mut client.pushes()).await, "hello ada");
    }
}

#[tokio::test]
async fn pushes_that_find_no_place_are_sent_again() {
    let bed = Bed::start().await;
    let mut config = bed.config(Transports::Tcp);
    config.client_id = Some("slow".into());
    config.limits.pushes_max = 3;
    let client = Client::start(config).unwrap();
    online(&client).await;
    (0..20).for_each(|number| bed.push("slow", &number.to_string()));
    answer(&client, "Echo", "requests go on").await;
    let mut pushes = client.pushes();
    for number in 0..20 {
        assert_eq!(next(&mut pushes).await, number.to_string());
    }
}
