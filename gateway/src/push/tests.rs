//! Pushes and their receipts, as a backend asks for them.

use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Code;
use towline_protocols::link::Hello;

use super::*;
use crate::{
    hub::{Delivered, Delivery, Mailbox, SubscribeOptions},
    proto::push::{Receipt, push_client::PushClient, receipt::State},
    settings::Settings,
    store::{Table, Write},
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
async fn a_retained_push_of_qos_0_is_answered_when_it_is_written() {
    let service = service();
    let topic = request(Target::Subscribers(true));
    let retained = PushRequest { retain: true, qos: 0, payload: "rain".into(), ..topic };
    let stalled = service.gateway.store.stall();
    // A commit of nothing would wait for nobody.
    service.gateway.store.must_write(Write::Delete { table: Table::Pushes, key: Vec::new() });
    let mut pushing = Box::pin(push(&service, retained));
    assert!(pushing.as_mut().now_or_never().is_none());
    drop(stalled);
    assert_eq!(pushing.await.expect("retained"), (0, 0, 0));
}

#[tokio::test]
async fn a_wrong_push_is_told_what_to_write() {
    let service = service();
    let ann = || request(Target::UserId("ann".into()));
    for (request, wanted) in [
        (PushRequest { target: None, ..ann() }, "target:"),
        (PushRequest { topic: "a/+".into(), ..ann() }, "topic:"),
        (PushRequest { topic: String::new(), ..ann() }, "topic:"),
        (PushRequest { topic: "$SYS/broker/version".into(), ..ann() }, "topic:"),
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

/// A backend's stream of receipts, over gRPC.
struct Backend {
    requests: mpsc::Sender<ReceiptsRequest>,
    receipts: Streaming<Receipt>,
}

impl Backend {
    async fn follow(gateway: &Arc<Gateway>, taken: u64) -> Self {
        let (requests, asked) = mpsc::channel(4);
        requests.send(ReceiptsRequest { queue: "shop".into(), taken }).await.expect("room");
        let asked = futures_util::stream::unfold(asked, |mut asked| async {
            let request = asked.recv().await?;
            Some((request, asked))
        });
        let mut client = PushClient::new(router(gateway.clone()));
        let receipts = client.receipts(asked).await.expect("a valid queue").into_inner();
        Self { requests, receipts }
    }

    async fn next(&mut self) -> (u64, String, State) {
        let receipt = self.receipts.message().await.expect("no error").expect("no end");
        (receipt.number, receipt.push_id.clone(), receipt.state())
    }
}

#[tokio::test]
async fn receipts_come_as_a_stream_that_goes_on_where_it_was() {
    let service = service();
    let secret = Bytes::from_static(&[7; 16]);
    let hello = Hello { client_id: "phone".into(), session_secret: secret, epoch: 1, ..Hello::default() };
    let opened = service.gateway.sessions.open(&hello, None).expect("a valid hello");
    let with_receipt = |push_id: &str| {
        let order = ReceiptOrder { queue: "shop".into(), push_id: push_id.into(), all: false };
        PushRequest { receipts: Some(order), ..request(Target::ClientId("phone".into())) }
    };
    let mut backend = Backend::follow(&service.gateway, 0).await;
    for push_id in ["a", "b"] {
        assert_eq!(push(&service, with_receipt(push_id)).await.expect("known"), (1, 0, 0));
        let sent = opened.lease.next_push().expect("it was pushed");
        opened.lease.push_ack(sent.priority, sent.id).expect("it was sent");
    }
    let (first, push_id, state) = backend.next().await;
    assert_eq!((&*push_id, state), ("a", State::Acknowledged));
    let (second, push_id, _) = backend.next().await;
    assert_eq!(push_id, "b");
    drop(backend);

    let mut backend = Backend::follow(&service.gateway, first).await;
    assert_eq!(backend.next().await.0, second, "what was not taken comes again");
    backend.requests.send(ReceiptsRequest { queue: String::new(), taken: second }).await.expect("it follows");
    let queue = service.gateway.sessions.receipts().queue("shop").expect("it exists");
    let forgotten = async {
        while queue.after(0).is_some() {
            tokio::task::yield_now().await;
        }
    };
    // The gateway hears the backend while its answer is read.
    tokio::select! {
        () = forgotten => {}
        receipt = backend.next() => panic!("{receipt:?} came although all were taken"),
    }
}
