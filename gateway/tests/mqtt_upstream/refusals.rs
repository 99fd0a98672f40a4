//! What a broker refuses: tried again, given up, told.

use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
};
use towline_gateway::{gateway::Gateway, run::Serving, settings::Upstream};
use towline_protocols::mqtt::*;

use crate::{
    bed::{client, folder, settings, start},
    mqtt_support::{Client, metric},
};

/// A gateway, a device of it, and the broker's end of its bridge.
struct Bed {
    serving: Serving,
    device: Client,
    broker: Client,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new(upstream: Upstream) -> Self {
        let folder = folder();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let any = ([127, 0, 0, 1], 0).into();
        let serving = start(settings(any, folder.path(), listener.local_addr().unwrap(), upstream)).await;
        let device = client(serving.address("devices").unwrap(), "device").await;
        let broker = accept(listener.accept().await.unwrap().0).await;
        Self { serving, device, broker, _folder: folder }
    }

    async fn publish(&mut self, payload: &str) {
        assert_eq!(self.device.publish_acked("site/up", payload).await, ReasonCode::Success);
    }
}

async fn accept(mut tcp: TcpStream) -> Client {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut tcp).await });
    let mut broker = Client::on(near);
    assert!(matches!(broker.receive().await, Some(Packet::Connect(_))));
    broker.speak(Version::V5);
    let properties = ConnackProperties::default();
    let connack = Connack { session_present: false, reason: ReasonCode::Success, properties };
    broker.send(Packet::Connack(Box::new(connack))).await;
    broker
}

/// The next message at the broker.
async fn taken(broker: &mut Client) -> (String, PacketId) {
    loop {
        match broker.receive().await {
            Some(Packet::Publish(publish)) => {
                let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                return (payload, publish.packet_id.unwrap());
            }
            Some(Packet::Pingreq) => {}
            other => panic!("{other:?} instead of PUBLISH"),
        }
    }
}

async fn answer(broker: &mut Client, id: PacketId, reason: ReasonCode) {
    broker.send(Packet::Puback(Ack::new(id, reason))).await;
}

fn refusals(gateway: &Gateway, reason: &str) -> f64 {
    metric(gateway, &format!("towline_upstream_refusals_total{{backend=\"up\",reason=\"{reason}\"}}"))
}

fn messages(gateway: &Gateway, outcome: &str) -> f64 {
    metric(gateway, &format!("towline_upstream_messages_total{{backend=\"up\",outcome=\"{outcome}\"}}"))
}

#[tokio::test]
async fn what_is_refused_for_now_comes_again_before_what_is_behind_it() {
    let mut bed = Bed::new(Upstream { refused_tries_max: 1, ..Upstream::default() }).await;
    bed.publish("1").await;
    bed.publish("2").await;
    let (first, id) = taken(&mut bed.broker).await;
    let (second, id_second) = taken(&mut bed.broker).await;
    assert_eq!((&*first, &*second), ("1", "2"));
    answer(&mut bed.broker, id, ReasonCode::QuotaExceeded).await;
    while messages(&bed.serving.gateway, "retried") < 1.0 {
        yield_now().await;
    }
    bed.publish("3").await;
    answer(&mut bed.broker, id_second, ReasonCode::Success).await;
    // A broker that is full is asked for as long as the buffer holds.
    for reason in [ReasonCode::QuotaExceeded, ReasonCode::QuotaExceeded, ReasonCode::Success] {
        let (first, id) = taken(&mut bed.broker).await;
        let (second, id_second) = taken(&mut bed.broker).await;
        assert_eq!((&*first, &*second), ("1", "3"));
        for id in [id, id_second] {
            answer(&mut bed.broker, id, reason).await;
        }
    }
    while messages(&bed.serving.gateway, "forwarded") < 3.0 {
        yield_now().await;
    }
    assert_eq!(refusals(&bed.serving.gateway, "quota_exceeded"), 5.0);
    assert_eq!(messages(&bed.serving.gateway, "refused"), 0.0);
}

#[tokio::test]
async fn what_is_given_up_is_a_dead_letter_with_its_reason() {
    let upstream =
        Upstream { refused_tries_max: 2, dead_letter_topic: Some("dead".to_owned()), ..Upstream::default() };
    let mut bed = Bed::new(upstream).await;
    let mut watcher = client(bed.serving.address("devices").unwrap(), "watcher").await;
    assert_eq!(watcher.subscribe("dead/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
    let cases = [
        (ReasonCode::NotAuthorized, "not_authorized", 1),
        (ReasonCode::TopicNameInvalid, "topic_name_invalid", 1),
        (ReasonCode::PayloadFormatInvalid, "payload_format_invalid", 1),
        (ReasonCode::UnspecifiedError, "unspecified_error", 2),
        (ReasonCode::ImplementationSpecificError, "implementation_specific_error", 2),
    ];
    for (reason, name, tries) in cases {
        bed.publish(name).await;
        for _ in 0..tries {
            let (payload, id) = taken(&mut bed.broker).await;
            assert_eq!(payload, name);
            answer(&mut bed.broker, id, reason).await;
        }
        let dead = watcher.expect_publish().await;
        assert_eq!((dead.topic.as_str(), &dead.payload[..]), ("dead/site/up", name.as_bytes()));
        let why = dead.properties.user_properties.iter().find(|(key, _)| key.as_str() == "towline-reason");
        assert_eq!(why.map(|(_, why)| why.as_str()), Some(name));
        assert_eq!(refusals(&bed.serving.gateway, name), f64::from(tries));
    }
    // They are out of the buffer: what comes next is sent next.
    bed.publish("end").await;
    assert_eq!(taken(&mut bed.broker).await.0, "end");
}

#[tokio::test]
async fn without_a_buffer_the_publisher_is_told() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream { buffer: false, ..Upstream::default() };
    let any = ([127, 0, 0, 1], 0).into();
    let serving = start(settings(any, folder.path(), listener.local_addr().unwrap(), upstream)).await;
    let mut device = client(serving.address("devices").unwrap(), "device").await;
    let cases = [
        (ReasonCode::QuotaExceeded, ReasonCode::QuotaExceeded),
        (ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
        (ReasonCode::TopicNameInvalid, ReasonCode::PayloadFormatInvalid),
        (ReasonCode::ImplementationSpecificError, ReasonCode::UnspecifiedError),
    ];
    let refusing = async {
        let mut broker = accept(listener.accept().await.unwrap().0).await;
        for (reason, _) in cases {
            let (_, id) = taken(&mut broker).await;
            answer(&mut broker, id, reason).await;
        }
        broker
    };
    let publishing = async {
        for (_, told) in cases {
            assert_eq!(device.publish_acked("site/up", "1").await, told);
        }
    };
    let (_broker, ()) = tokio::join!(refusing, publishing);
}
