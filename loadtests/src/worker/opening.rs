//! Opens a worker's connections, a bounded number at a time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::Notice;
use crate::{
    clock,
    machine::Share,
    plan::{Plan, Target},
    tally::{Opened, Recorder},
    wire::{Client, Dialer},
};

/// How often the parent's progress bar moves.
const NOTICE_INTERVAL: Duration = Duration::from_millis(200);

/// What the opening tasks share.
struct Opening {
    plan: Rc<Plan>,
    dialer: Rc<Dialer>,
    next: Cell<usize>,
    end: usize,
    /// With their connections' numbers, since they are ready in any order.
    clients: RefCell<Vec<(usize, Client)>>,
    opened: RefCell<Opened>,
}

/// Opens the connections of `share` to `target`; those that fail are counted, not retried.
pub(super) async fn open_all(
    plan: &Rc<Plan>,
    target: &Target,
    share: &Share,
    notify: &Rc<dyn Fn(Notice)>,
) -> Result<(Vec<Client>, Opened, Rc<Recorder>), String> {
    let recorder = Rc::new(Recorder::default());
    let sources = share.sources.clone();
    let dialer = Rc::new(Dialer::new(plan.clone(), target.clone(), sources, recorder.clone())?);
    let opening = Rc::new(Opening {
        plan: plan.clone(),
        dialer,
        next: Cell::new(share.first),
        end: share.first + share.count,
        clients: RefCell::default(),
        opened: RefCell::default(),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..plan.opening_max.min(share.count) {
        tasks.spawn_local(open_in_turn(opening.clone()));
    }
    let reporter = report_progress(notify.clone(), {
        let opening = opening.clone();
        move || opening.opened.borrow().connections
    });
    while tasks.join_next().await.is_some() {}
    reporter.abort();
    let mut clients = opening.clients.take();
    clients.sort_unstable_by_key(|(index, _)| *index);
    let mut opened = opening.opened.take();
    opened.bytes = recorder.wire.read();
    Ok((clients.into_iter().map(|(_, client)| client).collect(), opened, recorder))
}

/// Tells the parent a growing count now and then, until the task is aborted.
pub(super) fn report_progress(
    notify: Rc<dyn Fn(Notice)>,
    count: impl Fn() -> u64 + 'static,
) -> tokio::task::AbortHandle {
    let reporter = async move {
        loop {
            tokio::time::sleep(NOTICE_INTERVAL).await;
            notify(Notice::Progress(count()));
        }
    };
    tokio::task::spawn_local(reporter).abort_handle()
}

async fn open_in_turn(opening: Rc<Opening>) {
    while opening.next.get() < opening.end {
        let index = opening.next.replace(opening.next.get() + 1);
        let start = clock::now();
        let result = Box::pin(opening.dialer.open(index, opening.plan.connect_timeout)).await;
        let mut opened = opening.opened.borrow_mut();
        match result {
            Ok(client) => {
                opened.connections += 1;
                opened.latency.record(clock::now() - start);
                opening.clients.borrow_mut().push((index, client));
            }
            Err(fault) => opened.faults.add(fault),
        }
    }
}
