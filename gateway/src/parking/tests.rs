use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::drain::Drain;

/// What a guest's session is here: a count of messages, and whom to wake.
#[derive(Default)]
struct Session {
    messages: u64,
    waker: Option<Waker>,
}

/// Hands what it finds at each resumption to its test, and is gone.
struct Guest {
    socket: UnixStream,
    session: Arc<Mutex<Session>>,
    deadline: Option<Instant>,
    hears_drain: bool,
    resumed: mpsc::UnboundedSender<u64>,
}

impl Idle for Guest {
    fn socket(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.socket)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn settle(&self, waker: &Waker) -> bool {
        let mut session = self.session.lock();
        let is_quiet = session.messages == 0;
        if is_quiet {
            session.waker = Some(waker.clone());
        }
        is_quiet
    }

    fn hears_drain(&self) -> bool {
        self.hears_drain
    }

    async fn resume(self, _: Patience, _: Duration) {
        let messages = std::mem::take(&mut self.session.lock().messages);
        _ = self.resumed.send(messages);
    }
}

fn publish(session: &Mutex<Session>) {
    let mut session = session.lock();
    session.messages += 1;
    // Under the lock, as MQTT's sessions do.
    session.waker.iter().for_each(Waker::wake_by_ref);
}

struct Bed {
    lot: Lot<Guest>,
    drain: Drain,
    metrics: Metrics,
    resumed: mpsc::UnboundedReceiver<u64>,
    sender: mpsc::UnboundedSender<u64>,
}

impl Bed {
    fn new() -> Self {
        let (sender, resumed) = mpsc::unbounded_channel();
        let (lot, drain, metrics) = (Lot::default(), Drain::new(), Metrics::new());
        Self { lot, drain, metrics, resumed, sender }
    }

    fn guest(&self) -> (Guest, UnixStream, Arc<Mutex<Session>>) {
        let (socket, peer) = UnixStream::pair().unwrap();
        let session = Arc::<Mutex<Session>>::default();
        let resumed = self.sender.clone();
        let guest = Guest { socket, session: session.clone(), deadline: None, hears_drain: false, resumed };
        (guest, peer, session)
    }

    fn park(&self, guest: Guest) -> bool {
        self.lot.park(guest, Patience::default(), self.drain.watch(), &self.metrics).is_ok()
    }

    fn parked(&self) -> i64 {
        self.metrics.connections_parked.get()
    }
}

#[tokio::test]
async fn bytes_and_the_end_of_the_peer_resume() {
    let mut bed = Bed::new();
    let (guest, mut peer, _) = bed.guest();
    assert!(bed.park(guest));
    assert_eq!(bed.parked(), 1);
    peer.write_all(b"x").unwrap();
    assert_eq!(bed.resumed.recv().await, Some(0));
    let (guest, peer, _) = bed.guest();
    assert!(bed.park(guest));
    drop(peer);
    assert_eq!(bed.resumed.recv().await, Some(0));
    assert_eq!(bed.parked(), 0);
}

#[tokio::test]
async fn what_came_before_parking_resumes_at_once() {
    let mut bed = Bed::new();
    let (guest, mut peer, _) = bed.guest();
    peer.write_all(b"x").unwrap();
    assert!(bed.park(guest));
    assert_eq!(bed.resumed.recv().await, Some(0));
}

#[tokio::test]
async fn a_message_resumes_and_one_that_waits_keeps_from_parking() {
    let mut bed = Bed::new();
    let (guest, _peer, session) = bed.guest();
    assert!(bed.park(guest));
    publish(&session);
    publish(&session);
    assert_eq!(bed.resumed.recv().await, Some(2));
    let (guest, _peer, session) = bed.guest();
    publish(&session);
    assert!(!bed.park(guest));
}

#[tokio::test(start_paused = true)]
async fn deadlines_resume_in_their_order_and_not_before_their_time() {
    let mut bed = Bed::new();
    let begun = Instant::now();
    let mut peers = Vec::new();
    for ms in [3000, 1000, 2000] {
        let (mut guest, peer, session) = bed.guest();
        session.lock().messages = 0;
        guest.deadline = Some(begun + Duration::from_millis(ms));
        peers.push(peer);
        assert!(bed.park(guest));
    }
    for ms in [1000, 2000, 3000] {
        bed.resumed.recv().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(ms));
    }
    assert_eq!(bed.parked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_resumes_who_wants_to_hear_of_it_and_its_end_closes_the_rest() {
    let mut bed = Bed::new();
    let (mut hearing, _peer, _) = bed.guest();
    hearing.hears_drain = true;
    let (deaf, mut peer, _) = bed.guest();
    assert!(bed.park(hearing) && bed.park(deaf));
    bed.drain.begin(Instant::now() + Duration::from_secs(9));
    assert_eq!(bed.resumed.recv().await, Some(0));
    let (mut late, _peer, _) = bed.guest();
    late.hears_drain = true;
    assert!(!bed.park(late), "it has not told its client yet");
    assert_eq!(bed.parked(), 1);
    bed.drain.watch().over().await;
    tokio::task::yield_now().await;
    assert_eq!(bed.parked(), 0);
    assert!(peer.write_all(b"x").is_err(), "closed");
    let (guest, _peer, _) = bed.guest();
    assert!(!bed.park(guest), "the lot is closed");
}

#[test]
fn who_is_called_back_soon_waits_longer_the_next_time() {
    let after = Duration::from_millis(1024);
    let mut patience = Patience::default();
    for ms in [1, 16, 128, 1024, 1024] {
        assert_eq!(patience.wait(after), Some(Duration::from_millis(ms)));
        patience = patience.after(Duration::from_millis(1023), after);
    }
    assert_eq!(patience.after(after, after), Patience::default());
    assert_eq!(patience.wait(Duration::ZERO), None);
}

#[test]
fn the_end_of_the_runtime_drops_what_is_parked() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bed = Bed::new();
    let (guest, _peer, session) = bed.guest();
    runtime.block_on(async { assert!(bed.park(guest)) });
    drop(runtime);
    publish(&session);
    session.lock().waker = None;
    assert_eq!((bed.parked(), Arc::strong_count(&session)), (0, 1));
}

/// The same race, one step after the other: wherever the wake falls, either it keeps the connection from
/// parking or it calls it.
#[tokio::test]
async fn a_wake_is_not_lost_wherever_it_falls() {
    let bed = Bed::new();
    let inner = Arc::new(Inner::new(bed.drain.watch(), &bed.metrics).unwrap());
    for step in 0..3 {
        let (guest, _peer, session) = bed.guest();
        let place = Arc::new(Place::new(Arc::downgrade(&inner)));
        let publish_at = |now| (now == step).then(|| publish(&session));
        publish_at(0);
        let settled = guest.settle(&Waker::from(place.clone()));
        assert_eq!(settled, step > 0, "what was there before is seen");
        publish_at(1);
        let committed = place.commit(guest, Arrival::default(), |guest| inner.admit(&place, guest)).is_ok();
        assert_eq!(committed, step != 1, "what came meanwhile is remembered");
        publish_at(2);
        assert_eq!(inner.calls(), usize::from(step == 2), "what comes later calls");
    }
}

/// Many publishers and a guest that parks whenever it can, on several threads: every message is seen, though
/// nothing but a wake ever resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_seen_under_contention() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 5_000;
    let mut bed = Bed::new();
    let session = Arc::<Mutex<Session>>::default();
    let published = Arc::new(AtomicU64::new(0));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|seed| {
            let (session, published) = (session.clone(), published.clone());
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..EACH {
                    publish(&session);
                    published.fetch_add(1, Ordering::Relaxed);
                    (0..random.u32(..400)).for_each(|_| std::hint::spin_loop());
                }
            })
        })
        .collect();
    let (mut seen, mut parked) = (0, 0u64);
    while seen < PUBLISHERS * EACH {
        let (mut guest, _peer, _) = bed.guest();
        guest.session = session.clone();
        if bed.park(guest) {
            parked += 1;
            seen += bed.resumed.recv().await.unwrap();
        } else {
            seen += std::mem::take(&mut session.lock().messages);
        }
    }
    assert!(parked > 0);
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    assert_eq!(published.load(Ordering::Relaxed), seen);
}

/// With the counts of its `Arc`, one of the allocator's sizes.
#[test]
fn a_place_is_small() {
    let bytes = size_of::<Place<crate::listener::Parked>>();
    assert!(bytes <= 160 - 16, "{bytes} bytes");
}
