//! Races in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::*;
use crate::policy::{Network as Place, NetworkKey, NetworkKind};

const LIMIT: Duration = Duration::from_secs(10);
const FALLBACK: Duration = Duration::from_millis(300);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn way(transport: Transport, gateway: &str, address: &str) -> Way {
    Way { gateway: gateway.into(), address: Some(address.parse().unwrap()), transport }
}

/// Both transports over both families.
fn ways_of(gateway: usize) -> Vec<Way> {
    let name = format!("edge-{gateway}:443");
    let addresses = [format!("[2001:db8::{gateway}]:443"), format!("192.0.2.{gateway}:443")];
    let both = [Transport::Quic, Transport::Tcp];
    let ways = both.iter().flat_map(|&transport| addresses.iter().map(move |address| (transport, address)));
    ways.map(|(transport, address)| way(transport, &name, address)).collect()
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Answers(Duration),
    Refuses(Duration),
    Silent,
}

/// How a race went.
#[derive(Debug)]
struct Ran {
    started: Vec<(Way, Duration)>,
    abandoned: usize,
    won: Option<(Way, Duration)>,
    said: Vec<(Way, Verdict)>,
    in_flight_max: usize,
}

/// Runs a race to its end on a network where ways have these fates.
fn run(mut race: Race, began: Instant, fate: impl Fn(&Way) -> Fate) -> Ran {
    let mut ran = Ran { started: Vec::new(), abandoned: 0, won: None, said: Vec::new(), in_flight_max: 0 };
    let mut pending: BTreeMap<(Instant, usize), bool> = BTreeMap::new();
    let mut now = began;
    for _ in 0..10_000 {
        while let Some(action) = race.poll(now) {
            match action {
                RaceAction::Start(number) => {
                    let way = race.way(number).unwrap().clone();
                    match fate(&way) {
                        Fate::Answers(after) => _ = pending.insert((now + after, number), true),
                        Fate::Refuses(after) => _ = pending.insert((now + after, number), false),
                        Fate::Silent => {}
                    }
                    ran.started.push((way, now - began));
                }
                // The test says when attempts are over, not when TCP is connected.
                RaceAction::GoOn(_) => {}
                RaceAction::Abandon(number) => {
                    ran.abandoned += 1;
                    pending.retain(|(_, it), _| *it != number);
                }
            }
            ran.in_flight_max = ran.in_flight_max.max(race.in_flight());
        }
        if race.is_late(now) || race.is_lost() {
            return ran;
        }
        let next = pending.keys().next().map(|(at, _)| *at);
        now = next.map_or(race.poll_timeout(), |at| at.min(race.poll_timeout()));
        while let Some(entry) = pending.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, number), answers) = entry.remove_entry();
            if answers {
                ran.won = Some((race.way(number).unwrap().clone(), now - began));
                ran.said = race.won(number);
                return ran;
            }
            race.failed(number, now);
        }
    }
    panic!("the race does not end: {ran:?}");
}

/// A client with a memory.
struct Client {
    policy: RacePolicy,
    memory: Ways,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        // How TCP is kept warm has tests of its own.
        let policy = RacePolicy { warm: false, ..RacePolicy::default() };
        Self { policy, memory: Ways::default(), now: origin() }
    }

    fn race(&mut self, network: &str, gateways: usize, fate: impl Fn(&Way) -> Fate) -> Ran {
        let (pace, network) = (self.policy.pace(None, FALLBACK), key(network));
        let mut race = Race::new(&self.policy, pace, LIMIT, self.now);
        for gateway in 0..gateways {
            race.add(gateway, self.memory.rank(&self.policy, network, ways_of(gateway), self.now), self.now);
        }
        let ran = run(race, self.now, fate);
        self.now += ran.won.as_ref().map_or(LIMIT, |(_, after)| *after);
        self.memory.learn(&self.policy, network, &ran.said, self.now);
        ran
    }
}

fn key(network: &str) -> NetworkKey {
    Place::new(NetworkKind::Wifi, network).place()
}

fn is_six(way: &Way) -> bool {
    way.address.is_some_and(|address| address.is_ipv6())
}

#[test]
fn a_good_network_costs_one_attempt() {
    let ran = Client::new().race("home", 3, |_| Fate::Answers(ms(80)));
    assert_eq!(ran.won, Some((way(Transport::Quic, "edge-0:443", "[2001:db8::0]:443"), ms(80))));
    assert_eq!(ran.started.len(), 1);
}

#[test]
fn where_udp_is_blocked_tcp_is_tried_after_the_delay_and_at_once_the_next_time() {
    let mut client = Client::new();
    let fate = |way: &Way| match way.transport {
        Transport::Quic => Fate::Silent,
        Transport::Tcp => Fate::Answers(ms(100)),
    };
    let (won, after) = client.race("office", 1, fate).won.unwrap();
    assert_eq!((won.transport, after), (Transport::Tcp, FALLBACK + ms(100)));
    let ran = client.race("office", 1, fate);
    assert_eq!((ran.won.unwrap().1, ran.started.len()), (ms(100), 1));
    assert!(client.memory.is_quic_blocked(&client.policy, key("office"), client.now));
    // Elsewhere, and once the ban is over, QUIC has its chance.
    assert_eq!(client.race("home", 1, fate).won.unwrap().1, FALLBACK + ms(100));
    client.now += client.policy.ban_min;
    let first = client.race("office", 1, fate).started[0].0.transport;
    assert_eq!(first, Transport::Quic);
}

/// A race between one way of QUIC and one of TCP, and the numbers of both.
fn pair(policy: &RacePolicy, memory: &Ways, now: Instant) -> Race {
    let mut race = Race::new(policy, policy.pace(None, FALLBACK), LIMIT, now);
    let both = [Transport::Quic, Transport::Tcp];
    let ways = both.map(|transport| way(transport, "edge:443", "192.0.2.1:443")).to_vec();
    race.add(0, memory.rank(policy, key("net"), ways, now), now);
    race
}

fn actions(race: &mut Race, now: Instant) -> Vec<RaceAction> {
    std::iter::from_fn(|| race.poll(now)).collect()
}

#[test]
fn tcp_is_kept_ready_behind_quic_that_was_never_seen_to_pass() {
    let (policy, now) = (RacePolicy::default(), origin());
    let check = |trip: u64, goes_on: u64| {
        let mut race = pair(&policy, &Ways::default(), now);
        assert_eq!(actions(&mut race, now), [RaceAction::Start(0)]);
        assert_eq!(race.poll_timeout(), now + policy.warm_after);
        assert_eq!(actions(&mut race, now + ms(30)), [RaceAction::Start(1)]);
        race.connected(1, now + ms(30 + trip));
        let due = now + ms(goes_on);
        assert_eq!((actions(&mut race, due - ms(1)), race.poll_timeout()), (vec![], due), "{trip}");
        assert_eq!(actions(&mut race, due), [RaceAction::GoOn(1)]);
        assert_eq!(actions(&mut race, due), [], "once");
    };
    // QUIC has a round trip and 50 ms, or one and a half, and what is known of TCP comes no sooner than it is.
    check(60, 110);
    check(400, 600);
    check(10, 60);
    check(4000, 5000);
    // Where QUIC fails, nobody waits for it.
    let mut race = pair(&policy, &Ways::default(), now);
    actions(&mut race, now + ms(30));
    race.connected(1, now + ms(90));
    race.failed(0, now + ms(95));
    assert_eq!(actions(&mut race, now + ms(95)), [RaceAction::GoOn(1)]);
}

#[test]
fn tcp_waits_behind_quic_that_has_passed_or_where_nothing_is_to_be_warm() {
    let (policy, now) = (RacePolicy::default(), origin());
    let second = |policy: &RacePolicy, memory: &Ways| {
        let mut race = pair(policy, memory, now);
        assert_eq!(actions(&mut race, now), [RaceAction::Start(0)]);
        race.poll_timeout() - now
    };
    let mut memory = Ways::default();
    assert_eq!(second(&policy, &memory), ms(30));
    memory.learn(
        &policy,
        key("net"),
        &[(way(Transport::Quic, "edge:443", "192.0.2.1:443"), Verdict::Won)],
        now,
    );
    assert_eq!(second(&policy, &memory), FALLBACK);
    let cold = RacePolicy { warm: false, ..RacePolicy::default() };
    assert_eq!(second(&cold, &Ways::default()), FALLBACK);
    // TCP that begins late goes on at once.
    let mut race = pair(&cold, &Ways::default(), now);
    actions(&mut race, now + FALLBACK);
    race.connected(1, now + FALLBACK + ms(60));
    assert_eq!(actions(&mut race, now + FALLBACK + ms(60)), [RaceAction::GoOn(1)]);
}

#[test]
fn bans_double_up_to_their_bound_and_end_with_a_success() {
    let mut client = Client::new();
    let blocked = |way: &Way| match way.transport {
        Transport::Quic => Fate::Silent,
        Transport::Tcp => Fate::Answers(ms(100)),
    };
    let mut bans = Vec::new();
    for _ in 0..6 {
        client.race("office", 1, blocked);
        let (_, (left, _), _) = client.memory.records(client.now).remove(0);
        bans.push(left.as_secs());
        client.now += left;
    }
    assert_eq!(bans, [300, 600, 1200, 2400, 3600, 3600]);
    client.now += Duration::from_secs(3600);
    client.race("office", 1, |_| Fate::Answers(ms(50)));
    let (_, (left, times), _) = client.memory.records(client.now).remove(0);
    assert_eq!((left, times), (Duration::ZERO, 0));
}

#[test]
fn a_broken_family_is_passed_by_and_left_out_the_next_time_on_that_network() {
    let mut client = Client::new();
    let fate = |way: &Way| if is_six(way) { Fate::Silent } else { Fate::Answers(ms(60)) };
    let (won, after) = client.race("home", 1, fate).won.unwrap();
    assert_eq!((is_six(&won), after), (false, ms(250 + 60)));
    let again = client.race("home", 1, fate);
    assert_eq!((again.won, again.started.len()), (Some((won, ms(60))), 1));
    let elsewhere = client.race("away", 1, |_| Fate::Answers(ms(60)));
    assert!(is_six(&elsewhere.won.unwrap().0), "of another network nothing is known");
}

#[test]
fn what_is_refused_hands_over_at_once() {
    let ran = Client::new().race("home", 1, |way| match (way.transport, is_six(way)) {
        (Transport::Tcp, false) => Fate::Answers(ms(10)),
        _ => Fate::Refuses(ms(1)),
    });
    assert!(ran.won.unwrap().1 <= ms(15), "{:?}", ran.started);
}

#[test]
fn tcp_that_hangs_does_not_hold_up_quic() {
    let ran = Client::new().race("home", 1, |way| match way.transport {
        Transport::Tcp => Fate::Silent,
        Transport::Quic => Fate::Answers(ms(900)),
    });
    assert_eq!((ran.won.unwrap().1, ran.said.len()), (ms(900), 4));
}

#[test]
fn a_gateway_that_is_dead_costs_its_delay_once() {
    let mut client = Client::new();
    let fate = |way: &Way| if &*way.gateway == "edge-0:443" { Fate::Silent } else { Fate::Answers(ms(80)) };
    let (won, after) = client.race("home", 3, fate).won.unwrap();
    let pace = client.policy.pace(None, FALLBACK);
    assert_eq!(
        (&*won.gateway, after),
        ("edge-1:443", pace.gateway + ms(80)),
        "though the dead one had all places"
    );
    assert_eq!(client.memory.last_gateway(&client.policy, key("home"), client.now), Some("edge-1:443"));
    assert_eq!(client.memory.last_gateway(&client.policy, key("away"), client.now), None);
    // Where all of its ways are refused, nobody waits.
    let refused = |way: &Way| if &*way.gateway == "edge-0:443" { Fate::Refuses(ms(1)) } else { fate(way) };
    assert!(Client::new().race("home", 3, refused).won.unwrap().1 < ms(100));
}

#[test]
fn what_the_first_gateway_leaves_of_a_race_is_shared_by_the_others() {
    let pace = RacePolicy::default().pace(None, ms(250));
    assert_eq!(pace.gateway, ms(1500));
    let check = |first: u64, gateways: usize, expected: &[u64]| {
        let spread = pace.spread(ms(first), ms(10_000), gateways);
        let turns: Vec<Duration> = (0..gateways).map(|rank| spread.turn(rank)).collect();
        assert_eq!(turns, expected.iter().map(|turn| ms(*turn)).collect::<Vec<_>>());
    };
    check(0, 1, &[0]);
    check(0, 3, &[0, 1500, 3000]);
    check(5000, 3, &[0, 5000, 6500]);
    check(5000, 6, &[0, 5000, 6000, 7000, 8000, 9000]);
    check(0, 11, &[0, 1500, 2350, 3200, 4050, 4900, 5750, 6600, 7450, 8300, 9150]);
    // Where the second has none, nobody has.
    check(12_000, 3, &[0, 12_000, 12_000]);
}

#[test]
fn a_race_that_nobody_wins_says_nothing() {
    let mut client = Client::new();
    for _ in 0..20 {
        assert_eq!(client.race("tunnel", 1, |_| Fate::Silent).won, None);
    }
    assert!(client.memory.records(client.now).is_empty());
    let ran = client.race("tunnel", 1, |_| Fate::Answers(ms(80)));
    assert_eq!(ran.started.len(), 1);
}

#[test]
fn names_that_are_not_found_yet_hold_up_nobody_else() {
    let (policy, now) = (RacePolicy::default(), origin());
    let pace = policy.pace(None, FALLBACK);
    let fresh = |gateway| Ways::default().rank(&policy, key(""), ways_of(gateway), now);
    let mut race = Race::new(&policy, pace, LIMIT, now);
    race.seek(0);
    race.add(1, fresh(1), now);
    assert_eq!(race.poll(now), None, "the first gateway is looked for");
    assert_eq!(race.poll_timeout(), now + pace.gateway);
    let mut found = race.clone();
    found.add(0, fresh(0), now + ms(50));
    found.found(0, now + ms(50));
    let Some(RaceAction::Start(number)) = found.poll(now + ms(50)) else { panic!("the first is due") };
    assert_eq!(&*found.way(number).unwrap().gateway, "edge-0:443");
    // A name that does not exist makes way.
    let mut lost = race.clone();
    lost.found(0, now + ms(50));
    assert!(matches!(lost.poll(now + ms(50)), Some(RaceAction::Start(_))));
    // One that is never answered is waited for no longer than a gateway that is silent.
    assert!(matches!(race.poll(now + pace.gateway), Some(RaceAction::Start(_))));
}

#[test]
fn the_stagger_follows_the_network_within_its_bounds() {
    let mut policy = RacePolicy::default();
    let check = |policy: &RacePolicy, expected, stagger, fallback| {
        let pace = policy.pace(expected, FALLBACK);
        assert_eq!((pace.stagger, pace.fallback), (stagger, fallback), "{expected:?}");
    };
    check(&policy, None, ms(250), FALLBACK);
    check(&policy, Some(ms(10)), ms(100), ms(100));
    check(&policy, Some(ms(400)), ms(500), ms(500));
    check(&policy, Some(ms(60_000)), ms(2000), ms(2000));
    policy.enabled = false;
    check(&policy, Some(ms(400)), ms(250), FALLBACK);
}

#[test]
fn parameters_are_refused_out_of_their_ranges() {
    let check = |change: fn(&mut RacePolicy), name: &str| {
        let mut policy = RacePolicy::default();
        assert_eq!(policy.check(), Ok(()));
        change(&mut policy);
        assert!(policy.check().is_err_and(|text| text.starts_with(name)), "{name}");
    };
    check(|it| it.stagger_share = 0.0, "stagger_share");
    check(|it| it.stagger_min = ms(9), "stagger_min");
    check(
        |it| (it.stagger_min, it.stagger_max) = (ms(500), ms(400)),
        "stagger_min 500ms is above stagger_max",
    );
    check(|it| it.in_flight_max = 9, "in_flight_max");
    check(|it| it.ban_max = it.ban_min / 2, "ban_min");
    check(|it| it.kept = ms(1), "kept");
}

#[test]
fn the_memory_is_bounded_forgets_and_survives_a_restart() {
    let mut client = Client::new();
    for network in 0..40 {
        client.race(&format!("network {network}"), 3, |_| Fate::Answers(ms(80)));
    }
    let said: Vec<_> = (0..100).flat_map(ways_of).map(|way| (way, Verdict::Won)).collect();
    client.memory.learn(&client.policy, key("network 39"), &said, client.now);
    let records = client.memory.records(client.now);
    assert_eq!(records.len(), 16);
    assert_eq!((records[0].0, records[0].2.len()), (key("network 39"), 32));

    let mut restored = Ways::default();
    for (network, quic, ways) in records.iter().rev() {
        restored.restore(*network, *quic, ways.clone(), client.now);
    }
    assert_eq!(restored.records(client.now), records);
    let is_known =
        |client: &Client| client.memory.last_gateway(&client.policy, key("network 39"), client.now).is_some();
    assert!(is_known(&client));
    client.now += client.policy.kept;
    assert!(!is_known(&client), "aged");
    client.memory.forget(key("network 39"));
    assert_eq!(client.memory.records(client.now).len(), 15);
}

/// Whatever ways do: all get their turn where none gets through, no more than the bound are in flight, and the one that
/// won is the first of its transport the next time.
#[test]
fn invariants_hold_whatever_ways_do() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut client = Client::new();
        client.policy.in_flight_max = random.usize(1..=8);
        client.policy.ban_failures = random.u32(1..=8);
        let gateways = random.usize(1..=5);
        for round in 0..6 {
            let mut fates: VecDeque<Fate> = (0..20)
                .map(|_| match random.u8(..6) {
                    0 | 1 => Fate::Answers(ms(random.u64(10..3000))),
                    2 | 3 => Fate::Refuses(ms(random.u64(1..3000))),
                    _ => Fate::Silent,
                })
                .collect();
            if random.bool() {
                fates
                    .iter_mut()
                    .filter(|fate| matches!(fate, Fate::Answers(_)))
                    .for_each(|it| *it = Fate::Silent);
            }
            let all: Vec<Way> = (0..gateways).flat_map(ways_of).collect();
            let fate = |way: &Way| fates[all.iter().position(|it| it == way).unwrap()];
            let ran = client.race("net", gateways, fate);
            let tried: BTreeSet<String> =
                ran.started.iter().map(|(way, _)| format!("{} {way}", way.gateway)).collect();
            let case = format!("seed {seed}, round {round}: {ran:?}");
            assert!(ran.in_flight_max <= client.policy.in_flight_max, "{case}");
            assert_eq!(tried.len(), ran.started.len(), "none twice: {case}");
            if let Some((won, after)) = &ran.won {
                assert!(*after <= LIMIT, "{case}");
                let next = client.memory.rank(&client.policy, key("net"), all.clone(), client.now);
                let first = next.iter().find(|it| it.way.transport == won.transport).unwrap();
                assert_eq!((&first.way, first.banned), (won, false), "{case}");
            } else {
                assert_eq!(tried.len(), all.len(), "banned ones too: {case}");
            }
            client.now += Duration::from_secs(random.u64(..2000));
        }
    }
}

#[test]
fn names_are_stale_after_a_while_used_all_the_same_and_bounded() {
    let (policy, now) = (RacePolicy::default(), origin());
    let [home, away] = ["home", "away"].map(key);
    let addresses = |number: u8| vec![std::net::IpAddr::from([192, 0, 2, number])];
    let mut names = Names::default();
    let get = |names: &Names, network, after| {
        let found = names.get(&policy, network, "edge", now + after)?;
        Some((found.addresses, found.is_fresh))
    };
    assert_eq!(get(&names, home, ms(0)), None);
    names.learn(home, "edge", addresses(1), now);
    names.learn(home, "edge", Vec::new(), now);
    assert_eq!(get(&names, home, ms(1)), Some((addresses(1), true)), "no answer unmakes another");
    assert_eq!(get(&names, home, policy.names_fresh), Some((addresses(1), false)));
    assert_eq!(get(&names, away, ms(1)), Some((addresses(1), false)), "what another network said is a guess");
    assert_eq!(get(&names, home, policy.kept), None);
    let mut doubted = names.clone();
    doubted.doubt(home, "edge");
    assert_eq!(get(&doubted, home, ms(1)), Some((addresses(1), false)));

    for number in 0..200 {
        names.learn(home, &format!("edge-{number}"), addresses(1), now);
    }
    let records = names.records(now);
    assert_eq!(records.len(), 64);
    let mut restored = Names::default();
    records.iter().rev().for_each(|record| restored.restore(record.clone(), now));
    assert_eq!(restored.records(now), records);
}
