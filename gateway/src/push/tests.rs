//! Pushes and their receipts, as a backend asks for them.

use bytes::Bytes;
use parking_lot::Mutex;
use tonic::Code;

use super::*;
use crate::{
    hub::{Delivered, Delivery, Mailbox, SubscribeOptions},
    settings::Settings,
};

/// Takes what it is given, and says that it did `as_told`.
struct Inbox {
    as_told: Delivered,
    taken: Mutex<Vec<(String, u8)>>,
}

impl Mailbox for Inbox {
    fn deliver(&self, message: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        self.taken.lock().push((message.topic.to_string(), delivery.qos));
        self.as_told
    }

    fn is_connected(&self) -> bool {
        self.as_told == Delivered::Sent
    }
}

fn service() -> Service {
    Service { gateway: Gateway::build(Settings::default()).expect("settings without files") }
}

fn join(service: &Service, client: &str, user: Option<&str>, as_told: Delivered) -> Arc<Inbox> {
    let inbox = Arc::new(Inbox { as_told, taken: Mutex::default() });
    let registered = service.gateway.hub.register(&client.into(), user.map(Into::into), inbox.clone());
    registered.expect("a free name");
    inbox
}

fn request(target: Target) -> PushRequest {
    PushRequest { target: Some(target), topic: "news".into(), qos: 1, ..PushRequest::default() }
}

async fn push(service: &Service, request: PushRequest) -> Result<(u32, u32, u32), Status> {
    let reply = service.push(Request::new(request)).await?.into_inner();
    Ok((reply.sent, reply.stored, reply.dropped))
}

#[tokio::test]
async fn a_push_reaches_a_client_and_every_client_of_a_user() {
    let service = service();
    let phone = join(&service, "phone", Some("ann"), Delivered::Sent);
    let watch = join(&service, "watch", Some("ann"), Delivered::Stored);
    let to_phone = push(&service, request(Target::ClientId("phone".into()))).await;
    assert_eq!(to_phone.expect("known"), (1, 0, 0));
    let to_ann = push(&service, request(Target::UserId("ann".into()))).await;
    assert_eq!(to_ann.expect("known"), (1, 1, 0));
    let to_nobody = push(&service, request(Target::UserId("bob".into()))).await;
    assert_eq!(to_nobody.expect("no client is not an error"), (0, 0, 0));
    assert_eq!(phone.taken.lock().len(), 2);
    assert_eq!(*watch.taken.lock(), [("news".to_owned(), 1)]);
}

#[tokio::test]
async fn a_retained_push_waits_for_whoever_subscribes_later() {
    let service = service();
    let retained = &service.gateway.mqtt.retained;
    let request = || PushRequest { payload: "rain".into(), ..request(Target::Subscribers(true)) };
    push(&service, request()).await.expect("not retained");
    assert!(retained.is_empty());
    push(&service, PushRequest { retain: true, ..request() }).await.expect("retained");
    let kept = retained.matching("#", Instant::now());
    assert_eq!(kept.iter().map(|kept| &kept.payload[..]).collect::<Vec<_>>(), [b"rain"]);
    let removal = PushRequest { retain: true, payload: Bytes::new(), ..request() };
    push(&service, removal).await.expect("removed");
    assert!(retained.is_empty());
}

#[tokio::test]
async fn a_push_that_cannot_be_retained_reaches_nobody() {
    let mut settings = Settings::default();
    settings.mqtt.retained_max = 0;
    let service = Service { gateway: Gateway::build(settings).expect("settings without files") };
    let phone = join(&service, "phone", None, Delivered::Sent);
    let options = SubscribeOptions { qos: 1, ..SubscribeOptions::default() };
    service.gateway.hub.subscribe("phone", "news", options).expect("a valid filter");
    let request = PushRequest { retain: true, payload: "rain".into(), ..request(Target::Subscribers(true)) };
    let status = push(&service, request).await.expect_err("no room");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(phone.taken.lock().is_empty());
}

#[tokio::test]
async fn a_wrong_push_is_told_what_to_write() {
    let service = service();
    let ann = || request(Target::UserId("ann".into()));
    for (request, wanted) in [
        (PushRequest { target: None, ..ann() }, "target:"),
        (PushRequest { topic: "a/+".into(), ..ann() }, "topic:"),
        (PushRequest { topic: String::new(), ..ann() }, "topic:"),
        (PushRequest { qos: 2, ..ann() }, "qos:"),
        (PushRequest { priority: Some(8), ..ann() }, "priority:"),
        (PushRequest { retain: true, ..ann() }, "retain:"),
        (request(Target::Subscribers(false)), "subscribers:"),
        (request(Target::ClientId(String::new())), "client_id:"),
    ] {
        let status = push(&service, request).await.expect_err(wanted);
        assert_eq!(status.code(), Code::InvalidArgument, "{wanted}");
        assert!(status.message().starts_with(wanted), "{}", status.message());
    }
    let unknown = push(&service, request(Target::ClientId("nobody".into()))).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
}
