//! MQTT rounds: publishers publish, subscribers count, and what is still on its way is waited for.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Notice, opening::report_progress, request::schedule};
use crate::{
    clock,
    fault::{Fault, FaultKind},
    machine::Share,
    pacer,
    plan::{MqttWork, Pace, Plan},
    tally::{Recorder, Round},
    wire::{Client, MqttClient, PublishOrder},
};

/// A round is over when so long nothing was delivered any more.
const QUIET: Duration = Duration::from_millis(500);

/// A worker's MQTT connections.
pub(super) struct MqttFleet {
    plan: Rc<Plan>,
    /// This worker's publishers among all publishers.
    publishers: Share,
    clients: Vec<Client>,
    recorder: Rc<Recorder>,
}

impl MqttFleet {
    pub(super) fn new(
        plan: &Rc<Plan>,
        work: &MqttWork,
        share: &Share,
        clients: Vec<Client>,
        recorder: Rc<Recorder>,
    ) -> Self {
        let count = work.publishers.saturating_sub(share.first).min(share.count);
        let publishers = Share { count, ..share.clone() };
        Self { plan: plan.clone(), publishers, clients, recorder }
    }

    pub(super) async fn round(&self, start: u64, nanos: u64, notify: &Rc<dyn Fn(Notice)>) -> Round {
        clock::sleep_until(start).await;
        let before = self.recorder.wire.read();
        let recorder = self.recorder.clone();
        let reporter = report_progress(notify.clone(), move || recorder.progress().0);
        self.publish(start, start + nanos).await;
        clock::sleep_until(start + nanos).await;
        self.drain().await;
        reporter.abort();
        self.recorder.finish(start, before)
    }

    /// Returns when every publisher is done.
    async fn publish(&self, start: u64, end: u64) {
        let publishers: Vec<_> = self.clients.iter().filter_map(publisher).collect();
        let (done, mut all_done) = mpsc::channel(1);
        let (rate, in_flight) = match self.plan.pace {
            Pace::Closed { in_flight } => (None, in_flight),
            Pace::Open { rate, in_flight } => (Some(rate), in_flight),
        };
        let give_up = end + self.plan.timeout.as_nanos() as u64;
        let mut lanes = Vec::new();
        for publisher in &publishers {
            let due = rate.map(|_| {
                let (sender, receiver) = mpsc::channel(pacer::BACKLOG_MAX);
                lanes.push(sender);
                receiver
            });
            let order = PublishOrder { due, until: end, give_up, in_flight, done: done.clone() };
            if !publisher.publish(order) {
                self.recorder.fault(Fault::new(FaultKind::Closed, "the connection is gone"));
            }
        }
        drop(done);
        let unsent = Arc::new(AtomicU64::new(0));
        if let Some(rate) = rate.filter(|_| !publishers.is_empty()) {
            let schedule = schedule(self.all_publishers(), &self.publishers, rate, publishers.len());
            let counter = unsent.clone();
            pacer::start(schedule, start, end, lanes, move || {
                counter.fetch_add(1, Relaxed);
            });
        }
        while all_done.recv().await.is_some() {}
        for _ in 0..unsent.load(Relaxed) {
            self.recorder.fault(pacer::backlog_fault());
        }
    }

    fn all_publishers(&self) -> usize {
        match &self.plan.work {
            crate::plan::Work::Mqtt(work) => work.publishers,
            _ => 0,
        }
    }

    async fn drain(&self) {
        let give_up = clock::now() + self.plan.timeout.as_nanos() as u64;
        let mut delivered = self.recorder.progress().1;
        while clock::now() < give_up {
            tokio::time::sleep(QUIET).await;
            let before = std::mem::replace(&mut delivered, self.recorder.progress().1);
            if delivered == before {
                return;
            }
        }
    }
}

fn publisher(client: &Client) -> Option<&MqttClient> {
    match client {
        Client::Mqtt(client) if client.publishes() => Some(client),
        _ => None,
    }
}
