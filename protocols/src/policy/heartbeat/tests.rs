//! Days on networks whose NATs forget, in simulated time.

use super::*;

const DAY_S: u64 = 86_400;
/// Connections that are lost while a time-out is found: growing steps over it, closing in, and a second look.
const LOST_MAX: usize = 8;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A phone that does nothing but keep a link, on a network that forgets flows after `timeout`.
struct Phone {
    now: Instant,
    began: Instant,
    heartbeat: Heartbeat,
    random: fastrand::Rng,
    network: NetworkKey,
    timeout: Duration,
    highest: Duration,
    /// The mean time between two packets of the app's own; `None` where it has none.
    traffic: Option<Duration>,
    /// As on QUIC, a connection that was forgotten goes on from what the NAT takes for a new one.
    goes_on: bool,
    /// The share of beats that are lost though the NAT has forgotten nothing.
    tunnels: f64,
    interval: Duration,
    beats: usize,
    lost: usize,
    /// The longest that a connection was left alone beyond the time-out.
    worst: Duration,
}

impl Phone {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn new(seed: u64, timeout: Duration) -> Self {
        let now = Instant::now();
        let heartbeat = Heartbeat::new(HeartbeatPolicy::default(), Records::default());
        let mut phone = Self {
            now,
            began: now,
            heartbeat,
            random: fastrand::Rng::with_seed(seed),
            network: NetworkKey(1),
            timeout,
            highest: s(600),
            traffic: None,
            goes_on: false,
            tunnels: 0.0,
            interval: s(0),
            beats: 0,
            lost: 0,
            worst: s(0),
        };
        phone.connect();
        phone
    }

    fn unix_s(&self) -> u64 {
        1_700_000_000 + (self.now - self.began).as_secs()
    }

    fn connect(&mut self) {
        let (network, transport) = (self.network, Transport::Tcp);
        let ground =
            Ground { network, transport, start: s(30), highest: self.highest, unix_s: self.unix_s() };
        self.heartbeat.begin(self.now, ground);
        self.interval = self.heartbeat.interval(self.now);
    }

    fn moves_to(&mut self, network: u64, timeout: Duration) {
        self.heartbeat.ended();
        (self.network, self.timeout) = (NetworkKey(network), timeout);
        self.connect();
    }

    /// Lives for so long; the counters are of that time alone.
    fn lives(&mut self, time: Duration) {
        (self.beats, self.lost, self.worst) = (0, 0, s(0));
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// Until the next packet that is sent, and what becomes of it.
    fn step(&mut self) {
        let traffic = self.traffic.map(|mean| mean.mul_f64(-(1.0 - self.random.f64()).ln()));
        let quiet = traffic.unwrap_or(Duration::MAX).min(self.interval);
        self.now += quiet;
        let next = if quiet == self.interval {
            self.beats += 1;
            self.heartbeat.beat(self.now, quiet)
        } else {
            self.heartbeat.spoke(quiet);
            self.interval
        };
        self.worst = self.worst.max(quiet.saturating_sub(self.timeout));
        let is_forgotten = quiet > self.timeout;
        if is_forgotten && self.goes_on {
            self.lost += 1;
            assert!(self.heartbeat.is_alive());
            self.heartbeat.forgotten();
            self.interval = self.heartbeat.interval(self.now);
        } else if is_forgotten || self.random.f64() < self.tunnels {
            self.lost += usize::from(is_forgotten);
            self.now += s(3);
            self.heartbeat.lost(self.now);
            self.now += s(1);
            self.connect();
        } else {
            self.heartbeat.heard();
            self.interval = next;
        }
    }
}

fn is_near(interval: Duration, timeout: Duration) -> bool {
    interval < timeout && interval >= timeout.mul_f64(0.9)
}

#[test]
fn the_interval_comes_within_a_tenth_below_the_time_out_and_stays_there() {
    for seed in 0..20 {
        for timeout in [30, 45, 60, 61, 90, 120, 180, 239, 240, 300, 420, 599] {
            let timeout = s(timeout) + Duration::from_millis(seed * 37);
            let mut phone = Phone::new(seed, timeout);
            phone.lives(s(3 * 3600));
            assert!(phone.lost <= LOST_MAX, "{timeout:?}: {} lost", phone.lost);
            assert!(is_near(phone.interval, timeout), "{timeout:?}: {:?}", phone.interval);
            assert!(phone.worst <= timeout / 2, "{timeout:?}: {:?} beyond", phone.worst);
            phone.lives(s(6 * DAY_S));
            assert_eq!(phone.lost, 0, "{timeout:?}: what was found is kept");
        }
    }
}

#[test]
fn traffic_only_makes_learning_later() {
    for seed in 0..20 {
        for timeout in [60, 240, 550] {
            let mut phone = Phone::new(seed, s(timeout));
            phone.traffic = Some(s(200));
            phone.lives(s(3 * DAY_S));
            assert!(phone.lost <= LOST_MAX, "{timeout}: {} lost", phone.lost);
            assert!(is_near(phone.interval, s(timeout)), "{timeout}: {:?}", phone.interval);
        }
    }
}

#[test]
fn a_quiet_day_takes_a_small_part_of_the_beats_of_a_fixed_interval() {
    let beats = |timeout: u64| {
        let mut phone = Phone::new(1, s(timeout));
        phone.lives(s(DAY_S));
        phone.beats
    };
    let fixed = (DAY_S / 30) as usize;
    assert!(beats(120) * 3 <= fixed, "{} of {fixed}", beats(120));
    assert!(beats(300) * 8 <= fixed, "{} of {fixed}", beats(300));
    assert!(beats(3600) * 18 <= fixed, "{} of {fixed}: nothing is forgotten", beats(3600));
}

#[test]
fn a_nat_that_forgets_what_goes_on_is_learnt_as_well() {
    for timeout in [30, 60, 180, 400] {
        let mut phone = Phone::new(timeout, s(timeout));
        phone.goes_on = true;
        phone.lives(s(3 * 3600));
        assert!(phone.lost <= LOST_MAX, "{timeout}: {} times", phone.lost);
        assert!(is_near(phone.interval, s(timeout)), "{timeout}: {:?}", phone.interval);
    }
}

#[test]
fn a_tunnel_is_no_time_out() {
    for seed in 0..20 {
        let mut phone = Phone::new(seed, s(300));
        phone.tunnels = 0.02;
        phone.lives(s(2 * DAY_S));
        assert!(phone.lost <= 3 * LOST_MAX, "{seed}: {} lost", phone.lost);
        assert!(phone.interval >= s(100), "{seed}: {:?}", phone.interval);
        let beats = phone.beats;
        assert!(beats * 5 <= (2 * DAY_S / 30) as usize, "{seed}: {beats}");
    }
}

#[test]
fn a_network_that_forgets_sooner_than_it_did_is_learnt_anew() {
    let mut phone = Phone::new(2, s(500));
    phone.lives(s(DAY_S));
    phone.timeout = s(70);
    phone.lives(s(DAY_S));
    assert!(phone.lost <= LOST_MAX + 4, "{}", phone.lost);
    assert!(is_near(phone.interval, s(70)), "{:?}", phone.interval);
}

#[test]
fn a_time_out_that_became_longer_is_found_after_a_week() {
    let mut phone = Phone::new(3, s(60));
    phone.lives(s(DAY_S));
    phone.timeout = s(240);
    phone.lives(s(8 * DAY_S));
    assert!(is_near(phone.interval, s(240)), "{:?}", phone.interval);
    let mut phone = Phone::new(3, s(60));
    phone.lives(s(DAY_S));
    phone.lives(s(28 * DAY_S));
    assert!((1..=5).contains(&phone.lost), "one look a week: {}", phone.lost);
}

#[test]
fn each_network_has_its_own_time_out() {
    let mut phone = Phone::new(4, s(60));
    phone.lives(s(DAY_S));
    phone.moves_to(2, s(400));
    phone.lives(s(DAY_S));
    assert!(is_near(phone.interval, s(400)), "{:?}", phone.interval);
    phone.moves_to(1, s(60));
    assert!(is_near(phone.interval, s(60)), "{:?}", phone.interval);
    phone.lives(s(3600));
    assert_eq!(phone.lost, 0);
}

#[test]
fn the_gateways_limit_is_kept() {
    let mut phone = Phone::new(5, s(3600));
    phone.highest = s(100);
    phone.connect();
    phone.lives(s(DAY_S));
    assert_eq!((phone.interval, phone.lost), (s(100), 0));
}

#[test]
fn an_outage_says_nothing_of_the_nat() {
    let mut phone = Phone::new(6, s(300));
    phone.lives(s(DAY_S));
    let before = phone.heartbeat.records().clone();
    for _ in 0..5 {
        phone.heartbeat.beat(phone.now, phone.interval);
        phone.heartbeat.lost(phone.now);
        phone.now += s(60);
        phone.connect();
    }
    let learnt = |records: &Records| records.get((NetworkKey(1), Transport::Tcp));
    assert_eq!(learnt(&before), learnt(phone.heartbeat.records()));
    // Nor does what a device that slept did not hear.
    phone.heartbeat.beat(phone.now, phone.interval);
    phone.heartbeat.slept();
    phone.heartbeat.lost(phone.now);
    phone.connect();
    assert_eq!(learnt(&before), learnt(phone.heartbeat.records()));
}

#[test]
fn somebody_who_looks_has_shorter_intervals_and_a_dozing_device_tries_nothing() {
    let mut phone = Phone::new(7, s(300));
    phone.lives(s(DAY_S));
    let foreground = AppState { mode: AppMode::Foreground, ..AppState::default() };
    phone.heartbeat.set_app(foreground);
    assert_eq!(phone.heartbeat.interval(phone.now), HeartbeatPolicy::default().foreground_max);
    let mut young = Phone::new(8, s(300));
    (0..4).for_each(|_| young.step());
    let dozing = AppState { dozing: true, ..AppState::default() };
    let tried = young.heartbeat.interval(young.now);
    young.heartbeat.set_app(dozing);
    let kept = young.heartbeat.interval(young.now);
    assert!(kept < tried, "{kept:?} {tried:?}");
}

#[test]
fn a_newcomer_begins_with_what_others_have_found() {
    let mut phone = Phone::new(9, s(300));
    phone.heartbeat.offer(s(290));
    phone.connect();
    phone.heartbeat.offer(s(0));
    phone.interval = phone.heartbeat.interval(phone.now);
    assert_eq!(phone.interval, s(261));
    phone.lives(s(3 * 3600));
    assert!(phone.lost <= 3, "{} lost", phone.lost);
    assert!(is_near(phone.interval, s(300)), "{:?}", phone.interval);
    // Others may have been wrong.
    let mut phone = Phone::new(9, s(100));
    phone.heartbeat.offer(s(500));
    phone.interval = phone.heartbeat.interval(phone.now);
    phone.lives(s(6 * 3600));
    assert!(phone.lost <= LOST_MAX + 3, "{} lost", phone.lost);
    assert!(is_near(phone.interval, s(100)), "{:?}", phone.interval);
}

#[test]
fn no_interval_is_shorter_than_min_unless_the_gateway_demands_it() {
    let start = |start, highest| {
        let mut phone = Phone::new(10, s(300));
        let (network, transport, unix_s) = (NetworkKey(2), Transport::Tcp, phone.unix_s());
        phone.heartbeat.begin(phone.now, Ground { network, transport, start, highest, unix_s });
        phone.heartbeat.interval(phone.now)
    };
    assert_eq!(start(s(2), s(600)), HeartbeatPolicy::default().min);
    assert_eq!(start(s(2), s(5)), s(5));
    assert_eq!(start(s(11), s(600)), s(11));
    let check = |policy: HeartbeatPolicy, named: &str| {
        let text = policy.check().unwrap_err();
        assert!(text.contains(named), "{text}");
    };
    check(HeartbeatPolicy { min: s(130), ..HeartbeatPolicy::default() }, "above foreground_max");
    check(HeartbeatPolicy { min: s(60), max: s(50), ..HeartbeatPolicy::default() }, "above max");
}

#[test]
fn what_is_said_after_a_sleep_is_no_trial() {
    let mut phone = Phone::new(14, s(300));
    phone.lives(s(DAY_S));
    let learnt = |phone: &Phone| phone.heartbeat.records().get((NetworkKey(1), Transport::Tcp));
    let before = learnt(&phone);
    for _ in 0..5 {
        // By a clock that stood still, little time has passed.
        phone.heartbeat.slept();
        phone.heartbeat.spoke(s(20));
        phone.heartbeat.lost(phone.now);
        phone.connect();
    }
    assert_eq!(learnt(&phone), before);
    for _ in 0..5 {
        phone.heartbeat.slept();
        phone.heartbeat.heard();
        phone.heartbeat.spoke(s(20));
        phone.heartbeat.lost(phone.now);
        phone.connect();
    }
    assert_ne!(learnt(&phone), before, "the sleep was over");
}

#[test]
fn a_beat_goes_with_another_wake_up_that_is_near() {
    let phone = Phone::new(11, s(200));
    let (now, heartbeat, interval) = (phone.now, &phone.heartbeat, s(100));
    let due = now + interval;
    assert_eq!(heartbeat.wake(due, interval, [now + s(50), now + s(95), now + s(92)]), now + s(92));
    assert_eq!(heartbeat.wake(due, interval, [now + s(50), now + s(200)]), due);
    assert!(heartbeat.rides(now + s(90), due, interval) && !heartbeat.rides(now + s(89), due, interval));
}

#[test]
fn switched_off_it_keeps_the_fixed_beat() {
    let mut phone = Phone::new(12, s(60));
    let off = HeartbeatPolicy { enabled: false, ..HeartbeatPolicy::default() };
    phone.heartbeat.set_policy(off);
    phone.connect();
    phone.lives(s(3600));
    assert_eq!((phone.interval, phone.lost, phone.beats), (s(30), 0, 120));
}

#[test]
fn the_table_is_bounded_and_forgets_what_is_old() {
    let mut phone = Phone::new(13, s(60));
    for network in 0..2 * NETWORKS_MAX as u64 {
        phone.moves_to(network, s(60));
        phone.step();
    }
    assert_eq!(phone.heartbeat.records().iter().count(), NETWORKS_MAX);
    let filed: Vec<Filed> = phone.heartbeat.records().iter().copied().collect();
    let later = phone.unix_s() + FORGET_AFTER_S + 1;
    assert_eq!(Records::restore(filed.clone(), phone.unix_s()).iter().count(), NETWORKS_MAX);
    assert_eq!(Records::restore(filed, later).iter().count(), 0);
}

/// An answer to the app's own word came after a quiet time that was hardly shorter than the time-out.
#[test]
fn a_time_out_is_not_forgotten_because_of_what_was_outlived_just_below_it() {
    let mut learnt = Learnt::default();
    let policy = HeartbeatPolicy::default();
    learnt.survived(s(596));
    for _ in 0..2 {
        learnt.missed(s(600), 0, &policy);
        learnt.survived(s(30));
    }
    assert_eq!((learnt.good, learnt.bad, learnt.bad_times), (s(596), Some(s(600)), 2));
    learnt.survived(s(599));
    assert_eq!(learnt.bad, Some(s(600)), "it is known to be less");
    learnt.survived(s(600));
    assert_eq!(learnt.bad, None);
}
