//! The way out: everybody is told once, finishes what runs, and is waited for until a deadline.
//!
//! ```text
//! running --begin(deadline)--> draining --deadline, last words, or cut()--> over
//! ```

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// How long those who have last words may take to say them, beyond the deadline.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// The gateway's end of it.
pub struct Drain {
    phase: watch::Sender<Phase>,
    begun: OnceLock<Instant>,
    /// Counts the guards; its value is of no interest, its receivers are.
    guards: Arc<watch::Sender<()>>,
}

impl Drain {
    /// Running, with nobody at work.
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Running),
            begun: OnceLock::new(),
            guards: Arc::new(watch::Sender::new(())),
        }
    }

    /// A view for a task that wants to know when to stop.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.phase.subscribe() }
    }

    /// Marks a task that a drain waits for, until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard { _receiver: self.guards.subscribe() }
    }

    /// Whether [`Drain::begin`] or [`Drain::cut`] was called.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// When everything must be over; `None` while the gateway runs.
    pub fn deadline(&self) -> Option<Instant> {
        match *self.phase.borrow() {
            Phase::Running => None,
            Phase::Draining(deadline) => Some(deadline),
            Phase::Over => Some(Instant::now()),
        }
    }

    /// Whether the drain has lasted for `time`, or was cut.
    pub fn lasts(&self, time: Duration) -> bool {
        let since = self.begun.get().is_some_and(|begun| begun.elapsed() >= time);
        since || *self.phase.borrow() == Phase::Over
    }

    /// How many guards are held.
    pub fn at_work(&self) -> usize {
        self.guards.receiver_count()
    }

    /// Tells everybody to finish by `deadline`. A second call changes nothing.
    pub fn begin(&self, deadline: Instant) {
        self.begun.get_or_init(Instant::now);
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            if first {
                *phase = Phase::Draining(deadline);
            }
            first
        });
    }

    /// Tells everybody to stop at once.
    pub fn cut(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// Waits until every guard is dropped or the deadline has passed, and a moment more for last words; then cuts
    /// what is left. Returns how many guards were held at the deadline. [`Drain::begin`] comes first.
    pub async fn finished(&self) -> usize {
        let mut watch = self.watch();
        tokio::select! {
            () = self.guards.closed() => {}
            () = watch.over() => {}
        }
        let left = self.at_work();
        tokio::select! {
            () = self.guards.closed() => {}
            () = watch.cut() => {}
            () = tokio::time::sleep(LAST_WORDS_MAX) => {}
        }
        self.cut();
        left
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// A task's view of the drain. Cheap to clone.
#[derive(Clone)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
}

impl DrainWatch {
    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// Waits until the drain begins; at once if it has. The result is when everything must be over.
    pub async fn draining(&mut self) -> Instant {
        match self.phase.wait_for(|phase| *phase != Phase::Running).await.as_deref() {
            Ok(Phase::Draining(deadline)) => *deadline,
            // The sender is gone with its gateway: nothing is left to wait for.
            Ok(Phase::Running | Phase::Over) | Err(_) => Instant::now(),
        }
    }

    /// Waits until the drain's deadline has passed or it was cut short: close whatever is open.
    pub async fn over(&mut self) {
        let deadline = self.draining().await;
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            _ = self.phase.wait_for(|phase| *phase == Phase::Over) => {}
        }
    }

    /// Waits until who has last words to say has had the time for them.
    pub async fn cut(&mut self) {
        // The sender is gone with its gateway: nothing is left to wait for.
        let _ = self.phase.wait_for(|phase| *phase == Phase::Over).await;
    }
}

/// Held by a task that a drain waits for.
pub struct DrainGuard {
    _receiver: watch::Receiver<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining(Instant),
    Over,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_last_guard() {
        let drain = Drain::new();
        let guard = drain.guard();
        let mut watch = drain.watch();
        assert!(!watch.is_draining());
        let started = Instant::now();
        drain.begin(started + Duration::from_secs(30));
        assert_eq!(watch.draining().await, started + Duration::from_secs(30));
        let (left, ()) = tokio::join!(drain.finished(), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(guard);
        });
        assert_eq!((left, started.elapsed()), (0, Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline_with_work_left() {
        let drain = Drain::new();
        let _guard = drain.guard();
        let started = Instant::now();
        drain.begin(started + Duration::from_secs(30));
        drain.begin(started + Duration::from_secs(90));
        let (left, ()) = tokio::join!(drain.finished(), async {
            drain.watch().over().await;
            assert_eq!(started.elapsed(), Duration::from_secs(30), "the first deadline holds");
            drain.watch().cut().await;
        });
        assert_eq!(left, 1);
        assert_eq!(
            started.elapsed(),
            Duration::from_secs(30) + LAST_WORDS_MAX,
            "what is left is told to close"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_knows_how_long_it_has_lasted() {
        let (drain, second) = (Drain::new(), Duration::from_secs(1));
        assert!(!drain.lasts(Duration::ZERO), "it has not begun");
        drain.begin(Instant::now() + 30 * second);
        assert!(drain.lasts(Duration::ZERO));
        tokio::time::sleep(5 * second).await;
        assert!(drain.lasts(5 * second));
        assert!(!drain.lasts(6 * second));
        drain.cut();
        assert!(drain.lasts(6 * second), "nobody is asked to wait any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_ends_a_drain_at_once() {
        let drain = Drain::new();
        let _guard = drain.guard();
        let started = Instant::now();
        drain.begin(started + Duration::from_secs(30));
        let (left, ()) = tokio::join!(drain.finished(), async { drain.cut() });
        assert_eq!((left, started.elapsed()), (1, Duration::ZERO));
    }
}
