//! What the store kept of MQTT sessions, brought back at the start.

use std::{
    collections::HashMap,
    str,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use towline_protocols::mqtt::PacketId;

use super::{
    DONE, Entry, Keeper, Kept, READY, RELEASED, SessionRecord,
    record::{Recipient, Stored, decode_message, decode_subscription, parse_numbered_key, progress_range},
};
use crate::{
    hub::{Message, SubscribeOptions},
    store::{StoreError, Table, Write},
};

/// A session and all that belongs to it.
pub(in crate::mqtt) struct Restored {
    pub(in crate::mqtt) client_id: Arc<str>,
    pub(in crate::mqtt) record: SessionRecord,
    pub(in crate::mqtt) filters: Vec<(String, SubscribeOptions)>,
    /// QoS 2 publishes taken and not released.
    pub(in crate::mqtt) received: Vec<PacketId>,
    /// In their order.
    pub(in crate::mqtt) messages: Vec<RestoredMessage>,
}

/// A message that waits for a session.
pub(in crate::mqtt) struct RestoredMessage {
    pub(in crate::mqtt) entry: Arc<Entry>,
    pub(in crate::mqtt) message: Arc<Message>,
    pub(in crate::mqtt) qos: u8,
    pub(in crate::mqtt) retain: bool,
    pub(in crate::mqtt) identifiers: Box<[u32]>,
    /// The shared subscription that asked for it.
    pub(in crate::mqtt) share: Option<Arc<str>>,
    pub(in crate::mqtt) since: Instant,
    /// QoS 2: the client has it.
    pub(in crate::mqtt) is_released: bool,
}

type ByNumber = HashMap<u64, Restored>;
/// Of message and session.
type Progress = HashMap<(u64, u64), u8>;

/// Reads all sessions, and removes what belongs to none.
///
/// # Errors
/// The file cannot be read, or holds a record that is not of this version.
pub(in crate::mqtt) fn restore(keeper: &Keeper) -> Result<Vec<Restored>, StoreError> {
    let (mut numbered, mut restored) = (ByNumber::new(), Vec::new());
    for session in sessions(keeper)? {
        match session.record.number {
            0 => restored.push(session),
            number => _ = numbered.insert(number, session),
        }
    }
    subscriptions(keeper, &mut numbered)?;
    received(keeper, &mut numbered)?;
    messages(keeper, &mut numbered)?;
    for (_, mut session) in numbered {
        session.messages.sort_unstable_by_key(|message| message.entry.position());
        restored.push(session);
    }
    // The same order at each start.
    restored.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
    Ok(restored)
}

fn sessions(keeper: &Keeper) -> Result<Vec<Restored>, StoreError> {
    let damaged = || keeper.store.damaged("an MQTT session's record is not of this version");
    let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
        let client_id = str::from_utf8(&key).ok()?.into();
        let record = SessionRecord::decode(&value)?;
        let (filters, received, messages) = (Vec::new(), Vec::new(), Vec::new());
        Some(Restored { client_id, record, filters, received, messages })
    };
    let entries = keeper.store.scan(Table::MqttSessions)?.into_iter();
    entries.map(|entry| decode(entry).ok_or_else(damaged)).collect()
}

fn subscriptions(keeper: &Keeper, sessions: &mut ByNumber) -> Result<(), StoreError> {
    let damaged = || keeper.store.damaged("an MQTT subscription's record is not of this version");
    for (key, value) in keeper.store.scan(Table::MqttSubscriptions)? {
        let (session, filter) = parse_numbered_key(&key).ok_or_else(damaged)?;
        let filter = str::from_utf8(filter).map_err(|_| damaged())?;
        let options = decode_subscription(&value).ok_or_else(damaged)?;
        match sessions.get_mut(&session) {
            Some(session) => session.filters.push((filter.to_owned(), options)),
            None => keeper.store.must_write(Write::Delete { table: Table::MqttSubscriptions, key }),
        }
    }
    Ok(())
}

fn received(keeper: &Keeper, sessions: &mut ByNumber) -> Result<(), StoreError> {
    let damaged = || keeper.store.damaged("the record of an MQTT publish is not of this version");
    for (key, _) in keeper.store.scan(Table::MqttReceived)? {
        let (session, id) = parse_numbered_key(&key).ok_or_else(damaged)?;
        let id = id.try_into().ok().map(u16::from_be_bytes).and_then(PacketId::new).ok_or_else(damaged)?;
        match sessions.get_mut(&session) {
            Some(session) => session.received.push(id),
            None => keeper.store.must_write(Write::Delete { table: Table::MqttReceived, key }),
        }
    }
    Ok(())
}

fn messages(keeper: &Keeper, sessions: &mut ByNumber) -> Result<(), StoreError> {
    let damaged = || keeper.store.damaged("an MQTT message's record is not of this version");
    let mut progress = progress(keeper)?;
    for (key, value) in keeper.store.scan(Table::MqttMessages)? {
        let number = key.try_into().map(u64::from_be_bytes).map_err(|_| damaged())?;
        let stored = decode_message(&value).ok_or_else(damaged)?;
        keeper.next_message.fetch_max(number.saturating_add(1), Ordering::Relaxed);
        let far = |Recipient { session, .. }: &Recipient| {
            progress.remove(&(number, *session)).map(|far| (*session, far))
        };
        let progress = stored.recipients.iter().filter_map(far).collect();
        restore_message(keeper, number, stored, &progress, sessions);
    }
    // Notes of messages that are over.
    for (message, _) in progress.into_keys() {
        let (first, last) = progress_range(message);
        keeper.store.must_write(Write::DeleteRange { table: Table::MqttProgress, first, last });
    }
    Ok(())
}

fn restore_message(
    keeper: &Keeper,
    number: u64,
    stored: Stored,
    progress: &HashMap<u64, u8>,
    sessions: &mut ByNumber,
) {
    let Stored { message, since, recipients } = stored;
    let message = Arc::new(message);
    let kept = Arc::new(Kept::new(number, keeper.store.clone(), READY, !progress.is_empty()));
    for Recipient { session, position, qos, retain, identifiers, share } in recipients {
        let far = progress.get(&session).copied();
        let Some(restored) = sessions.get_mut(&session).filter(|_| far != Some(DONE)) else { continue };
        let is_released = far == Some(RELEASED);
        let (entry, message) = (kept.entry(session, position), message.clone());
        restored.messages.push(RestoredMessage {
            entry,
            message,
            qos,
            retain,
            identifiers,
            share,
            since,
            is_released,
        });
    }
    // The last one out removes a message that waits for nobody.
    kept.leave(None);
}

fn progress(keeper: &Keeper) -> Result<Progress, StoreError> {
    let damaged = || keeper.store.damaged("a note of an MQTT message is not of this version");
    let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
        let (message, session) = parse_numbered_key(&key)?;
        let session = u64::from_be_bytes(session.try_into().ok()?);
        let &[far @ (RELEASED | DONE)] = &value[..] else { return None };
        Some(((message, session), far))
    };
    let entries = keeper.store.scan(Table::MqttProgress)?.into_iter();
    entries.map(|entry| decode(entry).ok_or_else(damaged)).collect()
}
