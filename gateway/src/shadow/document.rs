//! One shadow: what a thing is to be, what it says it is, and what the two differ in.
//!
//! Members of JSON objects are merged: `null` removes one, an object is merged into the one that is there, anything else
//! takes its place.

use serde_json::{Map, Value, json};

/// Objects within objects: a document that is deeper is refused.
pub(super) const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Document {
    /// Counts changes, from 1 on; it goes on when a deleted shadow begins anew.
    pub(super) version: u64,
    pub(super) desired: Map<String, Value>,
    pub(super) reported: Map<String, Value>,
    pub(super) unix_ms: u64,
}

/// What a client wants changed.
#[derive(Debug, Default)]
pub(super) struct Update {
    desired: Option<Value>,
    reported: Option<Value>,
    /// The version that the client knows: another one refuses the update.
    pub(super) version: Option<u64>,
    pub(super) client_token: Option<Value>,
}

/// Why an update was refused: a code as HTTP has it, and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) message: &'static str,
}

pub(super) const NOT_JSON: Refusal = Refusal { code: 400, message: "not a JSON object" };
pub(super) const NO_STATE: Refusal =
    Refusal { code: 400, message: "needs state.desired or state.reported, an object or null" };
pub(super) const TOO_DEEP: Refusal = Refusal { code: 400, message: "objects are nested too deep" };
pub(super) const NO_SHADOW: Refusal = Refusal { code: 404, message: "there is no shadow of that name" };
pub(super) const CONFLICT: Refusal = Refusal { code: 409, message: "the shadow has another version" };
pub(super) const TOO_LARGE: Refusal = Refusal { code: 413, message: "the shadow would be too large" };
pub(super) const FULL: Refusal = Refusal { code: 429, message: "no more shadows are kept" };
pub(super) const NOT_STORED: Refusal = Refusal { code: 500, message: "the shadow could not be stored" };

impl Update {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let Ok(Value::Object(mut object)) = serde_json::from_slice(payload) else { return Err(NOT_JSON) };
        let mut update = Self {
            version: object.get("version").and_then(Value::as_u64),
            client_token: object.remove("clientToken"),
            ..Self::default()
        };
        let Some(Value::Object(mut state)) = object.remove("state") else { return Err(NO_STATE) };
        for (name, slot) in [("desired", &mut update.desired), ("reported", &mut update.reported)] {
            match state.remove(name) {
                None => {}
                Some(value @ (Value::Object(_) | Value::Null)) => *slot = Some(value),
                Some(_) => return Err(NO_STATE),
            }
        }
        if update.desired.is_none() && update.reported.is_none() {
            return Err(NO_STATE);
        }
        let parts = update.desired.iter().chain(&update.reported);
        if parts.into_iter().any(|value| is_deeper(value, DEPTH_MAX)) {
            return Err(TOO_DEEP);
        }
        Ok(update)
    }

    /// What was asked for, as the answer shows it.
    pub(super) fn state(&self) -> Value {
        let mut state = Map::new();
        for (name, value) in [("desired", &self.desired), ("reported", &self.reported)] {
            if let Some(value) = value {
                state.insert(name.to_owned(), value.clone());
            }
        }
        Value::Object(state)
    }
}

impl Document {
    /// The document after the update.
    pub(super) fn apply(&self, update: &Update, unix_ms: u64) -> Result<Self, Refusal> {
        if update.version.is_some_and(|version| version != self.version) {
            return Err(CONFLICT);
        }
        let mut next = self.clone();
        for (part, change) in [(&mut next.desired, &update.desired), (&mut next.reported, &update.reported)] {
            match change {
                None => {}
                Some(Value::Object(change)) => merge(part, change),
                Some(_) => part.clear(),
            }
        }
        (next.version, next.unix_ms) = (self.version + 1, unix_ms);
        Ok(next)
    }

    /// What is desired and not reported so; `None`: nothing.
    pub(super) fn delta(&self) -> Option<Map<String, Value>> {
        Some(difference(&self.desired, &self.reported)).filter(|delta| !delta.is_empty())
    }

    pub(super) fn state(&self) -> Value {
        let mut state = json!({ "desired": self.desired, "reported": self.reported });
        if let (Some(delta), Some(state)) = (self.delta(), state.as_object_mut()) {
            state.insert("delta".to_owned(), Value::Object(delta));
        }
        state
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { version, desired, reported, unix_ms } = self;
        let record =
            json!({ "version": version, "desired": desired, "reported": reported, "unix_ms": unix_ms });
        record.to_string().into_bytes()
    }

    /// `None` when the record is none.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let Value::Object(mut record) = serde_json::from_slice(record).ok()? else { return None };
        let (version, unix_ms) = (record.get("version")?.as_u64()?, record.get("unix_ms")?.as_u64()?);
        let (desired, reported) = (record.remove("desired")?, record.remove("reported")?);
        let (Value::Object(desired), Value::Object(reported)) = (desired, reported) else { return None };
        Some(Self { version, desired, reported, unix_ms })
    }
}

fn merge(into: &mut Map<String, Value>, change: &Map<String, Value>) {
    for (name, value) in change {
        match (into.get_mut(name), value) {
            (_, Value::Null) => drop(into.remove(name)),
            (Some(Value::Object(held)), Value::Object(change)) => merge(held, change),
            (_, Value::Object(change)) => {
                // Not as it is: what is null in it is not to be there.
                let mut made = Map::new();
                merge(&mut made, change);
                into.insert(name.clone(), Value::Object(made));
            }
            (_, value) => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

fn difference(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut delta = Map::new();
    for (name, wanted) in desired {
        match (wanted, reported.get(name)) {
            (wanted, Some(reported)) if wanted == reported => {}
            (Value::Object(wanted), Some(Value::Object(reported))) => {
                let inner = difference(wanted, reported);
                if !inner.is_empty() {
                    delta.insert(name.clone(), Value::Object(inner));
                }
            }
            (wanted, _) => drop(delta.insert(name.clone(), wanted.clone())),
        }
    }
    delta
}

fn is_deeper(value: &Value, depth: usize) -> bool {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Object(object) => Box::new(object.values()),
        Value::Array(array) => Box::new(array.iter()),
        _ => return false,
    };
    depth == 0 || inner.any(|value| is_deeper(value, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(document: &Document, update: Value) -> Document {
        let update = Update::parse(update.to_string().as_bytes()).unwrap();
        document.apply(&update, 7).unwrap()
    }

    fn refused(payload: &str) -> Refusal {
        Update::parse(payload.as_bytes()).err().unwrap()
    }

    #[test]
    fn what_is_desired_and_not_reported_is_the_delta() {
        let first = json!({ "state": { "desired": { "led": { "on": true, "colour": "red" }, "rate": 5 } } });
        let document = updated(&Document::default(), first);
        let reported =
            json!({ "state": { "reported": { "led": { "on": true, "colour": "blue" }, "up": 1 } } });
        let document = updated(&document, reported);
        assert_eq!(document.version, 2);
        assert_eq!(
            Value::Object(document.delta().unwrap()),
            json!({ "led": { "colour": "red" }, "rate": 5 })
        );
        let reported = json!({ "state": { "reported": { "led": { "colour": "red" }, "rate": 5 } } });
        assert_eq!(updated(&document, reported).delta(), None);
    }

    #[test]
    fn null_removes_a_member_or_all_of_them() {
        let document =
            updated(&Document::default(), json!({ "state": { "desired": { "a": 1, "b": { "c": 2 } } } }));
        let document =
            updated(&document, json!({ "state": { "desired": { "a": null, "b": { "d": { "e": null } } } } }));
        assert_eq!(Value::Object(document.desired.clone()), json!({ "b": { "c": 2, "d": {} } }));
        let document = updated(&document, json!({ "state": { "desired": null } }));
        assert!(document.desired.is_empty());
    }

    #[test]
    fn what_is_no_update_is_refused_and_so_is_one_of_another_version() {
        assert_eq!(refused("x"), NOT_JSON);
        assert_eq!(refused("[]"), NOT_JSON);
        assert_eq!(refused("{}"), NO_STATE);
        assert_eq!(refused(r#"{"state":{"desired":3}}"#), NO_STATE);
        let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        assert_eq!(refused(&format!(r#"{{"state":{{"desired":{deep}}}}}"#)), TOO_DEEP);
        let update = Update::parse(br#"{"state":{"desired":{}},"version":4}"#).unwrap();
        assert_eq!(Document::default().apply(&update, 0), Err(CONFLICT));
    }

    #[test]
    fn a_document_comes_back_as_it_was() {
        let document =
            updated(&Document::default(), json!({ "state": { "desired": { "a": [1, { "b": null }] } } }));
        assert_eq!(Document::decode(&document.encode()), Some(document));
        assert_eq!(Document::decode(b"{}"), None);
    }
}
