//! Links that die and links that are only slow, in simulated time.

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A link in order, as TCP's, whose round trips vary.
struct Link {
    now: Instant,
    liveness: Liveness,
    random: fastrand::Rng,
    round_trip: Duration,
    /// Standard deviation of a round trip's logarithm.
    jitter: f64,
    loss: f64,
    signs: Signs,
    /// What the peer has said and the client has not heard; true for PONG.
    coming: Vec<(Instant, bool)>,
    is_dead: bool,
    pings: usize,
}

impl Link {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    fn new(seed: u64, round_trip: Duration) -> Self {
        let now = Instant::now();
        // What follows calls has a test of its own.
        let mut liveness = Liveness::new(LivenessPolicy { follow: false, ..LivenessPolicy::default() });
        liveness.begin(now, round_trip);
        let signs =
            Signs { heard: now, spoke: now, unanswered: None, ping: None, outstanding: 0, waiting: None };
        let random = fastrand::Rng::with_seed(seed);
        let (coming, is_dead, pings) = (Vec::new(), false, 0);
        Self { now, liveness, random, round_trip, jitter: 0.0, loss: 0.0, signs, coming, is_dead, pings }
    }

    /// One that is not asked where answers are late, so that it wakes for its death alone.
    fn unrepaired(seed: u64, round_trip: Duration) -> Self {
        let mut link = Self::new(seed, round_trip);
        link.liveness.set_policy(LivenessPolicy {
            repair: false,
            follow: false,
            ..LivenessPolicy::default()
        });
        link
    }

    /// A round trip, with the repeats of lost packets.
    fn draw(&mut self) -> Duration {
        let normal: f64 = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
        let mut time = self.round_trip.mul_f64((normal * self.jitter).exp());
        let mut repeat = self.round_trip + ms(200).max(self.round_trip / 2);
        while self.random.f64() < self.loss {
            time += repeat;
            repeat *= 2;
        }
        time
    }

    fn says(&mut self, ping: bool) {
        self.signs.spoke = self.now;
        self.signs.unanswered.get_or_insert(self.now);
        if ping {
            self.signs.ping.get_or_insert(self.now);
            self.pings += 1;
        }
        if !self.is_dead {
            let at = self.now + self.draw();
            let last = self.coming.last().map_or(at, |(last, _)| *last);
            self.coming.push((at.max(last), ping));
        }
    }

    fn hears(&mut self) {
        let (at, pong) = self.coming.remove(0);
        self.now = at;
        self.signs.heard = at;
        self.signs.unanswered = None;
        if pong && let Some(sent) = self.signs.ping.take() {
            self.liveness.answered(at, at - sent, 0);
        }
    }

    /// Makes a call whose work takes `work`; whether the link was believed in until it was answered.
    fn calls(&mut self, work: Duration) -> bool {
        self.signs.waiting = Some(self.now);
        self.says(false);
        if let Some(answer) = self.coming.last_mut() {
            answer.0 += work;
        }
        // PONGs overtake an answer that is worked on.
        let answer = self.coming.pop();
        while self.now < answer.map_or(self.now + ms(1), |(at, _)| at) {
            let next = self.coming.first().map(|(at, _)| *at);
            match self.liveness.judge(self.now, &self.signs) {
                Pulse::Dead => return false,
                Pulse::Probe | Pulse::Repair => self.says(true),
                Pulse::Fine(until) => {
                    let times = [until, next, answer.map(|(at, _)| at)];
                    let Some(first) = times.into_iter().flatten().min() else { return true };
                    self.now = first;
                    if next == Some(first) {
                        self.hears();
                    }
                }
            }
        }
        (self.signs.heard, self.signs.unanswered, self.signs.waiting) = (self.now, None, None);
        true
    }

    fn rests(&mut self, time: Duration) {
        let until = self.now + time;
        while self.coming.first().is_some_and(|(at, _)| *at <= until) {
            self.hears();
        }
        self.now = until;
    }
}

#[test]
fn a_dead_link_is_noticed_within_three_round_trips_and_a_second_of_the_call() {
    for seed in 0..50 {
        for round_trip in [50, 60, 150, 300, 500, 1000, 2000, 3000].map(ms) {
            let mut link = Link::new(seed, round_trip);
            link.jitter = 0.1;
            for _ in 0..20 {
                assert!(link.calls(ms(10)), "{seed} {round_trip:?}");
                link.rests(ms(3000));
            }
            let pause = ms(link.random.u64(10_000..100_000));
            link.rests(pause);
            let smoothed = link.liveness.round_trip().unwrap();
            link.is_dead = true;
            let began = link.now;
            assert!(!link.calls(ms(10)));
            let took = link.now - began;
            assert!(took < 3 * smoothed + ms(1000), "{seed} {round_trip:?}: {took:?}");
            assert!(took > 2 * smoothed, "{seed} {round_trip:?}: {took:?} is rash");
        }
    }
}

#[test]
fn a_link_that_dies_under_a_call_is_noticed_too() {
    for round_trip in [50, 500, 2000].map(ms) {
        let mut link = Link::new(1, round_trip);
        assert!(link.calls(ms(4000)), "a server may work for a while");
        // It is silent from here on, whatever was said before.
        link.rests(ms(1000));
        link.signs.waiting = Some(link.now);
        link.is_dead = true;
        let began = link.now;
        let dead = loop {
            match link.liveness.judge(link.now, &link.signs) {
                Pulse::Dead => break link.now,
                Pulse::Probe | Pulse::Repair => link.says(true),
                Pulse::Fine(until) => link.now = until.unwrap(),
            }
        };
        let most = 3 * round_trip + ms(1000) + LivenessPolicy::default().probe_every;
        assert!(dead - began < most, "{round_trip:?}: {:?}", dead - began);
    }
}

/// Links that are only slow: at most one call in a thousand ends a link that lives.
#[test]
fn jitter_and_loss_are_no_death() {
    let (mut calls, mut alarms) = (0, 0);
    for seed in 0..20 {
        for (round_trip, jitter, loss) in
            [(50, 0.3, 0.02), (150, 0.3, 0.02), (500, 0.2, 0.02), (1500, 0.15, 0.01)]
        {
            let mut link = Link::new(seed, ms(round_trip));
            (link.jitter, link.loss) = (jitter, loss);
            for _ in 0..500 {
                calls += 1;
                if !link.calls(ms(20)) {
                    alarms += 1;
                    link.coming.clear();
                    (link.signs.unanswered, link.signs.ping) = (None, None);
                    link.signs.heard = link.now;
                }
                link.rests(ms(2000));
            }
        }
    }
    assert!(alarms * 1000 <= calls, "{alarms} of {calls}");
}

#[test]
fn quick_answers_cost_no_ping_and_slow_ones_few() {
    let mut link = Link::new(2, ms(100));
    link.jitter = 0.1;
    for _ in 0..100 {
        assert!(link.calls(ms(5)));
        link.rests(ms(500));
    }
    assert!(link.pings <= 10, "{} for a hundred calls", link.pings);
    link.pings = 0;
    assert!(link.calls(Duration::from_secs(600)), "a long poll");
    assert!(link.pings <= 30, "{} in ten minutes", link.pings);
}

/// What nothing follows is repeated late; a word behind it tells sooner.
#[test]
fn what_waits_for_longer_than_answers_take_is_followed_by_pings() {
    let mut link = Link::new(10, ms(60));
    // Of the first call it is not known how long answers take: as long as round trips, of quick servers.
    link.signs.waiting = Some(link.now);
    assert_eq!(link.liveness.judge(link.now + ms(89), &link.signs), Pulse::Fine(Some(link.now + ms(90))));
    assert_eq!(link.liveness.judge(link.now + ms(90), &link.signs), Pulse::Repair);
    for _ in 0..20 {
        link.liveness.came_within(ms(70));
    }
    let first = link.now;
    (link.signs.spoke, link.signs.unanswered, link.signs.waiting) = (first, Some(first), Some(first));
    let judge = |link: &Link, after: u64| link.liveness.judge(first + ms(after), &link.signs);
    assert_eq!(judge(&link, 89), Pulse::Fine(Some(first + ms(90))));
    assert_eq!(judge(&link, 90), Pulse::Repair);
    // More follow it, half a round trip apart, five in all; none moves a limit.
    link.signs.ping = Some(first + ms(90));
    for sent in [90, 120, 150, 180] {
        link.signs.spoke = first + ms(sent);
        assert_eq!(judge(&link, sent + 1), Pulse::Fine(Some(first + ms(sent + 30))));
        assert_eq!(judge(&link, sent + 30), Pulse::Repair);
    }
    link.signs.spoke = first + ms(210);
    assert_eq!(judge(&link, 211), Pulse::Fine(Some(first + ms(3 * 60 + 900))));
    // Words of the app follow it as well.
    link.signs.spoke = first + ms(100);
    assert_eq!(judge(&link, 101), Pulse::Fine(Some(first + ms(120))));
    // An answer that is on its way, or lost behind an acknowledgement of the call.
    (link.signs.ping, link.signs.unanswered, link.signs.spoke) = (None, None, first);
    link.signs.heard = first + ms(80);
    assert_eq!(judge(&link, 90), Pulse::Fine(Some(first + ms(110))));
    assert_eq!(judge(&link, 110), Pulse::Repair);
    // One that took long says little, many do.
    link.signs.heard = first;
    link.liveness.came_within(ms(5000));
    assert_eq!(judge(&link, 250), Pulse::Repair);
    (0..20).for_each(|turn| link.liveness.came_within(ms(70 + 200 * (turn % 2))));
    assert!(matches!(judge(&link, 300), Pulse::Fine(Some(_))));
    let quiet = LivenessPolicy { repair: false, follow: false, ..LivenessPolicy::default() };
    let mut off = Link::new(11, ms(60));
    off.liveness.set_policy(quiet);
    off.liveness.came_within(ms(70));
    off.signs = Signs { unanswered: Some(first), ..link.signs };
    assert_eq!(off.liveness.judge(first + ms(90), &off.signs), Pulse::Fine(Some(first + ms(460))));
}

/// A call's loss, and that of its answer, is found by what comes behind.
#[test]
fn where_packets_were_lost_a_ping_follows_each_call() {
    let mut link = Link::new(12, ms(60));
    link.liveness.set_policy(LivenessPolicy::default());
    (0..20).for_each(|_| link.liveness.came_within(ms(70)));
    let calls = |link: &mut Link, after: u64| {
        let called = link.now + ms(after);
        // Something was said before that needed no answer.
        (link.signs.unanswered, link.signs.waiting) = (Some(called - ms(50)), Some(called));
        link.signs.spoke = called;
        called
    };
    // Of the first link on a network nothing is known. The server takes 10 ms.
    let called = calls(&mut link, 500);
    let judge = |link: &Link, at: Instant| link.liveness.judge(at, &link.signs);
    assert_eq!(judge(&link, called), Pulse::Fine(Some(called + ms(15))));
    assert_eq!(judge(&link, called + ms(15)), Pulse::Probe);
    assert_ne!(judge(&link, called + ms(36)), Pulse::Probe, "it would follow nothing");
    link.signs.spoke = called + ms(15);
    assert_ne!(judge(&link, called + ms(16)), Pulse::Probe, "it has");
    // Nothing was lost since.
    let called = calls(&mut link, 300_000);
    assert_ne!(judge(&link, called + ms(15)), Pulse::Probe);
    link.liveness.lost(called);
    assert_eq!(judge(&link, called + ms(15)), Pulse::Probe);
    // A server that takes long: the call alone is followed.
    (0..50).for_each(|_| link.liveness.came_within(ms(400)));
    assert_eq!(judge(&link, called + ms(4)), Pulse::Fine(Some(called + ms(5))));
    link.liveness.set_policy(LivenessPolicy { follow: false, ..LivenessPolicy::default() });
    assert_ne!(judge(&link, called + ms(5)), Pulse::Probe);
}

/// As that of the call before, where it or its PONG was lost: it says nothing of what was said later.
#[test]
fn a_ping_of_before_a_call_does_not_stand_for_one_that_follows_it() {
    let mut link = Link::new(14, ms(60));
    link.liveness.set_policy(LivenessPolicy::default());
    (0..20).for_each(|_| link.liveness.came_within(ms(70)));
    let called = link.now + ms(500);
    (link.signs.heard, link.signs.spoke) = (called, called);
    (link.signs.unanswered, link.signs.waiting) = (Some(called), Some(called));
    let check = |link: &mut Link, ping: Instant, spoke: Instant, expected: Pulse| {
        (link.signs.ping, link.signs.spoke) = (Some(ping), spoke);
        assert_eq!(link.liveness.judge(called + ms(15), &link.signs), expected);
    };
    // Its PONG may be on its way, or is late: then this one's is behind what is sent again.
    check(&mut link, called - ms(50), called, Pulse::Probe);
    check(&mut link, called - ms(600), called, Pulse::Repair);
    // It has followed, and may have been the first that is not answered.
    let repair = Pulse::Fine(Some(called + ms(90)));
    check(&mut link, called - ms(50), called + ms(15), repair);
    check(&mut link, called + ms(5), called, repair);
    assert_eq!(
        link.liveness.judge(called + ms(1), &Signs { ping: Some(called - ms(50)), ..link.signs }),
        Pulse::Fine(Some(called + ms(15)))
    );
}

/// Behind an app's call comes the end of the answer that it follows.
#[test]
fn what_was_on_its_way_before_a_call_gives_a_dead_link_no_time() {
    let mut link = Link::unrepaired(13, ms(200));
    let called = link.now;
    (link.signs.waiting, link.signs.spoke, link.signs.heard) = (Some(called), called, called + ms(5));
    let judge = |link: &Link| link.liveness.judge(called + ms(10), &link.signs);
    assert_eq!(judge(&link), Pulse::Fine(Some(called + ms(5 + 200 + 400))));
    link.signs.ping = Some(called + ms(605));
    assert_eq!(judge(&link), Pulse::Fine(Some(called + ms(5 + 3 * 200 + 900))));
    // This may be its acknowledgement.
    link.signs = Signs { heard: called + ms(200), ping: None, ..link.signs };
    assert_eq!(judge(&link), Pulse::Fine(Some(called + ms(200 + 1000))));
}

#[test]
fn a_link_that_waits_for_nothing_is_not_probed_and_its_beats_have_time() {
    let mut link = Link::unrepaired(3, ms(100));
    link.signs.unanswered = Some(link.now);
    assert_eq!(link.liveness.judge(link.now + ms(60_000), &link.signs), Pulse::Fine(None));
    link.signs.ping = Some(link.now);
    let Pulse::Fine(Some(idle)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
    link.signs.waiting = Some(link.now);
    let Pulse::Fine(Some(wanted)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
    assert_eq!((idle - link.now, wanted - link.now), (ms(2400), ms(1200)));
}

/// WELCOME may wait behind a handshake's packets on a slow uplink, a password's check or a store: the bound follows what
/// was measured as soon as anything was.
#[test]
fn a_welcome_that_took_long_stretches_no_bound_once_something_was_measured() {
    let check = |measure: &dyn Fn(&mut Link), expected: Duration| {
        let mut link = Link::unrepaired(9, ms(800));
        measure(&mut link);
        let first = link.now;
        link.signs.waiting = Some(first);
        link.signs.unanswered = Some(first);
        link.signs.ping = Some(first);
        let Pulse::Fine(Some(dead)) = link.liveness.judge(first, &link.signs) else { panic!("not yet") };
        assert_eq!(dead - first, expected);
    };
    check(&|_| {}, ms(3 * 800 + 900));
    check(&|link| link.liveness.answered(link.now, ms(500), 0), ms(3 * 500 + 900));
    check(&|link| link.liveness.path(ms(520)), ms(3 * 520 + 900));
    check(&|link| link.liveness.came_within(ms(600)), ms(3 * 600 + 900));
    // A server that works for long says nothing of the network.
    check(&|link| link.liveness.came_within(ms(5000)), ms(3 * 800 + 900));
    // Another link that was slow to begin is a guess again, and one that was not counts as much as what was measured.
    let again = |took| {
        move |link: &mut Link| {
            link.liveness.path(ms(520));
            link.liveness.begin(link.now, ms(took));
        }
    };
    check(&again(1000), ms(3 * 1000 + 900));
    check(&again(300), ms(3 * 410 + 900));
}

#[test]
fn what_a_blackout_held_back_is_soon_forgotten_by_the_links_behind_it() {
    let mut link = Link::unrepaired(9, ms(100));
    link.liveness.answered(link.now, ms(20_000), 0);
    let mut limits = vec![given(&link)];
    for _ in 0..2 {
        link.liveness.begin(link.now, ms(100));
        limits.push(given(&link));
    }
    assert_eq!(limits, [3 * 20_000 + 900, 3 * 10_050 + 900, 3 * 5075 + 900].map(ms));
}

#[test]
fn what_waits_in_a_socket_has_the_time_that_it_needs() {
    let mut link = Link::unrepaired(4, ms(100));
    (link.signs.unanswered, link.signs.waiting) = (Some(link.now), Some(link.now));
    link.signs.ping = Some(link.now);
    link.signs.outstanding = 84_096;
    assert_eq!(
        link.liveness.judge(link.now + ms(11_000), &link.signs),
        Pulse::Fine(Some(link.now + ms(11_200)))
    );
    // The link was seen to be faster.
    link.liveness.answered(link.now, ms(100), 80_000);
    let Pulse::Fine(Some(dead)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
    assert_eq!(dead - link.now, ms(1300));
}

#[test]
fn after_deaths_in_a_row_a_link_has_more_time() {
    let mut link = Link::unrepaired(5, ms(100));
    (link.signs.unanswered, link.signs.waiting) = (Some(link.now), Some(link.now));
    link.signs.ping = Some(link.now);
    let mut limits = Vec::new();
    for _ in 0..5 {
        let Pulse::Fine(Some(dead)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
        limits.push(dead - link.now);
        link.liveness.died();
    }
    assert_eq!(limits, [1200, 2400, 4800, 9600, 9600].map(ms));
    link.liveness.begin(link.now, ms(100));
    link.liveness.heard(link.now + ms(29_000));
    let Pulse::Fine(Some(dead)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
    assert_eq!(dead - link.now, ms(9600));
    link.liveness.heard(link.now + ms(31_000));
    let Pulse::Fine(Some(dead)) = link.liveness.judge(link.now, &link.signs) else { panic!("not yet") };
    assert_eq!(dead - link.now, ms(1200));
}

/// How long a call on the link waits at the most.
fn given(link: &Link) -> Duration {
    let now = Some(link.now);
    let signs = Signs { unanswered: now, ping: now, waiting: now, ..link.signs };
    match link.liveness.judge(link.now, &signs) {
        Pulse::Fine(Some(dead)) => dead - link.now,
        pulse => panic!("{pulse:?}"),
    }
}

#[test]
fn a_link_that_answers_as_ever_has_settled_after_eight_answers() {
    let mut link = Link::unrepaired(8, ms(100));
    link.liveness.died();
    link.liveness.died();
    link.liveness.begin(link.now, ms(100));
    for answer in 0..8 {
        assert_eq!(given(&link), ms(4800), "{answer}");
        match answer % 2 {
            0 => link.liveness.came_within(ms(100)),
            _ => link.liveness.answered(link.now, ms(100), 0),
        }
    }
    assert_eq!(given(&link), ms(1200));
    // Those before a death say nothing of what comes behind it.
    link.liveness.died();
    assert_eq!(given(&link), ms(2400));
}

#[test]
fn a_link_that_is_slower_than_it_was_taken_for_has_not_settled() {
    let mut link = Link::unrepaired(8, ms(100));
    link.liveness.answered(link.now, ms(100), 0);
    link.liveness.died();
    link.liveness.begin(link.now, ms(100));
    for _ in 0..7 {
        link.liveness.came_within(ms(100));
    }
    // A server may work for long: that is no sign of the link's.
    link.liveness.came_within(ms(5000));
    link.liveness.answered(link.now, ms(1300), 0);
    let slower = given(&link);
    assert!(slower > ms(2400), "a PING took longer than a link is given: {slower:?}");
    for _ in 0..7 {
        link.liveness.came_within(ms(200));
    }
    assert!(given(&link) > ms(2400), "it is counted anew");
    link.liveness.came_within(ms(200));
    assert!(given(&link) < ms(1800), "{:?}", given(&link));
}

#[test]
fn without_settled_answers_time_alone_settles() {
    let mut link = Link::unrepaired(8, ms(100));
    link.liveness.set_policy(LivenessPolicy {
        settled_answers: 0,
        repair: false,
        ..LivenessPolicy::default()
    });
    link.liveness.died();
    link.liveness.begin(link.now, ms(100));
    for _ in 0..100 {
        link.liveness.came_within(ms(100));
    }
    assert_eq!(given(&link), ms(2400));
}

#[test]
fn a_radio_of_an_old_generation_may_have_to_wake() {
    let mut link = Link::unrepaired(6, ms(300));
    link.liveness.network_changed(true);
    link.liveness.begin(link.now, ms(300));
    let dead_after = |link: &Link, pause: Duration| {
        let first = link.now + pause;
        let signs = Signs { unanswered: Some(first), ping: Some(first), waiting: Some(first), ..link.signs };
        match link.liveness.judge(first, &signs) {
            Pulse::Fine(Some(dead)) => dead - first,
            pulse => panic!("{pulse:?}"),
        }
    };
    assert_eq!((dead_after(&link, ms(100)), dead_after(&link, ms(6000))), (ms(1800), ms(3800)));
}

#[test]
fn switched_off_or_without_a_round_trip_it_says_nothing() {
    let mut link = Link::new(7, ms(100));
    (link.signs.unanswered, link.signs.waiting) = (Some(link.now), Some(link.now));
    link.signs.ping = Some(link.now);
    let later = link.now + ms(60_000);
    assert_eq!(link.liveness.judge(later, &link.signs), Pulse::Dead);
    link.liveness.set_policy(LivenessPolicy { enabled: false, ..LivenessPolicy::default() });
    assert_eq!(link.liveness.judge(later, &link.signs), Pulse::Fine(None));
    link.liveness.set_policy(LivenessPolicy { follow: false, ..LivenessPolicy::default() });
    link.liveness.network_changed(false);
    assert_eq!(link.liveness.judge(later, &link.signs), Pulse::Fine(None));
}

#[test]
fn sleep_is_seen_by_clocks_that_go_apart_and_by_late_wake_ups() {
    let (link, wall, least) = (Link::new(8, ms(1)), SystemTime::UNIX_EPOCH + ms(1_000_000), ms(5000));
    let (now, mut clocks) = (link.now, Clocks::default());
    assert!(!clocks.slept(now, wall, None, least));
    assert!(!clocks.slept(now + ms(60_000), wall + ms(61_000), Some(now + ms(60_000)), least));
    assert!(
        clocks.slept(now + ms(61_000), wall + ms(100_000), None, least),
        "the monotonic clock stood still"
    );
    assert!(!clocks.slept(now + ms(62_000), wall, None, least), "the clock was set back");
    assert!(clocks.slept(now + ms(72_000), wall + ms(10_000), Some(now + ms(66_000)), least), "late");
}
