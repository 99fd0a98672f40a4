//! What a connection does beside requests once its client is known: pushes, publishes, subscriptions,
//! acknowledgements, policy. The same on both bindings.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use towline_protocols::link::{CloseCode, Control, Event, LinkError, Publish, Push, Subscribe, Subscribed};

use super::{asked::Known, door::Door, reports};
use crate::{
    access::{Action, Leave},
    backend,
    error::RpcError,
    hub::{Message, check_topic},
    mqtt,
    rate::Pace,
    session::Revoked,
    shadow,
};

/// Pushes wait in the session while more than this is queued in the connection.
const PUSH_QUEUE_BYTES: usize = 64 << 10;
/// Publishes and changes of subscriptions of one connection that wait for their turn, count; beyond, the client is told.
const PUBLISHES_MAX: usize = 64;

/// A connection with its session.
pub(super) struct Attendance {
    pub(super) door: Arc<Door>,
    /// Done one after the other, so that they keep their order.
    waiting: VecDeque<Work>,
    /// Changes of subscriptions among them, and running; one more than [`PUBLISHES_MAX`] at the most.
    subscribes: u8,
    running: Option<Running>,
    /// Set where the listener limits rates: the next publish waits for it.
    pace: Option<Box<Pace>>,
    /// Pushes are left in the session for want of room here.
    pushes_left: bool,
    pub(super) told: Told,
    /// Most connections report nothing.
    pub(super) reports: Option<Box<reports::Pace>>,
}

/// Which revisions the client was told last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// [`crate::policy::Policies::generation`] when its policy was looked for; 0: it is to be looked for.
    pub(super) policies: u64,
    /// The edition of the dictionaries.
    pub(super) dictionaries: u64,
}

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What takes its time.
enum Work {
    Publish(Publish),
    /// The hook has to be asked about it, or it is behind one of which that is true; with what is known without.
    Subscribe(Subscribe, Option<Known>),
}

impl Work {
    /// Of its payload.
    fn bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.payload.len(),
            Self::Subscribe(..) => 0,
        }
    }
}

/// What became of it.
pub(super) enum Done {
    Published { id: u64, qos: u8, outcome: Result<(), RpcError> },
    Subscribed(Subscribed),
}

impl Attendance {
    pub(super) fn new(door: Arc<Door>, told: Told) -> Self {
        let gateway = &door.gateway;
        let rates = gateway.rates.of(&gateway.snapshot(), &door.origin.listener);
        let pace = rates.map(|rates| Box::new(Pace::new(rates)));
        Self {
            door,
            pace,
            waiting: VecDeque::new(),
            subscribes: 0,
            running: None,
            pushes_left: false,
            told,
            reports: None,
        }
    }

    /// Whether no publish is under way and no push waits for room.
    pub(super) fn is_idle(&self) -> bool {
        let is_done = self.waiting.is_empty() && self.running.is_none() && !self.pushes_left;
        // Alone at the door: nothing that was begun there is under way.
        is_done && self.door.holds.is_complete() && Arc::strong_count(&self.door) == 1
    }

    /// What the client was told last.
    pub(super) fn told(&self) -> Told {
        self.told
    }

    /// Follows what concerns no request.
    pub(super) fn on_event(&mut self, control: &mut Control, event: Event) -> Result<(), LinkError> {
        match event {
            Event::Ack(ack) => self.door.lease.acknowledge(&ack),
            Event::PushAck { priority, id } => self
                .door
                .lease
                .push_ack(priority, id)
                .map_err(|error| LinkError::new(CloseCode::ProtocolError, error.to_string()))?,
            Event::Subscribe(subscribe) => self.on_subscribe(control, subscribe)?,
            // Nothing that arrives behind a take-over is acted on.
            Event::Publish(_) if self.door.lease.revoked().is_some() => {}
            Event::Publish(publish) => {
                self.note_publish(publish.topic.len() + publish.payload.len())?;
                self.enqueue(control, publish);
            }
            Event::Fetch(fetch) => self.on_fetch(control, fetch),
            Event::PolicyAck { revision, accepted, text } => self.on_policy_ack(revision, accepted, &text),
            Event::Report(report) => self.on_report(control, &report),
            _ => {}
        }
        Ok(())
    }

    /// Sends pushes while there is room for them.
    pub(super) fn send_pushes(&mut self, control: &mut Control) {
        self.pushes_left = false;
        while control.queued_bytes() < PUSH_QUEUE_BYTES {
            let Some(pending) = self.door.lease.next_push() else { return };
            let message = &pending.message;
            let push = Push {
                id: pending.id,
                priority: pending.priority,
                topic: message.topic.as_bytes().to_vec().into(),
                content_type: message.content_type.as_deref().unwrap_or_default().to_owned().into(),
                payload: message.payload.clone(),
            };
            if let Err(error) = control.push(&push) {
                // The client said that it takes none of this size; those behind it go on.
                self.door.lease.refuse_push(push.id, "client_frame_bytes_max");
                tracing::debug!(id = push.id, "push not sent: {error}");
            }
        }
        self.pushes_left = true;
    }

    /// Goes on with pushes that had to wait.
    pub(super) fn resume_pushes(&mut self, control: &mut Control) {
        if self.pushes_left && control.queued_bytes() < PUSH_QUEUE_BYTES {
            self.send_pushes(control);
        }
    }

    fn on_subscribe(&mut self, control: &mut Control, subscribe: Subscribe) -> Result<(), LinkError> {
        let mut known = None;
        if self.subscribes == 0 {
            match self.door.subscribe_now(&subscribe) {
                Ok(subscribed) => {
                    control.subscribed(subscribed);
                    return Ok(());
                }
                Err(so_far) => known = Some(so_far),
            }
        }
        if self.waiting.len() >= PUBLISHES_MAX {
            self.door.gateway.metrics.limit_hit("publishes_waiting");
            let rule = "too many publishes and changes of subscriptions wait";
            return Err(LinkError::new(CloseCode::LimitExceeded, rule));
        }
        self.subscribes += 1;
        self.waiting.push_back(Work::Subscribe(subscribe, known));
        Ok(())
    }

    /// Resolves when something that took its time is done; for ever pending while there is none. Safe to cancel.
    pub(super) async fn done(&mut self) -> Done {
        if self.running.is_none() {
            self.pace().await;
            self.running = self.next_work();
        }
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let done = running.await;
        self.running = None;
        done
    }

    /// Answers a publish of quality 1, or a change of subscriptions.
    pub(super) fn on_done(&mut self, control: &mut Control, done: Done) {
        let (id, qos, outcome) = match done {
            Done::Published { id, qos, outcome } => (id, qos, outcome),
            Done::Subscribed(subscribed) => {
                self.subscribes -= 1;
                return control.subscribed(subscribed);
            }
        };
        let label = if outcome.is_ok() { "ok" } else { "refused" };
        let protocol = self.door.origin.protocol.label();
        self.door.gateway.metrics.publishes.with_label_values(&[protocol, label]).inc();
        if qos > 0 {
            let error = outcome.err().map(|error| error.to_string());
            control.published(id, error.as_deref());
        }
    }

    fn enqueue(&mut self, control: &mut Control, publish: Publish) {
        let bytes_max = self.door.gateway.snapshot().settings.limits.message_bytes_max;
        let waiting: usize = self.waiting.iter().map(Work::bytes).sum();
        let bytes = waiting + publish.payload.len();
        if self.waiting.len() >= PUBLISHES_MAX || (bytes > bytes_max && !self.waiting.is_empty()) {
            self.door.gateway.metrics.limit_hit("publishes_waiting");
            if publish.qos > 0 {
                control.published(publish.id, Some("too many publishes wait for their backend"));
            }
            return;
        }
        self.waiting.push_back(Work::Publish(publish));
    }

    /// Waits while the client is too fast. Safe to cancel.
    async fn pace(&mut self) {
        if let Some(pace) = self.pace.as_mut().filter(|pace| pace.is_paused()) {
            poll_fn(|cx| pace.poll(cx)).await;
        }
    }

    /// Counts a publish, and says whether the client is too fast for longer than its listener is patient.
    fn note_publish(&mut self, bytes: usize) -> Result<(), LinkError> {
        let Some(pace) = &mut self.pace else { return Ok(()) };
        for limit in [pace.note_bytes(bytes), pace.note_message()].into_iter().flatten() {
            self.door.gateway.metrics.limit_hit(limit.name());
        }
        match pace.is_out_of_patience() {
            None => Ok(()),
            Some(limit) => {
                let rule = format!("more publishes than the listener admits ({})", limit.name());
                Err(LinkError::new(CloseCode::LimitExceeded, rule))
            }
        }
    }

    fn next_work(&mut self) -> Option<Running> {
        let work = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
        let door = Arc::clone(&self.door);
        Some(Box::pin(async move {
            match work {
                Work::Publish(publish) => {
                    let (id, qos) = (publish.id, publish.qos);
                    Done::Published { id, qos, outcome: deliver(&door, publish).await }
                }
                Work::Subscribe(subscribe, known) => {
                    Done::Subscribed(door.subscribe(&subscribe, known).await)
                }
            }
        }))
    }
}

/// To the backend of the topic's route, if there is one, and to the topic's subscribers. A publish of
/// quality 1 is answered when both have it, and what link sessions must not lose is on disk.
async fn deliver(door: &Door, publish: Publish) -> Result<(), RpcError> {
    use crate::error::{Execution, RpcErrorKind};
    let malformed =
        |text: String| RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, format!("topic: {text}"));
    let topic = std::str::from_utf8(&publish.topic).map_err(|error| malformed(error.to_string()))?;
    check_topic(topic, door.gateway.hub.levels_max()).map_err(|error| malformed(error.to_string()))?;
    let mut message = Message {
        topic: topic.into(),
        payload: publish.payload,
        qos: publish.qos,
        publisher: door.origin.client_id.clone(),
        ..Message::default()
    };
    let delay = mqtt::rename(&door.gateway, &door.origin, &mut message)
        .map_err(|_| malformed("is $delayed without seconds and a topic".to_owned()))?;
    if mqtt::is_reserved(&message.topic) {
        let text = "topic: $SYS is the gateway's own";
        return Err(RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, text));
    }
    match door.gateway.permits(&door.origin, Action::Publish, &message.topic).await {
        Leave::Granted => {}
        Leave::Denied => {
            let text = "topic: it is not permitted to publish there";
            return Err(RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, text));
        }
        Leave::Unknown => {
            let text = "topic: whether it is permitted to publish there cannot be found out at the moment";
            return Err(RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, text));
        }
    }
    if door.gateway.snapshot().settings.shadow.enabled {
        match shadow::parse(&message.topic) {
            shadow::Parsed::Other => {}
            shadow::Parsed::Command(..) if delay.is_none() => {
                door.gateway.shadows.handle(&door.gateway, &message);
                return written(door).await;
            }
            shadow::Parsed::Command(..) | shadow::Parsed::Reserved => {
                let text = "topic: only $shadow/THING/update, get and delete are for clients";
                return Err(RpcError::new(RpcErrorKind::PermissionDenied, Execution::NotRun, text));
            }
        }
    }
    let message = Arc::new(message);
    if let Some(delay) = delay {
        return publish_later(door, &message, delay).await;
    }
    backend::publish(&door.gateway, &door.origin, &message).await?;
    let fanout = door.gateway.hub.publish(&message);
    if fanout.unkept > 0 {
        return Err(RpcError::new(
            RpcErrorKind::LimitExceeded,
            Execution::MayHaveRun,
            "the store's queue is full: not every subscriber keeps the message",
        ));
    }
    if publish.qos > 0 && fanout.sent + fanout.stored > 0 {
        door.gateway.store.barrier().await.map_err(|error| {
            RpcError::new(RpcErrorKind::Internal, Execution::MayHaveRun, error.to_string())
        })?;
    }
    Ok(())
}

/// Keeps a message until it is due; answered when it is on disk.
async fn publish_later(door: &Door, message: &Arc<Message>, delay: Duration) -> Result<(), RpcError> {
    use crate::error::{Execution, RpcErrorKind};
    mqtt::publish_later(&door.gateway, &door.origin, message, delay).map_err(|_| {
        let text = "no more delayed messages are kept, or not for so long";
        RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, text)
    })?;
    written(door).await
}

/// Waits until what was written is on disk.
async fn written(door: &Door) -> Result<(), RpcError> {
    use crate::error::{Execution, RpcErrorKind};
    let written = door.gateway.store.barrier().await;
    written.map_err(|error| RpcError::new(RpcErrorKind::Internal, Execution::MayHaveRun, error.to_string()))
}

/// What CLOSE says to a connection that lost its session.
pub(super) fn revoked(why: Revoked) -> LinkError {
    match why {
        Revoked::TakenOver => {
            LinkError::new(CloseCode::TakenOver, "a newer connection of this client took the session over")
        }
        Revoked::Ended => LinkError::new(CloseCode::Shutdown, "the session was ended"),
        Revoked::Unproven => {
            LinkError::new(CloseCode::Unavailable, "who the client is has to be found out again")
        }
    }
}
