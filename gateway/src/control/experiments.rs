//! Counts of experiments on disk, so that an experiment of weeks outlives restarts: written at intervals where clients
//! have reported, and at the end. A crash costs what was reported in the last interval.

use std::{sync::Weak, time::Duration};

use super::policy::{Kept, parse};
use crate::{
    gateway::Gateway,
    policy::{Experiment, KeptExperiment},
    store::{StoreError, Table, Write},
};

/// Between two writes: some kilobytes for each arm that was reported of.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Writes what was counted, for as long as the gateway is there.
pub async fn watch(gateway: Weak<Gateway>) {
    loop {
        tokio::time::sleep(WRITE_EVERY).await;
        let Some(gateway) = gateway.upgrade() else { return };
        write(&gateway);
    }
}

/// Hands to the store what was counted since it was written last.
pub fn write(gateway: &Gateway) {
    for (name, kept) in gateway.policies.unwritten_counts() {
        let (table, key) = (Table::Experiments, name.as_bytes().to_vec());
        match kept.map(|kept| serde_json::to_vec(&kept)).transpose() {
            Ok(Some(value)) => gateway.store.must_write(Write::Put { table, key, value }),
            Ok(None) => gateway.store.must_write(Write::Delete { table, key }),
            Err(error) => tracing::error!(experiment = &*name, "counts cannot be written: {error}"),
        }
    }
}

/// Takes up what was counted before the gateway was started, of experiments that are in force as they were then. What cannot
/// be read is counted anew: figures are not worth a gateway that does not start.
///
/// # Errors
/// The store cannot be read.
pub fn restore(gateway: &Gateway, history: &[Kept]) -> Result<(), StoreError> {
    let edition = gateway.policies.edition();
    let Some(document) = &edition.document else { return Ok(()) };
    for (key, value) in gateway.store.scan(Table::Experiments)? {
        let name = String::from_utf8_lossy(&key).into_owned();
        let known = document.experiments.iter().find(|experiment| *experiment.name == *name);
        let kept = serde_json::from_slice::<KeptExperiment>(&value);
        let kept =
            kept.inspect_err(|error| tracing::warn!(experiment = name, "counts in the store: {error}"));
        let is_restored = match (known, kept) {
            (Some(known), Ok(kept)) => {
                let is_same = kept.version == edition.version || was(gateway, history, &kept, known);
                is_same && gateway.policies.restore_counts(&name, kept)
            }
            _ => false,
        };
        if !is_restored {
            tracing::info!(experiment = name, "an experiment is counted anew");
            gateway.store.must_write(Write::Delete { table: Table::Experiments, key });
        }
    }
    Ok(())
}

/// Whether the experiment was the same in the document that was in force when its counts were written.
fn was(gateway: &Gateway, history: &[Kept], kept: &KeptExperiment, known: &Experiment) -> bool {
    let document = history.iter().find(|document| document.version == kept.version);
    let document = document.and_then(|document| parse(gateway, &document.text).ok());
    document.is_some_and(|document| document.experiments.contains(known))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_protocols::link::{Arm, Outcome, Report};

    use super::*;
    use crate::{control::policy, run, settings::Settings};

    fn experiment(name: &str, weight: u32) -> String {
        // Two that set the same are refused.
        let parameter = if name == "a" { "hedge.enabled" } else { "race.warm" };
        format!(
            "[[experiments]]\nname = \"{name}\"\n[[experiments.arms]]\nname = \"off\"\n\
             [[experiments.arms]]\nname = \"on\"\nweight = {weight}\nset.{parameter} = false\n"
        )
    }

    fn gateway(folder: &tempfile::TempDir) -> Arc<Gateway> {
        let settings = Settings { data_dir: folder.path().into(), ..Settings::default() };
        let gateway = Gateway::open(settings).unwrap();
        policy::restore(&gateway).unwrap();
        gateway
    }

    /// Reports of many clients, each for the arm that it is in.
    fn report(gateway: &Gateway, clients: std::ops::Range<u32>) {
        for client in clients {
            for (name, arm) in [("a", "off"), ("a", "on"), ("b", "off"), ("b", "on")] {
                let arms = vec![Arm { experiment: name.into(), arm: arm.into() }];
                let outcomes = vec![Outcome { kind: 0, count: 9 }, Outcome { kind: 2, count: 1 }];
                let report = Report { span_s: 60, beats: 2, outcomes, arms, ..Report::default() };
                gateway.policies.count(&format!("c{client}"), &report);
            }
        }
    }

    fn shown(gateway: &Gateway) -> String {
        serde_json::to_string(&gateway.policies.experiments()).unwrap()
    }

    fn reports(gateway: &Gateway) -> Vec<u64> {
        let experiments = gateway.policies.experiments();
        experiments.iter().map(|it| it.arms.iter().map(|arm| arm.reports).sum()).collect()
    }

    /// The end of a gateway: what it handed to the store is there, and the file is closed.
    async fn end(gateway: Arc<Gateway>) {
        gateway.store.barrier().await.unwrap();
        // Sessions may be being told of a policy.
        while Arc::strong_count(&gateway) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn counts_outlive_the_gateway_where_the_experiment_stayed_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let first = gateway(&folder);
        policy::push(&first, &(experiment("a", 1) + &experiment("b", 1))).await.unwrap();
        report(&first, 0..100);
        let before = shown(&first);
        write(&first);
        report(&first, 100..150);
        // A crash: what came behind the last write is lost.
        end(first).await;

        let second = gateway(&folder);
        assert_eq!(shown(&second), before);
        report(&second, 50..150);
        let clients: u64 = second.policies.experiments()[0].arms.iter().map(|arm| arm.clients).sum();
        assert!(clients.abs_diff(150) < 10, "who was counted before is one client yet: {clients}");
        // Another document, with one experiment as before; nothing is written behind it.
        write(&second);
        policy::push(&second, &(experiment("a", 1) + &experiment("b", 3))).await.unwrap();
        assert_eq!(reports(&second), [200, 0]);
        end(second).await;

        let third = gateway(&folder);
        assert_eq!(reports(&third), [200, 0]);
        policy::push(&third, &experiment("b", 3)).await.unwrap();
        write(&third);
        third.store.barrier().await.unwrap();
        assert_eq!(kept(&third), 0);
        end(third).await;
    }

    fn kept(gateway: &Gateway) -> usize {
        gateway.store.scan(Table::Experiments).unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn counts_are_written_within_a_minute_and_at_the_end() {
        let gateway = Gateway::build(Settings::side_by_side()).unwrap();
        let serving = run::serve(gateway).await.unwrap();
        let gateway = &serving.gateway;
        policy::push(gateway, &experiment("a", 1)).await.unwrap();
        report(gateway, 0..10);
        tokio::time::sleep(WRITE_EVERY + Duration::from_secs(1)).await;
        gateway.store.barrier().await.unwrap();
        assert_eq!(kept(gateway), 1);
        policy::push(gateway, &(experiment("a", 1) + &experiment("b", 1))).await.unwrap();
        report(gateway, 0..10);
        serving.drain().await;
        assert_eq!(kept(gateway), 2);
    }

    #[tokio::test]
    async fn counts_that_cannot_be_read_begin_anew() {
        let folder = tempfile::tempdir().unwrap();
        let first = gateway(&folder);
        policy::push(&first, &(experiment("a", 1) + &experiment("b", 1))).await.unwrap();
        report(&first, 0..100);
        write(&first);
        first.store.barrier().await.unwrap();
        for (key, value) in first.store.scan(Table::Experiments).unwrap() {
            let text = String::from_utf8(value).unwrap();
            let value = match &*key {
                b"a" => text.replacen("\"form\":1", "\"form\":2", 1),
                _ => text[1..].to_owned(),
            };
            let write = Write::Put { table: Table::Experiments, key, value: value.into_bytes() };
            first.store.append(write).await.unwrap();
        }
        end(first).await;
        assert_eq!(reports(&gateway(&folder)), [0, 0]);
    }
}
