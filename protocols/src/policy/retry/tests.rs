//! Retries and hedges in simulated time.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
fn start() -> Instant {
    Instant::now()
}

fn passing(attempts: u32) -> Failure {
    let (may_run_again, is_passing, is_answer) = (true, true, false);
    Failure { may_run_again, is_passing, is_answer, retry_after: None, attempts, left: MINUTE }
}

#[test]
fn what_may_help_is_tried_again_and_nothing_else() {
    let now = start();
    let check = |change: fn(&mut Failure), again: bool| {
        let mut retry = Retry::new(RetryPolicy::default(), 1);
        let mut failure = passing(1);
        change(&mut failure);
        assert_eq!(retry.failed(now, &failure).is_some(), again, "{failure:?}");
    };
    check(|_| {}, true);
    check(|it| it.attempts = 2, true);
    check(|it| it.attempts = 3, false);
    check(|it| it.is_passing = false, false);
    check(|it| it.may_run_again = false, false);
    check(|it| it.left = Duration::ZERO, false);
    check(|it| it.retry_after = Some(MINUTE), false);
    check(|it| it.is_answer = true, true);
    let mut off = Retry::new(RetryPolicy { enabled: false, ..RetryPolicy::default() }, 1);
    assert_eq!(off.failed(now, &passing(1)), None);
    let mut deaf = Retry::new(RetryPolicy { answers: false, ..RetryPolicy::default() }, 1);
    assert_eq!(deaf.failed(now, &Failure { is_answer: true, ..passing(1) }), None);
    assert!(deaf.failed(now, &passing(1)).is_some(), "what the gateway says is obeyed all the same");
}

#[test]
fn nobody_is_asked_again_before_the_pause_that_was_named_nor_waited_for_beyond_the_ceiling() {
    let policy = RetryPolicy { asked_max: MINUTE / 2, budget_max: 1000.0, ..RetryPolicy::default() };
    let mut retry = Retry::new(policy, 5);
    let second = Duration::from_secs(1);
    for (asked_s, left_s, again) in [(30, 120, true), (31, 120, false), (20, 20, false), (0, 120, true)] {
        let asked = second * asked_s;
        let failure = Failure { retry_after: Some(asked), left: second * left_s, ..passing(1) };
        let pause = retry.failed(start(), &failure);
        assert_eq!(pause.is_some(), again, "asked for {asked:?} of {left_s} s");
        assert!(pause.is_none_or(|pause| pause >= asked), "{pause:?}");
    }
}

#[test]
fn pauses_are_drawn_from_nothing_to_a_ceiling_that_doubles_behind_what_was_asked_for() {
    let policy = RetryPolicy { attempts_max: 10, budget_max: 1000.0, ..RetryPolicy::default() };
    for (attempts, ceiling) in [(1, 400), (2, 800), (3, 1600), (9, 10_000)] {
        let ceiling = Duration::from_millis(ceiling);
        let pauses = |asked: Duration| {
            let mut retry = Retry::new(policy.clone(), 7);
            let failure = Failure { retry_after: (!asked.is_zero()).then_some(asked), ..passing(attempts) };
            let mut pauses: Vec<Duration> =
                (0..500).map(|_| retry.failed(start(), &failure).unwrap()).collect();
            pauses.sort();
            pauses
        };
        let free = pauses(Duration::ZERO);
        assert!(free[0] < ceiling / 20 && free[499] > ceiling * 19 / 20 && free[499] <= ceiling);
        assert!(free[250].abs_diff(ceiling / 2) < ceiling / 8, "{:?}", free[250]);
        let asked = Duration::from_secs(2);
        let behind = pauses(asked);
        assert!(behind[0] >= asked && behind[499] <= asked + ceiling);
        assert!(behind[499] > behind[0], "not all at once");
    }
}

/// Calls each second for an hour of an outage, each with all its retries: how many attempts are made for each call.
fn attempts_per_call(calls_per_s: usize, seed: u64) -> f64 {
    let mut retry = Retry::new(RetryPolicy::default(), seed);
    let (mut now, mut attempts, mut calls) = (start(), 0, 0);
    for _ in 0..3600 {
        now += Duration::from_secs(1);
        for _ in 0..calls_per_s {
            retry.called();
            calls += 1;
            attempts += 1;
            let mut failed = 1;
            while retry.failed(now, &passing(failed)).is_some() {
                failed += 1;
                attempts += 1;
            }
        }
    }
    f64::from(attempts) / f64::from(calls)
}

#[test]
fn an_outage_is_met_by_hardly_more_attempts_than_there_are_calls() {
    for seed in 0..5 {
        let many = attempts_per_call(50, seed);
        assert!(many <= 1.0 + 0.2 + 0.01, "{many}");
        let few = attempts_per_call(1, seed);
        assert!(few <= 1.0 + 0.2 + 6.0 / 60.0 + 0.01, "{few}");
    }
}

#[test]
fn what_is_saved_up_is_bounded() {
    let mut retry = Retry::new(RetryPolicy::default(), 3);
    let mut now = start();
    for _ in 0..10_000 {
        retry.called();
    }
    now += 1000 * MINUTE;
    let tries = (0..100).filter(|_| retry.failed(now, &passing(1)).is_some()).count();
    assert_eq!(tries, 10);
    now += MINUTE;
    let tries = (0..100).filter(|_| retry.failed(now, &passing(1)).is_some()).count();
    assert_eq!(tries, 6, "those of a minute");
}

#[test]
fn small_urgent_calls_are_hedged_within_a_budget() {
    let mut hedge = Hedge::new(HedgePolicy::default());
    assert!(hedge.is_for(0, 100) && hedge.is_for(1, 4096));
    assert!(!hedge.is_for(3, 100) && !hedge.is_for(0, 5000));
    assert_eq!(hedge.after(Duration::from_millis(20)), Duration::from_millis(200));
    assert_eq!(hedge.after(Duration::from_secs(2)), Duration::from_secs(2));
    let mut now = start();
    let mut taken = 0;
    for _ in 0..10_000 {
        now += Duration::from_millis(10);
        hedge.called();
        taken += u32::from(hedge.take(now));
    }
    assert!((500..=4 + 500 + 4).contains(&taken), "{taken}");
    hedge.set_policy(HedgePolicy { enabled: false, ..HedgePolicy::default() });
    assert!(!hedge.is_for(0, 100));
}

#[test]
fn pauses_that_do_not_go_together_are_named() {
    let policy = RetryPolicy { pause_first: 2 * MINUTE / 3, ..RetryPolicy::default() };
    assert!(policy.check().unwrap_err().starts_with("pause_first"));
}
