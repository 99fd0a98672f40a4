//! What an issuer says of a client.

use std::{collections::BTreeMap, fmt};

/// Claims of a token or of a hook's answer, by name. One that is a list has several values; only text, numbers and
/// booleans are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Box<str>, Vec<Box<str>>>);

impl Claims {
    /// Of a JSON object's members.
    pub fn of(object: &serde_json::Map<String, serde_json::Value>) -> Self {
        let values = |value: &serde_json::Value| match value {
            serde_json::Value::Array(list) => list.iter().filter_map(text).collect(),
            other => text(other).into_iter().collect::<Vec<_>>(),
        };
        let claims = object.iter().map(|(name, value)| (name.as_str().into(), values(value)));
        Self(claims.filter(|(_, values)| !values.is_empty()).collect())
    }

    /// Of names with their values.
    pub fn of_lists(lists: impl Iterator<Item = (String, Vec<String>)>) -> Self {
        let claims = lists.map(|(name, values)| {
            (name.into_boxed_str(), values.into_iter().map(String::into_boxed_str).collect::<Vec<_>>())
        });
        Self(claims.filter(|(_, values)| !values.is_empty()).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every value of a claim.
    pub fn all(&self, name: &str) -> &[Box<str>] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The value of a claim that has exactly one.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.all(name) {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// Values may be secrets; names are the issuer's vocabulary.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn text(value: &serde_json::Value) -> Option<Box<str>> {
    match value {
        serde_json::Value::String(text) => Some(text.as_str().into()),
        serde_json::Value::Number(number) => Some(number.to_string().into()),
        serde_json::Value::Bool(value) => Some(value.to_string().into()),
        _ => None,
    }
}
