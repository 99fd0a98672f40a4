//! What a signal ends: a run whose servers and folders have to go with it.

use std::{
    fs, process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

/// How often, and for how long each time, what a signal ended is waited for: it may have started a process meanwhile.
const STOP_TRIES: u32 = 20;
const STOP_TRY: Duration = Duration::from_millis(500);

static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Whether a signal ends the work: what it measures from then on is of servers that are gone.
pub(crate) fn has_been_signalled() -> bool {
    SIGNALLED.load(Ordering::Relaxed)
}

/// Does `work` on a thread of its own. Where a signal comes first, `end` is called until the work has failed and so has
/// removed what it made, and there is no outcome.
///
/// # Errors
/// The work's own, or that it could not be begun.
pub(crate) fn work_until_signalled<T: Send + 'static>(
    by_interrupt: bool,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
    end: impl Fn(),
) -> Result<Option<T>, String> {
    let (done, mut outcome) = oneshot::channel();
    // Nobody waits for the outcome of what a signal has ended.
    thread::spawn(move || drop(done.send(work())));
    runtime()?.block_on(async {
        tokio::select! {
            outcome = &mut outcome => match outcome {
                Ok(outcome) => outcome.map(Some),
                Err(_) => Err("the thread that did the work has ended".to_owned()),
            },
            signal = signalled(by_interrupt) => {
                signal?;
                SIGNALLED.store(true, Ordering::Relaxed);
                for _ in 0..STOP_TRIES {
                    end();
                    if timeout(STOP_TRY, &mut outcome).await.is_ok() {
                        break;
                    }
                }
                Ok(None)
            }
        }
    })
}

/// Ends the processes that this one has started and not waited for.
pub(crate) fn end_children() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        for child in children.filter_map(Pid::from_raw).filter(|child| is_ours(*child)) {
            // It may have ended by itself.
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

/// A list of children is of the moment when it was read.
fn is_ours(child: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.as_raw_nonzero())).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.is_some_and(|parent| parent.trim() == process::id().to_string())
}

/// A runtime for signals and small servers.
///
/// # Errors
/// No threads, no epoll.
pub(crate) fn runtime() -> Result<Runtime, String> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| format!("no runtime: {error}"))
}

async fn signalled(by_interrupt: bool) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("no signal handler: {error}"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => if by_interrupt { return Ok(()) },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}
