//! One direction of the link: a queue in front of a transmitter, then a way that takes time.
//!
//! ```text
//!  offered --> queue, drop-tail --> transmitter, rate --> delay + jitter --> arrives
//!                    | full               | lost
//!                    v                    v
//! ```

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::loss::{Loss, Losses};

/// One direction's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Bits of IP packets per second; 0 does not limit.
    pub rate_bps: u64,
    /// How long the queue in front of the transmitter can get, as time at `rate_bps`; what would wait longer is
    /// dropped.
    pub queue: Duration,
    /// From the transmitter to the other end.
    pub delay: Duration,
    /// Mean of what each packet takes longer, exponentially distributed and cut at five times the mean. Packets do
    /// not overtake each other by it.
    pub jitter: Duration,
    /// What is lost.
    pub loss: Loss,
    /// Share of packets that overtake those before them: they arrive as if the way took no time.
    pub reorder: f64,
    /// Share of TCP segments without data (acknowledgements) that is lost besides.
    pub ack_loss: f64,
}

impl Way {
    /// A way without jitter, loss and reordering; its queue holds 200 ms.
    pub const fn new(rate_bps: u64, delay: Duration) -> Self {
        let (queue, jitter) = (Duration::from_millis(200), Duration::ZERO);
        Self { rate_bps, queue, delay, jitter, loss: Loss::NONE, reorder: 0.0, ack_loss: 0.0 }
    }

    /// The time that `bytes` take to be transmitted.
    pub fn transmission(&self, bytes: usize) -> Duration {
        match self.rate_bps {
            0 => Duration::ZERO,
            rate => Duration::from_nanos((bytes as u64).saturating_mul(8_000_000_000) / rate),
        }
    }
}

/// Jitter above this many times its mean is cut.
const JITTER_MAX: f64 = 5.0;

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drop {
    /// The queue was full.
    Queue,
    /// The way lost it.
    Loss,
}

/// A direction.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    way: Way,
    losses: Losses,
    rng: Rng,
    /// When the transmitter has sent all that is queued.
    idle_at: Duration,
    /// When the latest packet arrives that did not overtake.
    last_arrival: Duration,
}

impl Pipe {
    pub(super) fn new(way: Way, seed: u64) -> Self {
        let (losses, rng) = (Losses::new(way.loss), Rng::with_seed(seed));
        Self { way, losses, rng, idle_at: Duration::ZERO, last_arrival: Duration::ZERO }
    }

    /// When a packet arrives that is offered `now`; `starts` is when the transmitter may begin with it at the
    /// earliest.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        starts: Duration,
        bytes: usize,
        is_ack: bool,
    ) -> Result<Duration, Drop> {
        let begins = self.idle_at.max(starts).max(now);
        // A transmitter without a rate queues nothing but what it may not begin with.
        if begins - now > self.way.queue && (self.way.rate_bps > 0 || starts > now) {
            return Err(Drop::Queue);
        }
        self.idle_at = begins + self.way.transmission(bytes);
        // Lost packets have been transmitted: they cost the sender's rate. Each decision draws for every packet, so
        // that one profile's parameters do not shift another decision's numbers.
        let lost = self.losses.next(&mut self.rng);
        let ack_lost = self.rng.f64() < self.way.ack_loss && is_ack;
        let jitter = self.jitter();
        let overtakes = self.rng.f64() < self.way.reorder;
        if lost || ack_lost {
            return Err(Drop::Loss);
        }
        if overtakes {
            return Ok(self.idle_at);
        }
        self.last_arrival = self.last_arrival.max(self.idle_at + self.way.delay + jitter);
        Ok(self.last_arrival)
    }

    fn jitter(&mut self) -> Duration {
        // 1 - f64() is above zero, so the logarithm is finite.
        let exponential = -(1.0 - self.rng.f64()).ln();
        self.way.jitter.mul_f64(exponential.min(JITTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pipe(way: Way) -> Pipe {
        Pipe::new(way, 3)
    }

    #[test]
    fn a_packet_takes_its_transmission_and_the_delay() {
        let mut pipe = pipe(Way::new(80_000, ms(250)));
        assert_eq!(pipe.offer(ms(1000), ms(0), 500, false), Ok(ms(1000 + 50 + 250)));
        // The second waits for the first.
        assert_eq!(pipe.offer(ms(1010), ms(0), 500, false), Ok(ms(1000 + 100 + 250)));
    }

    #[test]
    fn a_flood_arrives_at_the_rate_and_the_queue_drops_the_rest() {
        let mut pipe = pipe(Way::new(1_000_000, ms(40)));
        // Twice the rate for ten seconds: 1250 bytes take 10 ms and come every 5 ms.
        let arrivals: Vec<_> = (0..2000).map(|n| pipe.offer(ms(5 * n), ms(0), 1250, false)).collect();
        let arrived: Vec<Duration> = arrivals.iter().filter_map(|arrival| arrival.ok()).collect();
        let spent = *arrived.last().unwrap() - arrived[0];
        let rate = (arrived.len() - 1) as f64 * 1250.0 * 8.0 / spent.as_secs_f64();
        assert!((rate - 1e6).abs() < 1e3, "{rate}");
        let dropped = arrivals.iter().filter(|arrival| **arrival == Err(Drop::Queue)).count();
        assert_eq!(dropped + arrived.len(), 2000);
        let waits = arrivals.iter().zip(0..).filter_map(|(arrival, n)| Some((*arrival).ok()? - ms(5 * n)));
        let longest = waits.max().unwrap();
        assert!(longest <= ms(200 + 10 + 40), "the queue is bounded: {longest:?}");
    }

    #[test]
    fn jitter_has_the_mean_asked_for_and_keeps_the_order() {
        let mut pipe = pipe(Way { jitter: ms(20), ..Way::new(0, ms(50)) });
        let arrivals: Vec<Duration> =
            (0..20_000).map(|n| pipe.offer(ms(200 * n), ms(0), 100, false).unwrap()).collect();
        assert!(arrivals.is_sorted());
        let total: Duration = arrivals.iter().zip(0..).map(|(arrival, n)| *arrival - ms(200 * n)).sum();
        let mean = total / 20_000;
        // Cut at five times the mean, an exponential loses e^-5 of it.
        assert!(mean > ms(69) && mean < ms(71), "{mean:?}");
        // In a burst, too, none overtakes.
        let burst: Vec<Duration> =
            (0..100).map(|_| pipe.offer(ms(5_000_000), ms(0), 100, false).unwrap()).collect();
        assert!(burst.is_sorted());
    }

    #[test]
    fn some_packets_overtake_when_asked() {
        let mut pipe = pipe(Way { reorder: 0.25, ..Way::new(0, ms(50)) });
        let early = (0..10_000).filter(|n| pipe.offer(ms(*n), ms(0), 100, false) == Ok(ms(*n))).count();
        assert!((2350..2650).contains(&early), "{early}");
    }

    #[test]
    fn acknowledgements_alone_can_be_lost() {
        let mut pipe = pipe(Way { ack_loss: 1.0, ..Way::new(0, ms(1)) });
        assert_eq!(pipe.offer(ms(0), ms(0), 40, true), Err(Drop::Loss));
        assert_eq!(pipe.offer(ms(0), ms(0), 40, false), Ok(ms(1)));
    }

    #[test]
    fn what_may_not_start_waits_in_the_queue_or_is_dropped() {
        let mut pipe = pipe(Way::new(0, ms(10)));
        assert_eq!(pipe.offer(ms(0), ms(150), 100, false), Ok(ms(160)));
        assert_eq!(pipe.offer(ms(0), ms(500), 100, false), Err(Drop::Queue));
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let way = Way { jitter: ms(9), loss: Loss::bursts(0.1, 0.3, 0.8), ..Way::new(100_000, ms(80)) };
        let run = |seed| {
            let mut pipe = Pipe::new(way, seed);
            (0..500).map(|n| pipe.offer(ms(30 * n), ms(0), 200, false)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
