//! Sessions that the store kept, as they are at the start: away, their subscriptions in the hub.

use std::{sync::Arc, time::Instant};

use towline_protocols::mqtt::session::{Phase, Session, Settings, Terms};

use super::{
    broker::Broker,
    client::{Client, Durable, Inner, Will},
    kept::{self, Restored, RestoredMessage, SessionRecord, WillRecord},
    message::{Shared, qos},
};
use crate::{
    hub::Hub,
    request::{Origin, Protocol},
    store::StoreError,
};

impl Broker {
    pub(super) fn restore_sessions(&self, hub: &Hub) -> Result<(), StoreError> {
        let (settings, now) = (self.present_settings(), super::now());
        let (mut sessions, mut messages) = (0_usize, 0_usize);
        for restored in kept::restore(&self.common.keeper)? {
            sessions += 1;
            messages += restored.messages.len();
            self.restore_session(hub, restored, &settings, now);
        }
        if sessions > 0 || !self.retained.is_empty() {
            let retained = self.retained.len();
            tracing::info!(sessions, messages, retained, "MQTT sessions are back from the store");
        }
        Ok(())
    }

    fn restore_session(&self, hub: &Hub, restored: Restored, settings: &Arc<Settings>, now: Instant) {
        let Restored { client_id, record, filters, received, messages } = restored;
        let user = record.user.clone();
        let common = self.common.clone();
        let client = Arc::new(Client::new(client_id.clone(), user.clone(), settings.clone(), common));
        if let Err(error) = hub.register(&client_id, user, client.clone()) {
            // A link session of that id was restored before; only one of them can have been the last.
            tracing::warn!(%client_id, %error, "a stored MQTT session is given up");
            let mut inner = client.lock();
            inner.set_recorded();
            client.forget(&mut inner);
            return;
        }
        let mut subscriptions = 0;
        for (filter, options) in filters {
            match hub.subscribe(&client_id, &filter, options) {
                Ok(is_new) => subscriptions += u32::from(is_new),
                Err(error) => {
                    tracing::warn!(%client_id, filter, %error, "a stored subscription is refused now");
                }
            }
        }
        let mut inner = client.lock();
        inner.set_recorded();
        inner.subscriptions = subscriptions;
        if record.number > 0 {
            let position = messages.last().map_or(0, |message| message.entry.position());
            inner.durable = Some(Box::new(Durable::new(record.number, position, &client)));
            restore_messages(inner.session(), messages, &record, settings);
            for id in received {
                inner.session().mark_received(id);
            }
            inner.compact();
        }
        restore_end(&mut inner, record, &client.id, now);
        self.schedule(&client, &mut inner);
        drop(inner);
        self.clients.insert(client_id, client);
    }
}

/// Messages that were in flight, as far as that is known, and those behind them.
fn restore_messages(
    session: &mut Session<Shared>,
    messages: Vec<RestoredMessage>,
    record: &SessionRecord,
    settings: &Settings,
) {
    for (at, restored) in messages.into_iter().enumerate() {
        let RestoredMessage { entry, message, qos: quality, retain, identifiers, share, since, is_released } =
            restored;
        let is_sent = match record.away {
            Some(away) => entry.position() <= away.sent,
            // They are sent in order, so those in flight were the first of what is left.
            None => at < usize::from(record.in_flight_max),
        };
        let phase = match () {
            () if is_released => Phase::Released,
            () if is_sent => Phase::MaybeSent,
            () => Phase::Waiting,
        };
        let terms = Terms { qos: qos(quality), retain, subscription_ids: &identifiers, since };
        session.restore(Shared { message, entry: Some(entry), share }, terms, phase, settings);
    }
}

/// When the session ends and its will is due. Of a client that was connected nothing is known but that it is gone
/// now.
fn restore_end(inner: &mut Inner, record: SessionRecord, client_id: &Arc<str>, now: Instant) {
    let SessionRecord { user, expiry, away, will, .. } = record;
    inner.ends = match away {
        Some(away) => away.ends,
        None => now.checked_add(expiry),
    };
    let Some(will) = will else { return };
    let WillRecord { message, expiry: message_expiry, delay, due, listener, peer, encrypted } = will;
    let mut origin = Origin::new(listener, peer, Protocol::Mqtt, encrypted);
    origin.client_id = Some(client_id.clone());
    origin.user = user;
    let due = due.or_else(|| now.checked_add(delay)).into_iter().chain(inner.ends).min();
    let (expiry, origin) = (message_expiry, Arc::new(origin));
    inner.will = Some(Box::new(Will { message, expiry, delay, due, origin }));
}
