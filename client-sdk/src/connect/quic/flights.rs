//! A handshake's flights behind the first, each sent again where nothing answers it.
//!
//! ```text
//!  ClientHello, 0-RTT ─────────────> | anything is heard: a round trip is measured
//!  Finished, HELLO, the first call ─> | WELCOME: over    | none for `repeat_share` round trips: the same datagrams
//! ```
//!
//! The first flight stays alone: nothing is measured yet, a guess that is too short would fill a slow uplink, and TCP is raced.
//! QUIC's own timers wait three round trips for the acknowledgement of a client's last flight (RFC 9002, section 6.2.1, on the
//! first sample), and then repeat Finished without the calls behind it, which the gateway could not read before: it drops
//! what is protected with keys that it does not have yet (RFC 9001, section 5.7). Where HELLO alone is lost, they send a PING
//! first and HELLO another round trip later, and the link has no PINGs of its own before WELCOME. What a network delivers twice does no
//! harm (RFC 9000, section 12.3), so that these are the same bytes.

use std::{
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use tokio::{sync::Notify, task::AbortHandle, time::sleep_until};

use crate::{core::now, work};

/// Bytes of one flight that are kept: Finished and a first call. What comes behind them is left to QUIC.
const FLIGHT_BYTES_MAX: usize = 8 << 10;
/// Repeats of one flight, each after twice as long as the one before.
const REPEATS_MAX: u32 = 2;
/// A repeat comes so much later than the network alone would have it: both ends have work to do.
const WORK: Duration = Duration::from_millis(30);
/// RFC 9000, section 17.2: set in the first byte of packets of the handshake, and of early data.
const LONG_HEADER: u8 = 0x80;

/// A socket that keeps what was sent of a handshake and not answered yet.
pub(super) struct Flights {
    inner: Arc<dyn AsyncUdpSocket>,
    /// A flight is sent again behind so many round trips of silence.
    share: f64,
    /// The gateway said WELCOME: nothing is kept any more.
    is_over: AtomicBool,
    flight: Mutex<Flight>,
    moved: Arc<Notify>,
    task: OnceLock<AbortHandle>,
}

/// What was sent since something was heard last, or since Finished.
#[derive(Default)]
struct Flight {
    began: Option<Instant>,
    bytes: usize,
    datagrams: Vec<Kept>,
    /// A packet of the time behind the handshake is in it: WELCOME alone says that the gateway has all of that.
    is_last: bool,
    /// From the first flight to its answer. Later ones begin with acknowledgements, between two datagrams of the gateway's.
    round_trip: Option<Duration>,
    repeats: u32,
    repeated: Option<Instant>,
}

struct Kept {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    segment_size: Option<usize>,
    src_ip: Option<IpAddr>,
}

impl Flights {
    pub(super) fn over(inner: Arc<dyn AsyncUdpSocket>, share: f64) -> Arc<Self> {
        let (flight, moved, task) = (Mutex::default(), Arc::new(Notify::new()), OnceLock::new());
        let flights = Arc::new(Self { inner, share, is_over: AtomicBool::new(false), flight, moved, task });
        let (weak, moved) = (Arc::downgrade(&flights), Arc::clone(&flights.moved));
        let task = tokio::spawn(work::boxed(repeat_when_silent(weak, moved))).abort_handle();
        // It was empty.
        let _ = flights.task.set(task);
        flights
    }

    /// The gateway said WELCOME.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        *self.flight.lock() = Flight::default();
        self.moved.notify_one();
    }

    fn sent(&self, transmit: &Transmit<'_>) {
        let mut flight = self.flight.lock();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let mut datagrams = transmit.contents.chunks(size);
        flight.is_last |= datagrams.any(|datagram| datagram[0] & LONG_HEADER == 0);
        if flight.bytes + transmit.contents.len() > FLIGHT_BYTES_MAX {
            return;
        }
        flight.bytes += transmit.contents.len();
        flight.datagrams.push(Kept {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents.to_vec(),
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        if flight.began.is_none() {
            flight.began = Some(now());
            self.moved.notify_one();
        }
    }

    fn heard(&self) {
        let mut flight = self.flight.lock();
        if flight.is_last {
            return;
        }
        let took = flight.began.map(|began| now().saturating_duration_since(began));
        let round_trip = flight.round_trip.or(took);
        *flight = Flight { round_trip, ..Flight::default() };
        drop(flight);
        self.moved.notify_one();
    }

    /// When the flight is sent again, if it is not answered before.
    fn due(&self) -> Option<Instant> {
        let flight = self.flight.lock();
        let round_trip = flight.round_trip.filter(|_| flight.repeats < REPEATS_MAX)?;
        let since = flight.repeated.or(flight.began)?;
        Some(since + round_trip.mul_f64(self.share) * (1 << flight.repeats) + WORK)
    }

    fn send_again(&self) {
        let mut flight = self.flight.lock();
        flight.repeats += 1;
        flight.repeated = Some(now());
        for Kept { destination, ecn, contents, segment_size, src_ip } in &flight.datagrams {
            let (destination, ecn, segment_size, src_ip) = (*destination, *ecn, *segment_size, *src_ip);
            // A socket that takes none now is as good as a lost datagram.
            let _ = self.inner.try_send(&Transmit { destination, ecn, contents, segment_size, src_ip });
        }
    }
}

async fn repeat_when_silent(flights: Weak<Flights>, moved: Arc<Notify>) {
    loop {
        let Some(strong) = flights.upgrade().filter(|it| !it.is_over.load(Ordering::Relaxed)) else { return };
        let due = strong.due();
        if due.is_some_and(|due| due <= now()) {
            strong.send_again();
            continue;
        }
        drop(strong);
        match due {
            Some(due) => tokio::select! {
                () = sleep_until(due.into()) => {}
                () = moved.notified() => {}
            },
            None => moved.notified().await,
        }
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Flights {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        if !self.is_over.load(Ordering::Relaxed) {
            self.sent(transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, buffers, meta);
        if matches!(polled, Poll::Ready(Ok(1..))) && !self.is_over.load(Ordering::Relaxed) {
            self.heard();
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Tells what was sent when, and hears what the test says.
    #[derive(Debug, Default)]
    struct Air {
        sent: Mutex<Vec<(Duration, Vec<u8>)>>,
        began: OnceLock<Instant>,
        arrives: AtomicBool,
    }

    #[derive(Debug)]
    struct Writable;

    impl UdpPoller for Writable {
        fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncUdpSocket for Air {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Writable)
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            let after = now() - *self.began.get_or_init(now);
            self.sent.lock().push((after, transmit.contents.to_vec()));
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            match self.arrives.swap(false, Ordering::Relaxed) {
                true => Poll::Ready(Ok(1)),
                false => Poll::Pending,
            }
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    struct Rig {
        air: Arc<Air>,
        flights: Arc<Flights>,
    }

    impl Rig {
        fn new() -> Self {
            let air = Arc::new(Air::default());
            Self { flights: Flights::over(Arc::clone(&air) as Arc<dyn AsyncUdpSocket>, 1.5), air }
        }

        /// Whose first flight was answered after 100 ms.
        async fn answered() -> Self {
            let rig = Self::new();
            rig.send(&HELLO);
            assert_eq!(rig.sent_in(100).await, [(0, HELLO.to_vec())]);
            rig.hear().await;
            rig
        }

        fn send(&self, contents: &[u8]) {
            let destination = ([192, 0, 2, 1], 443).into();
            let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            self.flights.try_send(&transmit).unwrap();
        }

        async fn hear(&self) {
            self.air.arrives.store(true, Ordering::Relaxed);
            let heard = poll_fn(|cx| self.flights.poll_recv(cx, &mut [], &mut [])).await;
            assert_eq!(heard.ok(), Some(1));
        }

        /// What was sent, in milliseconds from the first.
        async fn sent_in(&self, time: u64) -> Vec<(u64, Vec<u8>)> {
            tokio::time::sleep(ms(time)).await;
            let sent = std::mem::take(&mut *self.air.sent.lock());
            let millis = |at: Duration| u64::try_from(at.as_millis()).unwrap();
            sent.into_iter().map(|(at, contents)| (millis(at), contents)).collect()
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const HELLO: [u8; 2] = [0xc0, 1];
    const ACK: [u8; 2] = [0xc0, 4];
    const FINISHED: [u8; 2] = [0xe0, 2];
    const CALL: [u8; 2] = [0x40, 3];

    #[tokio::test(start_paused = true)]
    async fn a_last_flight_that_nobody_answers_is_sent_again_and_whole() {
        let rig = Rig::answered().await;
        // An acknowledgement, and the rest of the gateway's flight: that is no round trip.
        rig.send(&ACK);
        assert_eq!(rig.sent_in(20).await.len(), 1);
        rig.hear().await;
        rig.send(&FINISHED);
        rig.send(&CALL);
        // HANDSHAKE_DONE says nothing of the call.
        rig.hear().await;
        let flight = |at: u64| [(at, FINISHED.to_vec()), (at, CALL.to_vec())];
        assert_eq!(rig.sent_in(179).await, flight(120));
        assert_eq!(rig.sent_in(10_000).await, [flight(300), flight(630)].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn behind_welcome_nothing_is_sent_again() {
        let rig = Rig::answered().await;
        rig.send(&FINISHED);
        rig.send(&CALL);
        rig.flights.end();
        rig.send(&CALL);
        assert_eq!(rig.sent_in(10_000).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_flight_is_sent_once() {
        let rig = Rig::new();
        rig.send(&HELLO);
        assert_eq!(rig.sent_in(10_000).await, [(0, HELLO.to_vec())]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_long_flight_the_beginning_is_sent_again() {
        let rig = Rig::answered().await;
        rig.send(&FINISHED);
        rig.send(&[0x40; FLIGHT_BYTES_MAX]);
        let sizes: Vec<usize> = rig.sent_in(1000).await.iter().map(|(_, contents)| contents.len()).collect();
        assert_eq!(sizes, [2, FLIGHT_BYTES_MAX, 2, 2]);
    }
}
