//! Threads that handshakes' cryptography runs on. They are nicer than the others, so that a flood of handshakes
//! takes the processor time that established connections leave, and a small share besides.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::LazyLock,
    thread,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tracing::warn;

/// A sixth of the weight of an ordinary thread: enough to go on when the others take all they can get.
const NICENESS: i32 = 8;
/// Handshakes that wait for a thread. Each holds one of `limits.handshakes_max` places, which is as large as
/// this at the most, so it is met by no configuration that `check` accepts.
const WAITING_MAX: usize = 100_000;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Job>>,
    not_empty: Condvar,
}

/// The threads' queue; `None` if the system has no threads left, in which case everything runs where it is.
static QUEUE: LazyLock<Option<&'static Queue>> = LazyLock::new(start);

/// Runs `work` on one of the threads. `None` if it panicked, which its caller turns into a failed handshake.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let job: Job = Box::new(move || {
        // Nobody waits any more if the connection was given up.
        let _ = done.send(work());
    });
    match *QUEUE {
        Some(queue) => queue.push(job),
        None => job(),
    }
    result.await.ok()
}

impl Queue {
    fn push(&self, job: Job) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push_back(job);
            drop(waiting);
            self.not_empty.notify_one();
        }
    }

    fn work(&self) -> ! {
        loop {
            let job = self.next();
            // A thread outlives what it runs: dropping the job's sender tells the connection.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Job {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.pop_front() {
                Some(job) => return job,
                None => self.not_empty.wait(&mut waiting),
            }
        }
    }
}

fn start() -> Option<&'static Queue> {
    let queue: &'static Queue = Box::leak(Box::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let started = (0..threads).filter(|number| start_one(queue, *number)).count();
    (started > 0).then_some(queue)
}

fn start_one(queue: &'static Queue, number: usize) -> bool {
    let thread = thread::Builder::new().name(format!("handshake-{number}"));
    let started = thread.spawn(move || {
        be_nice();
        queue.work()
    });
    started.inspect_err(|error| warn!("no thread for handshakes: {error}")).is_ok()
}

/// On Linux niceness is a thread's own; elsewhere it is the process', which shall keep it.
fn be_nice() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        warn!("handshakes run at full priority: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_a_panic_ends_one_job_alone() {
        let here = thread::current().id();
        assert_ne!(run(|| thread::current().id()).await, Some(here));
        assert_eq!(run(|| -> u8 { panic!("as a bug would") }).await, None);
        assert_eq!(run(|| 7).await, Some(7));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_are_nicer_than_the_rest() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        assert_eq!(run(nice).await, Some(NICENESS));
        assert!(nice() < NICENESS);
    }
}
