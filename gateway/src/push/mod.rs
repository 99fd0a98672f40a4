//! The push API: `towline.push.v1.Push`, served on the admin listener.

mod follow;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use tonic::{Request, Response, Status, Streaming};
use towline_protocols::link::Priority;
use tracing::warn;

use crate::{
    gateway::Gateway,
    hub::{Fanout, Message, check_topic},
    mqtt::{RetainedFull, is_reserved},
    proto::push::{
        PushReply, PushRequest, ReceiptOrder, ReceiptsRequest, push_request::Target, push_server::Push,
        push_server::PushServer,
    },
    receipts::{NAME_BYTES_MAX, Ticket},
};

/// Longest name of a client or user that can exist: MQTT's strings have a 16-bit length.
const CLIENT_NAME_BYTES_MAX: usize = 65_535;

/// The service's routes, to be merged into the admin listener's.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let bytes_max = gateway.snapshot().settings.limits.message_bytes_max;
    // The payload is bounded by `validate`; what is around it takes little.
    let service = PushServer::new(Service { gateway })
        .max_decoding_message_size(bytes_max.saturating_add(CLIENT_NAME_BYTES_MAX * 2));
    tonic::service::Routes::new(service).into_axum_router()
}

struct Service {
    gateway: Arc<Gateway>,
}

#[tonic::async_trait]
impl Push for Service {
    type ReceiptsStream = follow::Receipts;

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let mut request = request.into_inner();
        let target = self.validate(&mut request)?;
        let receipt = request.receipts.take().map(|order| self.ticket(&order)).transpose()?;
        let message = Message { receipt, ..message(request, Instant::now()) };
        let message = Arc::new(message);
        let fanout = self.deliver(&target, &message)?;
        let is_handed_over = message.qos > 0 && fanout.sent + fanout.stored > 0;
        if message.receipt.is_some() || message.retain || is_handed_over {
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

    async fn receipts(
        &self,
        request: Request<Streaming<ReceiptsRequest>>,
    ) -> Result<Response<Self::ReceiptsStream>, Status> {
        let receipts = self.gateway.sessions.receipts();
        follow::follow(receipts, request.into_inner()).await.map(Response::new)
    }
}

impl Service {
    /// Takes the target out of a request that can be carried out; says what to write otherwise.
    fn validate(&self, request: &mut PushRequest) -> Result<Target, Status> {
        let wrong = |what: String| Err(Status::invalid_argument(what));
        check_topic(&request.topic, self.gateway.hub.levels_max())
            .map_err(|error| Status::invalid_argument(format!("topic: {error}")))?;
        if is_reserved(&request.topic) {
            return wrong("topic: what begins with $SYS/ is the gateway's own; choose another".to_owned());
        }
        if request.qos > 1 {
            return wrong(format!("qos: write 0 or 1, not {}", request.qos));
        }
        if let Some(priority) = request.priority.filter(|priority| *priority > 7) {
            return wrong(format!("priority: write 0 (first) to 7 (last), not {priority}"));
        }
        if request.collapse_key.len() > NAME_BYTES_MAX {
            return wrong(format!("collapse_key: at most {NAME_BYTES_MAX} bytes"));
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

    fn ticket(&self, order: &ReceiptOrder) -> Result<Arc<Ticket>, Status> {
        follow::check_queue(&order.queue)
            .map_err(|what| Status::invalid_argument(format!("receipts.queue: {what}")))?;
        if order.push_id.len() > NAME_BYTES_MAX {
            let text = format!("receipts.push_id: at most {NAME_BYTES_MAX} bytes");
            return Err(Status::invalid_argument(text));
        }
        let ticket = self.gateway.sessions.receipts().ticket(&order.queue, &order.push_id, order.all);
        ticket.map(Arc::new).map_err(|full| Status::resource_exhausted(format!("receipts: {full}")))
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
        collapse_key: Some(request.collapse_key).filter(|key| !key.is_empty()).map(Into::into),
        user_properties: properties.map(|each| (each.name.into(), each.value.into())).collect(),
        ..Message::default()
    }
}
