//! The push API: `towline.push.v1.Push`, served on the admin listener.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use tonic::{Request, Response, Status};
use towline_protocols::link::Priority;
use tracing::warn;

use crate::{
    gateway::Gateway,
    hub::{Fanout, Message, check_topic},
    mqtt::RetainedFull,
    proto::push::{PushReply, PushRequest, push_request::Target, push_server::Push, push_server::PushServer},
};

/// Longest name of a client or user that can exist: MQTT's strings have a 16-bit length.
const NAME_BYTES_MAX: usize = 65_535;

/// The service's routes, to be merged into the admin listener's.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let bytes_max = gateway.snapshot().settings.limits.message_bytes_max;
    // The payload is bounded by `validate`; what is around it takes little.
    let service = PushServer::new(Service { gateway })
        .max_decoding_message_size(bytes_max.saturating_add(NAME_BYTES_MAX * 2));
    tonic::service::Routes::new(service).into_axum_router()
}

struct Service {
    gateway: Arc<Gateway>,
}

#[tonic::async_trait]
impl Push for Service {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let mut request = request.into_inner();
        let target = self.validate(&mut request)?;
        let message = Arc::new(message(request, Instant::now()));
        let fanout = self.deliver(&target, &message)?;
        if message.qos > 0 && fanout.sent + fanout.stored > 0 {
            // Handed over is not yet written: the caller may forget the message after this answer.
            self.gateway.store.barrier().await.map_err(|error| {
                warn!(%error, "a push could not be stored");
                Status::unavailable("the message could not be stored; push it again")
            })?;
        }
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(PushReply {
            sent: count(fanout.sent),
            stored: count(fanout.stored),
            dropped: count(fanout.dropped),
        }))
    }
}

impl Service {
    /// Takes the target out of a request that can be carried out; says what to write otherwise.
    fn validate(&self, request: &mut PushRequest) -> Result<Target, Status> {
        let wrong = |what: String| Err(Status::invalid_argument(what));
        check_topic(&request.topic, self.gateway.hub.levels_max())
            .map_err(|error| Status::invalid_argument(format!("topic: {error}")))?;
        if request.qos > 1 {
            return wrong(format!("qos: write 0 or 1, not {}", request.qos));
        }
        if let Some(priority) = request.priority.filter(|priority| *priority > 7) {
            return wrong(format!("priority: write 0 (first) to 7 (last), not {priority}"));
        }
        let bytes_max = self.gateway.snapshot().settings.limits.message_bytes_max;
        if request.payload.len() > bytes_max {
            return wrong(format!("payload: at most {bytes_max} bytes (limits.message_bytes_max)"));
        }
        let to_subscribers = matches!(request.target, Some(Target::Subscribers(true)));
        if request.retain && !to_subscribers {
            return wrong("retain: only with subscribers = true".to_owned());
        }
        let unnamed = |field| format!("{field}: name one, or choose another target");
        match request.target.take() {
            None => wrong("target: set client_id, user_id, or subscribers = true".to_owned()),
            Some(Target::ClientId(id)) if id.is_empty() => wrong(unnamed("client_id")),
            Some(Target::UserId(id)) if id.is_empty() => wrong(unnamed("user_id")),
            Some(Target::Subscribers(false)) => {
                wrong("subscribers: write true, or choose another target".to_owned())
            }
            Some(target) => Ok(target),
        }
    }

    fn deliver(&self, target: &Target, message: &Arc<Message>) -> Result<Fanout, Status> {
        let hub = &self.gateway.hub;
        match target {
            Target::ClientId(id) => {
                let delivered = hub.push_to_client(id, message);
                let delivered = delivered.ok_or_else(|| {
                    Status::not_found(format!(
                        "client_id: no client `{id}` is connected or has a session here"
                    ))
                })?;
                let mut fanout = Fanout::default();
                fanout += delivered;
                Ok(fanout)
            }
            Target::UserId(user) => Ok(hub.push_to_user(user, message)),
            Target::Subscribers(_) => {
                self.retain(message)?;
                Ok(hub.publish(message))
            }
        }
    }
}

impl Service {
    fn retain(&self, message: &Arc<Message>) -> Result<(), Status> {
        if !message.retain {
            return Ok(());
        }
        self.gateway.mqtt.retained.retain(message, Instant::now()).map_err(|RetainedFull(limit)| {
            self.gateway.metrics.limit_hit(limit);
            Status::resource_exhausted(format!("retain: no more messages are kept ({limit})"))
        })
    }
}

fn message(request: PushRequest, now: Instant) -> Message {
    let ttl = Some(request.ttl_ms).filter(|ttl| *ttl > 0).map(Duration::from_millis);
    let priority = request
        .priority
        .map_or(Priority::NORMAL, |urgency| Priority::new(u8::try_from(urgency).unwrap_or(u8::MAX)));
    let properties = request.user_properties.into_iter();
    Message {
        topic: request.topic.into(),
        payload: request.payload,
        qos: if request.qos == 0 { 0 } else { 1 },
        retain: request.retain,
        priority,
        // A time to live beyond what the clock can express is none.
        expires: ttl.and_then(|ttl| now.checked_add(ttl)),
        content_type: Some(request.content_type).filter(|text| !text.is_empty()).map(Into::into),
        user_properties: properties.map(|each| (each.name.into(), each.value.into())).collect(),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
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
        let request =
            PushRequest { retain: true, payload: "rain".into(), ..request(Target::Subscribers(true)) };
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
}
