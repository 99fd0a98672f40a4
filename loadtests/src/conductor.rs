//! The parent of the worker processes: starts them, gives the orders, gathers the counts.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    clock,
    machine::Share,
    plan::Plan,
    tally::{Opened, Round},
    worker::{Notice, Order},
};

/// Time between an order and its start, so that all workers have read it.
const LEAD: Duration = Duration::from_millis(50);
/// A worker that says nothing for so long beyond what its order may take is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The worker processes of one run.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<Worker>,
    /// `None` when a worker's output ends.
    notices: mpsc::Receiver<(usize, Option<Notice>)>,
    plan: Plan,
    quiet: bool,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Crew {
    /// Starts a worker per share and opens the connections; the counts are per target.
    pub fn open(plan: &Plan, shares: Vec<Share>, quiet: bool) -> Result<(Self, Vec<Opened>), String> {
        let (sender, notices) = mpsc::channel();
        let mut crew = Self { workers: Vec::new(), notices, plan: plan.clone(), quiet };
        for index in 0..shares.len() {
            crew.workers.push(Worker::start(index, sender.clone())?);
        }
        drop(sender);
        for (worker, share) in crew.workers.iter_mut().zip(shares) {
            worker.give(&Order::Open { plan: plan.clone(), share })?;
        }
        let bar = bar(quiet, "connections", Some((plan.connections * plan.targets.len()) as u64));
        let mut opened = vec![Opened::default(); plan.targets.len()];
        // Opening is bounded per connection, not as a whole; it may go on as long as it goes forward.
        crew.gather(&bar, plan.connect_timeout, |notice| match notice {
            Notice::Opened(parts) => {
                opened.iter_mut().zip(parts).for_each(|(all, part)| all.merge(part));
                Ok(true)
            }
            other => unexpected(&other),
        })?;
        Ok((crew, opened))
    }

    /// Has all workers work on `target` for `duration`.
    pub fn round(&mut self, target: usize, duration: Duration, label: &str) -> Result<Round, String> {
        let start = clock::now() + LEAD.as_nanos() as u64;
        let nanos = duration.as_nanos() as u64;
        for worker in &mut self.workers {
            worker.give(&Order::Round { target, start, nanos })?;
        }
        let bar = bar(self.quiet, label, None);
        let mut all = Round::default();
        self.gather(&bar, duration + self.plan.timeout, |notice| match notice {
            Notice::Round(part) => {
                all.merge(&part);
                Ok(true)
            }
            other => unexpected(&other),
        })?;
        Ok(all)
    }

    /// Waits until every worker has said what `take` was waiting for.
    fn gather(
        &self,
        bar: &ProgressBar,
        expected: Duration,
        mut take: impl FnMut(Notice) -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut counts = vec![0; self.workers.len()];
        let mut missing = self.workers.len();
        while missing > 0 {
            let (worker, notice) = self
                .notices
                .recv_timeout(expected + SILENCE_MAX)
                .map_err(|_| "a worker process does not answer; is the machine overloaded?".to_owned())?;
            match notice {
                None => return Err(format!("worker process {worker} ended early; its message is above")),
                Some(Notice::Failed(text)) => return Err(text),
                Some(Notice::Progress(count)) => {
                    counts[worker] = count;
                    bar.set_position(counts.iter().sum());
                }
                Some(notice) => missing -= usize::from(take(notice)?),
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

impl Drop for Crew {
    /// The end of standard input ends a worker; one that is stuck is killed.
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.orders = None;
        }
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

impl Worker {
    fn start(index: usize, notices: mpsc::Sender<(usize, Option<Notice>)>) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start worker process {index}: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (orders, output) = (child.stdin.take(), child.stdout.take());
        std::thread::spawn(move || {
            let lines =
                output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok);
            for notice in lines.map_while(|line| serde_json::from_str(&line).ok()) {
                if notices.send((index, Some(notice))).is_err() {
                    return;
                }
            }
            // The receiver may be gone with the run.
            let _ = notices.send((index, None));
        });
        Ok(Self { child, orders })
    }

    fn give(&mut self, order: &Order) -> Result<(), String> {
        let line = serde_json::to_string(order).map_err(|error| error.to_string())?;
        let orders = self.orders.as_mut().ok_or("the worker process has ended")?;
        writeln!(orders, "{line}").map_err(|error| format!("a worker process takes no orders: {error}"))
    }
}

fn unexpected(notice: &Notice) -> Result<bool, String> {
    Err(format!("a worker process said something out of turn: {notice:?}"))
}

/// A bar with a known end, or a counter without. It hides itself when standard error is no terminal.
fn bar(quiet: bool, label: &str, length: Option<u64>) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{msg} {wide_bar} {pos}/{len} {elapsed}"),
        None => (ProgressBar::no_length(), "{spinner} {msg} {pos} ({per_sec}) {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_message(label.to_owned())
}
