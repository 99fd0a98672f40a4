//! The policy in use: the app's own values, and over them what the gateway says.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use towline_protocols::{
    link::{self, Arm, ParameterValue, report::ARMS_MAX},
    policy::{Strategies, Value},
};

use crate::{
    config::{ClientConfig, Policy},
    disk::Disk,
};

/// A file that is larger is not ours.
const FILE_BYTES_MAX: usize = 64 << 10;

/// What the gateway's policies are laid over, and where the last good one is kept.
pub(crate) struct InForce {
    own: Policy,
    own_strategies: Strategies,
    arms: Mutex<Vec<Arm>>,
    disk: Option<Arc<Disk>>,
    policy: watch::Sender<Policy>,
    strategies: watch::Sender<Strategies>,
}

impl InForce {
    /// Begins with the policy that the last run used.
    pub(crate) fn new(
        config: &ClientConfig,
        policy: watch::Sender<Policy>,
        strategies: watch::Sender<Strategies>,
    ) -> Self {
        let disk = config.identity_file.as_deref().map(|path: &Path| Arc::new(Disk::beside(path, ".policy")));
        let in_force = Self {
            own: config.policy.clone(),
            own_strategies: config.strategies.clone(),
            arms: Mutex::default(),
            disk,
            policy,
            strategies,
        };
        let kept = in_force.disk.as_ref().and_then(|disk| disk.read(FILE_BYTES_MAX));
        if let Some(kept) = kept.and_then(|bytes| link::Policy::from_bytes(&bytes)) {
            // What an earlier version of the app could obey, this one may not.
            let _ = in_force.lay_over(&kept);
        }
        in_force
    }

    /// Takes a policy of the gateway's into use, and keeps it for the next run.
    ///
    /// # Errors
    /// What it cannot obey; nothing has changed.
    pub(crate) fn apply(&self, policy: &link::Policy) -> Result<(), String> {
        self.lay_over(policy)?;
        if let Some(disk) = &self.disk {
            disk.put(link::Policy { report_wanted: false, ..policy.clone() }.to_bytes());
        }
        Ok(())
    }

    /// The revision in use and the experiments that it is of, for reports.
    pub(crate) fn arms(&self) -> (u64, Vec<Arm>) {
        (self.policy.borrow().revision, self.arms.lock().clone())
    }

    fn lay_over(&self, wire: &link::Policy) -> Result<(), String> {
        let policy = self.own.overlaid(wire);
        policy.check()?;
        let mut strategies = self.own_strategies.clone();
        let mut names = BTreeSet::new();
        for parameter in &wire.parameters {
            let name = &*parameter.name;
            if !names.insert(name) {
                return Err(format!("{name} is set twice"));
            }
            let value = parameter.value.as_ref().and_then(value);
            let value = value.ok_or_else(|| format!("{name} has no value that this client knows"))?;
            strategies.set(name, value).map_err(|error| error.to_string())?;
        }
        strategies.check()?;
        if wire.arms.len() > ARMS_MAX {
            return Err(format!("there are {} experiments, this client takes {ARMS_MAX}", wire.arms.len()));
        }
        wire.arms.clone_into(&mut self.arms.lock());
        self.policy.send_replace(policy);
        self.strategies.send_if_modified(|current| {
            let changes = *current != strategies;
            *current = strategies;
            changes
        });
        Ok(())
    }
}

fn value(value: &ParameterValue) -> Option<Value> {
    Some(match value {
        ParameterValue::TimeMs(ms) => Value::Time(std::time::Duration::from_millis(*ms)),
        ParameterValue::Share(number) => Value::Number(*number),
        ParameterValue::Count(count) => Value::Count(*count),
        ParameterValue::Switch(switch) => Value::Switch(*switch),
    })
}

#[cfg(test)]
mod tests {
    use towline_protocols::link::Parameter;

    use super::*;

    fn in_force(config: &ClientConfig) -> InForce {
        let policy = watch::Sender::new(config.policy.clone());
        InForce::new(config, policy, watch::Sender::new(config.strategies.clone()))
    }

    fn set(name: &str, value: ParameterValue) -> Parameter {
        Parameter { name: name.into(), value: Some(value) }
    }

    fn policy(revision: u64, parameters: Vec<Parameter>) -> link::Policy {
        link::Policy { revision, parameters, ..link::Policy::default() }
    }

    #[test]
    fn what_is_not_named_goes_back_to_the_apps_own_value() {
        let mut config = ClientConfig::plaintext(Vec::new());
        config.strategies.timeouts.margin = 2.0;
        let in_force = in_force(&config);
        let margin = || in_force.strategies.borrow().timeouts.margin;
        in_force.apply(&policy(1, vec![set("timeouts.margin", ParameterValue::Share(5.0))])).unwrap();
        assert_eq!(margin(), 5.0);
        let heartbeat = link::Policy { heartbeat_ms: 45_000, ..policy(2, vec![]) };
        in_force.apply(&heartbeat).unwrap();
        assert_eq!(margin(), 2.0);
        let (used, own) = (in_force.policy.borrow().clone(), Policy::default());
        assert_eq!((used.heartbeat.as_secs(), used.backoff_min), (45, own.backoff_min));
    }

    #[test]
    fn what_cannot_be_obeyed_changes_nothing_and_is_named() {
        let in_force = in_force(&ClientConfig::plaintext(Vec::new()));
        in_force.apply(&policy(1, vec![set("timeouts.margin", ParameterValue::Share(5.0))])).unwrap();
        let check = |parameters: Vec<Parameter>, expected: &str| {
            let text = in_force.apply(&policy(2, parameters)).unwrap_err();
            assert!(text.contains(expected), "{text}");
            assert_eq!(in_force.strategies.borrow().timeouts.margin, 5.0);
            assert_eq!(in_force.arms().0, 1);
        };
        let good = || set("timeouts.margin", ParameterValue::Share(3.0));
        check(
            vec![good(), set("timeouts.magic", ParameterValue::Switch(true))],
            "timeouts.magic is not known",
        );
        check(vec![set("timeouts.margin", ParameterValue::Share(99.0))], "allowed are 1.5 to 20");
        check(vec![set("timeouts.margin", ParameterValue::TimeMs(5))], "wanted is a number");
        check(vec![good(), good()], "set twice");
        check(vec![Parameter { name: "timeouts.margin".into(), value: None }], "no value");
        check(vec![set("quality.good_max", ParameterValue::TimeMs(50_000))], "quality.");
        let heartbeat = link::Policy { heartbeat_ms: 1, ..policy(2, vec![]) };
        assert!(in_force.apply(&heartbeat).is_err());
        let backwards = link::Policy { backoff_min_ms: 90_000, ..policy(2, vec![]) };
        assert!(in_force.apply(&backwards).unwrap_err().contains("backoff_min"));
    }

    #[test]
    fn the_last_good_one_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ClientConfig::plaintext(Vec::new());
        config.identity_file = Some(folder.path().join("identity"));
        let arm = Arm { experiment: "e".into(), arm: "a".into() };
        let good = policy(7, vec![set("timeouts.margin", ParameterValue::Share(5.0))]);
        let first = in_force(&config);
        first.apply(&link::Policy { arms: vec![arm.clone()], ..good }).unwrap();
        first.apply(&policy(8, vec![set("nothing", ParameterValue::Count(1))])).unwrap_err();
        let again = in_force(&config);
        assert_eq!(again.strategies.borrow().timeouts.margin, 5.0);
        assert_eq!(again.arms(), (7, vec![arm]));
        std::fs::write(folder.path().join("identity.policy"), b"\xff\xff not a policy").unwrap();
        assert_eq!(in_force(&config).arms().0, 0);
    }
}
