//! Device shadows: what a thing is to be and what it last said it is, kept while it is away (`[shadow]`).
//!
//! ```text
//!  $shadow/THING/update  {"state": {"desired": {…}, "reported": {…}}, "version": N}
//!        --> /update/accepted   what was changed, and the version
//!        --> /update/delta      what is desired and not reported, if that is anything
//!        --> /update/rejected   code and message
//!  $shadow/THING/get     --> /get/accepted      state, delta and version    or /get/rejected
//!  $shadow/THING/delete  --> /delete/accepted                                or /delete/rejected
//! ```
//!
//! Clients publish to the three topics and subscribe to the others, on which only the gateway publishes. The ACL says
//! who may do so for which thing. A version counts on when a shadow is deleted and begun anew, so that an update that was
//! meant for the old one is refused.

mod document;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::document::{CONFLICT, Document, FULL, NO_SHADOW, NOT_STORED, Refusal, TOO_LARGE, Update};
use crate::{
    gateway::Gateway,
    hub::Message,
    mqtt, settings,
    store::{Store, StoreError, Table, Write},
};

const PREFIX: &str = "$shadow/";

/// All shadows of one gateway.
pub struct Shadows {
    documents: Mutex<HashMap<Arc<str>, Arc<Document>>>,
    store: Store,
}

/// What a client publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Update,
    Get,
    Delete,
}

/// What a topic under `$shadow/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'t> {
    /// None of them.
    Other,
    /// A client's, of a thing.
    Command(&'t str, Verb),
    /// The gateway's own, or nobody's.
    Reserved,
}

/// What a topic means where shadows are kept.
pub(crate) fn parse(topic: &str) -> Parsed<'_> {
    let Some(rest) = topic.strip_prefix(PREFIX) else { return Parsed::Other };
    let verb = |verb| match verb {
        "update" => Some(Verb::Update),
        "get" => Some(Verb::Get),
        "delete" => Some(Verb::Delete),
        _ => None,
    };
    let command = rest.split_once('/').filter(|(thing, _)| !thing.is_empty());
    match command.and_then(|(thing, name)| Some((thing, verb(name)?))) {
        Some((thing, verb)) => Parsed::Command(thing, verb),
        None => Parsed::Reserved,
    }
}

impl Shadows {
    /// Those that the store kept.
    ///
    /// # Errors
    /// The store cannot be read, or holds a record that is no shadow.
    pub fn restore(store: &Store) -> Result<Self, StoreError> {
        let mut documents = HashMap::new();
        for (key, value) in store.scan(Table::Shadows)? {
            let thing = String::from_utf8(key).ok();
            let (thing, document) = thing
                .zip(Document::decode(&value))
                .ok_or_else(|| store.damaged("a shadow's record is not of this version"))?;
            documents.insert(thing.into(), Arc::new(document));
        }
        Ok(Self { documents: Mutex::new(documents), store: store.clone() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.documents.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does what a client's message asks, and publishes the answers; says whether the store has to hear of it before
    /// the client is acknowledged.
    pub(crate) fn handle(&self, gateway: &Gateway, message: &Message) -> bool {
        let Parsed::Command(thing, verb) = parse(&message.topic) else { return false };
        let settings = gateway.snapshot().settings.shadow;
        let done = match verb {
            Verb::Update => self.update(&settings, thing, &message.payload),
            Verb::Get => self.get(thing, &message.payload),
            Verb::Delete => self.delete(thing, &message.payload),
        };
        let say = |name: &str, payload: Value| {
            let topic = format!("{}/{name}", message.topic).into();
            let payload = Bytes::from(payload.to_string());
            let content_type = Some("application/json".into());
            let correlation_data = message.correlation_data.clone();
            let answer =
                Message { topic, payload, qos: 1, content_type, correlation_data, ..Message::default() };
            mqtt::publish_locally(gateway, &Arc::new(answer));
        };
        match done {
            Ok(Done { accepted, delta, is_written }) => {
                say("accepted", accepted);
                if let Some(delta) = delta {
                    say("delta", delta);
                }
                is_written && self.store.is_lasting()
            }
            Err((refusal, token)) => {
                match refusal {
                    TOO_LARGE => gateway.metrics.limit_hit("shadow.bytes_max"),
                    FULL => gateway.metrics.limit_hit("shadow.things_max"),
                    _ => {}
                }
                say(
                    "rejected",
                    with_token(json!({ "code": refusal.code, "message": refusal.message }), token),
                );
                false
            }
        }
    }

    fn update(&self, settings: &settings::Shadow, thing: &str, payload: &[u8]) -> Outcome {
        let update = Update::parse(payload).map_err(|refusal| (refusal, token(payload)))?;
        let failed = |refusal| (refusal, update.client_token.clone());
        let mut documents = self.documents.lock();
        let held = documents.get(thing);
        if held.is_none() && documents.len() >= settings.things_max {
            return Err(failed(FULL));
        }
        let now = mqtt::clock().unix_ms(mqtt::now());
        let next = held.cloned().unwrap_or_default().apply(&update, now).map_err(failed)?;
        let record = next.encode();
        if record.len() > settings.bytes_max {
            return Err(failed(TOO_LARGE));
        }
        self.put(thing, record).map_err(failed)?;
        let shown = json!({ "state": update.state(), "version": next.version, "timestamp": now });
        let delta = next.delta().map(|delta| {
            let delta = json!({ "state": delta, "version": next.version, "timestamp": now });
            with_token(delta, update.client_token.clone())
        });
        documents.insert(thing.into(), Arc::new(next));
        Ok(Done { accepted: with_token(shown, update.client_token), delta, is_written: true })
    }

    fn get(&self, thing: &str, payload: &[u8]) -> Outcome {
        let documents = self.documents.lock();
        let document = documents.get(thing).filter(|document| document.is_there());
        let document = document.ok_or_else(|| (NO_SHADOW, token(payload)))?;
        let shown =
            json!({ "state": document.state(), "version": document.version, "timestamp": document.unix_ms });
        Ok(Done { accepted: with_token(shown, token(payload)), delta: None, is_written: false })
    }

    /// What is left is its version.
    fn delete(&self, thing: &str, payload: &[u8]) -> Outcome {
        let failed = |refusal| (refusal, token(payload));
        let mut documents = self.documents.lock();
        let document = documents.get(thing).filter(|document| document.is_there());
        let document = document.ok_or_else(|| failed(NO_SHADOW))?;
        let wanted = serde_json::from_slice::<Value>(payload).ok();
        let wanted = wanted.as_ref().and_then(|payload| payload.get("version")?.as_u64());
        if wanted.is_some_and(|version| version != document.version) {
            return Err(failed(CONFLICT));
        }
        let now = mqtt::clock().unix_ms(mqtt::now());
        let shown = json!({ "version": document.version, "timestamp": now });
        let left = Document { version: document.version + 1, unix_ms: now, ..Document::default() };
        self.put(thing, left.encode()).map_err(failed)?;
        documents.insert(thing.into(), Arc::new(left));
        Ok(Done { accepted: with_token(shown, token(payload)), delta: None, is_written: true })
    }

    /// Under the lock of the documents, so that the store has what memory has.
    fn put(&self, thing: &str, value: Vec<u8>) -> Result<(), Refusal> {
        let put = Write::Put { table: Table::Shadows, key: thing.as_bytes().to_vec(), value };
        self.store.write(put).map_err(|_| NOT_STORED)
    }
}

type Outcome = Result<Done, (Refusal, Option<Value>)>;

struct Done {
    accepted: Value,
    delta: Option<Value>,
    is_written: bool,
}

impl Document {
    /// A deleted one has nothing in it.
    fn is_there(&self) -> bool {
        !self.desired.is_empty() || !self.reported.is_empty()
    }
}

/// Comes back in the answer, so that a client knows it for its own.
fn token(payload: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(payload).ok()?.get("clientToken").cloned()
}

fn with_token(mut payload: Value, token: Option<Value>) -> Value {
    if let (Some(token), Some(object)) = (token, payload.as_object_mut()) {
        object.insert("clientToken".to_owned(), token);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_three_topics_of_a_thing() {
        assert_eq!(parse("$shadow/meter-7/update"), Parsed::Command("meter-7", Verb::Update));
        assert_eq!(parse("$shadow/meter-7/get"), Parsed::Command("meter-7", Verb::Get));
        assert_eq!(parse("$shadow/meter-7/delete"), Parsed::Command("meter-7", Verb::Delete));
        for topic in ["$shadow/a/update/accepted", "$shadow/a", "$shadow//get", "$shadow/a/b"] {
            assert_eq!(parse(topic), Parsed::Reserved, "{topic}");
        }
        assert_eq!(parse("a/$shadow/b/get"), Parsed::Other);
    }
}
