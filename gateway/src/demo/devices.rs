//! `towline.device.v1.DeviceIngress` and `towline.demo.v1.Telemetry`: what devices say.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::{
    demo::{
        DeviceEvent, DeviceEvents, IngestSummary, ListDeviceEventsRequest, Reading,
        telemetry_server::Telemetry,
    },
    device::{
        PublishBatchReply, PublishBatchRequest, PublishReply, PublishRequest,
        device_ingress_server::DeviceIngress,
    },
};

/// Events kept; the oldest make room.
const EVENTS_MAX: usize = 10_000;
/// A payload that asks for the message to be refused, to see what happens then.
const REFUSE: &[u8] = b"refuse";

/// What the devices of one demo backend published.
#[derive(Debug, Default)]
pub struct Devices {
    events: Mutex<VecDeque<DeviceEvent>>,
}

impl Devices {
    /// What is kept, oldest first.
    pub fn events(&self) -> Vec<DeviceEvent> {
        self.events.lock().iter().cloned().collect()
    }

    pub(super) fn push(&self, event: DeviceEvent) {
        let mut events = self.events.lock();
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }
}

#[derive(Clone)]
pub(super) struct DeviceService(pub(super) Arc<Devices>);

#[tonic::async_trait]
impl DeviceIngress for DeviceService {
    /// Stores the event; a message that asks for a reply gets `got N bytes`.
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishReply>, Status> {
        self.take(request.into_inner()).map(Response::new)
    }

    /// Stores all events, or none.
    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchReply>, Status> {
        let messages = request.into_inner().messages;
        if messages.iter().any(|message| message.payload == REFUSE) {
            return Err(Status::invalid_argument("refused, as a payload asks"));
        }
        let replies = messages.into_iter().map(|message| self.take(message)).collect::<Result<_, _>>()?;
        Ok(Response::new(PublishBatchReply { replies }))
    }
}

impl DeviceService {
    #[allow(clippy::result_large_err, reason = "tonic's")]
    fn take(&self, request: PublishRequest) -> Result<PublishReply, Status> {
        if request.payload == REFUSE {
            return Err(Status::unavailable("refused, as the payload asks"));
        }
        let payload = (!request.response_topic.is_empty())
            .then(|| Bytes::from(format!("got {} bytes", request.payload.len())));
        self.0.push(DeviceEvent {
            topic: request.topic,
            payload: request.payload,
            client_id: request.client_id,
            user: request.user,
            qos: request.qos,
        });
        Ok(PublishReply { payload, content_type: "text/plain".into() })
    }
}

#[tonic::async_trait]
impl Telemetry for DeviceService {
    async fn ingest(&self, request: Request<Streaming<Reading>>) -> Result<Response<IngestSummary>, Status> {
        let count = |count, _reading| async move { Ok(count + 1) };
        let readings = request.into_inner().try_fold(0, count).await?;
        Ok(Response::new(IngestSummary { readings }))
    }

    async fn list_device_events(
        &self,
        request: Request<ListDeviceEventsRequest>,
    ) -> Result<Response<DeviceEvents>, Status> {
        let wanted = request.into_inner().client_id;
        let mut events = self.0.events();
        events.retain(|event| wanted.is_empty() || event.client_id == wanted);
        Ok(Response::new(DeviceEvents { events }))
    }
}
