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
    access::Action,
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

/// Subscribes to each filter.
pub(super) fn subscribe(attachment: &Attachment, origin: &Origin, subscribe: &Subscribe) -> Subscribed {
    let identifier = subscribe.properties.subscription_id.map_or(0, |id| id.get());
    let mut reasons = Vec::with_capacity(subscribe.subscriptions.len());
    let mut wanted = Vec::new();
    for subscription in &subscribe.subscriptions {
        let renamed = rename(attachment, subscription);
        let subscription = renamed.as_ref().unwrap_or(subscription);
        match subscribe_one(attachment, origin, subscription, identifier) {
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
pub(super) fn judge_again(attachment: &Attachment, origin: &Origin) {
    let Attachment { gateway, client, .. } = attachment;
    if gateway.snapshot().acl.is_open() {
        return;
    }
    for (filter, _) in gateway.hub.subscriptions(&client.id) {
        if !gateway.permits(origin, Action::Subscribe, &filter) {
            unsubscribe_one(attachment, &filter);
        }
    }
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
    origin: &Origin,
    subscription: &Subscription,
    identifier: u32,
) -> Result<bool, ReasonCode> {
    let Attachment { gateway, client, epoch, .. } = attachment;
    let filter = subscription.filter.as_str();
    if !gateway.permits(origin, Action::Subscribe, filter) {
        return Err(ReasonCode::NotAuthorized);
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
