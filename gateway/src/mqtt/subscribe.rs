//! SUBSCRIBE and UNSUBSCRIBE.

use towline_protocols::mqtt::{
    PacketId, ReasonCode, RetainHandling, Subscribe, Subscription, Text, Unsubscribe, topic,
};

use super::{
    attachment::Attachment,
    client::Client,
    kept::{encode_subscription, numbered_key},
};
use crate::{
    access::{Action, Leave},
    gateway::Gateway,
    hub::{SubscribeError, SubscribeOptions},
    request::Origin,
    rewrite::Who,
    store::{Table, Write},
};

/// What a client is to be told of its SUBSCRIBE.
#[derive(Debug)]
pub(super) struct Subscribed {
    packet_id: PacketId,
    reasons: Vec<ReasonCode>,
    /// Filters whose retained messages it is to get.
    wanted: Vec<(String, SubscribeOptions)>,
}

/// The filters under the names that the rules give them.
pub(super) fn filters(attachment: &Attachment, subscribe: &Subscribe) -> Vec<Text> {
    let filter = |subscription: &Subscription| {
        new_name(attachment, subscription.filter.as_str()).unwrap_or_else(|| subscription.filter.clone())
    };
    subscribe.subscriptions.iter().map(filter).collect()
}

/// Whether the client may subscribe to each filter, as far as that is known.
pub(super) fn leaves_now(
    attachment: &Attachment,
    origin: &Origin,
    subscribe: &Subscribe,
) -> Vec<Option<Leave>> {
    let gateway = &attachment.gateway;
    if gateway.snapshot().acl.is_open() {
        return vec![Some(Leave::Granted); subscribe.subscriptions.len()];
    }
    let filters = filters(attachment, subscribe);
    filters.iter().map(|filter| gateway.permits_now(origin, Action::Subscribe, filter.as_str())).collect()
}

/// The same, with the hook asked about the rest.
pub(super) async fn ask_leaves(
    gateway: &Gateway,
    origin: &Origin,
    filters: &[Text],
    leaves: Vec<Option<Leave>>,
) -> Vec<Leave> {
    let topics: Vec<_> = filters.iter().map(Text::as_str).collect();
    gateway.permits_each(origin, Action::Subscribe, &topics, &leaves).await
}

/// Subscribes to each filter; `leaves` says whether the client may.
pub(super) fn subscribe(attachment: &Attachment, subscribe: &Subscribe, leaves: &[Leave]) -> Subscribed {
    let identifier = subscribe.properties.subscription_id.map_or(0, |id| id.get());
    let mut reasons = Vec::with_capacity(subscribe.subscriptions.len());
    let mut wanted = Vec::new();
    let leaves = leaves.iter().copied().chain(std::iter::repeat(Leave::Unknown));
    for (subscription, leave) in subscribe.subscriptions.iter().zip(leaves) {
        let renamed = rename(attachment, subscription);
        let subscription = renamed.as_ref().unwrap_or(subscription);
        match subscribe_one(attachment, subscription, identifier, leave) {
            Ok(is_new) => {
                reasons.push(subscription.options.qos.granted());
                if wants_retained(subscription, is_new) {
                    let options = hub_options(subscription, identifier);
                    wanted.push((subscription.filter.as_str().to_owned(), options));
                }
            }
            Err(reason) => reasons.push(reason),
        }
    }
    Subscribed { packet_id: subscribe.packet_id, reasons, wanted }
}

/// Answers, and then sends what is retained.
pub(super) fn answer(attachment: &Attachment, subscribed: Subscribed) {
    let Attachment { gateway, client, epoch, .. } = attachment;
    let Subscribed { packet_id, reasons, wanted } = subscribed;
    if let Some((connection, _)) = client.lock().current(*epoch) {
        connection.suback(packet_id, reasons);
    }
    for (filter, options) in wanted {
        gateway.mqtt.retained.deliver(client.as_ref(), &client.id, &filter, &options);
    }
}

/// Unsubscribes from each filter; what the client is to be told of each.
pub(super) fn unsubscribe(attachment: &Attachment, unsubscribe: &Unsubscribe) -> Vec<ReasonCode> {
    let reasons = unsubscribe.filters.iter().map(|filter| {
        let renamed = new_name(attachment, filter.as_str());
        let filter = renamed.as_ref().unwrap_or(filter);
        match unsubscribe_one(attachment, filter.as_str()) {
            true => ReasonCode::Success,
            false => ReasonCode::NoSubscriptionExisted,
        }
    });
    reasons.collect()
}

/// The session goes on with what its client may have by now: rules, user and claims may be others than when it
/// subscribed.
///
/// # Errors
/// Nobody can say: the session is not to go on now.
pub(super) async fn judge_again(attachment: &Attachment, origin: &Origin) -> Result<(), ReasonCode> {
    let Attachment { gateway, client, .. } = attachment;
    if gateway.snapshot().acl.is_open() {
        return Ok(());
    }
    let held = gateway.hub.subscriptions(&client.id);
    let filters: Vec<&str> = held.iter().map(|(filter, _)| &**filter).collect();
    let leaves = gateway.permits_each(origin, Action::Subscribe, &filters, &[]).await;
    for (filter, leave) in filters.into_iter().zip(leaves) {
        match leave {
            Leave::Granted => {}
            Leave::Denied => _ = unsubscribe_one(attachment, filter),
            Leave::Unknown => return Err(ReasonCode::ServerUnavailable),
        }
    }
    Ok(())
}

/// Says whether there was such a subscription.
fn unsubscribe_one(attachment: &Attachment, filter: &str) -> bool {
    let Attachment { gateway, client, .. } = attachment;
    let was_held = gateway.hub.unsubscribe(&client.id, filter);
    if was_held {
        let mut inner = client.lock();
        inner.subscriptions = inner.subscriptions.saturating_sub(1);
        if let Some(durable) = &inner.durable {
            let key = numbered_key(durable.number, filter.as_bytes());
            gateway.store.must_write(Write::Delete { table: Table::MqttSubscriptions, key });
        }
    }
    was_held
}

/// The subscription under the name that the rules give its filter; `None`: it keeps its own.
fn rename(attachment: &Attachment, subscription: &Subscription) -> Option<Subscription> {
    let filter = new_name(attachment, subscription.filter.as_str())?;
    Some(Subscription { filter, ..subscription.clone() })
}

fn new_name(attachment: &Attachment, filter: &str) -> Option<Text> {
    let snapshot = attachment.gateway.snapshot();
    if snapshot.rewrites.is_empty() {
        return None;
    }
    let Client { id, user, .. } = &*attachment.client;
    let who = Who { client_id: Some(id), user: user.as_deref() };
    let renamed = snapshot.rewrites.filter(filter, who, attachment.gateway.hub.levels_max())?;
    Text::new(renamed).ok()
}

/// Says whether the subscription is new.
fn subscribe_one(
    attachment: &Attachment,
    subscription: &Subscription,
    identifier: u32,
    leave: Leave,
) -> Result<bool, ReasonCode> {
    let Attachment { gateway, client, epoch, .. } = attachment;
    let filter = subscription.filter.as_str();
    match leave {
        Leave::Granted => {}
        Leave::Denied => return Err(ReasonCode::NotAuthorized),
        // It may come again.
        Leave::Unknown => return Err(ReasonCode::ImplementationSpecificError),
    }
    let max = gateway.snapshot().settings.mqtt.subscriptions_max;
    let held = {
        let mut inner = client.lock();
        if inner.current(*epoch).is_none() {
            return Err(ReasonCode::UnspecifiedError);
        }
        inner.subscriptions
    };
    // A full client may still change the options of what it has, which the hub alone can tell.
    if held as usize >= max && !has_subscription(attachment, filter) {
        gateway.metrics.limit_hit("mqtt.subscriptions_max");
        return Err(ReasonCode::QuotaExceeded);
    }
    let options = hub_options(subscription, identifier);
    match gateway.hub.subscribe(&client.id, filter, options) {
        Ok(is_new) => {
            let mut inner = client.lock();
            inner.subscriptions += u32::from(is_new);
            if let Some(durable) = &inner.durable {
                let key = numbered_key(durable.number, filter.as_bytes());
                let value = encode_subscription(&options);
                gateway.store.must_write(Write::Put { table: Table::MqttSubscriptions, key, value });
            }
            Ok(is_new)
        }
        Err(SubscribeError::Filter(error)) => {
            tracing::debug!(client_id = %client.id, %error, "topic filter refused");
            gateway.metrics.limit_hit("mqtt.topic_levels_max");
            Err(ReasonCode::TopicFilterInvalid)
        }
        Err(SubscribeError::UnknownClient) => Err(ReasonCode::UnspecifiedError),
    }
}

fn hub_options(subscription: &Subscription, identifier: u32) -> SubscribeOptions {
    SubscribeOptions {
        qos: subscription.options.qos as u8,
        no_local: subscription.options.no_local,
        retain_as_published: subscription.options.retain_as_published,
        identifier,
    }
}

fn has_subscription(attachment: &Attachment, filter: &str) -> bool {
    attachment.gateway.hub.subscriptions(&attachment.client.id).iter().any(|(held, _)| held == filter)
}

fn wants_retained(subscription: &Subscription, is_new: bool) -> bool {
    // MQTT 5, section 4.8.2: no retained messages for shared subscriptions.
    let (group, _) = topic::split_share(subscription.filter.as_str());
    group.is_none()
        && match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        }
}
