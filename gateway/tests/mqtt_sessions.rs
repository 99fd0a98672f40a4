//! MQTT clients and their sessions: delivery, absence, take-over, wills, the end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod mqtt_support;

use std::time::Duration;

use mqtt_support::*;
use towline_gateway::settings::Authentication;
use towline_protocols::mqtt::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_publish_reaches_subscribers_of_every_version() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let (mut client, connack) = Client::connect(&gateway, connect(version, "subscriber")).await;
            assert!(!connack.session_present);
            assert_eq!(client.subscribe("a/+", qos).await, qos.granted());
            publisher.publish_acked("a/b", "hello").await;
            let publish = client.expect_publish().await;
            assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("a/b", &b"hello"[..]));
            assert_eq!(publish.qos, qos.min(QoS::AtLeastOnce));
            client.leave().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn qos_2_goes_through_both_handshakes() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut subscriber = Client::v311(&gateway, "subscriber").await;
    subscriber.subscribe("t", QoS::ExactlyOnce).await;
    let id = publisher.publish("t", "once", QoS::ExactlyOnce).await.unwrap();
    assert_eq!(publisher.receive().await, Some(Packet::Pubrec(Ack::new(id, ReasonCode::Success))));
    publisher.send(Packet::Pubrel(Ack::new(id, ReasonCode::Success))).await;
    assert_eq!(publisher.receive().await, Some(Packet::Pubcomp(Ack::new(id, ReasonCode::Success))));
    let publish = subscriber.expect_publish().await;
    let id = publish.packet_id.unwrap();
    subscriber.send(Packet::Pubrec(Ack::new(id, ReasonCode::Success))).await;
    assert_eq!(subscriber.receive().await, Some(Packet::Pubrel(Ack::new(id, ReasonCode::Success))));
    subscriber.send(Packet::Pubcomp(Ack::new(id, ReasonCode::Success))).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn properties_arrive_as_they_were_sent() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut subscriber = Client::v5(&gateway, "subscriber").await;
    subscriber.subscribe_with("#", SubscriptionOptions::default(), Some(7)).await;
    for payload_utf8 in [Some(true), Some(false), None] {
        let mut sent = publish("t", "{}", QoS::AtMostOnce);
        sent.properties = PublishProperties {
            payload_utf8,
            expiry: Some(60),
            response_topic: Some(text("answers")),
            correlation_data: Some(Binary::new("id").unwrap()),
            user_properties: vec![(text("a"), text("1")), (text("a"), text("2"))],
            content_type: Some(text("application/json")),
            ..Default::default()
        };
        publisher.send(Packet::Publish(Box::new(sent.clone()))).await;
        sent.properties.subscription_ids = vec![SubscriptionId::new(7).unwrap()];
        assert_eq!(subscriber.expect_publish().await, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_learns_that_nobody_listens() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::NoMatchingSubscribers);
    publisher.subscribe_with("t", SubscriptionOptions { no_local: true, ..Default::default() }, None).await;
    assert_eq!(publisher.publish_acked("t", "x").await, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_waits_for_subscribers() {
    let gateway = gateway(settings());
    let mut publisher = Client::v311(&gateway, "publisher").await;
    let retained = |payload| Publish { retain: true, ..publish("state/door", payload, QoS::AtMostOnce) };
    publisher.send(Packet::Publish(Box::new(retained("open")))).await;
    publisher.expect_nothing().await;

    let mut subscriber = Client::v5(&gateway, "subscriber").await;
    let if_new = SubscriptionOptions { retain_handling: RetainHandling::SendIfNew, ..Default::default() };
    subscriber.subscribe_with("state/#", if_new, None).await;
    assert!(subscriber.expect_publish().await.retain);
    subscriber.subscribe_with("state/#", if_new, None).await;
    subscriber.expect_nothing().await;

    publisher.send(Packet::Publish(Box::new(retained("closed")))).await;
    assert!(!subscriber.expect_publish().await.retain, "it is not sent because of a new subscription");
    publisher.send(Packet::Publish(Box::new(retained("")))).await;
    assert!(subscriber.expect_publish().await.payload.is_empty());
    subscriber.subscribe("state/+", QoS::AtMostOnce).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn messages_wait_while_the_client_is_away() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("cmd/#", QoS::AtLeastOnce).await;
    device.leave().await;
    publisher.publish_acked("cmd/1", "kept").await;
    publisher.publish("cmd/2", "not kept", QoS::AtMostOnce).await;
    publisher.expect_nothing().await;

    let (mut device, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(connack.session_present);
    assert_eq!(&device.expect_publish().await.payload[..], b"kept");
    device.expect_nothing().await;
    device.leave().await;

    let (_, connack) = Client::connect(&gateway, connect(Version::V5, "device")).await;
    assert!(!connack.session_present, "a clean start");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_to_the_next_connection() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("cmd", QoS::AtLeastOnce).await;
    publisher.publish_acked("cmd", "x").await;
    let Some(Packet::Publish(first)) = device.receive().await else { panic!("no PUBLISH") };
    drop(device);
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    let again = device.expect_publish().await;
    assert_eq!(again, Publish { dup: true, ..*first });
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_interval_is_over() {
    let gateway = gateway(settings());
    let (mut device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.subscribe("cmd", QoS::AtLeastOnce).await;
    device.leave().await;
    pass(SECOND * 59).await;
    assert_eq!((gateway.mqtt.sessions(), gateway.hub.clients()), (1, 1));
    pass(SECOND * 2).await;
    assert_eq!((gateway.mqtt.sessions(), gateway.hub.clients()), (0, 0));
    let (_, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(!connack.session_present);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_used_again_does_not_end() {
    let gateway = gateway(settings());
    let (device, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    device.leave().await;
    pass(SECOND * 50).await;
    let (mut device, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(connack.session_present);
    pass(SECOND * 500).await;
    device.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_connection_takes_the_session_over() {
    let gateway = gateway(settings());
    let (mut old, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    old.subscribe("cmd", QoS::AtLeastOnce).await;
    let (mut new, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(connack.session_present);
    old.expect_end(ReasonCode::SessionTakenOver).await;
    let mut publisher = Client::v311(&gateway, "publisher").await;
    publisher.publish_acked("cmd", "x").await;
    assert_eq!(&new.expect_publish().await.payload[..], b"x");
}

#[tokio::test(start_paused = true)]
async fn a_clean_session_is_not_reused_by_a_take_over() {
    let gateway = gateway(settings());
    let mut old = Client::v311(&gateway, "device").await;
    old.subscribe("cmd", QoS::AtLeastOnce).await;
    let mut unclean = connect(Version::V311, "device");
    unclean.clean_start = false;
    let (mut new, connack) = Client::connect(&gateway, unclean).await;
    assert!(!connack.session_present);
    old.expect_end(ReasonCode::SessionTakenOver).await;
    let mut publisher = Client::v5(&gateway, "publisher").await;
    assert_eq!(publisher.publish_acked("cmd", "x").await, ReasonCode::NoMatchingSubscribers);
    new.expect_nothing().await;
    assert_eq!(gateway.hub.clients(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_user_may_not_take_a_session_over() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let users = ["ada", "bob"].map(|user| towline_gateway::auth::password_line(user, b"pw").unwrap());
    std::fs::write(file.path(), users.join("\n")).unwrap();
    let mut settings = settings();
    settings.listeners = vec![listener(Authentication::Password)];
    settings.auth.password_file = Some(file.path().to_owned());
    let gateway = gateway(settings);
    let as_user = |version, user: &str, password: &'static str| {
        let mut connect = connect(version, "device");
        connect.user_name = Some(text(user));
        connect.password = Some(Secret(Binary::new(password).unwrap()));
        connect
    };
    let (mut ada, _) = Client::connect(&gateway, as_user(Version::V5, "ada", "pw")).await;
    for (connect, reason) in [
        (as_user(Version::V5, "bob", "pw"), ReasonCode::NotAuthorized),
        (as_user(Version::V311, "bob", "pw"), ReasonCode::NotAuthorized),
        (as_user(Version::V5, "ada", "wrong"), ReasonCode::BadUserNameOrPassword),
        (as_user(Version::V311, "ada", "wrong"), ReasonCode::NotAuthorized),
        (connect(Version::V5, "device"), ReasonCode::BadUserNameOrPassword),
    ] {
        let mut other = Client::open(&gateway);
        assert_eq!(other.greet(connect).await.reason, reason);
        assert_eq!(other.receive().await, None);
    }
    ada.expect_nothing().await;
    Client::connect(&gateway, as_user(Version::V311, "ada", "pw")).await;
    ada.expect_end(ReasonCode::SessionTakenOver).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_without_an_identifier_is_given_one() {
    let gateway = gateway(settings());
    let (_one, first) = Client::connect(&gateway, connect(Version::V5, "")).await;
    let (_two, second) = Client::connect(&gateway, connect(Version::V5, "")).await;
    assert!(first.properties.assigned_client_id.is_some());
    assert_ne!(first.properties.assigned_client_id, second.properties.assigned_client_id);
    let mut unclean = connect(Version::V311, "");
    unclean.clean_start = false;
    let mut refused = Client::open(&gateway);
    assert_eq!(refused.greet(unclean).await.reason, ReasonCode::ClientIdentifierNotValid);
}

#[tokio::test(start_paused = true)]
async fn a_will_is_published_when_its_client_is_lost_and_not_when_it_leaves() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let (leaving, _) =
        Client::connect(&gateway, with_will(connect(Version::V311, "a"), "wills/a", None)).await;
    leaving.leave().await;
    watcher.expect_nothing().await;
    let (lost, _) = Client::connect(&gateway, with_will(connect(Version::V311, "a"), "wills/a", None)).await;
    drop(lost);
    assert_eq!(&watcher.expect_publish().await.payload[..], b"gone");
    let (mut asked, _) =
        Client::connect(&gateway, with_will(connect(Version::V5, "b"), "wills/b", None)).await;
    asked.send(Packet::Disconnect(Disconnect::new(ReasonCode::DisconnectWithWill))).await;
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/b");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_is_dropped_when_its_client_returns_in_time() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let device = || with_will(connect_for(60, "device"), "wills/device", Some(10));
    drop(Client::connect(&gateway, device()).await);
    pass(SECOND * 9).await;
    let (client, connack) = Client::connect(&gateway, device()).await;
    assert!(connack.session_present);
    // Nor does a take-over that goes on with the session publish it.
    let (taker, _) = Client::connect(&gateway, device()).await;
    drop(client);
    pass(SECOND * 20).await;
    watcher.expect_nothing().await;
    drop(taker);
    pass(SECOND * 9).await;
    watcher.expect_nothing().await;
    pass(SECOND * 2).await;
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/device");
}

#[tokio::test(start_paused = true)]
async fn a_will_is_due_when_a_take_over_ends_its_session() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let delayed = |seconds| with_will(connect_for(seconds, "device"), "wills/device", Some(10));
    let clean = || connect(Version::V5, "device");
    // A clean start, with the old connection still there; and while the delay runs.
    let (_old, _) = Client::connect(&gateway, delayed(60)).await;
    let (_new, _) = Client::connect(&gateway, clean()).await;
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/device");
    drop(Client::connect(&gateway, delayed(60)).await);
    pass(SECOND * 5).await;
    watcher.expect_nothing().await;
    let (_new, _) = Client::connect(&gateway, clean()).await;
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/device");
    // A session that was to end with its connection does.
    let (_old, _) = Client::connect(&gateway, delayed(0)).await;
    let (_new, connack) = Client::connect(&gateway, connect_for(60, "device")).await;
    assert!(!connack.session_present);
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/device");
    pass(SECOND * 100).await;
    watcher.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_take_over_closes_the_old_connection_for_which_an_undelayed_will_is_published() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let (_old, _) = Client::connect(&gateway, with_will(connect_for(60, "device"), "wills/old", None)).await;
    let delayed = with_will(connect_for(60, "device"), "wills/delayed", Some(10));
    let (_new, connack) = Client::connect(&gateway, delayed).await;
    assert!(connack.session_present);
    assert_eq!(watcher.expect_publish().await.topic.as_str(), "wills/old");
    // The session goes on within the delay.
    let (_newer, _) = Client::connect(&gateway, connect_for(60, "device")).await;
    pass(SECOND * 100).await;
    watcher.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_is_due_when_the_session_ends() {
    let gateway = gateway(settings());
    let mut watcher = Client::v5(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    drop(Client::connect(&gateway, with_will(connect_for(5, "device"), "wills/device", Some(100))).await);
    pass(SECOND * 6).await;
    watcher.expect_publish().await;
    assert_eq!(gateway.mqtt.sessions(), 1, "the watcher alone");
}

#[tokio::test(start_paused = true)]
async fn shared_subscribers_divide_the_work() {
    let gateway = gateway(settings());
    let mut publisher = Client::v5(&gateway, "publisher").await;
    let mut workers = [Client::v5(&gateway, "one").await, Client::v311(&gateway, "two").await];
    for worker in &mut workers {
        worker.subscribe("$share/g/job", QoS::AtLeastOnce).await;
    }
    for _ in 0..4 {
        publisher.publish_acked("job", "x").await;
    }
    for worker in &mut workers {
        worker.expect_publish().await;
        worker.expect_publish().await;
        worker.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn unsubscribing_ends_it() {
    let gateway = gateway(settings());
    let mut client = Client::v5(&gateway, "client").await;
    client.subscribe("t", QoS::AtMostOnce).await;
    let unsubscribe = Unsubscribe {
        packet_id: client.id(),
        properties: Default::default(),
        filters: vec![text("t"), text("never")],
    };
    client.send(Packet::Unsubscribe(unsubscribe)).await;
    let Some(Packet::Unsuback(unsuback)) = client.receive().await else { panic!("no UNSUBACK") };
    assert_eq!(unsuback.reasons, [ReasonCode::Success, ReasonCode::NoSubscriptionExisted]);
    assert_eq!(client.publish_acked("t", "x").await, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_goodbye_and_publishes_no_will() {
    let gateway = gateway(settings());
    let mut watcher = Client::v311(&gateway, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    let (mut device, _) =
        Client::connect(&gateway, with_will(connect(Version::V5, "device"), "wills/d", None)).await;
    gateway.drain.begin(tokio::time::Instant::now() + SECOND * 30);
    device.expect_end(ReasonCode::ServerShuttingDown).await;
    watcher.expect_end(ReasonCode::ServerShuttingDown).await;
    let mut late = Client::open(&gateway);
    assert_eq!(late.greet(connect(Version::V5, "late")).await.reason, ReasonCode::ServerUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_clients_away_one_after_the_other() {
    let mut settings = settings();
    settings.drain_spread = SECOND * 10;
    let gateway = gateway(settings);
    let mut clients = Vec::new();
    for id in ["a", "b", "c", "d"] {
        clients.push(Client::v5(&gateway, id).await);
    }
    let started = tokio::time::Instant::now();
    gateway.drain.begin(started + SECOND * 30);
    // Each is read as it is ended: the order of ends is not that of the clients.
    let end = async |mut client: Client| {
        client.expect_end(ReasonCode::ServerShuttingDown).await;
        started.elapsed()
    };
    let mut ends = futures_util::future::join_all(clients.into_iter().map(end)).await;
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 1, "not all at once: {ends:?}");
    assert!(ends.iter().all(|end| *end <= SECOND * 10), "all within the spread: {ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_where_else_to_go() {
    let mut settings = settings();
    settings.drain_endpoints = vec!["b.example:8883".into(), "c.example:8883".into()];
    let gateway = gateway(settings);
    let mut client = Client::v5(&gateway, "a").await;
    let mut old = Client::v311(&gateway, "b").await;
    gateway.drain.begin(tokio::time::Instant::now() + SECOND * 30);
    match client.receive().await {
        Some(Packet::Disconnect(disconnect)) => {
            assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
            let reference = disconnect.properties.server_reference;
            assert_eq!(reference, Some(text("b.example:8883 c.example:8883")));
        }
        other => panic!("{other:?} instead of DISCONNECT"),
    }
    old.expect_end(ReasonCode::ServerShuttingDown).await;
    let late = Client::open(&gateway).greet(connect(Version::V5, "late")).await;
    assert_eq!(late.reason, ReasonCode::UseAnotherServer);
    assert!(late.properties.server_reference.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_gateway_tells_of_itself_under_sys_and_nobody_else_does() {
    let gateway = gateway(settings());
    let mut client = Client::v5(&gateway, "a").await;
    pass(SECOND).await;
    client.subscribe("$SYS/broker/clients/connected", QoS::AtMostOnce).await;
    assert!(client.expect_publish().await.retain, "the last value at once");
    let again = client.expect_publish().await;
    assert_eq!((&again.payload[..], again.retain), (&b"1"[..], false));
    let mut wildcard = Client::v5(&gateway, "b").await;
    wildcard.subscribe("#", QoS::AtMostOnce).await;
    wildcard.expect_nothing().await;

    let mut other = Client::v5(&gateway, "c").await;
    let topic = "$SYS/broker/clients/connected";
    assert_eq!(other.publish_acked(topic, "9").await, ReasonCode::NotAuthorized);
    other.publish(topic, "9", QoS::AtMostOnce).await;
    other.expect_nothing().await;
    let mut old = Client::v311(&gateway, "d").await;
    assert_eq!(old.publish_acked(topic, "9").await, ReasonCode::Success, "which is not told of it");
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn an_authentication_method_is_refused_by_name() {
    let gateway = gateway(settings());
    let mut asked = connect(Version::V5, "a");
    asked.properties.authentication_method = Some(text("GS2-KRB5"));
    let connack = Client::open(&gateway).greet(asked).await;
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
}
