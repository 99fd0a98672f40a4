//! A month of a commuter's networks in simulated time, by seed: home Wi-Fi, a street, a subway with blackouts, an
//! elevator, an office whose NAT forgets UDP after 30 s, a train with hand-overs, a captive portal, nights in doze; every other
//! network joins the one before while that still works. The app is looked at while it calls and for a minute behind. The
//! machines of `policy` are driven together as the SDK drives them, and it is checked what must hold whatever the seed:
//!
//! - no call comes to its deadline on a network that is up, and none is tried again behind it;
//! - no hour is spent with connecting;
//! - of no span of time the retries, or the hedges, are more than its calls and minutes earned;
//! - no NAT is left quiet for longer than one step of learning beyond its time-out, nor often.
//!
//! `TOWLINE_COMMUTER_SEED=7` runs one seed and prints what it came to, `TOWLINE_COMMUTER_SEEDS=100..200` those seeds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod month;
mod phone;
mod traffic;

use std::{ops::Range, time::Duration};

use towline_protocols::policy::Strategies;

use crate::{
    month::Month,
    phone::Phone,
    traffic::{HEDGES, RETRIES, Traffic},
};

const ONE_SEED: &str = "TOWLINE_COMMUTER_SEED";
const RANGE: &str = "TOWLINE_COMMUTER_SEEDS";
/// Seeds of a plain run.
const SEEDS: u64 = 24;
/// Connections that a NAT's time-out may cost on one network by one transport: growing steps over it, closing in, and a
/// second look; then once when it is tried anew, each week.
const LOST_TO_NAT_MAX: u32 = 8 + 4;
/// Those of half a month on networks that are known, QUIC at home, QUIC and TCP in the office: one connection each, each
/// week, and one or two because of a quiet time that was outlived by chance.
const LOST_WHEN_KNOWN_MAX: u32 = 6 + 2;
/// How long a flow is left quiet by a NAT that forgets it: what is tried grows by half.
const QUIET_MAX: f64 = 1.5;
/// The same where blackouts end connections in the middle of a quiet time: what is known comes into doubt there, and is
/// found anew.
const LOST_TO_NAT_WITH_BLACKOUTS_MAX: u32 = 60;
/// Back-off lets through one attempt in half a minute, beside its first ones; an hour of blackouts has some thirty ends.
const CONNECTS_PER_HOUR_MAX: usize = 60;
/// An answer on a network that is up all the while: the dead link is found, and another made.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Of so many connections on a network that answers, one may have needed more than its first way.
const RACED_SHARE: u32 = 10;

/// Attempts of one call, with the first.
const ATTEMPTS_MAX: u32 = 3;
/// Sums of shares are not exact.
const ROUNDING: f64 = 1e-6;

/// What is wrong with what the app of that month sent.
fn overspent(seed: u64, month: &Month, strategies: &Strategies) -> Vec<String> {
    let spent = Traffic::new(seed, month, strategies).live();
    let mut mistakes = Vec::new();
    let mut check = |holds: bool, text: &str| {
        if !holds {
            mistakes.push(format!("{text}: {spent:?}; to run it again: TOWLINE_COMMUTER_SEED={seed}"));
        }
    };
    check(spent.calls > 10_000, "few calls were made");
    // The budgets are what held them back, or this says nothing of budgets.
    let (retries, hedges) = (spent.retries_ahead_max, spent.hedges_ahead_max);
    check(retries > RETRIES.saved / 2.0 && hedges > HEDGES.saved / 2.0, "budgets were hardly touched");
    check(retries <= RETRIES.saved + ROUNDING, "a span of time had more retries than were earned");
    check(hedges <= HEDGES.saved + ROUNDING, "a span of time had more hedges than were earned");
    check(spent.attempts_max <= ATTEMPTS_MAX, "a call was tried too often");
    check(spent.past_deadline == 0, "a call was tried behind its deadline");
    check(spent.too_soon == 0, "a call came before the time that was asked for");
    let extra_max = RETRIES.saved + HEDGES.saved + 60.0 * (RETRIES.per_minute + HEDGES.per_minute);
    check(spent.extra_per_hour_max <= extra_max, "an hour had more requests than its calls and minutes earn");
    mistakes
}

/// What is wrong with the month of that seed.
fn mistakes(seed: u64, strategies: &Strategies) -> Vec<String> {
    let month = Month::draw(seed);
    let report = Phone::new(seed, &month, strategies.clone()).live();
    if std::env::var_os(ONE_SEED).is_some() {
        println!("{report:#?}");
    }
    let mut mistakes = overspent(seed, &month, strategies);
    let mut check = |holds: bool, text: String| {
        if !holds {
            mistakes.push(format!("{text}; to run it again: TOWLINE_COMMUTER_SEED={seed}"));
        }
    };
    check(report.calls > 1000, format!("only {} calls were made", report.calls));
    let (joined, taken) = (report.joined, report.taken_over);
    let text =
        format!("of {joined} networks that joined {taken} took the link over before the other was gone");
    check(joined > 50 && taken * 2 > joined && taken < joined, text);
    check(report.hung == 0, format!("{} calls came to their deadline on a network that was up", report.hung));
    let slowest = report.slowest_where_up;
    check(slowest <= ANSWER_MAX, format!("an answer took {slowest:?} on a network that was up"));
    let connects = report.connects_per_hour_max;
    check(connects <= CONNECTS_PER_HOUR_MAX, format!("{connects} attempts to connect in one hour"));
    let (raced, calm) = (report.raced_where_calm, report.made_where_calm);
    check(raced * RACED_SHARE <= calm, format!("{raced} of {calm} connections were raced on calm networks"));
    for ((network, transport), lost) in &report.lost_to_nat {
        let text = format!("{lost} connections by {transport:?} were left to the NAT of {network}");
        let has_blackouts = !["home", "office"].contains(network);
        let most = if has_blackouts { LOST_TO_NAT_WITH_BLACKOUTS_MAX } else { LOST_TO_NAT_MAX };
        check(*lost <= most, text);
    }
    let known = report.lost_when_known;
    check(known <= LOST_WHEN_KNOWN_MAX, format!("{known} connections were left to NATs that are known"));
    for ((network, transport), quiet) in &report.quiet_max {
        let text = format!("{transport:?} was left quiet for {quiet:.2} time-outs of the NAT of {network}");
        check(*quiet <= QUIET_MAX, text);
    }
    let (died, alive) = (report.died, report.died_alive);
    let text = format!("{alive} of {died} connections were given up alive on a network that was up");
    check(alive == 0, text);
    // 99 of 100 are not cut short; a network that gets slower is found by doubling.
    let (cut, made) = (report.cut_short, report.made);
    check(cut * 50 <= made, format!("{cut} of {made} connections would have come behind their limit"));
    mistakes
}

/// Those that were asked for.
fn seeds() -> Range<u64> {
    if let Ok(one) = std::env::var(ONE_SEED) {
        let seed = one.parse().unwrap_or_else(|_| panic!("{ONE_SEED} is {one:?}, not a number"));
        return seed..seed + 1;
    }
    let Ok(range) = std::env::var(RANGE) else { return 0..SEEDS };
    let ends = range.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.unwrap_or_else(|| panic!("{RANGE} is {range:?}, not a range as 100..200"))
}

#[test]
fn a_month_keeps_what_is_promised() {
    let wrong: Vec<String> = seeds().flat_map(|seed| mistakes(seed, &Strategies::default())).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Beats of an hour in the background in the office, where UDP is forgotten after 30 s and TCP after 600.
fn office_beats(strategies: &Strategies) -> f64 {
    let (mut beats, mut hidden) = (0, Duration::ZERO);
    for seed in seeds() {
        let report = Phone::new(seed, &Month::draw(seed), strategies.clone()).live();
        let (of_month, time) = report.hidden["office"];
        (beats, hidden) = (beats + of_month, hidden + time);
    }
    f64::from(beats) * 3600.0 / hidden.as_secs_f64()
}

#[test]
fn an_office_that_forgets_udp_costs_few_beats_in_the_background() {
    let mut strategies = Strategies::default();
    let held = office_beats(&strategies);
    strategies.carrier.enabled = false;
    let without = office_beats(&strategies);
    if std::env::var_os(ONE_SEED).is_some() || std::env::var_os(RANGE).is_some() {
        println!("beats an hour in the office: {held:.1}, and {without:.1} where the link stays on QUIC");
    }
    assert!(without > 50.0, "without it there are {without:.1} an hour");
    assert!(held < without / 5.0, "{held:.1} beats an hour, and {without:.1} without");
}

#[test]
fn a_month_is_the_same_each_time() {
    let month = Month::draw(3);
    let live = || Phone::new(3, &month, Strategies::default()).live();
    assert_eq!(live(), live());
    let live = || Traffic::new(3, &month, &Strategies::default()).live();
    assert_eq!(live(), live());
}

/// The checks see what they are there for: strategies that are switched off or told nonsense break them.
fn check_is_caught(by: &str, change: impl Fn(&mut Strategies)) {
    let mut strategies = Strategies::default();
    change(&mut strategies);
    let mut wrong = Vec::new();
    let is_caught = (0..3).any(|seed| {
        wrong.extend(mistakes(seed, &strategies));
        wrong.iter().any(|text| text.contains(by))
    });
    assert!(is_caught, "not caught by `{by}`: {wrong:?}");
}

#[test]
fn beats_that_learn_nothing_are_caught() {
    check_is_caught("were left to the NAT", |it| it.heartbeat.enabled = false);
}

#[test]
fn beats_that_go_too_far_beyond_a_nat_or_come_back_to_it_too_often_are_caught() {
    check_is_caught("was left quiet for", |it| it.heartbeat.growth = 4.0);
    check_is_caught("to NATs that are known", |it| it.heartbeat.reprobe_after = Duration::from_secs(86_400));
}

#[test]
fn dead_links_that_nobody_looks_for_are_caught() {
    check_is_caught("came to their deadline", |it| it.liveness.enabled = false);
}

#[test]
fn links_that_are_taken_for_dead_too_soon_are_caught() {
    check_is_caught("attempts to connect", |it| {
        it.liveness.round_trips = 0.0;
        it.liveness.grace = Duration::ZERO;
        it.liveness.doublings_max = 0;
    });
    check_is_caught("were given up alive", |it| {
        it.liveness.round_trips = 1.0;
        it.liveness.grace = Duration::from_millis(20);
    });
}

#[test]
fn ways_that_are_tried_too_soon_are_caught() {
    check_is_caught("were raced on calm networks", |it| {
        it.race.stagger_share = 0.1;
        it.race.stagger_min = Duration::from_millis(10);
    });
}

#[test]
fn networks_that_are_left_before_the_next_is_used_are_caught() {
    check_is_caught("took the link over", |it| it.handover.enabled = false);
    check_is_caught("took the link over", |it| it.handover.check_gap = Duration::from_secs(60));
}

#[test]
fn retries_beyond_what_was_earned_are_caught() {
    let retries = "more retries than were earned";
    check_is_caught(retries, |it| it.retry.budget_max = 12.0);
    check_is_caught(retries, |it| it.retry.budget_share = 0.25);
    check_is_caught(retries, |it| it.retry.budget_per_minute = 9.0);
    check_is_caught("tried too often", |it| it.retry.attempts_max = 4);
}

#[test]
fn hedges_beyond_what_was_earned_are_caught() {
    let hedges = "more hedges than were earned";
    check_is_caught(hedges, |it| it.hedge.budget_max = 5.0);
    check_is_caught(hedges, |it| it.hedge.budget_share = 0.1);
}

#[test]
fn limits_that_are_too_short_are_caught() {
    check_is_caught("would have come", |it| {
        it.timeouts.samples_min = 1;
        it.timeouts.margin = 0.5;
        it.timeouts.connect_min = Duration::from_millis(1);
    });
}
