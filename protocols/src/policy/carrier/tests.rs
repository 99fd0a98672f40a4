//! An app in the background on networks whose NATs forget, in simulated time.

use super::*;
use crate::policy::{Filed, Ground, HeartbeatPolicy, Learnt, NetworkKey, Records};

/// What is known of a network's time-out.
fn known(transport: Transport, good_s: u64, bad_s: Option<u64>) -> Filed {
    let learnt = Learnt {
        good: seconds(good_s),
        bad: bad_s.map(seconds),
        bad_times: if bad_s.is_some() { 2 } else { 0 },
        ..Learnt::default()
    };
    Filed { network: NetworkKey(1), transport, used_s: 0, learnt }
}

fn office() -> Vec<Filed> {
    vec![known(Transport::Quic, 30, Some(31))]
}

/// A client online by `transport`, and what time it is for it.
struct Scene {
    policy: CarrierPolicy,
    carrier: Carrier,
    heartbeat: Heartbeat,
    transport: Transport,
    now: Instant,
}

impl Scene {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn new(known: Vec<Filed>) -> Self {
        let now = Instant::now();
        let mut heartbeat = Heartbeat::new(HeartbeatPolicy::default(), Records::restore(known, 0));
        let ground = Ground {
            network: NetworkKey(1),
            transport: Transport::Quic,
            start: seconds(30),
            highest: seconds(900),
            unix_s: 0,
        };
        heartbeat.begin(now, ground);
        let mut scene = Self {
            policy: CarrierPolicy::default(),
            carrier: Carrier::default(),
            heartbeat,
            transport: Transport::Quic,
            now,
        };
        scene.is(AppMode::Foreground, false);
        scene
    }

    fn is(&mut self, mode: AppMode, dozing: bool) {
        self.carrier.set_app(AppState { mode, dozing, ..AppState::default() }, self.now);
    }

    fn hides(&mut self) {
        self.is(AppMode::Background, false);
    }

    /// A PONG comes after that time.
    fn after(&mut self, time: Duration) -> Option<Transport> {
        self.now += time;
        self.carrier.moves(&self.policy, &self.heartbeat, self.transport, self.now)
    }

    fn made(&mut self, transport: Transport) {
        self.transport = transport;
        self.carrier.begin(transport);
    }

    /// In the background, on TCP.
    fn held() -> Self {
        let mut scene = Self::new(office());
        scene.hides();
        assert_eq!(scene.after(minutes(2)), Some(Transport::Tcp));
        scene.made(Transport::Tcp);
        scene
    }
}

/// What becomes of an app that is in the background for an hour, where that is known.
fn check(known: Vec<Filed>, expected: Option<Transport>) {
    let mut scene = Scene::new(known.clone());
    scene.hides();
    assert_eq!(scene.after(hours(1)), expected, "{known:?}");
}

#[test]
fn tcp_is_held_where_udp_is_forgotten_much_sooner() {
    let udp = |good_s: u64, bad_s: u64| known(Transport::Quic, good_s, Some(bad_s));
    let tcp = |good_s: u64, bad_s: Option<u64>| known(Transport::Tcp, good_s, bad_s);
    check(office(), Some(Transport::Tcp));
    check(vec![udp(30, 31), tcp(300, Some(310))], Some(Transport::Tcp));
    check(vec![udp(30, 31), tcp(60, Some(62))], Some(Transport::Tcp));
    check(vec![udp(30, 31), tcp(59, Some(60))], None);
    check(vec![udp(30, 31), tcp(30, Some(45))], None);
    // Nothing has failed yet on TCP, and as much as is hoped for would not be enough.
    check(vec![udp(180, 185)], None);
    check(vec![udp(180, 185), tcp(600, None)], Some(Transport::Tcp));
    // Neither is UDP's time-out found, nor is there one.
    check(vec![], None);
    check(vec![known(Transport::Quic, 30, Some(45))], None);
    check(vec![known(Transport::Quic, 600, None)], None);
}

#[test]
fn the_link_moves_when_the_app_is_hidden_for_a_while_and_back_when_it_is_looked_at() {
    let mut scene = Scene::new(office());
    assert_eq!(scene.after(hours(1)), None, "somebody looks at it");
    scene.hides();
    assert_eq!(scene.after(seconds(119)), None);
    assert_eq!(scene.after(seconds(1)), Some(Transport::Tcp));
    scene.made(Transport::Tcp);
    assert_eq!((scene.carrier.moves_to(), scene.carrier.prefers()), (None, Some(Transport::Tcp)));
    assert_eq!(scene.after(hours(1)), None, "it is there");
    scene.is(AppMode::Foreground, false);
    assert_eq!(scene.carrier.prefers(), None, "what breaks now is raced for");
    assert_eq!(scene.after(seconds(9)), None, "a glance");
    assert_eq!(scene.after(seconds(1)), Some(Transport::Quic));
    scene.made(Transport::Quic);
    assert_eq!(scene.after(hours(1)), None);
}

#[test]
fn what_was_tried_in_vain_is_not_tried_again_soon() {
    let mut scene = Scene::new(office());
    scene.hides();
    assert_eq!(scene.after(minutes(2)), Some(Transport::Tcp));
    assert_eq!(scene.after(minutes(1)), None, "it was not made");
    assert_eq!(scene.after(minutes(29)), None);
    assert_eq!(scene.after(minutes(1)), Some(Transport::Tcp));
    // And back: who gets no QUIC is where a race would have led it.
    let mut scene = Scene::held();
    scene.is(AppMode::Foreground, false);
    assert_eq!(scene.after(minutes(1)), Some(Transport::Quic));
    assert_eq!(scene.after(minutes(1)), None);
    assert_eq!(scene.after(hours(1)), None);
}

#[test]
fn another_network_is_raced_for_and_judged_anew() {
    let mut scene = Scene::held();
    scene.carrier.network_changed(scene.now);
    assert_eq!(scene.carrier.prefers(), None);
    scene.made(Transport::Quic);
    assert_eq!(scene.after(minutes(1)), None, "it may be on its way");
    assert_eq!(scene.after(minutes(1)), Some(Transport::Tcp));
}

#[test]
fn what_a_race_has_led_to_tcp_stays_there() {
    let mut scene = Scene::new(office());
    scene.made(Transport::Tcp);
    assert_eq!(scene.after(hours(1)), None);
    scene.hides();
    assert_eq!(scene.after(hours(1)), None);
    // Held, broken, and made by QUIC alone: that is what there is.
    let mut scene = Scene::held();
    scene.made(Transport::Quic);
    assert_eq!(scene.carrier.prefers(), None);
}

#[test]
fn in_doze_nothing_is_moved_for_a_hope() {
    let mut scene = Scene::new(office());
    scene.is(AppMode::Background, true);
    assert_eq!(scene.after(hours(1)), None);
    let mut scene = Scene::new([office(), vec![known(Transport::Tcp, 300, Some(310))]].concat());
    scene.is(AppMode::Background, true);
    assert_eq!(scene.after(hours(1)), Some(Transport::Tcp));
}

#[test]
fn switched_off_the_link_stays_and_one_that_has_moved_goes_back() {
    let mut scene = Scene::new(office());
    scene.policy.enabled = false;
    scene.hides();
    assert_eq!(scene.after(hours(1)), None);
    let mut scene = Scene::held();
    scene.policy.enabled = false;
    assert_eq!(scene.after(minutes(1)), Some(Transport::Quic));
    // Beats that learn nothing say nothing of either.
    let mut scene = Scene::new(office());
    scene.heartbeat.set_policy(HeartbeatPolicy { enabled: false, ..HeartbeatPolicy::default() });
    scene.hides();
    assert_eq!(scene.after(hours(1)), None);
}
