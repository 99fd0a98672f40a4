//! What runs the client inside an app: one tokio runtime for all clients of the process.

use std::{
    future::Future,
    pin::Pin,
    process,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, EnterGuard, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::error::TowlineError;

/// The thread that drives everything, and what blocks beside it.
///
/// A client is a handful of sockets, timers and small messages: one thread drives them at some hundred MB/s of TLS, a
/// second one would be one more to wake for every beat, and tokio's scheduler for several threads 60 KiB of library.
const THREAD: &str = "towline";

/// Threads for what blocks, which is looking up names and reading files: a name's four lookups that hang must not hold up
/// the next gateway's, nor a file. None is there while nothing blocks.
const BLOCKING_MAX: usize = 8;

/// How long such a thread waits for more to do.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long the engine's end waits for such threads: a socket's binding is over by then, most lookups of names are.
const BLOCKING_END_MAX: Duration = Duration::from_secs(2);

static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();

/// The process's engine. It is started by the first client and stays, unless it is ended for good.
pub(crate) struct Engine {
    runtime: Handle,
    /// `None` once it has been ended.
    running: Mutex<Option<Running>>,
}

/// What ends an engine.
struct Running {
    /// Dropped, it is the sign to end.
    stays: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
    /// A child of `fork` has this, and not the thread.
    process: u32,
}

/// Ends what runs the clients of this process, for good: calls that wait fail, and so does all that comes later. When it
/// returns, no thread of the library's calls the app any more, unless one has been blocked in the app for two seconds.
///
/// For runtimes that end before their process does: there, a thread that comes back to the app would find it gone. Python's
/// package calls it when the interpreter ends. It blocks, and is not to be called by a callback.
#[uniffi::export]
pub fn end_engine() {
    if let Some(Ok(engine)) = ENGINE.get() {
        engine.end();
    }
}

impl Engine {
    /// The engine, which is started if it was not.
    pub(crate) fn get() -> Result<&'static Self, TowlineError> {
        let engine = ENGINE.get_or_init(|| Self::start().map_err(|error| error.to_string()));
        let error = |reason: &str| TowlineError::Start { reason: format!("engine: {reason}") };
        let engine = engine.as_ref().map_err(|reason| error(reason))?;
        if engine.running().is_none() {
            return Err(error("it was ended for good; this process makes no more calls"));
        }
        Ok(engine)
    }

    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_MAX)
            .thread_keep_alive(BLOCKING_KEEP_ALIVE)
            .thread_name(THREAD)
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let (stays, end) = oneshot::channel();
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            // It is never sent, only dropped.
            let _ = runtime.block_on(end);
            runtime.shutdown_timeout(BLOCKING_END_MAX);
        })?;
        let running = Running { stays, thread, process: process::id() };
        Ok(Self { runtime: handle, running: Mutex::new(Some(running)) })
    }

    /// Ends it, and waits for that. The second who asks does not wait.
    fn end(&self) {
        let Some(Running { stays, thread, process }) = self.running().take() else { return };
        drop(stays);
        if process == process::id() && thread.thread().id() != thread::current().id() {
            // Its panic has been told where it happened.
            let _ = thread.join();
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What wants to be made inside a runtime is made under this.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Runs `work` on the engine's thread and waits for it on the caller's. Dropped, it ends the work.
    ///
    /// The caller's waker is woken when the task is over, outside every lock of the client. Were its futures polled by
    /// the app's executor itself, the client would wake foreign code while it holds its state.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, TowlineError>> + Send + 'static,
    ) -> Result<T, TowlineError> {
        Work(self.spawn_boxed(Box::pin(work))).await
    }

    /// Runs `work` on the engine's thread, whatever becomes of who asked for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(work));
    }

    /// tokio makes its code for a task anew for each type of future, some two KiB with the tables for unwinding: so that
    /// it sees few types, and apps carry less.
    fn spawn_boxed<T: Send + 'static>(&self, work: Pin<Box<dyn Future<Output = T> + Send>>) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }
}

/// A task that ends when nobody waits for it.
struct Work<T>(JoinHandle<Result<T, TowlineError>>);

impl<T> Future for Work<T> {
    type Output = Result<T, TowlineError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| joined.unwrap_or_else(|error| Err(fault(&error))))
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A panic, which is a fault of this library's, or the engine's end.
fn fault(error: &tokio::task::JoinError) -> TowlineError {
    if error.is_cancelled() {
        return TowlineError::cancelled("the engine was ended while it waited");
    }
    TowlineError::Internal { reason: format!("the engine's task broke off: {error}") }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::{Arc, mpsc},
        task::Wake,
    };

    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_engine_goes_on() {
        let engine = Engine::get().unwrap();
        let broken = wait(engine.run::<()>(async { panic!("probe") }));
        assert!(matches!(broken, Err(TowlineError::Internal { reason }) if reason.contains("panic")));
        assert_eq!(wait(engine.run(async { Ok(7) })).unwrap(), 7);
    }

    #[test]
    fn work_that_nobody_waits_for_ends() {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let engine = Engine::get().unwrap();
        let (ended, end) = mpsc::channel();
        let told = Told(ended);
        let work = engine.run::<()>(async move {
            let _told = told;
            future::pending().await
        });
        let mut work = Box::pin(work);
        assert!(work.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(work);
        end.recv().unwrap();
    }

    #[test]
    fn an_engine_ends_behind_what_blocks_and_calls_fail() {
        let engine = Engine::start().unwrap();
        let (left, done) = mpsc::channel();
        let (began, begun) = mpsc::channel();
        engine.runtime.spawn_blocking(move || {
            let _ = began.send(());
            thread::sleep(Duration::from_millis(50));
            let _ = left.send(());
        });
        begun.recv().unwrap();
        let mut waiting = Box::pin(engine.run::<()>(future::pending()));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        engine.end();
        assert_eq!(done.try_recv(), Ok(()));
        let is_cancelled = |ended| match ended {
            Err(TowlineError::Rpc { kind, .. }) => kind == crate::error::ErrorKind::Cancelled,
            _ => false,
        };
        assert!(is_cancelled(wait(waiting)));
        assert!(is_cancelled(wait(engine.run(async { Ok(()) }))));
        engine.end();
    }

    /// What a foreign executor does.
    fn wait<F: Future>(work: F) -> F::Output {
        struct Thread(thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Thread(thread::current())).into();
        let mut work = std::pin::pin!(work);
        loop {
            if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            thread::park();
        }
    }
}
