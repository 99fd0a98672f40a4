//! All strategies' parameters in one place, by name.

use super::{
    CarrierPolicy, CompressionPolicy, DurablePolicy, HandoverPolicy, HandshakePolicy, HeartbeatPolicy,
    HedgePolicy, LivenessPolicy, Parameter, ParameterError, Parameters, QualityPolicy, RacePolicy,
    ReconnectPolicy, ReportPolicy, RetryPolicy, ShortPolicy, TimeoutPolicy, Value, parameters::nearest,
};

macro_rules! strategies {
    ($($(#[doc = $doc:literal])* $field:ident: $Policy:ty,)*) => {
        /// How a client deals with networks: what each strategy may be told. A strategy that is switched off
        /// (`enabled`) does what its description says of that.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Strategies {
            $($(#[doc = $doc])* pub $field: $Policy,)*
        }

        impl Strategies {
            /// The sections, in order, each with its parameters.
            pub fn sections() -> Vec<(&'static str, &'static [Parameter])> {
                vec![$((<$Policy>::SECTION, <$Policy>::list()),)*]
            }

            /// What the parameter `section.name` is; `None` where there is no such one.
            pub fn get(&self, name: &str) -> Option<Value> {
                let (section, name) = name.split_once('.')?;
                $(if section == <$Policy>::SECTION {
                    return Parameters::get(&self.$field, name);
                })*
                None
            }

            /// Sets the parameter `section.name`. Whether values go together is for [`Strategies::check`] to say, when
            /// all are set.
            ///
            /// # Errors
            /// [`ParameterError`]; nothing is changed then.
            pub fn set(&mut self, name: &str, value: Value) -> Result<(), ParameterError> {
                let (section, rest) = name.split_once('.').unwrap_or((name, ""));
                $(if section == <$Policy>::SECTION {
                    return Parameters::set(&mut self.$field, rest, value);
                })*
                let known: Vec<String> = Self::sections()
                    .iter()
                    .flat_map(|(section, list)| list.iter().map(move |it| format!("{section}.{}", it.name)))
                    .collect();
                let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
                Err(ParameterError::Unknown { name: name.to_owned(), nearest })
            }

            /// Names the first parameter that is out of its range, or what does not go together.
            ///
            /// # Errors
            /// For people.
            pub fn check(&self) -> Result<(), String> {
                $(self.$field.check_all().map_err(|text| format!("{}.{text}", <$Policy>::SECTION))?;)*
                Ok(())
            }
        }
    };
}

strategies! {
    /// How networks are judged.
    quality: QualityPolicy,
    /// How long things are waited for.
    timeouts: TimeoutPolicy,
    /// How connections are made where there are several ways.
    race: RacePolicy,
    /// Which key exchange handshakes offer.
    handshake: HandshakePolicy,
    /// How long quiet connections are left alone.
    heartbeat: HeartbeatPolicy,
    /// When a silent connection is dead.
    liveness: LivenessPolicy,
    /// When what failed is tried again.
    retry: RetryPolicy,
    /// When what waits goes another way as well.
    hedge: HedgePolicy,
    /// How hard messages are compressed.
    compression: CompressionPolicy,
    /// How much is kept on disk for later.
    durable: DurablePolicy,
    /// When calls go out over short connections.
    short: ShortPolicy,
    /// When a lost connection is made again.
    reconnect: ReconnectPolicy,
    /// How a line moves while its connection still works.
    handover: HandoverPolicy,
    /// By what the link is held while the app is in the background.
    carrier: CarrierPolicy,
    /// What is said to the gateway of all that.
    report: ReportPolicy,
}

impl Strategies {
    /// Sets a parameter as people write it: `race.stagger=250ms`, `hedge.enabled=false`. Whether values go together is
    /// for [`Strategies::check`] to say, when all are set.
    ///
    /// # Errors
    /// [`ParameterError`]; nothing is changed then.
    pub fn set_text(&mut self, assignment: &str) -> Result<(), ParameterError> {
        let (name, text) = assignment.split_once('=').unwrap_or((assignment, ""));
        let (name, text) = (name.trim(), text.trim());
        let value = match self.get(name) {
            Some(present) => present.parse_alike(text).ok_or_else(|| ParameterError::Unreadable {
                name: name.to_owned(),
                text: text.chars().take(SHOWN_MAX).collect(),
                wanted: wanted(present),
            })?,
            // The name is what is wrong.
            None => Value::Switch(true),
        };
        self.set(name, value)
    }
}

/// Characters of a text that an error repeats.
const SHOWN_MAX: usize = 40;

/// A kind, with an example.
fn wanted(kind: Value) -> &'static str {
    match kind {
        Value::Time(_) => "a time, as 500ms, 30s or 2m",
        Value::Number(_) => "a number, as 0.25",
        Value::Count(_) => "a count, as 3, or of bytes 64KiB",
        Value::Switch(_) => "true or false",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_parameter_is_set_by_its_name_within_its_range_alone() {
        let mut names = std::collections::HashSet::new();
        for (section, list) in Strategies::sections() {
            for parameter in list {
                let name = format!("{section}.{}", parameter.name);
                assert!(names.insert(name.clone()), "{name} is there twice");
                assert!(!parameter.about.is_empty(), "{name} is not described");
                let mut strategies = Strategies::default();
                assert_eq!(strategies.get(&name), Some(parameter.default), "{name}");
                for value in [parameter.min, parameter.max, parameter.default] {
                    strategies.set(&name, value).unwrap();
                    assert_eq!(strategies.get(&name), Some(value), "{name}");
                }
            }
        }
        assert_eq!(Strategies::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_set_is_named_with_what_can() {
        let check = |name: &str, value: Value, expected: &str| {
            let mut strategies = Strategies::default();
            let error = strategies.set(name, value).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(strategies, Strategies::default());
        };
        let number = Value::Number;
        check("timeouts.margni", number(2.0), "timeouts.margni is not known; timeouts.margin is");
        check("timeout.margin", number(2.0), "timeout.margin is not known; timeouts.margin is");
        check("colour", number(2.0), "colour is not known");
        check("timeouts.margin", number(f64::NAN), "timeouts.margin is NaN, allowed are 1.5 to 20");
        let second = Value::Time(Duration::from_secs(1));
        check("timeouts.margin", second, "timeouts.margin is 1s, which is a time; wanted is a number");
        check("quality.half_life", second, "quality.half_life is 1s, allowed are 5s to 3600s");
    }

    #[test]
    fn parameters_are_set_as_people_write_them() {
        let mut strategies = Strategies::default();
        for text in
            ["hedge.enabled=false", " quality.half_life = 2m", "timeouts.margin=2.5", "handover.checks=3"]
        {
            strategies.set_text(text).unwrap();
        }
        assert!(!strategies.hedge.enabled);
        assert_eq!(strategies.quality.half_life, Duration::from_secs(120));
        assert_eq!((strategies.timeouts.margin, strategies.handover.checks), (2.5, 3));
        let before = strategies.clone();
        for (text, expected) in [
            ("hedge.enabled", "hedge.enabled cannot be ``; wanted is true or false"),
            ("hedge.enable=no", "hedge.enable is not known; hedge.enabled is"),
            ("quality.half_life=2", "quality.half_life cannot be `2`; wanted is a time, as 500ms, 30s or 2m"),
            ("timeouts.margin=1", "timeouts.margin is 1, allowed are 1.5 to 20"),
            ("", " is not known"),
        ] {
            assert_eq!(strategies.set_text(text).unwrap_err().to_string(), expected);
        }
        assert_eq!(strategies, before);
    }

    #[test]
    fn what_does_not_go_together_is_said_when_all_is_set() {
        let mut strategies = Strategies::default();
        strategies.set("quality.good_max", Value::Time(Duration::from_secs(50))).unwrap();
        let text = strategies.check().unwrap_err();
        assert!(text.starts_with("quality.fair_max"), "{text}");
    }
}
