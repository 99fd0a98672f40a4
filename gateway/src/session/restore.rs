//! Sessions as the store holds them, brought back at the start.

use std::{str, sync::Arc};

use super::{
    LinkSession, Sessions,
    link_session::{Identity, PUSH_IDS_RESERVED},
    outcome_record::{Mark, Outcome},
    record::{SessionRecord, decode_push, parse_push_key},
    secret::SecretHash,
};
use crate::{
    hub::SubscribeOptions,
    store::{Entries, StoreError, Table, Write},
};

impl Sessions {
    pub(super) fn restore_all(&self) -> Result<(), StoreError> {
        let store = &self.context.store;
        let mut ahead = Vec::new();
        for (key, record) in store.scan(Table::Sessions)? {
            self.restore_session(&key, &record, &mut ahead)
                .ok_or_else(|| store.damaged("a session's record is not of this version"))?;
        }
        self.write_ahead(ahead);
        if self.len() > self.sessions_max() {
            let (kept, bound) = (self.len(), self.sessions_max());
            tracing::warn!(
                kept,
                bound,
                "the store holds more sessions than limits.sessions_max: no new client is taken"
            );
        }
        for (key, record) in store.scan(Table::SessionHeaders)? {
            match str::from_utf8(&key).ok().and_then(|client_id| self.get(client_id)) {
                Some(session) => session.restore_headers(record),
                None => self.context.forget(Write::Delete { table: Table::SessionHeaders, key }),
            }
        }
        for (key, record) in store.scan(Table::Pushes)? {
            self.restore_push(key, &record)
                .ok_or_else(|| store.damaged("a push's record is not of this version"))?;
        }
        self.restore_outcomes(store.scan(Table::Outcomes)?)
    }

    /// Marks come ahead of their outcomes.
    fn restore_outcomes(&self, entries: Entries) -> Result<(), StoreError> {
        let damaged = || self.context.store.damaged("an outcome's record is not of this version");
        let mut outcomes = Vec::new();
        for (key, record) in entries {
            let (client_id, seq) = parse_push_key(&key).ok_or_else(damaged)?;
            if seq == 0 {
                let mark = Mark::decode(&record).ok_or_else(damaged)?;
                match self.get(client_id) {
                    Some(session) => session.restore_mark(mark),
                    None => self.context.end_marks(client_id.into()),
                }
            } else {
                let outcome = Outcome::decode(&record).ok_or_else(damaged)?;
                outcomes.push((outcome, key, record.len()));
            }
        }
        outcomes.sort_by_key(|(outcome, ..)| outcome.finished_ms);
        for (outcome, key, bytes) in outcomes {
            let (client_id, seq) = parse_push_key(&key).ok_or_else(damaged)?;
            let bytes = key.len() + bytes;
            let session = self.get(client_id);
            if !session.is_some_and(|session| session.restore_outcome(seq, outcome, bytes)) {
                self.context.forget(Write::Delete { table: Table::Outcomes, key });
            }
        }
        Ok(())
    }

    /// What the store says of push ids may have been used up: a session that took the next one and died before it had
    /// said so would use it again, and its client takes what comes under an id that it has seen for a repeat.
    fn write_ahead(&self, ahead: Vec<Write>) {
        if let Err(error) = self.context.store.write_now(ahead) {
            // It takes nothing that follows either, so that no push is accepted in this life.
            tracing::error!(%error, "the ids of the next pushes could not be reserved");
            return;
        }
        self.table.iter().for_each(|session| session.reserved_push_ids());
    }

    fn restore_session(&self, key: &[u8], record: &[u8], ahead: &mut Vec<Write>) -> Option<()> {
        let client_id: Arc<str> = str::from_utf8(key).ok()?.into();
        let mut record = SessionRecord::decode(record)?;
        let push_ids_used = record.push_ids_reserved;
        record.push_ids_reserved += PUSH_IDS_RESERVED;
        let reserving = record.encode();
        let identity = Identity {
            client_id: client_id.clone(),
            user: record.user,
            secret_hash: SecretHash(record.secret_hash),
        };
        // Also beyond a limits.sessions_max that is smaller than before, as after a reload: what the store holds of a
        // session was promised, and its client would get ids again that it has seen.
        let Ok(session) = self.admit(identity) else {
            tracing::warn!(%client_id, "a stored session is left out: an MQTT client holds its id");
            return Some(());
        };
        session.restore_push_ids(record.push_line, push_ids_used);
        ahead.push(Write::Put { table: Table::Sessions, key: key.to_vec(), value: reserving });
        for (filter, qos) in record.filters {
            let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
            if let Err(error) = self.context.hub.subscribe(&client_id, &filter, options) {
                tracing::warn!(%client_id, filter, %error, "a stored subscription is refused now");
            }
        }
        session.suspend_restored();
        self.table.insert(client_id, session);
        Some(())
    }

    fn restore_push(&self, key: Vec<u8>, record: &[u8]) -> Option<()> {
        let (client_id, id) = parse_push_key(&key)?;
        let push = decode_push(id, record, &self.context.clock, &self.context.receipts)?;
        match self.get(client_id) {
            Some(session) => session.restore_push(push),
            None => self.context.forget(Write::Delete { table: Table::Pushes, key }),
        }
        Some(())
    }
}

impl LinkSession {
    /// A restored session is away since the start: the gateway cannot say for how long before.
    fn suspend_restored(self: &Arc<Self>) {
        self.note_away();
    }
}
