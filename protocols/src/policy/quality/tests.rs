//! The machines in simulated time.

mod memory;
mod truth;

use std::time::{Duration, Instant};

use super::*;
use crate::policy::TimeoutPolicy;

const HIGHEST: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A clock that only the test moves.
struct Run {
    now: Instant,
    quality: Quality,
    timeouts: TimeoutPolicy,
    random: fastrand::Rng,
    levels: Vec<Option<Level>>,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn new(seed: u64) -> Self {
        let quality = Quality::new(QualityPolicy::default());
        let (timeouts, random) = (TimeoutPolicy::default(), fastrand::Rng::with_seed(seed));
        Self { now: Instant::now(), quality, timeouts, random, levels: Vec::new() }
    }

    fn on(&mut self, event: Event) {
        self.levels.extend(self.quality.on(self.now, event));
    }

    fn every(&mut self, pause: Duration, count: usize, event: Event) {
        for _ in 0..count {
            self.now += pause;
            self.on(event);
        }
    }

    fn limit(&self, step: Step) -> Duration {
        self.timeouts.limit(self.now, step, &self.quality, HIGHEST)
    }

    /// Tries to connect where that would take `time`; whether it did.
    fn connects(&mut self, time: Duration) -> bool {
        let limit = self.limit(Step::Connect);
        assert!((self.timeouts.connect_min..=HIGHEST).contains(&limit), "{limit:?}");
        self.now += time.min(limit);
        self.on(if time <= limit { Event::Came(Step::Connect, time) } else { Event::Expired(Step::Connect) });
        time <= limit
    }

    /// A time around `middle`, of which one in a few hundred is ten times as long.
    fn draw(&mut self, middle: Duration) -> Duration {
        // Twelve uniform draws are as good as normal here.
        let normal: f64 = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
        middle.mul_f64((normal * 0.8).exp())
    }
}

#[test]
fn the_default_parameters_are_within_their_ranges_and_others_are_named() {
    assert_eq!(QualityPolicy::default().check(), Ok(()));
    assert_eq!(TimeoutPolicy::default().check(), Ok(()));
    let quality = |change: fn(&mut QualityPolicy), named: &str| {
        let mut policy = QualityPolicy::default();
        change(&mut policy);
        assert!(policy.check().unwrap_err().starts_with(named), "{policy:?}");
    };
    quality(|it| it.half_life = Duration::ZERO, "half_life is 0ns");
    quality(|it| it.fair_max = ms(100), "fair_max");
    quality(|it| it.weak_failures = f64::NAN, "weak_failures");
    quality(|it| it.poor_failures = 0.1, "poor_failures");
    quality(|it| it.poor_loss = 0.01, "poor_loss");
    quality(|it| it.better_at = 0.0, "better_at");
    let timeouts = |change: fn(&mut TimeoutPolicy), named: &str| {
        let mut policy = TimeoutPolicy::default();
        change(&mut policy);
        assert!(policy.check().unwrap_err().starts_with(named), "{policy:?}");
    };
    timeouts(|it| it.samples_min = 0, "samples_min");
    timeouts(|it| it.margin = 1.0, "margin");
    timeouts(|it| it.first_byte_min = Duration::ZERO, "first_byte_min");
}

#[test]
fn the_level_falls_at_once_and_rises_after_a_while_and_by_a_margin() {
    let mut run = Run::new(1);
    run.every(ms(1000), 10, Event::RoundTrip(ms(50)));
    assert_eq!(run.levels, [Some(Level::Good)]);
    // A tunnel.
    run.every(ms(1000), 12, Event::RoundTrip(ms(3000)));
    assert_eq!(run.quality.level(), Some(Level::Poor));
    run.every(ms(1000), 90, Event::RoundTrip(ms(260)));
    assert_eq!(run.quality.level(), Some(Level::Fair), "below the threshold, and not by the margin");
    run.every(ms(1000), 90, Event::RoundTrip(ms(200)));
    assert_eq!(run.quality.level(), Some(Level::Good));
    let falls = run.levels.iter().is_sorted_by(|one, next| one >= next);
    assert!(!falls && run.levels.len() <= 6, "{:?}", run.levels);
}

#[test]
fn a_level_at_a_threshold_does_not_flutter() {
    let changes = |policy: QualityPolicy| {
        let mut run = Run::new(2);
        run.quality = Quality::new(policy);
        for _ in 0..3600 {
            run.now += ms(1000);
            let time = run.draw(ms(272));
            run.on(Event::RoundTrip(time));
        }
        run.levels.len()
    };
    let policy = QualityPolicy::default();
    let eager = QualityPolicy { better_at: 1.0, better_after: Duration::ZERO, ..policy.clone() };
    let (calm, eager) = (changes(policy), changes(eager));
    assert!(calm * 4 <= eager, "{calm} changes in an hour, {eager} without margin and pause");
}

#[test]
fn failures_make_a_network_weak_or_poor_however_fast_it_is() {
    let mut run = Run::new(3);
    run.every(ms(1000), 20, Event::Came(Step::FirstByte, ms(30)));
    assert_eq!(run.quality.level(), Some(Level::Good));
    run.every(ms(1000), 8, Event::Failed);
    assert_eq!(run.quality.level(), Some(Level::Weak));
    run.every(ms(1000), 20, Event::Expired(Step::Connect));
    assert_eq!(run.quality.level(), Some(Level::Poor));
    run.on(Event::NetworkChanged(Arrival { network: None, kind: NetworkKind::Wifi, unix_s: 0 }));
    assert_eq!((run.quality.level(), run.levels.last()), (None, Some(&None)));
}

#[test]
fn what_is_old_counts_no_more() {
    let mut run = Run::new(4);
    run.every(ms(1000), 30, Event::Came(Step::Connect, ms(3000)));
    assert_eq!(run.limit(Step::Connect), ms(9000));
    run.now += Duration::from_secs(3600);
    assert_eq!(run.limit(Step::Connect), HIGHEST, "nothing is known");
    run.every(ms(1000), 3, Event::Came(Step::Connect, ms(40)));
    assert_eq!(run.limit(Step::Connect), run.timeouts.connect_min);
}

#[test]
fn a_dead_gateway_is_left_early_on_a_fast_network_and_the_limit_doubles() {
    let mut run = Run::new(5);
    assert!((0..10).all(|_| run.connects(ms(40))));
    let start = run.now;
    for limit in [2, 4, 8, 10, 10] {
        assert_eq!(run.limit(Step::Connect), Duration::from_secs(limit));
        assert!(!run.connects(Duration::MAX));
    }
    assert_eq!(run.now - start, Duration::from_secs(34));
    assert!(run.connects(ms(40)));
    assert_eq!(run.limit(Step::Connect), Duration::from_secs(2));
}

#[test]
fn hardly_anything_is_cut_that_would_have_come() {
    for seed in 0..3 {
        for middle in [20, 120, 400, 1000] {
            let mut run = Run::new(seed);
            let (mut cut, mut would_have_come) = (0, 0);
            for _ in 0..1000 {
                run.now += ms(2000);
                let time = run.draw(ms(middle));
                if time <= HIGHEST {
                    would_have_come += 1;
                    cut += usize::from(!run.connects(time));
                }
            }
            assert!(cut * 100 <= would_have_come, "{seed}, {middle} ms: {cut} of {would_have_come}");
        }
    }
}

#[test]
fn a_network_that_becomes_slow_is_waited_for_after_few_limits() {
    for seed in 0..20 {
        let mut run = Run::new(seed);
        for _ in 0..50 {
            run.now += ms(1000);
            let time = run.draw(ms(30));
            run.connects(time);
        }
        let cut = (0..200).filter(|_| !run.connects(ms(6000))).count();
        assert!(cut <= 2, "{seed}: {cut}");
    }
}

#[test]
fn the_same_events_lead_to_the_same_decisions() {
    let play = || {
        let mut run = Run::new(9);
        let limits: Vec<Duration> = (0..500)
            .map(|_| {
                let time = run.draw(ms(700));
                run.connects(time);
                run.limit(Step::Connect)
            })
            .collect();
        (limits, run.levels)
    };
    assert_eq!(play(), play());
}
