//! Everything that a document may set, by name: how a line is made and kept, and the client's strategies.

use std::time::Duration;

use towline_protocols::{
    link::{self, ParameterValue},
    policy::{LinePolicy, Parameter, ParameterError, Parameters as _, Strategies, Value},
};

use super::document::{Assignments, Resolved};
use crate::settings::ClientPolicy;

/// The section whose values go by POLICY's own fields.
const LINE: &str = LinePolicy::SECTION;

/// All parameters of a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Everything {
    line: LinePolicy,
    strategies: Strategies,
}

impl Everything {
    /// What a client does that no document concerns.
    pub fn of(base: &ClientPolicy) -> Self {
        let ClientPolicy { heartbeat, fallback_delay, connect_timeout, backoff_min, backoff_max } = *base;
        let line = LinePolicy { heartbeat, fallback_delay, connect_timeout, backoff_min, backoff_max };
        Self { line, ..Self::default() }
    }

    /// The sections, each with its parameters.
    pub fn sections() -> Vec<(&'static str, &'static [Parameter])> {
        let mut sections = vec![(LINE, LinePolicy::list())];
        sections.extend(Strategies::sections());
        sections
    }

    /// The parameter of that name.
    pub fn find(name: &str) -> Option<&'static Parameter> {
        let (section, rest) = name.split_once('.')?;
        let (_, list) = Self::sections().into_iter().find(|(known, _)| *known == section)?;
        list.iter().find(|parameter| parameter.name == rest)
    }

    /// Sets one.
    ///
    /// # Errors
    /// Names what is allowed.
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), ParameterError> {
        match name.split_once('.') {
            Some((section, rest)) if section == LINE => self.line.set(rest, value),
            _ => self.strategies.set(name, value),
        }
    }

    /// Whether values that are each in their range go together.
    ///
    /// # Errors
    /// For people.
    pub fn check(&self, heartbeat_max: Duration) -> Result<(), String> {
        self.line.check().map_err(|text| format!("{LINE}.{text}"))?;
        self.strategies.check()?;
        let heartbeat = self.line.heartbeat;
        if heartbeat > heartbeat_max {
            return Err(format!(
                "{LINE}.heartbeat is {heartbeat:?}, longer than session.heartbeat_max ({heartbeat_max:?}), which the \
                 gateway holds clients to"
            ));
        }
        Ok(())
    }

    /// Sets all of them, as far as they can be.
    pub fn set_all(&mut self, set: &Assignments) {
        // Each was checked when the document was read.
        set.iter().for_each(|(name, value)| _ = self.set(name, *value));
    }
}

/// POLICY for a client: what the configuration says, with what a document came to for it.
pub fn to_wire(base: &ClientPolicy, resolved: &Resolved<'_>) -> link::Policy {
    let mut everything = Everything::of(base);
    let mut parameters = Vec::new();
    for (name, value) in &resolved.set {
        // Each was checked when the document was read.
        let _ = everything.set(name, *value);
        if !name.starts_with("line.") {
            parameters.push(link::Parameter { name: (*name).to_owned(), value: Some(value_to_wire(*value)) });
        }
    }
    let arm = |experiment: &str, arm: &str| link::Arm { experiment: experiment.into(), arm: arm.into() };
    let arms = resolved.arms.iter().map(|(experiment, chosen)| arm(&experiment.name, &chosen.name));
    let ms = |value: Duration| u32::try_from(value.as_millis()).unwrap_or(u32::MAX);
    let LinePolicy { heartbeat, fallback_delay, connect_timeout, backoff_min, backoff_max } = everything.line;
    let mut policy = link::Policy {
        heartbeat_ms: ms(heartbeat),
        fallback_delay_ms: ms(fallback_delay),
        connect_timeout_ms: ms(connect_timeout),
        backoff_min_ms: ms(backoff_min),
        backoff_max_ms: ms(backoff_max),
        parameters,
        arms: arms.collect(),
        ..link::Policy::default()
    };
    policy.revision = revision(&policy);
    policy
}

fn value_to_wire(value: Value) -> ParameterValue {
    match value {
        Value::Time(time) => ParameterValue::TimeMs(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        Value::Number(number) => ParameterValue::Share(number),
        Value::Count(count) => ParameterValue::Count(count),
        Value::Switch(switch) => ParameterValue::Switch(switch),
    }
}

/// The revision names the values: all nodes of equal configuration say the same, and a client that follows
/// it already is not told again. FNV-1a, cut to what a varint carries; never 0, which means none.
fn revision(policy: &link::Policy) -> u64 {
    let bytes = prost::Message::encode_to_vec(policy);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_names_the_values_of_a_policy() {
        let settings = crate::settings::Settings::default().client_policy;
        let changed = ClientPolicy { heartbeat: settings.heartbeat * 2, ..settings.clone() };
        let policy = |settings: &ClientPolicy| to_wire(settings, &Resolved::default());
        assert_eq!(policy(&settings), policy(&settings.clone()));
        assert_ne!(policy(&settings).revision, policy(&changed).revision);
    }

    #[test]
    fn what_the_configuration_says_is_overridden_and_the_rest_goes_by_name() {
        let base = ClientPolicy { heartbeat: Duration::from_secs(45), ..ClientPolicy::default() };
        let mut resolved = Resolved::default();
        resolved.set.insert("line.connect_timeout", Value::Time(Duration::from_secs(7)));
        resolved.set.insert("timeouts.margin", Value::Number(4.0));
        let policy = to_wire(&base, &resolved);
        assert_eq!((policy.heartbeat_ms, policy.connect_timeout_ms), (45_000, 7000));
        let margin =
            link::Parameter { name: "timeouts.margin".into(), value: Some(ParameterValue::Share(4.0)) };
        assert_eq!(policy.parameters, [margin]);
    }

    #[test]
    fn a_heartbeat_keeps_to_what_the_gateway_accepts() {
        let mut everything = Everything::default();
        everything.set("line.heartbeat", Value::Time(Duration::from_secs(301))).unwrap();
        let text = everything.check(Duration::from_secs(300)).unwrap_err();
        assert!(text.contains("session.heartbeat_max"), "{text}");
    }
}
