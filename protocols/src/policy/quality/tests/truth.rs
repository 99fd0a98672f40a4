//! How far estimates are from networks of which all is known.

use super::*;

/// A network: what its packets meet.
#[derive(Clone, Copy, Debug)]
struct Truth {
    name: &'static str,
    /// The shortest round trip.
    delay: Duration,
    /// The mean of what comes on top, by an exponential distribution.
    varies: Duration,
    loss: f64,
    /// Bytes per second that come.
    rate: f64,
}

const fn truth(name: &'static str, delay_ms: u64, varies_ms: u64, loss: f64, kbps: u32) -> Truth {
    let (delay, varies) = (Duration::from_millis(delay_ms), Duration::from_millis(varies_ms));
    Truth { name, delay, varies, loss, rate: kbps as f64 * 125.0 }
}

/// Of `strategies.md`'s kind: Facebook's ATC, Uber's population.
const NETWORKS: [Truth; 7] = [
    truth("wifi", 40, 5, 0.001, 30_000),
    truth("4g", 70, 12, 0.002, 9_000),
    truth("weak 4g", 160, 60, 0.03, 1_440),
    truth("3g", 200, 25, 0.01, 780),
    truth("population", 300, 60, 0.035, 2_000),
    truth("edge", 840, 80, 0.01, 240),
    truth("2g", 1300, 150, 0.02, 60),
];
const SEEDS: u64 = 6;
const PACKET_BYTES: u64 = 1200;

impl Truth {
    /// What half of the round trips do not exceed.
    fn median(&self) -> f64 {
        self.delay.as_secs_f64() + self.varies.as_secs_f64() * std::f64::consts::LN_2
    }

    /// The mean deviation of an exponential distribution from its median.
    fn jitter(&self) -> f64 {
        self.varies.as_secs_f64() * std::f64::consts::LN_2
    }

    fn trip(&self, random: &mut fastrand::Rng) -> Duration {
        self.delay + self.varies.mul_f64(-(1.0 - random.f64()).ln())
    }

    /// A packet and its answer on TCP; what is lost is sent again after a time-out that doubles.
    fn probe(&self, random: &mut fastrand::Rng) -> Duration {
        let mut time = Duration::ZERO;
        let mut timeout = self.delay + ms(200).max(4 * self.varies);
        while random.f64() < 1.0 - (1.0 - self.loss).powi(2) {
            time += timeout;
            timeout *= 2;
        }
        time + self.trip(random)
    }

    /// When bytes of an answer come, in order: a window that doubles each round trip, a queue at the rate, and a
    /// round trip more for what was lost, behind which the rest waits.
    fn answer(&self, bytes: u64, random: &mut fastrand::Rng) -> Vec<(Duration, u64)> {
        let (mut came, mut free, mut round) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        let (mut left, mut window, mut delivered) = (bytes.div_ceil(PACKET_BYTES), 10, Duration::ZERO);
        let takes = Duration::from_secs_f64(PACKET_BYTES as f64 / self.rate);
        while left > 0 {
            free = free.max(round);
            for _ in 0..window.min(left) {
                free += takes;
                let again = if random.f64() < self.loss { self.delay } else { Duration::ZERO };
                delivered = delivered.max(free + again + self.trip(random) / 2);
                came.push((delivered, PACKET_BYTES));
            }
            left -= window.min(left);
            window *= 2;
            round += self.delay;
        }
        came
    }
}

/// What the model says after five minutes of an app's usual traffic.
struct Said {
    round_trip: f64,
    jitter: f64,
    request: f64,
    rate: f64,
    loss: f64,
}

fn live(truth: &Truth, seed: u64, counts_packets: bool) -> Said {
    let mut run = Run::new(seed);
    run.on(Event::NetworkChanged(Arrival { network: None, kind: NetworkKind::Unknown, unix_s: 0 }));
    let mut meter = Meter::default();
    let mut random = run.random.clone();
    for second in 0..300_u32 {
        run.now += ms(900) + ms(200).mul_f64(random.f64());
        let time = truth.probe(&mut random);
        run.on(Event::RoundTrip(time));
        if counts_packets {
            let sent = 20 + random.u32(..20);
            let lost = (0..sent).filter(|_| random.f64() < truth.loss).count() as u32;
            run.on(Event::Path { round_trip: truth.trip(&mut random), sent, lost });
        }
        if second % 3 == 0 {
            let server = ms(200).mul_f64(random.f64());
            let after = truth.trip(&mut random) + server;
            run.on(Event::Answered { after, server: Some(server) });
        }
        if second % 20 == 0 {
            // Most are short. A long one goes on until the network is full.
            let full = (truth.rate * 1.5) as u64;
            let bytes = 40_000 + random.u64(..full * if second % 60 == 0 { 3 } else { 1 });
            let (began, round_trip) = (run.now, run.quality.round_trip(run.now));
            let mut rate = None;
            for (after, bytes) in truth.answer(bytes, &mut random) {
                rate = meter.moved(began + after, bytes, round_trip).or(rate);
                run.now = began + after;
            }
            if let Some(rate) = meter.end().or(rate) {
                run.on(Event::Received(rate));
            }
        }
    }
    let (quality, now) = (&run.quality, run.now);
    Said {
        round_trip: quality.round_trip(now).unwrap().as_secs_f64(),
        jitter: quality.jitter(now).unwrap().as_secs_f64(),
        request: quality.request_round_trip(now).unwrap().as_secs_f64(),
        rate: quality.receive_rate(now).unwrap(),
        loss: quality.loss(now).unwrap(),
    }
}

/// How far from what is so, as a share of that.
fn off(said: f64, so: f64) -> f64 {
    (said - so).abs() / so
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn estimates_are_near_what_is_so() {
    for truth in &NETWORKS {
        let said: Vec<Said> = (0..SEEDS).map(|seed| live(truth, seed, true)).collect();
        for (seed, said) in said.iter().enumerate() {
            let near = |what: &str, error: f64, most: f64| {
                assert!(error <= most, "{}, seed {seed}: {what} is off by {error:.2}", truth.name);
            };
            near("the round trip", off(said.round_trip, truth.median()), 0.15);
            near("the request's round trip", off(said.request, truth.median()), 0.15);
            near("the rate", off(said.rate, truth.rate), 0.40);
        }
        let typical =
            |of: fn(&Said, &Truth) -> f64| median(said.iter().map(|said| of(said, truth)).collect());
        let errors = [
            (typical(|said, truth| off(said.round_trip, truth.median())), 0.05),
            (typical(|said, truth| off(said.request, truth.median())), 0.05),
            (typical(|said, truth| off(said.jitter, truth.jitter())), 0.30),
            (typical(|said, truth| off(said.rate, truth.rate)), 0.15),
        ];
        eprintln!("{}: round trip, request, jitter, rate off by {errors:.3?}", truth.name);
        assert!(errors.iter().all(|(error, most)| error <= most), "{}: {errors:.3?}", truth.name);
    }
}

#[test]
fn loss_is_counted_on_packets_and_told_from_probes_that_were_late() {
    for truth in &NETWORKS {
        let mean = |counts_packets: bool| {
            let said = (0..SEEDS).map(|seed| live(truth, seed, counts_packets).loss);
            said.sum::<f64>() / SEEDS as f64
        };
        let (counted, told) = (mean(true), mean(false));
        assert!((counted - truth.loss).abs() <= 0.01, "{}: counted {counted}", truth.name);
        assert!((told - truth.loss).abs() <= 0.02, "{}: told {told}", truth.name);
    }
}
