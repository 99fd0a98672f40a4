//! A worker process: holds its share of the connections and does what the parent orders, one order at a
//! time. One thread, so that N workers use N cores at the most.

mod opening;
mod publish;
mod request;

use std::{
    io::{BufRead, Write},
    rc::Rc,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::LocalSet};

use crate::{
    clock,
    machine::{Limits, Share},
    plan::{Plan, Work},
    tally::{Opened, Round},
    wire::Client,
};

/// What the parent says, one JSON object a line on standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Comes first: open your share.
    Open {
        /// The run.
        plan: Plan,
        /// This worker's part of it.
        share: Share,
    },
    /// Work on one target for a while.
    Round {
        /// Its place in the plan.
        target: usize,
        /// When to begin ([`clock::now`]).
        start: u64,
        /// For how long, nanoseconds.
        nanos: u64,
    },
}

/// What a worker says, one JSON object a line on standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Notice {
    /// Connections opened, or operations done in this round, so far.
    Progress(u64),
    /// Every connection stands or has failed; one entry per target.
    Opened(Vec<Opened>),
    /// The round is over.
    Round(Box<Round>),
    /// The worker cannot go on.
    Failed(String),
}

/// The connections of one worker.
enum Fleet {
    /// Held open, per target.
    Held(Vec<Vec<Client>>),
    /// Sending requests, per target.
    Request(Vec<request::RequestFleet>),
    /// Publishing and subscribing.
    Mqtt(publish::MqttFleet),
}

/// The main function of a worker process.
pub fn main() -> Result<(), String> {
    Limits::of_this_machine();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let orders = orders_from_stdin();
    LocalSet::new().block_on(&runtime, serve(orders, Rc::new(print)));
    // Open connections are the kernel's to close: 10000 TLS farewells would only delay the parent.
    Ok(())
}

/// Carries orders out until their channel closes.
pub async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, notify: Rc<dyn Fn(Notice)>) {
    let Some(Order::Open { plan, share }) = orders.recv().await else { return };
    let plan = Rc::new(plan);
    let (fleet, opened) = match Fleet::open(&plan, &share, &notify).await {
        Ok(ready) => ready,
        Err(text) => return notify(Notice::Failed(text)),
    };
    notify(Notice::Opened(opened));
    while let Some(Order::Round { target, start, nanos }) = orders.recv().await {
        let round = fleet.round(target, start, nanos, &notify).await;
        notify(Notice::Round(Box::new(round)));
    }
}

impl Fleet {
    async fn open(
        plan: &Rc<Plan>,
        share: &Share,
        notify: &Rc<dyn Fn(Notice)>,
    ) -> Result<(Self, Vec<Opened>), String> {
        let mut opened = Vec::new();
        match &plan.work {
            Work::Hold => {
                let mut held = Vec::new();
                for target in &plan.targets {
                    let (clients, counts, _) = opening::open_all(plan, target, share, notify).await?;
                    held.push(clients);
                    opened.push(counts);
                }
                Ok((Self::Held(held), opened))
            }
            Work::Request(work) => {
                let mut fleets = Vec::new();
                for target in &plan.targets {
                    let (clients, counts, recorder) = opening::open_all(plan, target, share, notify).await?;
                    fleets.push(request::RequestFleet::new(plan, share, work.clone(), clients, recorder));
                    opened.push(counts);
                }
                Ok((Self::Request(fleets), opened))
            }
            Work::Mqtt(work) => {
                let target = &plan.targets[0];
                let (clients, counts, recorder) = opening::open_all(plan, target, share, notify).await?;
                let fleet = publish::MqttFleet::new(plan, work, share, clients, recorder);
                Ok((Self::Mqtt(fleet), vec![counts]))
            }
        }
    }

    async fn round(&self, target: usize, start: u64, nanos: u64, notify: &Rc<dyn Fn(Notice)>) -> Round {
        match self {
            Self::Held(held) => {
                clock::sleep_until(start + nanos).await;
                let open = held[target].iter().filter(|client| client.is_open()).count();
                Round { operations: open as u64, nanos, ..Round::default() }
            }
            Self::Request(fleets) => fleets[target].round(start, nanos, notify).await,
            Self::Mqtt(fleet) => fleet.round(start, nanos, notify).await,
        }
    }
}

/// Reads orders on a thread, as standard input has no non-blocking form; the channel closes with it.
fn orders_from_stdin() -> mpsc::UnboundedReceiver<Order> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(order) = serde_json::from_str(&line) else { return };
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A parent that is gone cannot be told; its end of standard input closes as well.
fn print(notice: Notice) {
    if let Ok(line) = serde_json::to_string(&notice) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
