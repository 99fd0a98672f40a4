//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::HashMap;

use towline_protocols::mqtt::{
    Connect, PacketId, ReasonCode, RetainHandling, Subscribe, Subscription, Text, Unsubscribe, topic,
};

use super::{
    attachment::Attachment,
    client::Client,
    kept::{encode_subscription, numbered_key},
    retained::Wanted,
};
use crate::{
    access::{Action, Leave},
    auth::Identity,
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
    wanted: Vec<Wanted>,
}

/// Gives the filters the names that the rules give them: once, so that what is judged is what is subscribed to, whatever a
/// reload changes in between.
pub(super) fn rename(attachment: &Attachment, subscribe: &mut Subscribe) {
    for subscription in &mut subscribe.subscriptions {
        if let Some(filter) = new_name(attachment, subscription.filter.as_str()) {
            subscription.filter = filter;
        }
    }
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
    filters(subscribe).map(|filter| gateway.permits_now(origin, Action::Subscribe, filter)).collect()
}

/// The same, with the hook asked about the rest.
pub(super) async fn ask_leaves(
    gateway: &Gateway,
    origin: &Origin,
    subscribe: &Subscribe,
    leaves: Vec<Option<Leave>>,
) -> Vec<Leave> {
    let topics: Vec<_> = filters(subscribe).collect();
    gateway.permits_each(origin, Action::Subscribe, &topics, &leaves).await
}

fn filters(subscribe: &Subscribe) -> impl Iterator<Item = &str> {
    subscribe.subscriptions.iter().map(|subscription| subscription.filter.as_str())
}

/// Subscribes to each filter; `leaves` says whether the client may.
pub(super) fn subscribe(attachment: &Attachment, subscribe: &Subscribe, leaves: &[Leave]) -> Subscribed {
    let identifier = subscribe.properties.subscription_id.map_or(0, |id| id.get());
    let mut reasons = Vec::with_capacity(subscribe.subscriptions.len());
    let mut wanted = Vec::new();
    let leaves = leaves.iter().copied().chain(std::iter::repeat(Leave::Unknown));
    for (subscription, leave) in subscribe.subscriptions.iter().zip(leaves) {
        match subscribe_one(attachment, subscription, identifier, leave) {
            Ok(is_new) => {
                reasons.push(subscription.options.qos.granted());
                if wants_retained(subscription, is_new) {
                    let options = hub_options(subscription, identifier);
                    wanted.push(Wanted::new(subscription.filter.as_str().to_owned(), options));
                }
            }
            Err(reason) => reasons.push(reason),
        }
    }
    Subscribed { packet_id: subscribe.packet_id, reasons, wanted }
}

/// Answers, and says what of the retained messages is to be sent then.
pub(super) fn answer(attachment: &Attachment, subscribed: Subscribed) -> Vec<Wanted> {
    let Attachment { client, epoch, .. } = attachment;
    let Subscribed { packet_id, reasons, wanted } = subscribed;
    if let Some((connection, _)) = client.lock().current(*epoch) {
        connection.suback(packet_id, reasons);
    }
    wanted
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

/// What a client may have by now of what its session has subscribed to.
pub(super) struct Held(HashMap<String, Leave>);

/// Judges what the session of a client that comes has subscribed to: rules, user and claims may be others than then. Nothing
/// has changed for it yet, and an older connection is still there.
///
/// # Errors
/// Nobody can say: the session is not to go on now.
pub(super) async fn judge_held(
    gateway: &Gateway,
    connect: &Connect,
    origin: &Origin,
    identity: &Identity,
) -> Result<Held, ReasonCode> {
    let client_id = connect.client_id.as_str();
    let client = gateway.mqtt.client(client_id).filter(|client| client.user == identity.user);
    let goes_on = !connect.clean_start && client.is_some_and(|client| client.is_lasting());
    if !goes_on || gateway.snapshot().acl.is_open() {
        return Ok(Held(HashMap::new()));
    }
    let Identity { user, claims, .. } = identity.clone();
    let origin = Origin { client_id: Some(client_id.into()), user, claims, ..origin.clone() };
    let held = gateway.hub.subscriptions(client_id);
    judge_each(gateway, &origin, held.iter().map(|(filter, _)| &**filter).collect()).await
}

/// The session goes on without what its client may no longer have.
///
/// # Errors
/// Nobody can say of something that an older connection has subscribed to in the meantime.
pub(super) async fn forgo(attachment: &Attachment, origin: &Origin, held: Held) -> Result<(), ReasonCode> {
    let Attachment { gateway, client, .. } = attachment;
    if gateway.snapshot().acl.is_open() {
        return Ok(());
    }
    let filters: Vec<_> = gateway.hub.subscriptions(&client.id);
    let new = filters.iter().map(|(filter, _)| &**filter).filter(|filter| !held.0.contains_key(*filter));
    let new = judge_each(gateway, origin, new.collect()).await?;
    for (filter, _) in held.0.into_iter().chain(new.0).filter(|(_, leave)| *leave == Leave::Denied) {
        unsubscribe_one(attachment, &filter);
    }
    Ok(())
}

async fn judge_each(gateway: &Gateway, origin: &Origin, filters: Vec<&str>) -> Result<Held, ReasonCode> {
    let leaves = gateway.permits_each(origin, Action::Subscribe, &filters, &[]).await;
    if leaves.contains(&Leave::Unknown) {
        return Err(ReasonCode::ServerUnavailable);
    }
    Ok(Held(filters.into_iter().map(str::to_owned).zip(leaves).collect()))
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

/// `None`: it keeps its own.
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

pub(super) fn has_subscription(attachment: &Attachment, filter: &str) -> bool {
    attachment.gateway.hub.has_subscription(&attachment.client.id, filter)
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
