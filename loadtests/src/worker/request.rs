//! Requests in an open or a closed loop.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{Notice, opening::report_progress};
use crate::{
    clock,
    fault::{Fault, FaultKind},
    machine::Share,
    pacer,
    plan::{Pace, Plan, RequestWork},
    schedule::Schedule,
    tally::{Recorder, Round},
    wire::Client,
};

/// A closed loop pauses so long after a failure; a broken connection would spin otherwise.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// A worker's connections to one target, and what it counts on them.
pub(super) struct RequestFleet {
    caller: Rc<Caller>,
    clients: Vec<Rc<Client>>,
    schedule: Option<Schedule>,
    in_flight: usize,
}

/// What every operation needs.
struct Caller {
    work: RequestWork,
    timeout: Duration,
    recorder: Rc<Recorder>,
}

impl RequestFleet {
    pub(super) fn new(
        plan: &Plan,
        share: &Share,
        work: RequestWork,
        clients: Vec<Client>,
        recorder: Rc<Recorder>,
    ) -> Self {
        let (schedule, in_flight) = match plan.pace {
            Pace::Closed { in_flight } => (None, in_flight),
            Pace::Open { rate, in_flight } => {
                (Some(schedule(plan.connections, share, rate, clients.len())), in_flight)
            }
        };
        let caller = Rc::new(Caller { work, timeout: plan.timeout, recorder });
        Self { caller, clients: clients.into_iter().map(Rc::new).collect(), schedule, in_flight }
    }

    /// Works from `start` for `nanos` and waits for the last answers.
    pub(super) async fn round(&self, start: u64, nanos: u64, notify: &Rc<dyn Fn(Notice)>) -> Round {
        clock::sleep_until(start).await;
        let before = self.caller.recorder.wire.read();
        let caller = self.caller.clone();
        let reporter = report_progress(notify.clone(), move || caller.recorder.progress().0);
        match self.schedule {
            _ if self.clients.is_empty() => {}
            None => self.closed_loop(start + nanos).await,
            Some(schedule) => self.open_loop(schedule, start, start + nanos).await,
        }
        reporter.abort();
        self.caller.recorder.finish(start, before)
    }

    async fn closed_loop(&self, end: u64) {
        let mut tasks = JoinSet::new();
        for client in &self.clients {
            for _ in 0..self.in_flight {
                tasks.spawn_local(self.caller.clone().repeat(client.clone(), end));
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn open_loop(&self, schedule: Schedule, start: u64, end: u64) {
        let mut tasks = JoinSet::new();
        let mut lanes = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            let (sender, due) = mpsc::channel(pacer::BACKLOG_MAX);
            lanes.push(sender);
            tasks.spawn_local(self.caller.clone().follow(client.clone(), due, self.in_flight));
        }
        let unsent = Arc::new(AtomicU64::new(0));
        let counter = unsent.clone();
        pacer::start(schedule, start, end, lanes, move || {
            counter.fetch_add(1, Relaxed);
        });
        while tasks.join_next().await.is_some() {}
        for _ in 0..unsent.load(Relaxed) {
            self.caller.recorder.fault(pacer::backlog_fault());
        }
    }
}

/// The rate is divided among the connections that stand; a worker that lost some keeps its share of it.
pub(super) fn schedule(connections: usize, share: &Share, rate: f64, count: usize) -> Schedule {
    if count == share.count {
        return Schedule { rate, connections, first: share.first, count };
    }
    let own = rate * share.count as f64 / connections as f64;
    Schedule { rate: own, connections: count, first: 0, count }
}

impl Caller {
    /// One lane of a closed loop.
    async fn repeat(self: Rc<Self>, client: Rc<Client>, end: u64) {
        loop {
            let now = clock::now();
            if now >= end {
                return;
            }
            if !self.call(&client, now).await {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    /// One connection of an open loop: operations that come due while `in_flight` run wait here, and
    /// their latency counts from when they were due.
    async fn follow(self: Rc<Self>, client: Rc<Client>, mut due: mpsc::Receiver<u64>, in_flight: usize) {
        let free = Arc::new(Semaphore::new(in_flight));
        let mut running = JoinSet::new();
        while let Some(due) = due.recv().await {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            let (caller, client) = (self.clone(), client.clone());
            running.spawn_local(async move {
                caller.call(&client, due).await;
                drop(permit);
            });
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
    }

    async fn call(&self, client: &Client, due: u64) -> bool {
        let sent = clock::now();
        let answer = tokio::time::timeout(self.timeout, client.call(&self.work)).await;
        let result = answer.unwrap_or_else(|_| {
            Err(Fault::new(FaultKind::Timeout, format!("no answer within {:?}", self.timeout)))
        });
        let ok = result.is_ok();
        self.recorder.operation(due, sent, result);
        ok
    }
}
