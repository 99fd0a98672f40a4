//! Publishes and changes of subscriptions that wait for the gateway's word.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;
use towline_protocols::{
    link::{Execution, Filter, Publish, RpcError, RpcErrorKind, Subscribe, Subscribed},
    mqtt::{MqttError, topic},
};

use super::{Core, now};

/// The gateway's word.
pub(crate) type Reply = oneshot::Sender<Result<(), RpcError>>;

/// Publishes and changes that may wait at one time.
const WAITING_MAX: usize = 256;

/// A publish that the gateway has not accepted.
pub(crate) struct PendingPublish {
    publish: Publish,
    asked: Instant,
    pub(super) sent: bool,
    /// Nobody waits for quality 0.
    reply: Option<Reply>,
}

/// A change of subscriptions that the gateway has not answered.
pub(crate) struct PendingSubscribe {
    filter: String,
    add: bool,
    asked: Instant,
    pub(super) sent: bool,
    reply: Reply,
}

impl Core {
    /// Queues a publish. With `reply` it has quality 1 and is sent again until it is answered.
    pub(crate) fn publish(
        &mut self,
        topic: String,
        payload: Bytes,
        reply: Option<Reply>,
    ) -> Result<(), RpcError> {
        topic::check_name(&topic).map_err(|error| malformed(&error))?;
        self.check_waiting(self.publishes.len())?;
        if !self.has_room_for(payload.len()) {
            return Err(limit("limits.queued_bytes_max"));
        }
        let id = self.next_publish;
        self.next_publish += 1;
        let qos = u8::from(reply.is_some());
        let publish = Publish { id, qos, topic: topic.into(), payload };
        self.publishes.push_back(PendingPublish { publish, asked: now(), sent: false, reply });
        self.touch_control();
        Ok(())
    }

    /// Adds or removes a topic filter, now and on every later connection.
    pub(crate) fn change_topic(&mut self, filter: String, add: bool, reply: Reply) -> Result<(), RpcError> {
        if add {
            // Behind a refusal it would be said to each later gateway as well.
            topic::check_filter(&filter).map_err(|error| malformed(&error))?;
        }
        self.check_waiting(self.subscribes.len())?;
        self.topics.retain(|held| *held != filter);
        if add {
            self.topics.push(filter.clone());
        }
        self.subscribes.push_back(PendingSubscribe { filter, add, asked: now(), sent: false, reply });
        self.touch_control();
        Ok(())
    }

    /// What is to be published on the live connection now. Quality 0 is forgotten with it.
    pub(crate) fn take_publishes(&mut self) -> Vec<Publish> {
        let mut out = Vec::new();
        self.publishes.retain_mut(|pending| {
            if !std::mem::replace(&mut pending.sent, true) {
                out.push(pending.publish.clone());
            }
            pending.reply.as_ref().is_some_and(|reply| !reply.is_closed())
        });
        out
    }

    /// What is to be subscribed on the live connection now.
    pub(crate) fn take_subscribe(&mut self) -> Option<Subscribe> {
        let mut out = Subscribe::default();
        self.subscribes.retain(|pending| !pending.reply.is_closed());
        for pending in self.subscribes.iter_mut().filter(|pending| !pending.sent) {
            pending.sent = true;
            if pending.add {
                out.add.push(Filter { filter: pending.filter.clone(), qos: 1 });
            } else {
                out.remove.push(pending.filter.clone());
            }
        }
        (!out.add.is_empty() || !out.remove.is_empty()).then_some(out)
    }

    /// Of what the live connection carries and somebody waits for the gateway's word on: when it was asked.
    pub(super) fn words_waited_for(&self) -> impl Iterator<Item = Instant> {
        let publishes = self
            .publishes
            .iter()
            .filter(|it| it.sent && it.reply.as_ref().is_some_and(|reply| !reply.is_closed()));
        let subscribes = self.subscribes.iter().filter(|it| it.sent && !it.reply.is_closed());
        publishes.map(|it| it.asked).chain(subscribes.map(|it| it.asked))
    }

    pub(super) fn on_subscribed(&mut self, subscribed: &Subscribed) {
        for result in &subscribed.results {
            let place = self.subscribes.iter().position(|it| it.sent && it.filter == result.filter);
            let Some(pending) = place.and_then(|place| self.subscribes.remove(place)) else { continue };
            let word = if result.error.is_empty() {
                Ok(())
            } else {
                self.topics.retain(|held| *held != result.filter);
                Err(refused(&result.error))
            };
            // The app may have stopped waiting.
            let _ = pending.reply.send(word);
        }
    }

    pub(super) fn on_published(&mut self, id: u64, error: Option<String>) {
        let place = self.publishes.iter().position(|pending| pending.publish.id == id);
        if let Some(reply) = place.and_then(|place| self.publishes.remove(place)?.reply) {
            let _ = reply.send(error.map_or(Ok(()), |text| Err(refused(&text))));
        }
    }

    /// A publish that the live connection cannot carry, such as one larger than the gateway takes.
    pub(crate) fn publish_failed(&mut self, id: u64, error: RpcError) {
        let place = self.publishes.iter().position(|pending| pending.publish.id == id);
        if let Some(reply) = place.and_then(|place| self.publishes.remove(place)?.reply) {
            let _ = reply.send(Err(error));
        }
    }

    fn check_waiting(&self, waiting: usize) -> Result<(), RpcError> {
        if let Some(reason) = &self.closing {
            let text = format!("the client is closed: {reason}");
            return Err(RpcError::new(RpcErrorKind::SessionLost, Execution::NotRun, text));
        }
        if waiting < WAITING_MAX { Ok(()) } else { Err(limit("256 publishes or subscriptions wait")) }
    }
}

fn limit(what: &str) -> RpcError {
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, what)
}

fn malformed(error: &MqttError) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, error.rule)
}

fn refused(text: &str) -> RpcError {
    RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, text)
}
