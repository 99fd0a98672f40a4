//! Lines that are asked to go, and networks that join, in simulated time.

use super::*;

const SPREAD: Duration = seconds(10);

/// A client, and what time it is for it.
struct Scene {
    policy: HandoverPolicy,
    handover: Handover,
    began: Instant,
    now: Instant,
}

impl Scene {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn new() -> Self {
        let now = Instant::now();
        Self { policy: HandoverPolicy::default(), handover: Handover::default(), began: now, now }
    }

    fn goaway(&mut self, spread: Duration, share: f64) -> Leave {
        self.handover.sent_away(&self.policy, SentAway { spread, share }, self.now)
    }

    fn joined(&mut self) {
        self.handover.joined(&self.policy, self.now);
    }

    fn made(&mut self) -> bool {
        self.handover.made(&self.policy, self.now)
    }

    fn failed(&mut self) {
        self.handover.failed(&self.policy, self.now);
    }

    /// Waits for the next thing to do, and says when since the beginning it came.
    fn next(&mut self) -> Option<(Duration, HandoverAction)> {
        loop {
            if let Some(action) = self.handover.poll(self.now) {
                return Some((self.now - self.began, action));
            }
            self.now = self.handover.poll_timeout()?;
        }
    }

    fn connects_at(&mut self) -> Duration {
        let (at, action) = self.next().unwrap();
        assert_eq!(action, HandoverAction::Connect);
        at
    }
}

#[test]
fn a_line_that_is_sent_away_is_served_until_the_second_connection_is_there() {
    let mut scene = Scene::new();
    let leave = scene.goaway(SPREAD, 0.5);
    let since = |at: Instant| at - scene.began;
    assert_eq!(since(leave.from), seconds(4), "in the first 8 s of the spread");
    assert_eq!((since(leave.opens_until), since(leave.by)), (seconds(9), seconds(14)));
    assert!(!scene.handover.is_ready());
    assert_eq!(scene.connects_at(), seconds(4));
    assert!(scene.made() && scene.handover.is_ready());
    assert_eq!(scene.next(), None, "the line moves when it can");
    scene.handover.line_ended(true, scene.now);
    assert!(!scene.handover.is_under_way());
}

#[test]
fn no_turn_comes_too_late_for_a_second_connection() {
    let mut scene = Scene::new();
    for spread in [seconds(1), SPREAD, minutes(5)] {
        let leave = scene.goaway(spread, 0.9999);
        let left = scene.now + spread - leave.from;
        assert!(left >= (spread / 5).min(LEAD_MAX), "{spread:?}: {left:?}");
        assert!((leave.from..=scene.now + spread).contains(&leave.opens_until), "{spread:?}");
    }
    // Where the gateway takes nothing more at once, nothing more is asked of it.
    let leave = scene.goaway(Duration::ZERO, 0.5);
    assert_eq!((leave.from, leave.opens_until), (scene.now, scene.now));
}

#[test]
fn one_that_cannot_be_made_is_tried_less_and_less_until_the_line_goes_anyway() {
    let mut scene = Scene::new();
    let leave = scene.goaway(Duration::ZERO, 1.0);
    let mut tries = Vec::new();
    loop {
        match scene.next().unwrap() {
            (at, HandoverAction::Connect) => tries.push(at.as_millis()),
            (at, HandoverAction::GiveUp) => break assert_eq!(at, leave.by - scene.began),
        }
        scene.failed();
    }
    assert_eq!(tries, [0, 500, 1500, 3500, 7500]);
    assert!(!scene.handover.is_under_way() && !scene.made());
}

#[test]
fn who_is_sent_in_circles_goes_slower_each_time() {
    let mut scene = Scene::new();
    let mut turns = Vec::new();
    for _ in 0..12 {
        let leave = scene.goaway(Duration::ZERO, 1.0);
        turns.push((leave.from - scene.now).as_millis());
        scene.connects_at();
        assert!(scene.made());
        scene.handover.line_ended(true, scene.now);
    }
    assert_eq!(turns[..6], [0, 500, 1000, 2000, 4000, 8000]);
    assert_eq!(turns[11], 60_000);
    scene.now += SETTLED_AFTER;
    assert_eq!(scene.goaway(Duration::ZERO, 1.0).from, scene.now, "it was well there for a while");
}

#[test]
fn switched_off_a_line_is_left_in_its_turn_and_nothing_is_made_beside_it() {
    let mut scene = Scene::new();
    scene.policy.enabled = false;
    let leave = scene.goaway(SPREAD, 0.5);
    assert_eq!((leave.from - scene.now, leave.opens_until), (seconds(5), leave.from));
    assert_eq!(scene.next(), None);
}

#[test]
fn a_network_that_has_joined_is_checked_more_than_once() {
    let mut scene = Scene::new();
    scene.policy.checks = 3;
    scene.joined();
    assert_eq!(scene.connects_at(), Duration::ZERO);
    assert!(!scene.made(), "one that came through says little");
    assert_eq!(scene.connects_at(), seconds(1));
    scene.failed();
    assert!(!scene.handover.is_ready());
    for at in 2..4 {
        assert_eq!(scene.connects_at(), seconds(at));
        assert!(!scene.made(), "what failed in between starts it over");
    }
    assert_eq!(scene.connects_at(), seconds(4));
    assert!(scene.made() && scene.handover.is_ready());
}

#[test]
fn a_network_that_is_no_good_is_left_alone() {
    let mut scene = Scene::new();
    scene.joined();
    while let (_, HandoverAction::Connect) = scene.next().unwrap() {
        scene.failed();
    }
    assert_eq!(scene.now - scene.began, seconds(30));
    // One attempt that neither fails nor comes through.
    scene.joined();
    scene.connects_at();
    assert_eq!(scene.next().unwrap().1, HandoverAction::GiveUp);
    assert_eq!(scene.now - scene.began, seconds(60));
}

#[test]
fn a_change_of_networks_ends_checks_and_begins_a_way_out_anew() {
    let mut scene = Scene::new();
    scene.joined();
    scene.connects_at();
    scene.handover.network_changed(scene.now);
    assert!(!scene.made() && !scene.handover.is_under_way());
    scene.goaway(Duration::ZERO, 0.0);
    scene.connects_at();
    assert!(scene.made());
    scene.joined();
    assert!(scene.handover.is_ready() && !scene.handover.is_for_network(), "it goes there anyway");
    scene.handover.network_changed(scene.now);
    assert!(!scene.handover.is_ready());
    assert_eq!(scene.next().unwrap().1, HandoverAction::Connect);
}

#[test]
fn another_carrier_gets_one_attempt_and_gives_way_to_what_is_urgent() {
    let mut scene = Scene::new();
    scene.handover.carried(&scene.policy, scene.now);
    assert!(scene.handover.is_for_carrier() && !scene.handover.is_for_network());
    assert_eq!(scene.connects_at(), Duration::ZERO);
    scene.failed();
    assert!(!scene.handover.is_under_way());
    scene.handover.carried(&scene.policy, scene.now);
    scene.connects_at();
    assert!(scene.made() && scene.handover.is_ready(), "one is enough");
    scene.goaway(Duration::ZERO, 0.0);
    assert!(!scene.handover.is_ready() && !scene.handover.is_for_carrier());
    scene.handover.carried(&scene.policy, scene.now);
    assert!(!scene.handover.is_for_carrier(), "the gateway goes");
    let mut scene = Scene::new();
    scene.policy.enabled = false;
    scene.handover.carried(&scene.policy, scene.now);
    assert!(!scene.handover.is_under_way());
}
