//! The way of a message: to the backend of its topic's route, if there is one, and to its subscribers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use towline_protocols::mqtt::ReasonCode;

use super::{client::Will, inbox::Way, message};
use crate::{
    access::{Action, Leave},
    backend::{self, Reply},
    delayed::{self, Parsed},
    error::{RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::{Fanout, LastMatch, Message, check_topic},
    request::Origin,
    rewrite::Who,
    shadow,
    snapshot::Snapshot,
    store::Write,
};

/// Whether the message has to be accepted by a backend first.
pub(crate) fn has_route(gateway: &Gateway, origin: &Origin, topic: &str) -> bool {
    gateway.snapshot().routes.match_topic(topic, origin.identity.as_deref()).is_some()
}

/// The topics that a message's publisher has to have leave for. One with a route also speaks for what its backend
/// answers, which is published to the response topic.
fn topics_of(message: &Message, way: Way) -> Vec<Arc<str>> {
    let has_route = matches!(way, Way::Routed { .. } | Way::Later(_));
    let response_topic = message.response_topic.as_ref().filter(|_| has_route);
    std::iter::once(&message.topic).chain(response_topic).cloned().collect()
}

/// Gives a client's message the name that it is to have, and says where it goes, and whether its publisher may publish
/// it; `None` if the hook has to be asked.
pub(super) fn find_way(gateway: &Gateway, origin: &Origin, message: &mut Message) -> (Way, Option<Leave>) {
    let snapshot = gateway.snapshot();
    let way = find_any_way(gateway, &snapshot, origin, message);
    if matches!(way, Way::Nowhere(_)) || snapshot.acl.is_open() {
        return (way, Some(Leave::Granted));
    }
    let topics = topics_of(message, way);
    let leaves = topics.iter().map(|topic| gateway.permits_now(origin, Action::Publish, topic));
    let first = leaves.into_iter().find(|leave| *leave != Some(Leave::Granted));
    (way, first.unwrap_or(Some(Leave::Granted)))
}

/// Whether a message may be published, with the hook asked where it has to be.
pub(super) async fn ask_leave(gateway: &Gateway, origin: &Origin, message: &Message, way: Way) -> Leave {
    for topic in topics_of(message, way) {
        match gateway.permits(origin, Action::Publish, &topic).await {
            Leave::Granted => {}
            leave => return leave,
        }
    }
    Leave::Granted
}

fn find_any_way(gateway: &Gateway, snapshot: &Snapshot, origin: &Origin, message: &mut Message) -> Way {
    if gateway.upstreams.came_back(message) {
        return Way::Here;
    }
    let delay = match rename_by(snapshot, gateway, origin, message) {
        Ok(delay) => delay,
        Err(reason) => return Way::Nowhere(reason),
    };
    if super::is_reserved(&message.topic) {
        return Way::Nowhere(ReasonCode::NotAuthorized);
    }
    if snapshot.settings.shadow.enabled {
        match shadow::parse(&message.topic) {
            shadow::Parsed::Other => {}
            shadow::Parsed::Command(..) if delay.is_none() => return Way::Shadow,
            shadow::Parsed::Command(..) | shadow::Parsed::Reserved => {
                return Way::Nowhere(ReasonCode::NotAuthorized);
            }
        }
    }
    if let Some(delay) = delay {
        return Way::Later(delay);
    }
    match snapshot.routes.match_topic(&message.topic, origin.identity.as_deref()) {
        None => Way::Here,
        Some((route, _)) => Way::Routed { is_batched: route.batcher.is_some() },
    }
}

/// Takes a delay off the topic, and gives what is left the name that the rules give it.
///
/// # Errors
/// What the publisher is told of a topic that is none.
pub(crate) fn rename(
    gateway: &Gateway,
    origin: &Origin,
    message: &mut Message,
) -> Result<Option<Duration>, ReasonCode> {
    rename_by(&gateway.snapshot(), gateway, origin, message)
}

fn rename_by(
    snapshot: &Snapshot,
    gateway: &Gateway,
    origin: &Origin,
    message: &mut Message,
) -> Result<Option<Duration>, ReasonCode> {
    let mut delay = None;
    if snapshot.settings.delayed.enabled {
        let topic = match delayed::parse(&message.topic) {
            Parsed::Now => None,
            Parsed::After(_, topic) if check_topic(topic, gateway.hub.levels_max()).is_err() => {
                return Err(ReasonCode::TopicNameInvalid);
            }
            Parsed::After(after, topic) => {
                delay = Some(after);
                Some(Arc::from(topic))
            }
            Parsed::Malformed => return Err(ReasonCode::TopicNameInvalid),
        };
        message.topic = topic.unwrap_or_else(|| message.topic.clone());
    }
    if !snapshot.rewrites.is_empty() {
        let who = Who { client_id: origin.client_id.as_deref(), user: origin.user.as_deref() };
        if let Some(topic) = snapshot.rewrites.topic(&message.topic, who, gateway.hub.levels_max()) {
            message.topic = topic.into();
        }
    }
    Ok(delay)
}

/// Keeps a message until it is due.
///
/// # Errors
/// There is no room: what its publisher is told.
pub(crate) fn publish_later(
    gateway: &Gateway,
    origin: &Arc<Origin>,
    message: &Arc<Message>,
    delay: Duration,
) -> Result<(), ReasonCode> {
    let settings = gateway.snapshot().settings.delayed.clone();
    gateway.delayed.push(&settings, origin, message, delay).map_err(|full| {
        gateway.metrics.limit_hit(full.0);
        ReasonCode::QuotaExceeded
    })
}

/// Takes a message to the backend of its route; what that answers goes to the response topic.
///
/// # Errors
/// The backend did not accept it: what its publisher is told.
pub(super) async fn forward(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    message: Arc<Message>,
) -> Result<(), ReasonCode> {
    match backend::publish(&gateway, &origin, &message).await {
        Ok(reply) => {
            gateway.mqtt.counters.forwarded.inc();
            if let Some(reply) = reply {
                answer(&gateway, &message, reply);
            }
            Ok(())
        }
        Err(error) => {
            gateway.mqtt.counters.refused.inc();
            tracing::debug!(topic = %message.topic, %error, "a backend did not take a message");
            Err(reason(&error))
        }
    }
}

/// Publishes what a backend answered to the response topic, if the message has one.
fn answer(gateway: &Gateway, message: &Message, reply: Reply) {
    let topic = message.response_topic.as_ref().filter(|topic| !super::is_reserved(topic));
    let Some(topic) = topic else { return };
    // A client is not refused for more levels there: it might have meant the topic for others than this gateway.
    if let Err(error) = check_topic(topic, gateway.hub.levels_max()) {
        gateway.metrics.limit_hit("mqtt.topic_levels_max");
        tracing::debug!(topic = %message.topic, %error, "an answer's topic is refused");
        return;
    }
    distribute(gateway, &Arc::new(response(message, topic, reply)));
}

/// Retains a message if asked.
///
/// # Errors
/// There is no room for it: what its publisher is told.
pub(super) fn retain(gateway: &Gateway, message: &Arc<Message>) -> Result<(), ReasonCode> {
    if !message.retain {
        return Ok(());
    }
    gateway.mqtt.retained.retain(message, super::now()).map_err(|full| {
        gateway.metrics.limit_hit(full.0);
        ReasonCode::QuotaExceeded
    })
}

/// Hands a message to its subscribers.
pub(super) fn distribute(gateway: &Gateway, message: &Arc<Message>) -> Fanout {
    distribute_with(gateway, message, None, &mut LastMatch::default(), super::now())
}

/// The same, together with a mark of its publisher's session, and to where that publisher's last message went if it is
/// of the same topic.
pub(super) fn distribute_with(
    gateway: &Gateway,
    message: &Arc<Message>,
    mark: Option<Write>,
    last: &mut LastMatch,
    now: Instant,
) -> Fanout {
    let fanout = gateway.hub.publish_with(message, mark.map(|mark| (&gateway.store, mark)), last, now);
    gateway.mqtt.counters.published.inc();
    fanout
}

/// Retains a message if asked, and hands it to its subscribers.
pub(crate) fn publish_here(gateway: &Gateway, message: &Arc<Message>) {
    // Counted if there is no room for it; its subscribers need not miss it.
    _ = retain(gateway, message);
    distribute(gateway, message);
}

/// Takes a message to its backend for a publisher who has been answered: what came of it is counted there.
pub(crate) async fn forward_only(gateway: &Arc<Gateway>, origin: &Arc<Origin>, message: &Arc<Message>) {
    _ = forward(gateway.clone(), origin.clone(), message.clone()).await;
}

/// A message of the gateway's own, to its subscribers.
pub(crate) fn publish_locally(gateway: &Gateway, message: &Arc<Message>) -> Fanout {
    distribute(gateway, message)
}

/// A message that an upstream broker brought: through its route if it has one, and to its subscribers. Says whether
/// some of that is on its way to the store.
pub(crate) async fn publish_from_upstream(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    message: &Arc<Message>,
) -> bool {
    if has_route(gateway, origin, &message.topic) {
        // What a backend does not take is counted there; the broker can do nothing about it.
        _ = forward(gateway.clone(), origin.clone(), message.clone()).await;
    }
    // Counted if there is no room for it; its subscribers need not miss it.
    _ = retain(gateway, message);
    let fanout = distribute(gateway, message);
    fanout.to_write > 0 || (message.retain && gateway.mqtt.retained.is_lasting())
}

/// Publishes a will, through its route if it has one; nobody waits for that.
pub(super) fn publish_will(gateway: &Arc<Gateway>, will: Will) {
    let Will { message, expiry, origin, .. } = will;
    let expires = message::expires(expiry, super::now());
    let mut message = Message { expires, ..message };
    // The rules of this moment: its client may have been away for long.
    let (way, leave) = find_way(gateway, &origin, &mut message);
    match leave {
        Some(leave) => publish_will_by(gateway, origin, message, way, leave),
        None => {
            let gateway = Arc::clone(gateway);
            spawn(async move {
                let leave = ask_leave(&gateway, &origin, &message, way).await;
                publish_will_by(&gateway, origin, message, way, leave);
            });
        }
    }
}

fn publish_will_by(gateway: &Arc<Gateway>, origin: Arc<Origin>, message: Message, way: Way, leave: Leave) {
    let message = Arc::new(message);
    match way {
        Way::Here | Way::Routed { .. } if leave == Leave::Granted => {}
        Way::Later(delay) if leave == Leave::Granted => {
            // Counted if there is no room for it.
            _ = publish_later(gateway, &origin, &message, delay);
            return;
        }
        Way::Shadow if leave == Leave::Granted => {
            gateway.shadows.handle(gateway, &message);
            return;
        }
        _ => {
            gateway.mqtt.counters.refused.inc();
            return;
        }
    }
    // Counted if there is no room for it; its subscribers need not miss it.
    _ = retain(gateway, &message);
    distribute(gateway, &message);
    if way.is_routed() {
        let forwarding = forward(gateway.clone(), origin, message);
        // A failure is counted and logged there; a will has no publisher to be told.
        spawn(async { _ = forwarding.await });
    }
}

/// Without a runtime the process is ending, and its backends with it.
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(future);
    }
}

fn response(request: &Message, topic: &Arc<str>, reply: Reply) -> Message {
    Message {
        topic: topic.clone(),
        payload: reply.payload,
        qos: request.qos,
        priority: request.priority,
        content_type: reply.content_type,
        correlation_data: request.correlation_data.clone(),
        ..Message::default()
    }
}

fn reason(error: &RpcError) -> ReasonCode {
    match error.kind {
        RpcErrorKind::PermissionDenied | RpcErrorKind::EncryptionRequired => ReasonCode::NotAuthorized,
        RpcErrorKind::LimitExceeded => ReasonCode::QuotaExceeded,
        RpcErrorKind::Malformed => ReasonCode::PayloadFormatInvalid,
        _ => ReasonCode::UnspecifiedError,
    }
}
