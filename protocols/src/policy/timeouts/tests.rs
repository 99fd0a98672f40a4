//! Limits of networks that are known, or not.

use super::*;
use crate::policy::{Arrival, Event, NetworkKind, QualityPolicy};

const HIGHEST: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Run {
    now: Instant,
    quality: Quality,
    policy: TimeoutPolicy,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn on(kind: NetworkKind) -> Self {
        let (mut quality, now) = (Quality::new(QualityPolicy::default()), Instant::now());
        quality.on(now, Event::NetworkChanged(Arrival { network: None, kind, unix_s: 0 }));
        Self { now, quality, policy: TimeoutPolicy::default() }
    }

    fn sees(&mut self, count: usize, event: Event) {
        for _ in 0..count {
            self.now += ms(100);
            self.quality.on(self.now, event);
        }
    }

    fn limit(&self, step: Step, bytes: u64, left: Option<Duration>) -> Duration {
        self.policy.limit_of(self.now, &Wanted { step, bytes, left, highest: HIGHEST }, &self.quality)
    }
}

/// A gateway that never answers on a network of which nothing is known: how long each POST of a call waits.
fn waits(kind: NetworkKind, deadline: Duration) -> Vec<Duration> {
    let mut run = Run::on(kind);
    let ends = run.now + deadline;
    let mut waits = Vec::new();
    while run.now < ends {
        let wait = run.limit(Step::FirstByte, 0, Some(ends - run.now));
        run.now += wait;
        run.quality.on(run.now, Event::Expired(Step::FirstByte));
        waits.push(wait);
    }
    waits
}

#[test]
fn a_post_on_an_unknown_network_waits_a_quarter_of_its_deadline_once() {
    for seconds in [8, 15, 30, 40, 240] {
        let deadline = Duration::from_secs(seconds);
        for kind in [NetworkKind::Unknown, NetworkKind::Wifi, NetworkKind::Cellular4g] {
            let waits = waits(kind, deadline);
            let as_long = waits.iter().filter(|wait| **wait >= deadline / 4).count();
            assert!(as_long <= 1 && waits[0] <= deadline / 4, "{kind}, {deadline:?}: {waits:?}");
        }
    }
    let slow = waits(NetworkKind::Cellular2g, Duration::from_secs(8));
    assert!(slow[0] > ms(5000), "an answer takes 1.7 s there at best: {slow:?}");
}

#[test]
fn no_limit_is_shorter_than_what_99_of_100_took_and_none_goes_beyond_the_deadline() {
    for took in [20, 800, 2500, 6000] {
        for step in [Step::Connect, Step::FirstByte, Step::Gap] {
            let mut run = Run::on(NetworkKind::Wifi);
            run.sees(60, Event::Came(step, ms(took)));
            assert!(run.limit(step, 0, None) >= ms(took), "{step:?}, {took}");
            assert!(run.limit(step, 0, Some(ms(60_000))) >= ms(took), "{step:?}, {took}");
            assert_eq!(run.limit(step, 0, Some(ms(1500))), ms(1500));
        }
    }
}

#[test]
fn bytes_have_the_time_that_the_network_needs_for_them() {
    let mut run = Run::on(NetworkKind::Cellular3g);
    run.sees(20, Event::Came(Step::FirstByte, ms(300)));
    let little = run.limit(Step::FirstByte, 2_000, None);
    assert_eq!(little, run.policy.first_byte_min);
    let by_kind = run.limit(Step::FirstByte, 1_000_000, None);
    assert!(by_kind >= little + Duration::from_secs(21), "47 KB/s are usual: {by_kind:?}");
    run.sees(20, Event::Sent(20_000.0));
    let seen = run.limit(Step::FirstByte, 1_000_000, None);
    assert!(seen >= little + Duration::from_secs(50) && seen > HIGHEST, "{seen:?}");
    assert_eq!(run.limit(Step::FirstByte, 1_000_000, Some(HIGHEST)), HIGHEST);
    run.policy.enabled = false;
    assert!(run.limit(Step::FirstByte, 1_000_000, None) > HIGHEST);
}

#[test]
fn one_connection_or_its_round_trips_bound_the_next_one() {
    let check = |event: Event, expected: u64| {
        let mut run = Run::on(NetworkKind::Unknown);
        assert_eq!(run.limit(Step::Connect, 0, None), HIGHEST);
        run.sees(1, event);
        assert_eq!(run.limit(Step::Connect, 0, None), ms(expected), "{event:?}");
        // A race that was not won is given twice as long.
        run.sees(1, Event::Expired(Step::Connect));
        assert_eq!(run.limit(Step::Connect, 0, None), ms(2 * expected).min(HIGHEST), "{event:?}");
        assert_eq!(run.limit(Step::Gap, 0, None), HIGHEST, "of others it says nothing");
    };
    check(Event::Came(Step::Connect, ms(100)), 2000);
    check(Event::Came(Step::Connect, ms(900)), 5400);
    check(Event::Path { round_trip: ms(500), sent: 10, lost: 0 }, 6000);
}
